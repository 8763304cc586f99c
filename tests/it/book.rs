//! The book in `docs/`: what it says about settings, commands and reasons is what the program does,
//! its links work, and so do its commands.

mod command_line;
mod denials;
mod front_pages;
mod gateways;
mod known_holes;
mod language;
mod libraries;
mod links;
pub(crate) mod markdown;
mod middleware;
mod observed;
mod other_languages;
pub(crate) mod quick_start;
mod settings;

use std::path::PathBuf;

use crate::harness::repository;

const END: &str = "<!-- end of what is generated -->";

/// The folder of the book's pages.
fn pages() -> PathBuf {
    repository().join("docs/src")
}

/// Compares the part of a page that follows the mark `generated from SOURCE` to `wanted`. With
/// `UPDATE_DOCS` in the environment, writes it there instead.
fn hold(page: &str, source: &str, wanted: &str) {
    let file = pages().join(page);
    let text =
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("docs/src/{page}: {error}"));
    let begin = format!("<!-- generated from {source} -->");
    let (before, rest) =
        text.split_once(&begin).unwrap_or_else(|| panic!("docs/src/{page} has no line `{begin}`"));
    let (_, after) =
        rest.split_once(END).unwrap_or_else(|| panic!("docs/src/{page} has no line `{END}`"));
    let fresh = format!("{before}{begin}\n\n{}\n\n{END}{after}", wanted.trim());
    if text == fresh {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_DOCS").is_some(),
        "docs/src/{page} does not say what {source} says; \
         `UPDATE_DOCS=1 cargo nextest run --workspace --all-features --test it book` writes it anew"
    );
    std::fs::write(&file, fresh).unwrap();
}
