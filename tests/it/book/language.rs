//! Documents, and comments in `src`, use no phrase of a short list: they are in plain English.

use super::{END, pages};
use crate::harness::repository;

/// `(phrase, instead)`. Phrases are in lower case and match whole words.
const BANNED: &[(&str, &str)] = &[
    ("whoever", "anyone who"),
    ("whosever", "whose"),
    ("anew", "again"),
    ("for ever", "indefinitely"),
    ("none of ours", "not ours"),
    ("in the time of", "within"),
    ("is told", "receives"),
    ("goes on", "continues"),
    ("where there is", "if there is"),
    ("where there are", "if there are"),
    ("where it is set", "if it is set"),
    ("where nobody", "if nobody"),
    ("where none", "if none"),
];

#[test]
fn documents_and_comments_are_in_plain_english() {
    let mut files = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
        .map(|name| repository().join(name))
        .to_vec();
    let mut folders = vec![pages(), repository().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let is_folder = entry.file_type().unwrap().is_dir();
            let list = if is_folder { &mut folders } else { &mut files };
            list.push(entry.path());
        }
    }
    files.retain(|file| file.extension().is_some_and(|its| its == "md" || its == "rs"));
    assert!(files.len() > 200, "only {} files were found", files.len());
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (line, phrase, instead) in banned(&prose(&text, file.extension().unwrap() == "rs")) {
            found.push(format!("{}:{line}: not \"{phrase}\" but \"{instead}\"", file.display()));
        }
    }
    assert!(found.is_empty(), "not plain English:\n{}", found.join("\n"));
}

/// What people wrote, at its lines: the comments of a Rust file, or a page without what is
/// generated. Other lines, and code blocks, are empty.
fn prose(text: &str, is_source: bool) -> String {
    let (mut is_generated, mut is_code, mut kept) = (false, false, Vec::new());
    for mut line in text.lines().map(str::trim) {
        if is_source {
            line = line.strip_prefix("//").unwrap_or("").trim_start_matches(['/', '!']).trim();
        }
        is_generated = (is_generated || line.starts_with("<!-- generated from ")) && line != END;
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        kept.push(if is_generated || is_code || is_fence { "" } else { line });
    }
    kept.join("\n")
}

/// Each banned phrase in `prose`: its line, the phrase, and what to write instead. A phrase in
/// back-ticks or quotes does not count; one that a line break divides does.
fn banned(prose: &str) -> Vec<(usize, &'static str, &'static str)> {
    // A quote that is still open at the end of a paragraph ends there.
    let paragraphs: Vec<String> = prose.split("\n\n").map(without_quotes).collect();
    let text = paragraphs.join("\n\n").to_lowercase();
    let flat = text.replace('\n', " ");
    let mut found = Vec::new();
    for &(phrase, instead) in BANNED {
        for (at, _) in flat.match_indices(phrase) {
            let (before, after) = (&flat[..at], &flat[at + phrase.len()..]);
            let letter = char::is_alphanumeric;
            if !before.ends_with(letter) && !after.starts_with(letter) {
                found.push((text[..at].matches('\n').count() + 1, phrase, instead));
            }
        }
    }
    found
}

/// Removes what is in back-ticks or quotes, but no line break.
fn without_quotes(paragraph: &str) -> String {
    let (mut kept, mut open) = (String::new(), None);
    for character in paragraph.chars() {
        if open.is_none() || open == Some(character) || character == '\n' {
            kept.push(character);
        }
        if matches!(character, '`' | '"') && open.is_none_or(|quote| quote == character) {
            open = open.xor(Some(character));
        }
    }
    kept
}

#[test]
fn phrases_are_found_and_quotes_are_left_alone() {
    let page = "It goes\non.\n\n`goes on`, \"anew\"\n```\nanew\n```\nFor every one.\nWhoever";
    let found = banned(&prose(page, false));
    assert_eq!(found, [(9, "whoever", "anyone who"), (1, "goes on", "continues")]);
    let source = "/// A.\nlet anew = 1;\n//! Anew.";
    assert_eq!(banned(&prose(source, true)), [(3, "anew", "again")]);
}
