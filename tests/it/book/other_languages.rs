//! The snippets in languages without a client make tokens that pass.

use std::process::Command;

use super::markdown::Document;
use super::pages;
use crate::harness::{Deployment, Ran, program};

#[tokio::test]
async fn ruby() {
    assert_passes("ruby", "ruby", &["--out", "alice.pem"]).await;
}

#[tokio::test]
async fn php() {
    assert_passes("php", "php", &["--type", "rsa", "--out", "alice-rsa.pem"]).await;
}

/// The snippet in `language` prints a header for alice, whose key was generated with these options.
async fn assert_passes(language: &str, interpreter: &str, generate: &[&str]) {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice"]);
    deployment.done(&[["key", "generate"].as_slice(), generate].concat());
    deployment.done(&["key", "add", "alice", &format!("{}.pub", generate.last().unwrap())]);
    let countersign = deployment.serve();

    let page = Document::read(&pages().join("clients/other-languages.md"));
    let snippet = page.code.iter().find(|block| block.language == language).expect("a snippet");
    let file = deployment.file("snippet", &snippet.text);
    let ran =
        Ran::of(Command::new(program(interpreter)).arg(file).current_dir(deployment.dir.path()));
    assert_eq!(ran.code, 0, "{ran:?}");

    let answer = countersign.decide(ran.stdout.trim()).await;
    assert_eq!(
        (answer.status, answer.header("x-auth-username")),
        (200, Some("alice")),
        "{answer:?}"
    );
}
