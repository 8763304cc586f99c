//! Telemetry of the service: traces and metrics at a collector, `/metrics`, the log.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::gateways::every::Scene;
use crate::harness::http::Request;
use crate::harness::{
    Admin, Behaviour, Claims, CollectedSpan, Collector, Countersign, Deployment, Door, Gateway,
    JwksServer, Key, Question, Redis, Seen, Signal, eventually, eventually_async, now,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Settings that export to `collector` soon.
fn telling(deployment: Deployment, collector: &Collector) -> Deployment {
    deployment
        .set("telemetry.otlp_endpoint", &collector.url())
        .variable("OTEL_BSP_SCHEDULE_DELAY", "100")
        .variable("OTEL_METRIC_EXPORT_INTERVAL", "200")
}

/// Envoy exports its own spans to the same collector. Its question to Countersign is one of them,
/// and the parent of the decision's span.
async fn a_decision_is_part_of_the_gateways_trace(gateway: Gateway) {
    let collector = Collector::grpc();
    let endpoint = format!("address: 127.0.0.1, port_value: {}", collector.address().port());
    let tracing = "          stat_prefix: gateway
          tracing:
            random_sampling: { value: 100 }
            spawn_upstream_span: true
            provider:
              name: envoy.tracers.opentelemetry
              typed_config:
                \"@type\": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                service_name: gateway
                grpc_service: { envoy_grpc: { cluster_name: collector } }";
    let cluster = format!(
        "  clusters:
  - name: collector
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: collector
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address: {{ {endpoint} }}
"
    );
    let edits = [("          stat_prefix: gateway", tracing), ("  clusters:\n", cluster.as_str())];
    // Nothing is sampled by default: these spans are exported because the gateway asked for it.
    let deployment = telling(Deployment::new(), &collector).set("telemetry.trace_sample", "0");
    let scene = Scene::on(deployment, gateway, Key::ed25519(), &edits).await;

    let seen = Seen::by(&scene.send(Request::get("/orders/7?secret=1")).await);
    let (decision, steps) =
        eventually("the decision with its steps, and Envoy's span", DEADLINE, || {
            let (decision, steps) =
                collector.decision_about("/orders/7").filter(|(_, steps)| steps.len() == 3)?;
            collector
                .spans()
                .iter()
                .any(|span| span.span_id == decision.parent_span_id)
                .then_some((decision, steps))
        });

    let spans = collector.spans();
    let parent = spans.iter().find(|span| span.span_id == decision.parent_span_id).unwrap();
    assert_eq!(
        (parent.service.as_str(), &parent.trace_id),
        ("gateway", &decision.trace_id),
        "{parent:?}"
    );
    assert_eq!(decision.service, "countersign");
    let attribute = |name: &str| decision.attributes.get(name).map(String::as_str);
    assert_eq!(attribute("countersign.outcome"), Some("allowed"));
    assert_eq!(attribute("user.name"), Some("alice"));
    assert_eq!(attribute("http.request.method"), Some("GET"));
    assert_eq!(seen.values("x-auth-decision-id"), [attribute("countersign.decision_id").unwrap()]);
    assert!(!decision.is_error);
    assert_steps(&decision, &steps, ["key_lookup", "nonce_claim", "verification"]);
}

#[tokio::test]
async fn a_decision_over_grpc_is_part_of_envoys_trace() {
    a_decision_is_part_of_the_gateways_trace(Gateway::EnvoyGrpc).await;
}

#[tokio::test]
async fn a_decision_over_http_is_part_of_envoys_trace() {
    a_decision_is_part_of_the_gateways_trace(Gateway::EnvoyHttp).await;
}

fn assert_steps(decision: &CollectedSpan, steps: &[CollectedSpan], expected: [&str; 3]) {
    let mut names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, expected);
    for step in steps {
        assert_eq!(step.trace_id, decision.trace_id);
        assert!(step.nanoseconds <= decision.nanoseconds, "{step:?} in {decision:?}");
    }
}

