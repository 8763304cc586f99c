#![allow(clippy::float_cmp, reason = "what is added and divided here has exact results")]

use std::time::Instant;

use super::*;
use crate::cli::top::{
    exposition::parse,
    fixtures,
    replica::{Look, Reading, State},
};

#[test]
fn every_metric_has_its_place() {
    let figures = fixtures::one().figures();

    assert_eq!(figures.decided(Some("http"), "allowed"), 1200.0);
    assert_eq!(figures.decided(None, "denied"), 34.5);
    assert_eq!(figures.decided(None, "unavailable"), 0.5);
    assert_eq!(figures.decisions_counted["grpc"]["allowed"], 800.0);
    assert_eq!(figures.decisions_total["grpc"]["allowed"], 1300.0);
    assert_eq!(figures.methods_per_second["access_token"], 402.5);
    let p50 = figures.decision_seconds.now.p50.unwrap().value();
    assert!((0.0001..0.00025).contains(&p50), "{p50}");
    assert_eq!(figures.decision_seconds.now.p50, figures.decision_seconds.counted.p50);
    let claim = figures.nonce_claim_seconds.counted;
    assert_eq!(claim.count, 2460.0);
    assert!(claim.p99.unwrap().value() <= 0.00025);
    assert!(figures.clock_skew_seconds.now.p50.unwrap().value().abs() < 0.1);
    assert_eq!(figures.nonce_claims_per_second["replayed"], 30.0);
    assert_eq!(figures.key_cache_hit_share, Some(3250.0 / 3258.0));
    assert_eq!(figures.key_cache_entries, Some(1242.0));
    assert_eq!(figures.jwks_age_seconds, Some(12.25));
    assert_eq!(figures.jwks_fetches_counted["failed"], 1.0);
    assert_eq!(
        figures.stores_up,
        BTreeMap::from([("key_directory".to_owned(), true), ("nonce_store".to_owned(), false)])
    );
    assert_eq!(figures.token_grants_per_second["api_key"]["granted"], 3.0);
    assert_eq!(figures.token_grants_counted["api_key"]["refused"], 3.0);
    let cpu = figures.cpu_cores.unwrap();
    assert!((0.154..0.156).contains(&cpu), "{cpu}");
    assert_eq!(figures.resident_memory_bytes, Some(25_169_920.0));
    assert_eq!(
        (figures.open_fds, figures.max_fds, figures.threads),
        (Some(34.0), Some(1024.0), Some(9.0))
    );
    assert_eq!(figures.uptime_seconds, Some(3660.0));
    assert_eq!(figures.versions, BTreeSet::from(["0.1.0".to_owned()]));
}

#[test]
fn reasons_are_ranked_by_how_often_they_came() {
    let denials = fixtures::one().figures().denials;
    let reasons: Vec<_> =
        denials.iter().map(|denial| (denial.reason.as_str(), denial.counted)).collect();
    assert_eq!(reasons, [("nonce_claimed", 60.0), ("bad_signature", 5.0), ("too_old", 4.0)]);
}

#[test]
fn replicas_add_up() {
    let (one, three) = (fixtures::one().figures(), fixtures::three().figures());
    assert_eq!(three.decided(None, "allowed"), 2.0 * one.decided(None, "allowed"));
    assert_eq!(three.decision_seconds.now.p90, one.decision_seconds.now.p90);
    assert_eq!(three.open_fds, Some(68.0));
    assert_eq!(three.max_fds, one.max_fds, "the limit is of each");
    assert_eq!(three.jwks_age_seconds, one.jwks_age_seconds, "the age is of the oldest");
    assert_eq!(three.versions, one.versions);
}

#[test]
fn a_service_without_metrics_has_no_figures() {
    let mut replica = Replica::at("one");
    for _ in 0..2 {
        replica.take(Look { state: State::Up, reading: Some(Reading::of(&[], Instant::now())) });
    }
    let figures = Figures::of([&replica], 0.0);
    assert_eq!(figures.decided(None, "allowed"), 0.0);
    assert_eq!(figures.decision_seconds.now.p50, None);
    assert_eq!(
        (figures.cpu_cores, figures.uptime_seconds, figures.key_cache_hit_share),
        (None, None, None)
    );
}

#[test]
fn a_door_that_is_new_comes_after_those_that_are_known() {
    let mut replica = Replica::at("one");
    let start = Instant::now();
    for (count, seconds) in [(1, 0), (2, 1)] {
        let text = format!(
            "countersign_decisions_total{{door=\"carrier_pigeon\",outcome=\"allowed\"}} {count}\n"
        );
        let at = start + std::time::Duration::from_secs(seconds);
        replica.take(Look {
            state: State::Up,
            reading: Some(Reading::of(&parse(&text).unwrap(), at)),
        });
    }
    assert_eq!(
        Figures::of([&replica], 0.0).doors(),
        ["http", "grpc", "token_api", "carrier_pigeon"]
    );
}
