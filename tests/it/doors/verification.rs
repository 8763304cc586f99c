//! The gRPC door as plugins of API gateways use it.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::FileDescriptorProto;
use serde_json::{Value, json};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::gateways::every::{IDENTITY, names};
use crate::harness::http::Request;
use crate::harness::verification::api::{Header, OriginalRequest, VerifyRequest};
use crate::harness::verification::header;
use crate::harness::{Claims, Countersign, Deployment, Door, Key, Question, Redis};

const SERVICE: &str = "countersign.v1.Verification";

/// Plain values for the plugin, and the same as headers, ready to copy.
#[tokio::test]
async fn an_allow_says_who_asks() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.done(&["principal", "add", "zoë 1", "--scope", "orders:write orders:read 100%"]);
    deployment.add_key("zoë 1", &key);
    let countersign = deployment.serve();

    let answer = countersign.verification().verify(&asking(&Claims::of("zoë 1"), &key)).await;

    let allowed = answer.allowed();
    let identity = allowed.identity.as_ref().unwrap();
    assert_eq!(identity.username, "zoë 1");
    assert_eq!(identity.principal_id, deployment.principal_id("zoë 1"));
    assert_eq!(identity.method, "self_signed");
    assert_eq!(identity.key_id, key.fingerprint());
    assert_eq!(identity.scopes, ["100%", "orders:read", "orders:write"]);

    let set = allowed.identity_headers.iter().map(|header| header.name.as_str());
    assert_eq!(names(set), names(IDENTITY));
    assert_eq!(allowed.identity_headers.len(), IDENTITY.len(), "each once");
    for (name, value) in [
        ("x-auth-username", "zo%C3%AB%201"),
        ("x-auth-principal-id", &*identity.principal_id),
        ("x-auth-method", "self_signed"),
        ("x-auth-key-id", &*identity.key_id),
        ("x-auth-scopes", "100%25 orders:read orders:write"),
        ("x-auth-decision-id", &*answer.decision_id),
    ] {
        assert_eq!(header(&allowed.identity_headers, name), Some(value), "{name}");
    }
    assert_eq!(allowed.headers_to_remove, ["authorization"]);
}

/// Without scopes the header is still set, to overwrite what a client sent.
#[tokio::test]
async fn an_empty_value_is_still_a_header() {
    let (_deployment, countersign, key) = alice();

    let answer = countersign.verification().verify(&asking(&Claims::of("alice"), &key)).await;

    assert!(answer.allowed().identity.as_ref().unwrap().scopes.is_empty());
    assert_eq!(header(&answer.allowed().identity_headers, "x-auth-scopes"), Some(""));
}

/// A token passes once over all doors, whichever comes first.
#[tokio::test]
async fn a_token_passes_once() {
    let (_deployment, countersign, key) = alice();
    let mut verification = countersign.verification();
    let token = asking(&Claims::of("alice"), &key);

    verification.verify(&token).await.allowed();
    assert_eq!(verification.verify(&token).await.denied().code, "replayed");
    for door in Door::BOTH {
        assert_eq!(door.ask(&countersign, &token).await.code(), Some("replayed"), "{door:?}");
        let another = asking(&Claims::of("alice"), &key);
        assert!(door.ask(&countersign, &another).await.allowed(), "{door:?}");
        assert_eq!(verification.verify(&another).await.denied().code, "replayed", "{door:?}");
    }
}

