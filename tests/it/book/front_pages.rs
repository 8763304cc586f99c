//! README, ARCHITECTURE and the decision records are short, and the files they name exist. Their
//! links are tested in `links`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::markdown::Document;
use crate::harness::repository;

const README_LINES: usize = 120;
const ARCHITECTURE_WORDS: usize = 2500;
/// The most files that a newcomer reads to follow one decision.
const WALK_FILES: usize = 12;
/// One page, in words.
const RECORD_LINES: usize = 60;

/// Folders whose files are named by their full path in the documents.
const NAMED_FOLDERS: [&str; 9] = [
    "src/",
    "tests/",
    "benches/",
    "fuzz/",
    "docs/",
    "migrations/",
    "proto/",
    "deploy/",
    "examples/",
];

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(
        lines <= README_LINES,
        "README.md has {lines} lines, and may have {README_LINES}: the book has room"
    );
}

#[test]
fn the_architecture_is_short() {
    let words = read("ARCHITECTURE.md").split_whitespace().count();
    assert!(
        words <= ARCHITECTURE_WORDS,
        "ARCHITECTURE.md has {words} words, and may have {ARCHITECTURE_WORDS}: details go into docs/src/internals, reasons into docs/adr"
    );
}

#[test]
fn a_decision_is_followed_in_a_dozen_files() {
    let architecture = read("ARCHITECTURE.md");
    let walk = section(&architecture, "## One decision");
    let files: BTreeSet<&str> = spans(walk).into_iter().filter(|span| is_rust_file(span)).collect();
    assert!((6..=WALK_FILES).contains(&files.len()), "{} files: {files:?}", files.len());
    for file in files {
        assert!(repository().join(file).is_file(), "{file} does not exist");
    }
}

#[test]
fn every_file_that_is_named_exists() {
    let mut named = 0;
    for document in ["README.md", "ARCHITECTURE.md"].into_iter().map(str::to_owned).chain(records())
    {
        for path in spans(&read(&document))
            .into_iter()
            .filter(|span| NAMED_FOLDERS.iter().any(|folder| span.starts_with(folder)))
        {
            assert!(
                repository().join(path).exists(),
                "{document} names {path}, which does not exist"
            );
            named += 1;
        }
    }
    assert!(named > 60, "the documents are not read as they should be: {named} paths were found");
}

#[test]
fn the_table_of_modules_is_that_of_the_layering_test() {
    let architecture = read("ARCHITECTURE.md");
    let table: BTreeMap<String, BTreeSet<String>> = section(&architecture, "## The house")
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            let [module, _, imports] = cells[..] else { return None };
            let [module] = spans(module)[..] else { return None };
            Some((module.to_owned(), spans(imports).into_iter().map(str::to_owned).collect()))
        })
        .collect();
    let wanted = layers(&read("tests/layering.rs"));
    assert!(
        wanted.len() > 8 && wanted["client"] == ["domain", "roots"].map(str::to_owned).into(),
        "{wanted:?}"
    );
    assert_eq!(table, wanted);
}

#[test]
fn what_the_readme_shows_of_gateways_is_in_the_examples_that_are_tested() {
    let blocks = Document::read(&repository().join("README.md")).code;
    for (language, example) in
        [("nginx", "examples/nginx/nginx.conf"), ("yaml", "examples/envoy/envoy-grpc.yaml")]
    {
        let block = blocks.iter().find(|block| block.language == language).unwrap();
        let example: BTreeSet<String> = read(example).lines().map(one_spaced).collect();
        for line in block.text.lines().map(one_spaced) {
            assert!(example.contains(&line), "the {language} example has no line `{line}`");
        }
    }
}

#[test]
fn decision_records_have_one_form() {
    let files = records();
    let index = Document::read(&repository().join("docs/adr/README.md")).links;
    let mut last = 0;
    for file in &files {
        let name = Path::new(file).file_name().unwrap().to_str().unwrap();
        let number: usize = name
            .split('-')
            .next()
            .unwrap()
            .parse()
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(number, last + 1, "{file} is not the next one");
        last = number;
        let text = read(file);
        assert!(
            text.starts_with(&format!("# {number}. ")),
            "the title of {file} does not begin with its number"
        );
        let headings: Vec<&str> = text.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(headings, ["## Context", "## Decision", "## Consequences"], "{file}");
        let lines = text.lines().count();
        assert!(lines <= RECORD_LINES, "{file} has {lines} lines, and may have {RECORD_LINES}");
        assert!(index.iter().any(|link| link == name), "docs/adr/README.md does not list {name}");
    }
    assert!(
        last > 0 && index.len() == files.len(),
        "docs/adr/README.md lists {} of {last} records",
        index.len()
    );
}

fn read(document: &str) -> String {
    std::fs::read_to_string(repository().join(document))
        .unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// The decision records, in order of their numbers.
fn records() -> Vec<String> {
    let entries = std::fs::read_dir(repository().join("docs/adr")).unwrap();
    let names: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names
        .into_iter()
        .filter(|name| name != "README.md")
        .map(|name| format!("docs/adr/{name}"))
        .collect()
}

/// The text from `heading` to the next heading of the same rank.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text
        .split_once(&format!("{heading}\n"))
        .unwrap_or_else(|| panic!("there is no `{heading}`"));
    rest.split("\n## ").next().unwrap()
}

/// The texts between back-ticks.
fn spans(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

fn is_rust_file(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

fn one_spaced(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The rows of `LAYERS`, read from the source of the test.
fn layers(source: &str) -> BTreeMap<String, BTreeSet<String>> {
    let (_, table) = source.split_once("const LAYERS").unwrap();
    let (table, _) = table.split_once("];").unwrap();
    let rows = table
        .lines()
        .map(|line| line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    rows.filter(|row| !row.is_empty())
        .map(|row| (row[0].clone(), row[1..].iter().cloned().collect()))
        .collect()
}

#[test]
fn sections_and_spans_are_cut_where_they_end() {
    let text = "## A\n`b.rs` c `d`\n\n## E\n`f`\n";
    assert_eq!(spans(section(text, "## A")), ["b.rs", "d"]);
    let source = "const LAYERS: [X; 2] = [\n    (\"a\", &[]),\n    (\"b\", &[\"a\", \"c::d\"]),\n];\n(\"e\", &[])";
    let wanted = BTreeMap::from([
        ("a".to_owned(), BTreeSet::new()),
        ("b".to_owned(), ["a", "c::d"].map(str::to_owned).into()),
    ]);
    assert_eq!(layers(source), wanted);
}
