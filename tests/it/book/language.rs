//! Documents, and comments in `src`, are in plain English: they use no phrase of a short list.

use std::path::{Path, PathBuf};

use super::{END, pages};
use crate::harness::repository;

/// `(phrase, instead)`. Phrases are in lower case and match whole words.
const BANNED: &[(&str, &str)] = &[
    ("whoever", "anyone who"),
    ("whomever", "anyone whom"),
    ("whosever", "whose"),
    ("anew", "again"),
    ("for ever", "indefinitely"),
    ("none of ours", "not ours"),
    ("in the time of", "within"),
    ("as it were", "nothing: leave it out"),
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
    let mut documents: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
            .iter()
            .map(|name| repository().join(name))
            .collect();
    add_files(&pages(), "md", &mut documents);
    let mut sources = Vec::new();
    add_files(&repository().join("src"), "rs", &mut sources);
    assert!(documents.len() > 20 && sources.len() > 100, "the files are not where they were");

    let mut found = Vec::new();
    for file in documents.iter().chain(&sources) {
        let text = std::fs::read_to_string(file).unwrap();
        let prose = if sources.contains(file) { comments(&text) } else { written(&text) };
        for (line, phrase, instead) in banned(&prose) {
            found.push(format!("{}:{line}: not \"{phrase}\" but \"{instead}\"", file.display()));
        }
    }
    assert!(found.is_empty(), "not plain English:\n{}", found.join("\n"));
}

/// Each banned phrase in `prose`: its line, the phrase, and what to write instead. Phrases in
/// back-ticks or quotes do not count; those that a line break divides do.
fn banned(prose: &str) -> Vec<(usize, &'static str, &'static str)> {
    let text = without_quotes(prose).to_ascii_lowercase();
    let flat = text.replace('\n', " ");
    let mut found = Vec::new();
    for &(phrase, instead) in BANNED {
        for (at, _) in flat.match_indices(phrase) {
            let inside_a_word = flat[..at].ends_with(char::is_alphanumeric)
                || flat[at + phrase.len()..].starts_with(char::is_alphanumeric);
            if !inside_a_word {
                found.push((text[..at].matches('\n').count() + 1, phrase, instead));
            }
        }
    }
    found
}

/// Leaves lines as they are. A quote that is still open at the end of a paragraph ends there.
fn without_quotes(prose: &str) -> String {
    let mut kept = String::new();
    let mut open = None;
    for line in prose.lines() {
        if line.is_empty() {
            open = None;
        }
        for character in line.chars() {
            if open == Some(character) {
                open = None;
            } else if open.is_none() && matches!(character, '`' | '"') {
                open = Some(character);
                kept.push('`');
            } else if open.is_none() {
                kept.push(character);
            }
        }
        kept.push('\n');
    }
    kept
}

/// The comments of a Rust file, at their lines; every other line is empty.
fn comments(source: &str) -> String {
    let comment = |line: &str| {
        line.trim_start()
            .strip_prefix("//")
            .map(|text| text.trim_start_matches(['/', '!']).to_owned())
    };
    without_fences(source.lines().map(|line| comment(line).unwrap_or_default()))
}

/// What people wrote on a page, at its lines; generated lines are empty.
fn written(page: &str) -> String {
    let mut generated = false;
    without_fences(page.lines().map(|line| {
        generated = (generated || line.starts_with("<!-- generated from ")) && line != END;
        if generated { String::new() } else { line.to_owned() }
    }))
}

/// Trims lines, and empties those of code blocks.
fn without_fences(lines: impl Iterator<Item = String>) -> String {
    let mut code = false;
    let mut kept = String::new();
    for line in lines {
        let fence = line.trim().starts_with("```");
        code ^= fence;
        kept.push_str(if code || fence { "" } else { line.trim() });
        kept.push('\n');
    }
    kept
}

fn add_files(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            add_files(&entry.path(), extension, files);
        } else if entry.path().extension().is_some_and(|its| its == extension) {
            files.push(entry.path());
        }
    }
}

#[test]
fn phrases_are_found_and_quotes_are_left_alone() {
    let page = "It goes\non.\n\n`goes on`, \"anew\"\n```\nanew\n```\nFor every one.\nWhoever";
    let found: Vec<_> = banned(&written(page)).iter().map(|found| (found.0, found.1)).collect();
    assert_eq!(found, [(9, "whoever"), (1, "goes on")]);
    assert_eq!(banned(&comments("/// A.\nlet anew = 1;\n//! Anew.")), [(3, "anew", "again")]);
}
