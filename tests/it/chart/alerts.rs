//! Alerts and the dashboard: parsed by Prometheus' own tool, and compared to what a running service
//! exposes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::of;
use crate::harness::chart::{Chart, promtool};
use crate::harness::http::Request;
use crate::harness::{
    Behaviour, Claims, Countersign, Deployment, JwksServer, Key, Signer, TokenApi, eventually_async,
};

/// The labels that Prometheus adds to every series of a target.
const TARGET_LABELS: [&str; 4] = ["instance", "job", "namespace", "pod"];

#[tokio::test]
async fn prometheus_reads_the_alerts() {
    let dir = tempfile::tempdir().unwrap();
    let rendered = of("production");
    let files = [
        ("alerts.yaml", Chart::file("files/alerts.yaml")),
        ("rendered.yaml", rendered.one("PrometheusRule", "")["spec"].to_string()),
    ];
    for (name, text) in &files {
        std::fs::write(dir.path().join(name), text).unwrap();
        let ran = promtool(&["check", "rules", "--lint-fatal", name], dir.path());
        assert_eq!(ran.code, 0, "{name}: {ran:?}");
    }
}

/// `tests/it/fixtures/chart/alerts_test.yaml`: each alert fires for its fault, and none fires
/// without one.
#[tokio::test]
async fn alerts_fire_when_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let cases = include_str!("../fixtures/chart/alerts_test.yaml");
    std::fs::write(dir.path().join("alerts.yaml"), Chart::file("files/alerts.yaml")).unwrap();
    std::fs::write(dir.path().join("alerts_test.yaml"), cases).unwrap();

    let ran = promtool(&["test", "rules", "alerts_test.yaml"], dir.path());

    assert_eq!(ran.code, 0, "{ran:?}");
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(cases.contains(name), "no case makes {name} fire");
    }
}

#[tokio::test]
async fn every_alert_says_what_to_do() {
    for alert in alerts() {
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{alert}");
        for annotation in ["summary", "description"] {
            assert!(
                alert["annotations"][annotation].as_str().is_some_and(|text| text.len() > 20),
                "{annotation}: {alert}"
            );
        }
    }
}

/// The rendered rule is the file, without disabled alerts and with the requested labels.
#[tokio::test]
async fn the_rule_is_made_from_the_file() {
    let rendered = of("production");
    let groups = rendered.one("PrometheusRule", "")["spec"]["groups"].as_array().unwrap();
    let (own, extra) = groups.split_at(groups.len() - 1);
    assert_eq!(extra[0]["name"], "example");
    let names = |rules: &[Value]| -> Vec<String> {
        rules.iter().map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect()
    };
    let rules: Vec<Value> =
        own.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect();
    for rule in &rules {
        assert_eq!(rule["labels"]["team"], "identity", "{rule}");
        assert!(rule["labels"]["severity"].is_string(), "{rule}");
    }
    let mut expected = names(&alerts());
    expected.retain(|name| name != "CountersignReplicaBusy");
    assert_eq!(names(&rules), expected);
}

#[tokio::test]
async fn prometheus_reads_every_query_of_the_dashboard() {
    let check = |queries: &[String]| {
        let rules: Vec<Value> = queries
            .iter()
            .enumerate()
            .map(|(n, query)| json!({ "record": format!("query:{n}"), "expr": query }))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let file = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
        std::fs::write(dir.path().join("queries.yaml"), file.to_string()).unwrap();
        promtool(&["check", "rules", "queries.yaml"], dir.path())
    };
    let queries: Vec<String> =
        queries(&dashboard()).iter().map(|query| query.replace("$__rate_interval", "5m")).collect();
    assert!(queries.len() >= 30, "{}", queries.len());

    let ran = check(&queries);

    assert_eq!(ran.code, 0, "{ran:?}");
    for query in &queries {
        let broken = query.replacen('(', "((", 1);
        assert!(broken == *query || check(&[broken]).code != 0, "{query}");
    }
}

/// The chart has the only copy, and the `ConfigMap` is that copy.
#[tokio::test]
async fn the_dashboard_is_packaged_as_it_is() {
    let rendered = of("production");
    let map = rendered.one("ConfigMap", "-dashboard");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(map["metadata"]["annotations"]["grafana_folder"], "Gateways");
    let packaged: Value =
        serde_json::from_str(map["data"]["countersign.json"].as_str().unwrap()).unwrap();
    assert_eq!(packaged, dashboard());
    assert!(of("minimal").all("ConfigMap").all(|map| map["data"]["countersign.json"].is_null()));
}

#[tokio::test]
async fn the_dashboard_is_in_order() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are there twice");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title}");
        for place in (at("x")..at("x") + at("w"))
            .flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(taken.insert(place), "{title} lies upon another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let query = target["expr"].as_str().unwrap();
            for variable in ["$namespace", "$instance"] {
                assert!(query.contains(variable), "{title} shows what was not chosen: {query}");
            }
        }
    }
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(variables, ["datasource", "namespace", "instance"]);
}