/// Over HTTP to the collector. The gateway's sampling flag takes precedence over the setting.
#[tokio::test]
async fn the_gateway_says_what_is_sampled() {
    let (collector, key) = (Collector::http(), Key::ed25519());
    let deployment = telling(Deployment::new(), &collector)
        .set("telemetry.otlp_protocol", "http")
        .set("telemetry.trace_sample", "0")
        .variable("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let ask = async |path: &str, flags: &str| {
        let request = Request::get("/validate_request").header("X-Original-URI", path);
        let request = if flags.is_empty() {
            request
        } else {
            request.header("traceparent", &format!("00-{trace}-00f067aa0ba902b7-{flags}"))
        };
        request.authorization(&Claims::of("alice").authorization(&key)).send(countersign.http).await
    };

    for (path, flags) in
        [("/unsampled", "00"), ("/without", ""), ("/malformed", "zz"), ("/sampled", "01")]
    {
        assert_eq!(ask(path, flags).await.status, 200);
    }
    let (decision, steps) = eventually("the sampled decision", DEADLINE, || {
        collector.decision_about("/sampled").filter(|(_, steps)| steps.len() == 3)
    });

    assert_eq!(
        (decision.trace_id.as_str(), decision.parent_span_id.as_str()),
        (trace, "00f067aa0ba902b7")
    );
    assert_steps(&decision, &steps, ["key_lookup", "nonce_claim", "verification"]);
    // Spans are sent in the order in which they ended: those of earlier decisions would be here.
    assert_eq!(collector.spans().len(), 4, "{:?}", collector.spans());
    let resources = collector.resources();
    assert!(
        resources.iter().all(|resource| resource
            .get("deployment.environment.name")
            .is_some_and(|name| name == "test")),
        "{resources:?}"
    );
}

/// The span of a denial has the reason; no attribute of a span could be used to pass.
#[tokio::test]
async fn a_span_tells_the_exact_reason_and_no_secret() {
    let (collector, key) = (Collector::grpc(), Key::ed25519());
    let deployment = telling(Deployment::new(), &collector).set("telemetry.trace_sample", "1");
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let token = Claims::of("alice").authorization(&key);
    let ask = async |path: &str| {
        Request::get("/validate_request")
            .header("X-Original-URI", path)
            .authorization(&token)
            .send(countersign.http)
            .await
    };

    assert_eq!(ask("/first").await.status, 200);
    assert_eq!(ask("/second").await.status, 401);
    let (denied, _) = eventually("the denial", DEADLINE, || collector.decision_about("/second"));

    assert_eq!(denied.attributes["countersign.reason"], "nonce_claimed");
    assert!(!denied.attributes.contains_key("user.name"), "{denied:?}");
    assert_eq!(denied.parent_span_id, "");
    let signature = token.rsplit('.').next().unwrap();
    for span in collector.spans() {
        assert!(!format!("{span:?}").contains(signature), "{span:?}");
    }
}

#[tokio::test]
async fn metrics_reach_the_collector_too() {
    for (collector, protocol) in [(Collector::grpc(), "grpc"), (Collector::http(), "http")] {
        let deployment =
            telling(Deployment::new(), &collector).set("telemetry.otlp_protocol", protocol);
        let countersign = deployment.serve();
        assert_eq!(countersign.decide("JWT nonsense").await.status, 401);

        let names = eventually("metrics", DEADLINE, || {
            Some(collector.metrics())
                .filter(|names| names.contains("countersign.decision.duration"))
        });

        for name in [
            "countersign.decisions",
            "countersign.token_grants",
            "countersign.store.up",
            "process.cpu",
        ] {
            assert!(names.contains(name), "{protocol}: {name} is not in {names:?}");
        }
        assert!(
            collector.resources().iter().all(|resource| resource["service.name"] == "countersign")
        );
    }
}

/// A collector that is gone delays neither decisions nor shutdown.
#[tokio::test]
async fn a_missing_collector_holds_nobody_up() {
    let key = Key::ed25519();
    let deployment = Deployment::new()
        .set("telemetry.otlp_endpoint", "http://127.0.0.1:9")
        .set("telemetry.trace_sample", "1");
    deployment.enrol("alice", &key);
    let mut countersign = deployment.serve();

    for _ in 0..5 {
        assert_eq!(countersign.decide(&Claims::of("alice").authorization(&key)).await.status, 200);
    }
    countersign.signal(Signal::Term);

    assert!(countersign.exited_within(Duration::from_secs(10)).success());
}

/// Each series of a metric: its labels and value.
fn series(text: &str, metric: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(metric));
    let parts = lines
        .filter_map(|rest| rest.starts_with(['{', ' ']).then(|| rest.rsplit_once(' ')).flatten());
    parts.map(|(labels, value)| (labels.to_owned(), value.to_owned())).collect()
}

async fn metrics(countersign: &Countersign) -> String {
    let answer = Request::get("/metrics").send(countersign.admin).await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    String::from_utf8(answer.body).unwrap()
}

