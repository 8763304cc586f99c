//! The tests that the page of known holes names exist.

use super::pages;
use crate::harness::repository;

#[test]
fn every_test_on_the_page_of_known_holes_exists() {
    let page = std::fs::read_to_string(pages().join("more/known-holes.md")).unwrap();
    let rows: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).collect();
    let mut named = 0;
    for row in rows.iter().filter(|row| !row.starts_with("| hole |")) {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let tests: Vec<&str> = tests.split('`').filter(|part| part.contains(".rs::")).collect();
        assert!(!tests.is_empty(), "no test is named: {row}");
        for test in tests {
            let (file, name) = test.split_once("::").unwrap();
            let source = std::fs::read_to_string(repository().join(file))
                .unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(is_a_test(&source, name), "{file} has no test {name}");
            named += 1;
        }
    }
    assert!(named > 30, "the page is not read as it should be: {named} tests were found");
}

/// Whether `source` has a function `name` directly below a test attribute.
fn is_a_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    lines.iter().enumerate().any(|(at, line)| {
        let attributes = lines[..at]
            .iter()
            .rev()
            .take_while(|above| above.starts_with("#[") || above.starts_with("//"));
        line.trim_start_matches("async ").starts_with(&head)
            && attributes
                .clone()
                .any(|above| above.starts_with("#[test]") || above.starts_with("#[tokio::test"))
    })
}

#[test]
fn a_function_that_is_no_test_is_told_apart() {
    assert!(is_a_test("#[tokio::test]\nasync fn a() {}", "a"));
    assert!(is_a_test("#[test]\n#[ignore]\nfn a() {}", "a"));
    assert!(!is_a_test("fn a() {}", "a") && !is_a_test("#[test]\nfn b() {}", "a"));
}
