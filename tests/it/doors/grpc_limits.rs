//! What one connection may use of the gRPC door, and the answer beyond it: always a decision.

use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use prost::Message as _;
use serde_json::Value;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::harness::http::Request;
use crate::harness::verification::api::{VerifyRequest, VerifyResponse};
use crate::harness::verification::header;
use crate::harness::{
    CheckAnswer, Claims, Countersign, Deployment, Key, Question, RawGrpc, Redis, Sent, Sluice,
    bare_request, check_request, eventually, http_attributes,
};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const VERIFY: &str = "/countersign.v1.Verification/Verify";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

const MIB: usize = 1024 * 1024;
/// The default limit of a check.
const MAX_MESSAGE: usize = MIB + 256 * 1024;

#[tokio::test]
async fn a_check_may_have_a_mebibyte_of_body() {
    let (_deployment, countersign, key) = alice();
    let mut ext_authz = countersign.ext_authz();

    ext_authz.check(check_of(MIB, &Claims::of("alice").authorization(&key))).await.ok();
    ext_authz
        .check(check_of_encoded(MAX_MESSAGE, &Claims::of("alice").authorization(&key)))
        .await
        .ok();
}

/// Envoy does not treat an RPC error as a denial: with `failure_mode_allow` it would be an allow.
#[tokio::test]
async fn a_check_over_the_limit_is_a_decision_that_says_so() {
    let (_deployment, countersign, key) = alice();
    let door = RawGrpc::connect(countersign.grpc).await;
    let token = || Claims::of("alice").authorization(&key);

    let checked =
        door.call(CHECK, Sent::whole(&check_of_encoded(MAX_MESSAGE + 1, &token()))).await.unwrap();
    let announced = door.call(CHECK, Sent::part(MAX_MESSAGE + 1, b"")).await.unwrap();
    for answer in [checked, announced] {
        assert_unavailable(&answer);
    }
    let mut large = VerifyRequest { credentials: vec![token()], ..VerifyRequest::default() };
    large.attempt = "x".repeat(MAX_MESSAGE);
    let verified: VerifyResponse = door.call(VERIFY, Sent::whole(&large)).await.unwrap();
    assert_eq!(verified.unavailable().http_status, 503);
    assert_eq!(header(&verified.unavailable().headers, "x-auth-error"), Some("unavailable"));
    assert_eq!(header(&verified.unavailable().headers, "retry-after"), Some("1"));

    // The same connection continues to work.
    let allowed: CheckResponse =
        door.call(CHECK, Sent::whole(&check_request(&token()))).await.unwrap();
    assert_eq!(allowed.status.unwrap().code, 0);
    let lines = eventually("three lines of the log", DEADLINE, || {
        Some(decisions(&countersign)).filter(|lines| lines.len() >= 3)
    });
    for line in &lines {
        let told = ["door", "outcome", "reason", "code"]
            .map(|name| line[name].as_str().unwrap_or_default());
        assert_eq!(told, ["grpc", "unavailable", "request_too_large", "unavailable"], "{line}");
    }
    let counted = counted(&countersign, "request_too_large").await;
    assert_eq!((lines.len(), counted), (3, 3));
    let named = lines.iter().any(|line| line["decision_id"] == verified.decision_id.as_str());
    assert!(named, "{} is not in {lines:?}", verified.decision_id);
}

#[tokio::test]
async fn what_is_too_large_is_a_setting() {
    let deployment = Deployment::new().set("server.grpc.max_message", "20000");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let mut ext_authz = countersign.ext_authz();

    ext_authz.check(check_of_encoded(20_000, &Claims::of("alice").authorization(&key))).await.ok();
    let refused =
        ext_authz.check(check_of_encoded(20_001, &Claims::of("alice").authorization(&key))).await;
    assert_unavailable(&refused.response);
}

/// A client that holds back part of a message indefinitely does not hold resources.
#[tokio::test]
async fn a_message_that_does_not_come_is_not_waited_for() {
    let (_deployment, countersign, _) = alice();
    let door = RawGrpc::connect(countersign.grpc).await;
    let half = || Sent::part(1_000, &[0; 500]);

    let (nothing, headers, some, early, verified, health) = tokio::join!(
        door.call::<CheckResponse>(CHECK, Sent::nothing().ended()),
        door.call::<CheckResponse>(CHECK, Sent::nothing()),
        door.call::<CheckResponse>(CHECK, half()),
        door.call::<CheckResponse>(CHECK, half().ended()),
        door.call::<VerifyResponse>(VERIFY, half()),
        door.call::<HealthCheckResponse>(HEALTH, half()),
    );

    for answer in [nothing, headers, some, early] {
        assert_unavailable(&answer.unwrap());
    }
    assert_eq!(verified.unwrap().unavailable().http_status, 503);
    assert_eq!(health.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(counted(&countersign, "request_incomplete").await, 5);
}

/// Refused before any work is done: its nonce is not spent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_check_too_many_is_a_decision_that_says_so() {
    let redis = Redis::start();
    let sluice = Sluice::before(redis.address).await;
    let deployment = Deployment::new().nonces_at(sluice.address()).set("server.max_in_flight", "1");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let token = || Claims::of("alice").authorization(&key);
    let mut ext_authz = countersign.ext_authz();
    ext_authz.check(check_request(&token())).await.ok();

    sluice.shut();
    let (mut another, check) = (countersign.ext_authz(), check_request(&token()));
    let waiting = tokio::spawn(async move { another.check(check).await });
    sluice.holds(1).await;
    let spared = token();
    assert_unavailable(&ext_authz.check(check_request(&spared)).await.response);
    let verified = countersign.verification().verify(&Question::with(spared.clone())).await;
    assert_eq!(verified.unavailable().http_status, 503);
    sluice.open();
    waiting.await.unwrap();

    assert_eq!(counted(&countersign, "overloaded").await, 2);
    ext_authz.check(check_request(&spared)).await.ok();
}