#[tokio::test]
async fn the_metrics_are_those_that_are_promised() {
    let key = Key::ed25519();
    let deployment = Deployment::new();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let token = Claims::of("alice").authorization(&key);
    let late = Claims::of("alice").with("time", now() - 100).authorization(&key);
    for (authorization, status) in [(&token, 200), (&token, 401), (&late, 401)] {
        assert_eq!(countersign.decide(authorization).await.status, status);
    }
    let text = metrics(&countersign).await;

    for metric in [
        "countersign_decisions_total",
        "countersign_decision_duration_seconds_bucket",
        "countersign_clock_skew_seconds_bucket",
        "countersign_nonce_claim_duration_seconds_bucket",
        "countersign_key_cache_hits_total",
        "countersign_key_cache_misses_total",
        "countersign_key_cache_entries",
        "countersign_jwks_fetches_total",
        "countersign_store_up",
        "countersign_token_grants_total",
        "countersign_build_info",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "process_start_time_seconds",
    ] {
        assert!(!series(&text, metric).is_empty(), "{metric} is not in {text}");
    }
    let value = |series_named: &str| {
        let (metric, labels) =
            series_named.split_at(series_named.find('{').unwrap_or(series_named.len()));
        let found = series(&text, metric).into_iter().find(|(found, _)| found == labels);
        found.unwrap_or_else(|| panic!("no {series_named} in {text}")).1
    };
    let decisions = |outcome: &str, reason: &str| {
        value(&format!(
            "countersign_decisions_total{{door=\"http\",method=\"self_signed\",outcome=\"{outcome}\",reason=\"{reason}\"}}"
        ))
    };
    assert_eq!(
        [
            decisions("allowed", ""),
            decisions("denied", "nonce_claimed"),
            decisions("denied", "too_old")
        ],
        ["1"; 3]
    );
    assert_eq!(
        value("countersign_decision_duration_seconds_count{door=\"http\",outcome=\"denied\"}"),
        "2"
    );
    assert_eq!(value("countersign_nonce_claim_duration_seconds_count{outcome=\"fresh\"}"), "1");
    assert_eq!(value("countersign_nonce_claim_duration_seconds_count{outcome=\"replayed\"}"), "1");
    assert_eq!(value("countersign_clock_skew_seconds_count{verified=\"true\"}"), "2");
    assert_eq!(value("countersign_clock_skew_seconds_bucket{verified=\"false\",le=\"-60\"}"), "1");
    assert_eq!(value("countersign_key_cache_entries"), "1");
    let lookups = ["hits", "misses"]
        .map(|kind| value(&format!("countersign_key_cache_{kind}_total")).parse::<u64>().unwrap());
    assert_eq!(lookups.iter().sum::<u64>(), 2, "of the token that is too old nobody is looked up");
    assert_eq!(value("countersign_store_up{store=\"nonce_store\"}"), "1");
    let bounds: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("countersign_decision_duration_seconds_bucket{")?
                .split("le=\"")
                .nth(1)?
                .split('"')
                .next()
        })
        .collect();
    assert!(bounds.contains("0.00005") && bounds.contains("1"), "{bounds:?}");
    assert!(!text.contains("alice"), "a name in {text}");
}

/// The age of key sets, and fetches by their outcome.
#[tokio::test]
async fn fetches_of_key_sets_are_counted() {
    let (server, key) = (JwksServer::https(), Key::ed25519());
    server.put("/set", Behaviour::set([key.jwk("one")]));
    let deployment = Deployment::new().trusting(&server);
    for (username, path) in [("alice", "/set"), ("bob", "/missing")] {
        deployment.done(&["principal", "add", username]);
        deployment.add_trust(username, &server.url(path));
    }
    let countersign = deployment.serve();
    let fetches = |text: &str, outcome: &str| {
        let all = series(text, "countersign_jwks_fetches_total");
        all.iter()
            .find(|(labels, _)| labels == &format!("{{outcome=\"{outcome}\"}}"))
            .unwrap()
            .1
            .parse::<u64>()
            .unwrap()
    };

    let text = eventually_async("a fetch of each kind", DEADLINE, async || {
        let text = metrics(&countersign).await;
        (fetches(&text, "fetched") > 0 && fetches(&text, "failed") > 0).then_some(text)
    })
    .await;

    let ages = series(&text, "countersign_jwks_age_seconds");
    assert!(
        matches!(&ages[..], [(_, age)] if (0.0..60.0).contains(&age.parse().unwrap())),
        "{ages:?}"
    );
}

