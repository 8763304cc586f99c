//! Links, headings and code blocks of Markdown files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

pub(crate) struct Document {
    /// Targets of links and images, as written.
    pub(crate) links: Vec<String>,
    /// Valid fragments (`#...`) of links to this document.
    pub(crate) anchors: BTreeSet<String>,
    pub(crate) code: Vec<CodeBlock>,
}

#[derive(Debug)]
pub(crate) struct CodeBlock {
    pub(crate) language: String,
    pub(crate) text: String,
}

impl Document {
    pub(crate) fn read(file: &Path) -> Self {
        Self::parse(
            &std::fs::read_to_string(file)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display())),
        )
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut document = Self { links: Vec::new(), anchors: BTreeSet::new(), code: Vec::new() };
        let (mut heading, mut block, mut seen) =
            (None::<String>, None::<CodeBlock>, BTreeMap::new());
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    let times = seen
                        .entry(anchor.clone())
                        .and_modify(|times| *times += 1)
                        .or_insert(0_usize);
                    document.anchors.insert(if *times == 0 {
                        anchor
                    } else {
                        format!("{anchor}-{times}")
                    });
                }
                Event::Start(Tag::CodeBlock(kind)) => {
                    let language = match kind {
                        CodeBlockKind::Fenced(language) => language.into_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    block = Some(CodeBlock { language, text: String::new() });
                }
                Event::End(TagEnd::CodeBlock) => document.code.extend(block.take()),
                Event::Text(text) | Event::Code(text) => {
                    let into = block.as_mut().map(|block| &mut block.text).or(heading.as_mut());
                    if let Some(into) = into {
                        into.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        document
    }
}

/// The anchor that mdBook and GitHub give to a heading.
fn anchor(heading: &str) -> String {
    let lowercase = heading.trim().to_lowercase();
    let kept = lowercase.chars().filter_map(|character| match character {
        character if character.is_whitespace() => Some('-'),
        character if character.is_alphanumeric() || character == '-' || character == '_' => {
            Some(character)
        }
        _ => None,
    });
    kept.collect()
}

#[test]
fn anchors_are_those_of_mdbook() {
    let document =
        Document::parse("# What `server.http_listen` is\n\n## Once, twice\n\n## Once twice\n");
    let wanted = ["once-twice", "once-twice-1", "what-serverhttp_listen-is"].map(str::to_owned);
    assert_eq!(document.anchors, BTreeSet::from(wanted));
}
