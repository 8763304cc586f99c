use super::*;
use crate::{
    config::telemetry::{DecisionLog, Share, TelemetrySettings},
    domain::auth_request::Credentials,
};

fn auth_request() -> AuthRequest<'static> {
    AuthRequest::alone(Door::Grpc, Credentials::None)
}

#[test]
fn each_decision_counts_once_under_its_reason() {
    let metrics = Metrics::new(&TelemetrySettings::default()).unwrap();
    let observer =
        DecisionObserver::new(Arc::new(DecisionLogging::off()), &metrics, Traces::default());
    let denial = Denial::from(DenialReason::NonceClaimed);
    for _ in 0..3 {
        let id = DecisionId(uuid::Uuid::nil());
        let observation = observer.begin(&auth_request());
        observation.claim().end(Some(&Claimed::Replayed));
        observation.token_time(UnixMillis(1_500), UnixMillis(3_000), true);
        observation.end(
            &auth_request(),
            Some(AuthMethod::SelfSigned),
            id,
            Outcome::Denied(&denial),
        );
    }
    let text = metrics.render().unwrap();
    let series = |door| {
        format!(
            "countersign_decisions_total{{door=\"{door}\",method=\"self_signed\",outcome=\"denied\",reason=\"nonce_claimed\"}}"
        )
    };
    let has =
        |line: String| assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    has(format!("{} 3", series("grpc")));
    has(format!("{} 0", series("http")));
    has("countersign_decision_duration_seconds_count{door=\"grpc\",outcome=\"denied\"} 3"
        .to_owned());
    has("countersign_nonce_claim_duration_seconds_count{outcome=\"replayed\"} 3".to_owned());
    has("countersign_clock_skew_seconds_sum{verified=\"true\"} -4.5".to_owned());
    has("countersign_clock_skew_seconds_bucket{verified=\"true\",le=\"-2\"} 0".to_owned());
    has("countersign_clock_skew_seconds_bucket{verified=\"true\",le=\"-1\"} 3".to_owned());
    let decisions =
        text.lines().filter(|line| line.starts_with("countersign_decisions_total")).count();
    assert_eq!(decisions, Door::ALL.len() * METHODS * CELLS);
}

#[test]
fn a_question_that_nobody_looked_at_counts_as_undecided_with_its_reason() {
    let metrics = Metrics::new(&TelemetrySettings::default()).unwrap();
    let observer =
        DecisionObserver::new(Arc::new(DecisionLogging::off()), &metrics, Traces::default());
    let denial = Denial::from(DenialReason::Overloaded);
    observer.begin(&auth_request()).end(
        &auth_request(),
        None,
        DecisionId(uuid::Uuid::nil()),
        Outcome::Denied(&denial),
    );
    let text = metrics.render().unwrap();
    for line in [
        "countersign_decisions_total{door=\"grpc\",method=\"none\",outcome=\"unavailable\",reason=\"overloaded\"} 1",
        "countersign_decisions_total{door=\"grpc\",method=\"none\",outcome=\"unavailable\",reason=\"\"} 0",
        "countersign_decision_duration_seconds_count{door=\"grpc\",outcome=\"unavailable\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
}

#[test]
fn a_share_of_what_is_allowed_is_logged_with_what_is_denied() {
    let logging = DecisionLogging::new(DecisionLog::Denied, Share::default());
    let denial = Denial::from(DenialReason::NonceClaimed);
    assert!(logging.wants(Outcome::Denied(&denial)));
    logging.set(DecisionLog::Off, Share::new(1.0).unwrap());
    assert_eq!(logging.now(), (DecisionLog::Off, Share::new(1.0).unwrap()));
    assert!(!logging.wants(Outcome::Denied(&denial)));
    logging.set(DecisionLog::All, Share::default());
    assert!(logging.wants(Outcome::Denied(&denial)));
}
