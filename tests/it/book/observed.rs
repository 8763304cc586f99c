//! What a running service shows to operators is described in the book.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::pages;
use crate::harness::http::Request;
use crate::harness::{Claims, Deployment, Key, eventually};

#[tokio::test]
async fn every_metric_and_every_field_of_the_log_is_described() {
    let key = Key::ed25519();
    let deployment = Deployment::new().set("telemetry.decision_log", "all");
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let authorization = Claims::registered("alice").authorization(&key);
    assert_eq!(countersign.decide(&authorization).await.status, 200);
    assert_eq!(countersign.decide(&authorization).await.status, 401);

    let metrics = Request::get("/metrics").send(countersign.admin).await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    let exposed: BTreeSet<&str> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(exposed.contains("countersign_decisions_total"), "{metrics}");
    assert_described("reference/metrics.md", &exposed);

    let lines = eventually("both decisions are logged", Duration::from_secs(20), || {
        let lines = log_lines(&deployment);
        (lines.iter().filter(|line| line["target"] == "countersign::decision").count() >= 2).then_some(lines)
    });
    let ours =
        lines.iter().filter(|line| line["target"].as_str().is_some_and(|target| target.starts_with("countersign::decision")));
    let fields: BTreeSet<&str> = ours.flat_map(|line| line.as_object().unwrap().keys().map(String::as_str)).collect();
    assert!(fields.contains("decision_id"), "{lines:?}");
    assert_described("reference/log.md", &fields);
}

fn assert_described(page: &str, names: &BTreeSet<&str>) {
    let text = std::fs::read_to_string(pages().join(page)).unwrap();
    let missing: Vec<&&str> = names.iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/src/{page} does not describe {missing:?}");
}

fn log_lines(deployment: &Deployment) -> Vec<Value> {
    let files = std::fs::read_dir(deployment.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let lines = logs.flat_map(|log| std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect::<Vec<_>>());
    lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
}