/// Readiness names what is missing and why; liveness is not affected; gRPC health follows
/// readiness.
#[tokio::test]
async fn readiness_names_what_is_missing() {
    let mut redis = Redis::start();
    let countersign = Deployment::new().nonces_in(&redis).serve();
    let ready = async || Request::get("/readyz").send(countersign.admin).await;
    let whole = ready().await.json();
    assert_eq!(
        whole,
        json!({"result": true, "dependencies": {"key_directory": "ok", "nonce_store": "ok"}})
    );

    redis.stop();
    let answer = ready().await;

    assert_eq!(answer.status, 503);
    let body = answer.json();
    assert_eq!(
        (&body["result"], &body["dependencies"]),
        (&json!(false), &json!({"key_directory": "ok", "nonce_store": "unavailable"}))
    );
    assert!(
        body["reasons"]["nonce_store"]
            .as_str()
            .is_some_and(|reason| reason.contains("out of reach")),
        "{body}"
    );
    assert_eq!(body["reasons"].as_object().unwrap().len(), 1);
    for address in [countersign.http, countersign.admin] {
        assert_eq!(Request::get("/livez").send(address).await.status, 200);
    }
    let text = metrics(&countersign).await;
    assert!(text.contains("countersign_store_up{store=\"nonce_store\"} 0"), "{text}");
    assert!(text.contains("countersign_store_up{store=\"key_directory\"} 1"), "{text}");
}

/// The log as lines of JSON.
fn log(countersign: &Countersign) -> Vec<Value> {
    countersign
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
        .collect()
}

/// The first line about a decision on `path`.
fn logged(countersign: &Countersign, path: &str) -> Option<Value> {
    log(countersign)
        .into_iter()
        .find(|line| line["target"] == "countersign::decision" && line["path"] == path)
}

async fn ask(countersign: &Countersign, path: &str, authorization: &str) {
    let request = Request::get("/validate_request").header("X-Original-URI", path);
    let request =
        request.header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
    request.authorization(authorization).send(countersign.http).await;
}

#[tokio::test]
async fn what_is_logged_changes_while_the_service_runs() {
    let key = Key::ed25519();
    let deployment = Deployment::new().administered().set("telemetry.log", "warn");
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    let token = || Claims::of("alice").authorization(&key);
    assert_eq!(
        admin.get("/log").await.json(),
        json!({"log": "warn", "decision_log": "denied", "decision_log_sample": 0.0})
    );

    ask(&countersign, "/before", "JWT nonsense").await;
    let changed = admin.patch("/log", &json!({"log": "info", "decision_log": "all"})).await;
    assert_eq!(
        changed.json(),
        json!({"log": "info", "decision_log": "all", "decision_log_sample": 0.0})
    );
    let presented = token();
    ask(&countersign, "/allowed", &presented).await;
    let line = eventually("the allowed decision", DEADLINE, || logged(&countersign, "/allowed"));
    admin.patch("/log", &json!({"decision_log": "denied", "decision_log_sample": 1})).await;
    ask(&countersign, "/sampled", &token()).await;
    eventually("a sample of what is allowed", DEADLINE, || logged(&countersign, "/sampled"));
    admin.patch("/log", &json!({"decision_log_sample": 0})).await;
    ask(&countersign, "/not-sampled", &token()).await;
    ask(&countersign, "/denied", &presented).await;
    let denied = eventually("the denial", DEADLINE, || logged(&countersign, "/denied"));

    assert_eq!((&line["outcome"], &line["username"]), (&json!("allowed"), &json!("alice")));
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(line["span_id"], "00f067aa0ba902b7");
    assert_eq!((&denied["reason"], &denied["code"]), (&json!("nonce_claimed"), &json!("replayed")));
    assert_eq!(logged(&countersign, "/before"), None);
    assert_eq!(logged(&countersign, "/not-sampled"), None);
    let secret = presented.rsplit('.').next().unwrap();
    assert!(!countersign.log().contains(secret));
    for (body, member) in [
        (json!({"log": "nonsense"}), "log"),
        (json!({"decision_log": "some"}), "decision_log"),
        (json!({"decision_log_sample": 2}), "decision_log_sample"),
        (json!({"level": "info"}), "level"),
    ] {
        let refused = admin.patch("/log", &body).await;
        assert_eq!(
            (refused.status, &refused.json()["member"]),
            (400, &json!(member)),
            "{refused:?}"
        );
    }
    let audited =
        log(&countersign).into_iter().find(|line| line["message"] == "what is logged was changed");
    assert!(audited.unwrap()["actor"].as_str().unwrap().starts_with("admin-api@"));
}

/// Also in the text format.
#[tokio::test]
async fn a_denial_is_logged_for_people() {
    let deployment = Deployment::new().set("telemetry.log_format", "text");
    let countersign = deployment.serve();
    let verdict = Door::Grpc.ask(&countersign, &Question::with("JWT nonsense")).await;
    assert!(!verdict.allowed());

    let line = eventually("the denial", DEADLINE, || {
        countersign
            .log()
            .lines()
            .find(|line| line.contains("countersign::decision"))
            .map(str::to_owned)
    });

    assert!(
        line.contains("denied") && line.contains("door=\"grpc\"") && line.contains("reason="),
        "{line}"
    );
}
