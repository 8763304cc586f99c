//! The book describes everything that a running service shows to operators.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::pages;
use crate::harness::http::Request;
use crate::harness::{
    Behaviour, Claims, Countersign, Deployment, JwksServer, Key, Redis, Signer, eventually,
    eventually_async,
};

#[tokio::test]
async fn metrics_and_fields_of_the_log_are_those_that_are_described() {
    let (server, key) = (JwksServer::https(), Key::ed25519());
    server.put("/keys", Behaviour::set([Signer::named("a").jwk()]));
    let redis = Redis::start();
    let deployment =
        Deployment::new().nonces_in(&redis).trusting(&server).set("telemetry.decision_log", "all");
    deployment.enrol("alice", &key);
    deployment.add_trust("alice", &server.url("/keys"));
    let countersign = deployment.serve();
    let authorization = Claims::registered("alice").authorization(&key);
    assert_eq!(countersign.decide(&authorization).await.status, 200);
    assert_eq!(countersign.decide(&authorization).await.status, 401);

    let described = quoted("reference/metrics.md", |name| {
        ["countersign_", "process_", "target_"].iter().any(|beginning| name.starts_with(beginning))
    });
    let exposed = eventually_async("every metric that is described is there", WITHIN, async || {
        let exposed = exposed(&countersign).await;
        described.is_subset(&exposed).then_some(exposed)
    });
    let undescribed = &exposed.await - &described;
    assert!(
        undescribed.is_empty(),
        "docs/src/reference/metrics.md does not describe {undescribed:?}"
    );

    let lines = eventually("both decisions are logged", WITHIN, || {
        let lines = log_lines(&deployment);
        (lines.len() >= 2).then_some(lines)
    });
    let fields: BTreeSet<String> =
        lines.iter().flat_map(|line| line.as_object().unwrap().keys().cloned()).collect();
    assert!(fields.contains("decision_id"), "{lines:?}");
    let undescribed = &fields - &quoted("reference/log.md", |_| true);
    assert!(undescribed.is_empty(), "docs/src/reference/log.md does not describe {undescribed:?}");
}

const WITHIN: Duration = Duration::from_secs(20);

/// The names that a page writes as code, if they are `wanted` and have the characters of a name.
fn quoted(page: &str, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let text = std::fs::read_to_string(pages().join(page)).unwrap();
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| is_name(name) && is_wanted(name))
        .map(str::to_owned)
        .collect()
}

async fn exposed(countersign: &Countersign) -> BTreeSet<String> {
    let answer = Request::get("/metrics").send(countersign.admin).await;
    let text = String::from_utf8(answer.body).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect()
}

/// The lines of the decision log.
fn log_lines(deployment: &Deployment) -> Vec<Value> {
    let files =
        std::fs::read_dir(deployment.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let lines = logs.flat_map(|log| {
        std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    });
    lines
        .filter_map(|line| serde_json::from_str(&line).ok())
        .filter(|line: &Value| line["target"] == "countersign::decision")
        .collect()
}
