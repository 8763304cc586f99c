//! Every link between documents has a target, in the repository and in the book.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::markdown::Document;
use super::pages;
use crate::harness::repository;

/// Folders of the repository without documents of ours.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];

#[test]
fn links_in_the_repository_lead_somewhere() {
    let book = pages();
    let mut wrong = Vec::new();
    let documents = markdown_under(repository());
    for wanted in ["README.md", "ARCHITECTURE.md", "docs/adr/README.md"] {
        assert!(documents.contains(&repository().join(wanted)), "{documents:?}");
    }
    // Pages of the book are checked below, as the book has them: included files lie elsewhere.
    for file in documents.iter().filter(|file| !file.starts_with(&book)) {
        for link in Document::read(file).links {
            if let Err(fault) = check_link(file, &link, &Document::read) {
                wrong.push(format!(
                    "{}: {link}: {fault}",
                    file.strip_prefix(repository()).unwrap().display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn links_in_the_book_lead_somewhere_in_the_book() {
    let listed = listed_pages();
    let mut wrong = Vec::new();
    for page in &listed {
        let document = match expanded(page) {
            Ok(text) => Document::parse(&text),
            Err(fault) => {
                wrong.push(fault);
                continue;
            }
        };
        for link in document.links {
            let read = |target: &Path| Document::parse(&expanded(target).unwrap_or_default());
            let found = check_link(page, &link, &read).and_then(|target| match target {
                Some(target) if !target.starts_with(pages()) => {
                    Err("it leads out of the book; name the file instead".to_owned())
                }
                Some(target)
                    if target.extension().is_some_and(|extension| extension == "md")
                        && !listed.contains(&target) =>
                {
                    Err("SUMMARY.md does not list it".to_owned())
                }
                Some(target) if target.is_dir() => {
                    Err("the book has no page for a folder".to_owned())
                }
                _ => Ok(()),
            });
            if let Err(fault) = found {
                wrong.push(format!(
                    "docs/src/{}: {link}: {fault}",
                    page.strip_prefix(pages()).unwrap().display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_summary_lists_every_page_once() {
    let summary = pages().join("SUMMARY.md");
    let links = Document::read(&summary).links;
    let listed = listed_pages();
    assert_eq!(links.len(), listed.len(), "SUMMARY.md lists a page twice");
    let unlisted: Vec<PathBuf> = markdown_under(&pages())
        .into_iter()
        .filter(|file| *file != summary && !listed.contains(file))
        .collect();
    assert!(unlisted.is_empty(), "SUMMARY.md does not list {unlisted:?}");
}

fn listed_pages() -> BTreeSet<PathBuf> {
    let summary = pages().join("SUMMARY.md");
    Document::read(&summary).links.iter().map(|link| normalised(&pages().join(link))).collect()
}

/// A page with `{{#include FILE}}` replaced by the file.
fn expanded(page: &Path) -> Result<String, String> {
    let name = |file: &Path| file.strip_prefix(repository()).unwrap_or(file).display().to_string();
    let text = std::fs::read_to_string(page).map_err(|error| format!("{}: {error}", name(page)))?;
    let mut whole = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("{{#include ") {
        let (included, after) = after
            .split_once("}}")
            .ok_or_else(|| format!("{}: an include does not end", name(page)))?;
        let file = normalised(&page.parent().unwrap().join(included.trim()));
        let text = std::fs::read_to_string(&file)
            .map_err(|error| format!("{} includes {}: {error}", name(page), name(&file)))?;
        whole += before;
        whole += &text;
        rest = after;
    }
    Ok(whole + rest)
}

/// Checks a link of `from`. Returns the file that it leads to; `None` for an external link.
fn check_link(
    from: &Path,
    link: &str,
    read: &dyn Fn(&Path) -> Document,
) -> Result<Option<PathBuf>, String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(None);
    }
    let (path, anchor) =
        link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = if path.is_empty() {
        from.to_owned()
    } else {
        normalised(&from.parent().unwrap().join(path))
    };
    if !target.exists() {
        return Err(format!(
            "{} is not there",
            target.strip_prefix(repository()).unwrap_or(&target).display()
        ));
    }
    match anchor {
        Some(anchor) if !read(&target).anchors.contains(anchor) => {
            Err(format!("nothing there is called #{anchor}"))
        }
        _ => Ok(Some(target)),
    }
}

/// The path without `..`, resolved as a browser does: symbolic links are kept.
fn normalised(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut whole, component| {
        if component == Component::ParentDir {
            whole.pop();
        } else {
            whole.push(component);
        }
        whole
    })
}

/// The Markdown files below a folder. Does not follow symbolic links.
fn markdown_under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() && !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
            found.extend(markdown_under(&path));
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}