/// The service exposes every metric and label that the alerts and the dashboard use.
#[tokio::test]
async fn every_metric_that_is_named_exists() {
    let server = JwksServer::https();
    let signer = Signer::named("elsewhere");
    server.put("/keys", Behaviour::set([signer.jwk()]));
    let deployment = Deployment::new().trusting(&server);
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    deployment.add_trust("alice", &server.url("/keys"));
    let countersign = deployment.serve();
    use_everything(&deployment, &countersign, &signer, &key).await;

    let named = selectors(&all_queries());
    assert!(named.len() > 15, "{named:?}");
    let exposed = exposed(&countersign).await;
    assert_eq!(missing(&named, &exposed), Vec::<String>::new());
    // The check finds a misspelt name.
    let misspelt = selectors(&[
        "rate(countersign_decision_total[5m]) + countersign_store_up{stor=\"nonce_store\"}"
            .to_owned(),
    ]);
    assert_eq!(
        missing(&misspelt, &exposed),
        ["countersign_decision_total", "countersign_store_up{stor}"]
    );
}

/// Every reason that is used exists.
#[tokio::test]
async fn every_reason_that_is_named_exists() {
    let source = include_str!("../../../src/domain/decision.rs");
    let mut count = 0;
    for query in &all_queries() {
        for part in query.split("reason").skip(1) {
            let Some((_, value)) = part
                .trim_start_matches(['=', '~', '!'])
                .split_once('"')
                .filter(|(before, _)| before.is_empty())
            else {
                continue;
            };
            for reason in value.split('"').next().unwrap().split('|') {
                assert!(source.contains(&format!(" = \"{reason}\" => ")), "{reason} in {query}");
                count += 1;
            }
        }
    }
    assert!(count > 5, "{count}");
}

/// Decisions of every outcome but one, a claim, a fetch, tokens.
async fn use_everything(
    deployment: &Deployment,
    countersign: &Countersign,
    signer: &Signer,
    key: &Key,
) {
    let token = Claims::of("alice").authorization(key);
    assert_eq!(countersign.decide(&token).await.status, 200);
    assert_eq!(countersign.decide(&token).await.status, 401, "a replay");
    assert_eq!(countersign.decide(&Claims::of("nobody").authorization(key)).await.status, 401);
    eventually_async("the key set is fetched", Duration::from_secs(20), async || {
        (countersign.decide(&signer.authorization("alice")).await.status == 200).then_some(())
    })
    .await;
    TokenApi::of(countersign).login(&deployment.api_key("alice")).await;
}

/// The labels of each metric that a service exposes.
async fn exposed(countersign: &Countersign) -> BTreeMap<String, BTreeSet<String>> {
    let answer = Request::get("/metrics").send(countersign.admin).await;
    let text = String::from_utf8(answer.body).unwrap();
    let mut metrics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap();
        let labels = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
        metrics.entry(name.to_owned()).or_default().extend(labels_in(labels));
    }
    metrics
}

/// The names in `named` that are not in `exposed`.
fn missing(
    named: &BTreeMap<String, BTreeSet<String>>,
    exposed: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let mut missing = Vec::new();
    for (metric, labels) in named.iter().filter(|(metric, _)| *metric != "up") {
        match exposed.get(metric) {
            None => missing.push(metric.clone()),
            Some(known) => {
                let unknown = labels.iter().filter(|label| {
                    !known.contains(*label) && !TARGET_LABELS.contains(&label.as_str())
                });
                missing.extend(unknown.map(|label| format!("{metric}{{{label}}}")));
            }
        }
    }
    missing
}

/// The metrics that queries use, with the labels that they select by. Labels to group by count for
/// all metrics of the query.
fn selectors(queries: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for query in queries {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let mut grouped: BTreeSet<String> = query
            .split(" by (")
            .skip(1)
            .flat_map(|part| {
                part.split_once(')').unwrap().0.split(", ").map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        // `namespace` and similar labels come from the target; only histograms have `le`.
        grouped.remove("le");
        let mut rest = query.as_str();
        while let Some(start) =
            ["countersign_", "process_"].iter().filter_map(|prefix| rest.find(prefix)).min()
        {
            rest = &rest[start..];
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let labels = found.entry(rest[..end].to_owned()).or_default();
            rest = &rest[end..];
            labels.extend(grouped.iter().cloned());
            if let Some((inner, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                labels.extend(labels_in(inner));
            }
        }
    }
    found
}

/// The label names in `a="1",b=~"2"`.
fn labels_in(text: &str) -> Vec<String> {
    let names = text.split(',').filter(|part| part.contains('"'));
    names
        .map(|part| part.split(['=', '!', '~']).next().unwrap().trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

fn alerts() -> Vec<Value> {
    // Rendered with no alert disabled.
    let values =
        format!("{}\nprometheusRule: {{enabled: true}}\n", Chart::file("ci/minimal-values.yaml"));
    let rendered = Chart::rendered(&values);
    let groups = rendered.one("PrometheusRule", "")["spec"]["groups"].as_array().unwrap().clone();
    let rules: Vec<Value> =
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect();
    assert!(rules.len() > 10, "{rules:?}");
    rules
}

fn dashboard() -> Value {
    serde_json::from_str(&Chart::file("files/dashboard.json")).unwrap()
}

fn all_queries() -> Vec<String> {
    let mut queries = queries(&dashboard());
    queries.extend(alerts().iter().map(|alert| alert["expr"].as_str().unwrap().to_owned()));
    queries
}

/// Every query of the dashboard: of panels and of annotations.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let marks = dashboard["annotations"]["list"].as_array().unwrap().iter();
    targets.chain(marks).filter_map(|target| target["expr"].as_str()).map(str::to_owned).collect()
}