#[tokio::test]
async fn missing_scopes_are_named() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.done(&["principal", "add", "alice", "--scope", "orders:read orders:write"]);
    deployment.add_key("alice", &key);
    let countersign = deployment.serve();
    let mut verification = countersign.verification();
    let asking_for = |scopes: &[&str]| VerifyRequest {
        required_scopes: scopes.iter().map(|&list| list.to_owned()).collect(),
        ..VerifyRequest::from(&asking(&Claims::of("alice"), &key))
    };

    verification
        .verify(asking_for(&["orders:read", "orders:write orders:read", ""]))
        .await
        .allowed();

    let answer = verification.verify(asking_for(&["orders:read users:write", "admin"])).await;
    let denied = answer.denied();
    assert_eq!((denied.code.as_str(), denied.http_status), ("insufficient_scope", 403));
    assert_eq!(denied.missing_scopes, ["admin", "users:write"]);
    assert!(
        denied.www_authenticate.ends_with("scope=\"admin users:write\""),
        "{}",
        denied.www_authenticate
    );

    // A scope that nobody can hold is still required, and not repeated in the answer.
    let answer = verification.verify(asking_for(&["a\"b"])).await;
    assert_eq!(answer.denied().code, "insufficient_scope");
    assert!(answer.denied().missing_scopes.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn two_credentials_are_none() {
    let (_deployment, countersign, key) = alice();
    let mut verification = countersign.verification();
    let [first, second] = [(); 2].map(|()| Claims::of("alice").authorization(&key));
    let with = |values: &[&String]| Question {
        authorization: values.iter().map(ToString::to_string).collect(),
        ..Question::bare()
    };

    for (case, question) in [
        ("two headers", with(&[&first, &second])),
        ("the same one twice", with(&[&first, &first])),
        ("an empty one beside it", with(&[&first, &String::new()])),
        ("joined", with(&[&format!("{first}, {second}")])),
    ] {
        assert_eq!(
            verification.verify(&question).await.denied().code,
            "malformed_credentials",
            "{case}"
        );
    }
    let empty = verification.verify(&with(&[&String::new()])).await;
    assert_eq!(empty.denied().code, "missing_credentials", "an empty one");
    // None of these tokens was spent.
    verification.verify(&with(&[&first])).await.allowed();
}

/// Fails closed, and recovers without a restart.
#[tokio::test]
async fn without_nonces_nothing_can_be_decided() {
    let mut redis = Redis::start();
    let deployment = Deployment::new().nonces_in(&redis);
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let mut verification = countersign.verification();
    verification.verify(&asking(&Claims::of("alice"), &key)).await.allowed();

    redis.stop();

    let answer = verification.verify(&asking(&Claims::of("alice"), &key)).await;
    let unavailable = answer.unavailable();
    assert_eq!((unavailable.http_status, unavailable.retry_after_seconds), (503, 1));
    assert_eq!(header(&unavailable.headers, "retry-after"), Some("1"));
    assert_eq!(header(&unavailable.headers, "x-auth-error"), Some("unavailable"));
    assert_eq!(header(&unavailable.headers, "x-auth-decision-id"), Some(&*answer.decision_id));
    let problem: Value = serde_json::from_str(&unavailable.body).unwrap();
    assert_eq!((&problem["status"], &problem["code"]), (&json!(503), &json!("unavailable")));
}

/// A gateway may ask twice about one request, and marks both with its own id.
#[tokio::test]
async fn one_attempt_at_one_request_is_one_presentation() {
    let (_deployment, countersign, key) = alice();
    let mut verification = countersign.verification();
    let first =
        Question { attempt: Some("attempt 1".to_owned()), ..asking(&Claims::of("alice"), &key) };

    verification.verify(&first).await.allowed();
    verification.verify(&first).await.allowed();

    for (case, question) in [
        ("another attempt", Question { attempt: Some("attempt 2".to_owned()), ..first.clone() }),
        ("no attempt", Question { attempt: None, ..first.clone() }),
        ("another method", Question { method: "POST".to_owned(), ..first.clone() }),
        ("another path", Question { target: "/elsewhere".to_owned(), ..first.clone() }),
        ("another query", Question { target: "/?a=b".to_owned(), ..first.clone() }),
        ("another host", Question { host: "elsewhere.test".to_owned(), ..first.clone() }),
    ] {
        assert_eq!(verification.verify(&question).await.denied().code, "replayed", "{case}");
    }
    verification.verify(&first).await.allowed();
}

/// A token that is bound to a request is valid for that one only, and for none if the gateway does
/// not describe the request.
#[tokio::test]
async fn bound_tokens_are_held_to_the_request() {
    let (_deployment, countersign, key) = alice();
    let mut verification = countersign.verification();
    let bound = Claims::of("alice").with("htm", "POST").with("htu", "https://gateway.test/orders");
    let right = Question {
        method: "POST".to_owned(),
        scheme: "https".to_owned(),
        target: "/orders?full=1".to_owned(),
        ..asking(&bound, &key)
    };

    for (case, question) in [
        ("another method", Question { method: "PUT".to_owned(), ..right.clone() }),
        ("another scheme", Question { scheme: "http".to_owned(), ..right.clone() }),
        ("another host", Question { host: "elsewhere.test".to_owned(), ..right.clone() }),
        ("another path", Question { target: "/orders/7".to_owned(), ..right.clone() }),
        ("no path", Question { target: String::new(), ..right.clone() }),
    ] {
        assert_eq!(
            verification.verify(&question).await.denied().code,
            "request_mismatch",
            "{case}"
        );
    }
    let untold = VerifyRequest { request: None, ..VerifyRequest::from(&right) };
    assert_eq!(verification.verify(untold).await.denied().code, "request_mismatch");
    verification.verify(&right).await.allowed();
}

/// An empty question gets a denial, not an error and not an answer without a result.
#[tokio::test]
async fn an_empty_question_is_denied() {
    let (_deployment, countersign, _) = alice();
    let mut verification = countersign.verification();
    for request in [
        VerifyRequest::default(),
        VerifyRequest { request: Some(OriginalRequest::default()), ..VerifyRequest::default() },
    ] {
        assert_eq!(verification.verify(request).await.denied().code, "missing_credentials");
    }
}

/// The same codes and reasons as for Envoy; `denials` tests each row.
#[tokio::test]
async fn refusals_are_those_of_ext_authz() {
    let (_deployment, countersign, key) = alice();
    let mut verification = countersign.verification();
    let stranger = Key::ed25519();
    for (code, question) in [
        ("missing_credentials", Question::bare()),
        ("malformed_credentials", Question::with("Basic YWxpY2U6c2VjcmV0")),
        ("unsupported_algorithm", asking(&Claims::of("alice").with_header("alg", "none"), &key)),
        ("invalid_token", asking(&Claims::of("alice"), &stranger)),
        ("invalid_token", asking(&Claims::of("nobody"), &key)),
        ("timestamp_outside_tolerance", asking(&Claims::of("alice").with("time", 0), &key)),
        ("expired", asking(&Claims::of("alice").with("exp", 1), &key)),
        ("request_mismatch", asking(&Claims::of("alice").with("htm", "POST"), &key)),
        (
            "insufficient_scope",
            Question { scope: Some("admin".to_owned()), ..asking(&Claims::of("alice"), &key) },
        ),
    ] {
        let envoys = Door::Grpc.ask(&countersign, &question).await;
        let answer = verification.verify(&question).await;

        let denied = answer.denied();
        assert_eq!((denied.code.as_str(), envoys.code()), (code, Some(code)));
        assert_eq!(denied.http_status, u32::from(envoys.status), "{code}");
        assert_eq!(Some(&*denied.www_authenticate), envoys.header("www-authenticate"), "{code}");
        assert_eq!(
            header(&denied.headers, "x-auth-decision-id"),
            Some(&*answer.decision_id),
            "{code}"
        );
        assert_eq!(
            names_of(&denied.headers),
            names(envoys.headers.iter().map(|(name, _)| name.as_str())),
            "{code}"
        );
        for (name, value) in &envoys.headers {
            if !["date", "x-auth-decision-id"].contains(&name.as_str()) {
                assert_eq!(header(&denied.headers, name), Some(value.as_str()), "{code}");
            }
        }
        let [ours, theirs] = [denied.body.as_bytes(), &envoys.body].map(|body| {
            let mut problem: Value = serde_json::from_slice(body).unwrap();
            problem["instance"].take();
            problem
        });
        assert_eq!(ours, theirs, "{code}");
        assert_eq!(denied.missing_scopes.is_empty(), code != "insufficient_scope", "{code}");
    }
}

#[tokio::test]
async fn decisions_count_for_the_grpc_door() {
    let (_deployment, countersign, key) = alice();
    let mut verification = countersign.verification();
    let token = asking(&Claims::of("alice"), &key);
    verification.verify(&token).await.allowed();
    verification.verify(&token).await.denied();

    let metrics = Request::get("/metrics").send(countersign.admin).await;

    let metrics = String::from_utf8(metrics.body).unwrap();
    for outcome in ["outcome=\"allowed\"", "outcome=\"denied\",reason=\"nonce_claimed\""] {
        let mut lines =
            metrics.lines().filter(|line| line.contains("door=\"grpc\"") && line.contains(outcome));
        assert!(lines.any(|line| line.ends_with(" 1")), "{outcome}: {metrics}");
    }
}

#[tokio::test]
async fn health_is_told() {
    let (_deployment, countersign, _) = alice();
    let endpoint = Endpoint::from_shared(format!("http://{}", countersign.grpc)).unwrap();

    let answer = HealthClient::new(endpoint.connect_lazy())
        .check(HealthCheckRequest { service: SERVICE.to_owned() })
        .await;

    assert_eq!(answer.unwrap().into_inner().status(), ServingStatus::Serving);
}

/// Tools need no `.proto` file: the server offers reflection.
#[tokio::test]
async fn reflection_describes_the_service() {
    let (_deployment, countersign, _) = alice();

    let listed = reflect(&countersign, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(list) = listed else { panic!("{listed:?}") };
    assert!(list.service.iter().any(|service| service.name == SERVICE), "{list:?}");

    let described =
        reflect(&countersign, MessageRequest::FileContainingSymbol(SERVICE.to_owned())).await;
    let MessageResponse::FileDescriptorResponse(files) = described else { panic!("{described:?}") };
    let file = FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
    assert_eq!(file.name(), "countersign/v1/verification.proto");
    assert_eq!(file.service[0].method[0].name(), "Verify");
}

async fn reflect(countersign: &Countersign, question: MessageRequest) -> MessageResponse {
    let endpoint = Endpoint::from_shared(format!("http://{}", countersign.grpc)).unwrap();
    let mut client = ServerReflectionClient::new(endpoint.connect_lazy());
    let question = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut answers =
        client.server_reflection_info(tokio_stream::once(question)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap().message_response.unwrap()
}

fn alice() -> (Deployment, Countersign, Key) {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    (deployment, countersign, key)
}

fn asking(claims: &Claims, key: &Key) -> Question {
    Question::with(claims.authorization(key))
}

fn names_of(headers: &[Header]) -> BTreeSet<&str> {
    names(headers.iter().map(|header| header.name.as_str()))
}
