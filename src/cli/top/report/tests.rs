use serde_json::Value;

use super::*;
use crate::cli::top::fixtures;

#[test]
fn scripts_get_one_object() {
    let report: Value =
        serde_json::from_str(&json(&fixtures::three(), Duration::from_secs(2)).unwrap()).unwrap();

    assert_eq!(report["interval_seconds"], 2.0);
    assert_eq!(report["replicas"][0]["state"], "not_ready");
    assert_eq!(report["replicas"][0]["unavailable"][0], "nonce_store");
    assert_eq!(report["replicas"][2]["state"], "unreachable");
    assert_eq!(report["replicas"][2]["error"], "Connection refused (os error 111)");
    assert_eq!(report["replicas"][1]["figures"]["decisions_per_second"]["http"]["allowed"], 1200.0);
    assert_eq!(report["all"]["decisions_per_second"]["http"]["allowed"], 2400.0);
    assert_eq!(report["all"]["denials"][0]["reason"], "nonce_claimed");
    assert!(report["all"]["decision_seconds"]["now"]["p99"].is_f64());
    assert_eq!(report["replicas"][2]["figures"]["cpu_cores"], Value::Null);
}

#[test]
fn people_get_lines() {
    let text = lines(&fixtures::three(), Duration::from_secs(2));
    for line in [
        "replica              http://10.0.0.1:8081 not ready: nonce_store",
        "replica              http://10.0.0.3:8081 unreachable: Connection refused (os error 111)",
        "interval             2.0 s",
        "http decisions       allowed 2400/s, denied 64/s, unavailable 1/s",
        "denied               nonce_claimed 60/s",
        "stores               key_directory up, nonce_store DOWN",
        "key cache            99.8 % hits, 2484 entries",
        "key sets             oldest 12s, 2 failed, 4 fetched",
        "grants               api_key 6/s, refresh 1/s, 6 refused",
        "process              CPU 31.0 %, 48.0 MiB, 68 of 1024 fds, 18 threads",
        "version              0.1.0, up 1h 1m",
    ] {
        assert!(text.lines().any(|written| written == line), "no line {line:?} in\n{text}");
    }
}
