//! What is Envoy's own.

use crate::gateways::{Scene, assert_challenge};
use crate::harness::http::Request;
use crate::harness::{Claims, Gateway, Key, Seen};

const ENVOYS: [Gateway; 2] = [Gateway::EnvoyGrpc, Gateway::EnvoyHttp];

/// Headers then arrive as raw bytes, in another field.
#[tokio::test]
async fn raw_headers_are_read_too() {
    let raw = ("failure_mode_allow: false", "failure_mode_allow: false\n              encode_raw_headers: true");
    let scene = Scene::edited(Gateway::EnvoyGrpc, Key::ed25519(), &[raw]).await;
    let request = Request::get("/").authorization(&scene.authorization());

    let seen = Seen::by(&scene.gateway.send(&request).await);

    assert_eq!(seen.values("x-auth-username"), ["alice"]);
    assert!(seen.values("authorization").is_empty());
    assert_challenge(&scene.gateway.send(&request).await, "replayed");
    let [first, second] = [scene.authorization(), scene.authorization()];
    let two = Request::get("/").authorization(&first).authorization(&second);
    assert_challenge(&scene.gateway.send(&two).await, "malformed_credentials");
}

/// With a body one request may be checked more than once, and is one attempt all the same.
#[tokio::test]
async fn a_body_for_the_check_changes_nothing() {
    for gateway in ENVOYS {
        for pack in ["false", "true"] {
            let buffered = format!(
                "failure_mode_allow: false\n              with_request_body: \
                 {{ max_request_bytes: 1024, allow_partial_message: true, pack_as_bytes: {pack} }}"
            );
            let edit = ("failure_mode_allow: false", buffered.as_str());
            let scene = Scene::edited(gateway, Key::ed25519(), &[edit]).await;
            for body in ["short".to_owned(), "\u{fffd}longer".repeat(1_000)] {
                let request = Request::new("POST", "/").authorization(&scene.authorization()).body(body.as_str());
                let seen = Seen::by(&scene.gateway.send(&request).await);
                assert_eq!(seen.body, body, "{gateway:?}, pack_as_bytes {pack}");
                assert_challenge(&scene.gateway.send(&request).await, "replayed");
            }
        }
    }
}

const BUFFERED: &str = "failure_mode_allow: false\n              with_request_body: \
                        { max_request_bytes: 1024, allow_partial_message: true, pack_as_bytes: true }";

/// What Envoy hands over may be more than is taken here. That is no failure of the service, on which Envoy would go by its own mode.
#[tokio::test]
async fn a_body_that_is_too_large_is_denied_whatever_envoy_makes_of_failures() {
    let lenient = "failure_mode_allow: true\n              with_request_body: { max_request_bytes: 4194304, pack_as_bytes: true }";
    let scene = Scene::edited(Gateway::EnvoyGrpc, Key::ed25519(), &[("failure_mode_allow: false", lenient)]).await;
    let post = |length| Request::new("POST", "/").authorization(&scene.authorization()).body("x".repeat(length));

    let answer = scene.gateway.send(&post(3 * 1024 * 1024)).await;
    assert_eq!((answer.status, answer.header("x-auth-error")), (503, Some("unavailable")), "{answer:?}");
    assert_eq!(Seen::by(&scene.gateway.send(&post(100_000)).await).body.len(), 100_000);
}

/// A token for one body is good for no other, nor for its beginning, nor for none.
#[tokio::test]
async fn a_body_that_is_handed_over_has_the_digest() {
    let long = "0123456789abcdef".repeat(100);
    for raw in ["", "\n              encode_raw_headers: true"] {
        let edit = ("failure_mode_allow: false", format!("{BUFFERED}{raw}"));
        let scene = Scene::edited(Gateway::EnvoyGrpc, Key::ed25519(), &[(edit.0, &edit.1)]).await;
        let bound = |body: &str| Claims::of("alice").with("content_digest", digest(body)).authorization(&scene.key);
        let post = |body: &str| Request::new("POST", "/").body(body);
        let claims_to_be_partial = |word: &str| post("hello").header("x-envoy-auth-partial-body", word);
        let chunked = Request::new("POST", "/").header("Transfer-Encoding", "chunked").with_bytes("5\r\nhello\r\n0\r\n\r\n");

        for (case, request, body, is_good) in [
            ("its body", post("hello"), "hello", true),
            ("in chunks", chunked.clone(), "hello", true),
            ("another", post("hullo"), "hello", false),
            ("another in chunks", chunked.clone(), "hullo", false),
            ("more than Envoy hands over", post(&long), &long, false),
            ("nothing", post(""), "", true),
            ("no body at all", Request::get("/"), "", true),
            ("nothing, left out", Request::get("/"), "hello", false),
            ("nothing of the length zero", post(""), "hello", false),
            ("another, which the client says is whole", claims_to_be_partial("false"), "hullo", false),
        ] {
            let answer = scene.gateway.send(&request.authorization(&bound(body))).await;
            if is_good {
                assert_eq!(Seen::by(&answer).values("x-auth-content-digest"), [digest(body).as_str()], "{case}{raw}");
            } else {
                assert_challenge(&answer, "request_mismatch");
            }
        }
    }
}

/// Neither Envoy hands bodies over by itself: the back end is told the digest, whatever comes. Over gRPC a body without a length is none.
#[tokio::test]
async fn a_digest_of_an_unseen_body_is_handed_on() {
    for gateway in ENVOYS {
        let scene = Scene::of(gateway, Key::ed25519()).await;
        let chunked = Request::new("POST", "/").header("Transfer-Encoding", "chunked").with_bytes("5\r\nhullo\r\n0\r\n\r\n");
        for (request, is_told) in [(Request::new("POST", "/").body("hullo"), true), (chunked, gateway == Gateway::EnvoyHttp)] {
            let token = Claims::of("alice").with("content_digest", digest("hello")).authorization(&scene.key);
            let request = request.header("X-Auth-Content-Digest", &digest("hullo")).authorization(&token);
            let answer = scene.gateway.send(&request).await;
            if is_told {
                let seen = Seen::by(&answer);
                assert_eq!(seen.values("x-auth-content-digest"), [digest("hello").as_str()], "{gateway:?}");
                assert_eq!(seen.body, "hullo");
            } else {
                assert_challenge(&answer, "request_mismatch");
            }
        }
    }
}

fn digest(body: &str) -> String {
    use base64::Engine as _;

    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
    format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode(digest))
}

/// A preflight carries no credentials, and needs none of ours.
#[tokio::test]
async fn a_preflight_needs_no_token() {
    for gateway in ENVOYS {
        let scene = Scene::of(gateway, Key::ed25519()).await;
        let preflight =
            |origin: &str| Request::new("OPTIONS", "/").header("Origin", origin).header("Access-Control-Request-Method", "GET");

        let known = scene.gateway.send(&preflight("https://app.example.com")).await;
        let stranger = scene.gateway.send(&preflight("https://elsewhere.example.com")).await;

        assert_eq!(known.status, 200);
        assert_eq!(known.header("access-control-allow-origin"), Some("https://app.example.com"));
        assert_challenge(&stranger, "missing_credentials");
    }
}