/// Health checks need little, and are not decisions.
#[tokio::test]
async fn a_question_to_health_is_small() {
    let (_deployment, countersign, _) = alice();
    let door = RawGrpc::connect(countersign.grpc).await;
    let asking = |service: String| Sent::whole(&HealthCheckRequest { service });

    let refused =
        door.call::<HealthCheckResponse>(HEALTH, asking("x".repeat(20_000))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    door.call::<HealthCheckResponse>(HEALTH, asking("countersign.v1.Verification".to_owned()))
        .await
        .unwrap();
}

/// Streams of one connection that all hold back the last byte use only part of the memory, and take
/// nothing from others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_streams_take_bounded_memory() {
    // Hardly more than there is room for, and few on each connection: HTTP/2 ends a connection if
    // too many streams are reset at once, or if its window is split into too many small frames.
    const OVERSIZE: usize = 150;
    const WITHHELD: usize = 80;
    const CONNECTIONS: usize = 10;
    let (_deployment, countersign, key) = alice();
    let honest = RawGrpc::connect(countersign.grpc).await;
    let ask = async || {
        let check = Sent::whole(&check_request(&Claims::of("alice").authorization(&key)));
        let answer: CheckResponse = honest.call(CHECK, check).await.unwrap();
        assert_eq!(answer.status.unwrap().code, 0);
    };
    ask().await;
    let before = countersign.usage().resident_kib;
    let hostile = (0..CONNECTIONS).map(|_| RawGrpc::connect(countersign.grpc));
    let hostile = futures_util::future::join_all(hostile).await;

    let oversize = (0..OVERSIZE).map(|_| Sent::part(2 * MIB, &vec![7; 2 * MIB - 1]));
    let withheld = (0..WITHHELD).map(|_| Sent::part(MIB, &vec![7; MIB - 1]));
    let mut answers: FuturesUnordered<_> = oversize
        .chain(withheld)
        .zip(hostile.iter().cycle())
        .map(|(sent, hostile)| hostile.call::<CheckResponse>(CHECK, sent))
        .collect();
    let (mut most, mut large) = (before, 0);
    loop {
        let answer = tokio::select! {
            answer = answers.next() => answer,
            // Other clients are answered meanwhile, also if they send in parts.
            () = ask() => {
                let check = Sent::whole(&check_of(MIB, &Claims::of("alice").authorization(&key)));
                let answer: CheckResponse = honest.call(CHECK, check).await.unwrap();
                large += usize::from(answer.status.unwrap().code == 0);
                most = most.max(countersign.usage().resident_kib);
                continue;
            }
        };
        let Some(answer) = answer else { break };
        assert_unavailable(&answer.unwrap());
        most = most.max(countersign.usage().resident_kib);
    }
    ask().await;

    assert!(most - before < 160 * 1024, "from {before} to {most} KiB");
    assert!(large > 0, "no large check was allowed");
    let counts = ["request_too_large", "overloaded", "request_incomplete"]
        .map(|reason| counted(&countersign, reason));
    let [too_large, overloaded, incomplete] =
        futures_util::future::join_all(counts).await.try_into().unwrap();
    assert_eq!((too_large, overloaded + incomplete), (OVERSIZE, WITHHELD));
    assert!(overloaded > WITHHELD - 64, "{overloaded} overloaded, {incomplete} incomplete");
}

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

fn alice() -> (Deployment, Countersign, Key) {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    (deployment, countersign, key)
}

/// A check with a body of `length` bytes.
fn check_of(length: usize, authorization: &str) -> CheckRequest {
    let headers = [("authorization".to_owned(), authorization.to_owned())].into();
    http_attributes(HttpRequest {
        headers,
        raw_body: vec![7; length],
        id: "1".to_owned(),
        ..bare_request()
    })
}

/// A check of this many bytes in total.
fn check_of_encoded(length: usize, authorization: &str) -> CheckRequest {
    let mut body = length;
    loop {
        let check = check_of(body, authorization);
        match check.encoded_len() {
            found if found <= length => {
                assert_eq!(found, length);
                return check;
            }
            found => body -= found - length,
        }
    }
}

fn assert_unavailable(answer: &CheckResponse) {
    let answer = CheckAnswer { bytes: answer.encode_to_vec().into(), response: answer.clone() };
    assert_eq!(
        (answer.code(), answer.denied().status.as_ref().unwrap().code),
        (14, 503),
        "{answer:?}"
    );
    let headers = answer.denied().headers.iter().filter_map(|option| option.header.as_ref());
    let said: Vec<&str> = headers
        .filter(|header| header.key == "x-auth-error")
        .map(|header| header.value.as_str())
        .collect();
    assert_eq!(said, ["unavailable"]);
}

/// The lines of the decision log.
fn decisions(countersign: &Countersign) -> Vec<Value> {
    let lines = countersign
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .collect::<Vec<_>>();
    lines.into_iter().filter(|line| line["target"] == "countersign::decision").collect()
}

/// The number of checks that were refused for `reason`.
async fn counted(countersign: &Countersign, reason: &str) -> usize {
    let metrics = Request::get("/metrics").send(countersign.admin).await.text();
    let series = format!(
        "countersign_decisions_total{{door=\"grpc\",method=\"none\",outcome=\"unavailable\",reason=\"{reason}\"}} "
    );
    let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap_or_else(|| panic!("no {series} in {metrics}")).parse().unwrap()
}
