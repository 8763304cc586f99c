//! What is Envoy's own.

use crate::gateways::{Scene, assert_challenge};
use crate::harness::http::Request;
use crate::harness::{Gateway, Key, Seen};

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
