//! `countersign demo`, the first command that people run.

use crate::book::{markdown::Document, quick_start::assert_prints};
use crate::harness::{Deployment, Process, Signal, repository};

#[test]
fn it_shows_decisions_and_nothing_else() {
    let deployment = Deployment::bare().set("issuer.algorithm", "ES256");
    let mut demo = Process::spawn(
        "demo",
        &mut deployment.command(&["demo"]),
        deployment.dir.path(),
        Signal::Term,
    );

    let shown = demo.wait_until(|| {
        Some(demo_log(&deployment)).filter(|shown| shown.contains("Stop with Ctrl-C"))
    });

    let decisions: Vec<&str> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("  HTTP  ").or_else(|| line.strip_prefix("  gRPC  ")))
        .collect();
    let expected = [
        ("200 OK", "X-Auth-Username: demo"),
        ("0 Ok", "x-auth-username: demo"),
        ("401 Unauthorized", "X-Auth-Error: replayed"),
        ("16 Unauthenticated", "x-auth-error: replayed"),
        ("401 Unauthorized", "X-Auth-Error: timestamp_outside_tolerance"),
        ("16 Unauthenticated", "x-auth-error: timestamp_outside_tolerance"),
        ("200 OK", "X-Auth-Username: demo"),
        ("0 Ok", "x-auth-username: demo"),
    ];
    assert_eq!(decisions.len(), expected.len(), "{shown}");
    for (decision, (status, says)) in decisions.iter().zip(expected) {
        assert!(decision.starts_with(status) && decision.ends_with(says), "{decision} in {shown}");
    }
    // The README shows exactly this output.
    let readme = Document::read(&repository().join("README.md")).code;
    let shown_there = readme.iter().find(|block| block.text.contains("  HTTP  ")).unwrap();
    assert_prints(&shown, &shown_there.text);
    for level in ["ERROR", "WARN"] {
        assert!(!shown.contains(level), "{shown}");
    }
}

/// What the demo has printed so far, to standard output and standard error.
fn demo_log(deployment: &Deployment) -> String {
    let files =
        std::fs::read_dir(deployment.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let log =
        files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "log"));
    log.map(|log| std::fs::read_to_string(log).unwrap()).unwrap_or_default()
}
