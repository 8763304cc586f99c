//! What is Envoy's own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::gateways::{Scene, assert_challenge};
use crate::harness::http::Request;
use crate::harness::{Claims, Deployment, Echo, Gateway, Key, Seen, eventually};

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

/// What Envoy's access log has of each request: the status, and what we said in the dynamic metadata.
fn access_log(file: &Path) -> String {
    let said = |name: &str| format!("%DYNAMIC_METADATA(envoy.filters.http.ext_authz:countersign:{name})%");
    format!(
        "stat_prefix: gateway\n          access_log:\n          - name: envoy.access_loggers.file\n            typed_config:\n              \
         \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n              path: {}\n              \
         log_format: {{ json_format: {{ status: \"%RESPONSE_CODE%\", username: \"{}\", code: \"{}\", id: \"{}\", \
         cacheable_for: \"{}\", all: \"%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%\" }} }}",
        file.display(),
        said("username"),
        said("code"),
        said("decision_id"),
        said("cacheable_for"),
    )
}

/// An access log sees neither the headers of a denial nor its body.
#[tokio::test]
async fn an_access_log_can_tell_why_somebody_was_denied() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let scene = Scene::edited(Gateway::EnvoyGrpc, Key::ed25519(), &[("stat_prefix: gateway", &access_log(&file))]).await;
    let request = Request::get("/orders").authorization(&scene.authorization());

    Seen::by(&scene.gateway.send(&request).await);
    let replayed = scene.gateway.send(&request).await;
    assert_challenge(&replayed, "replayed");
    let forged = Claims::of("nobody").authorization(&scene.key);
    assert_challenge(&scene.gateway.send(&Request::get("/orders").authorization(&forged)).await, "invalid_token");

    // Its own open route is there, too, since the test waited for it.
    let lines = eventually("three lines of the access log", Duration::from_secs(20), || {
        let log = std::fs::read_to_string(&file).unwrap_or_default();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let lines: Vec<_> = lines.filter(|line| !line["id"].is_null()).collect();
        (lines.len() == 3).then_some(lines)
    });
    let told: Vec<_> =
        lines.iter().map(|line| (&line["status"], &line["username"], &line["code"], &line["cacheable_for"])).collect();
    let (none, text) = (Value::Null, |text: &str| Value::from(text));
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
    assert_eq!((number(told[0].0), told[0].1, told[0].2, number(told[0].3)), (Some(200.0), &text("alice"), &none, Some(0.0)));
    for (line, code) in told[1..].iter().zip(["replayed", "invalid_token"]) {
        assert_eq!((number(line.0), line.1, line.2, line.3), (Some(401.0), &none, &text(code), &none));
    }
    assert_eq!(lines[1]["id"].as_str(), replayed.header("x-auth-decision-id"));
    // The exact reasons.
    for reason in ["nonce_claimed", "unknown_principal"] {
        assert!(lines.iter().all(|line| !line.to_string().contains(reason)), "{lines:?}");
    }
}

/// A client writes what it likes into `:scheme`, and into a header of that name; Envoy knows how it is connected.
#[tokio::test]
async fn the_scheme_is_that_of_the_connection() {
    for gateway in ENVOYS {
        let scene = Scene::of(gateway, Key::ed25519()).await;
        let address = scene.gateway.address;
        for (scheme, forwarded, bound_to, is_good) in [
            ("http", None, "http", true),
            ("https", None, "http", true),
            ("https", None, "https", false),
            ("http", Some("https"), "http", true),
            ("http", Some("https"), "https", false),
            ("https", Some("https"), "https", false),
        ] {
            let bound = Claims::of("alice").with("htu", format!("{bound_to}://{address}/orders")).authorization(&scene.key);
            let (status, error) = over_http2(address, scheme, forwarded, &bound).await;
            let expected = if is_good { (200, None) } else { (401, Some("request_mismatch".to_owned())) };
            assert_eq!((status, error), expected, "{gateway:?}: {scheme}, {forwarded:?}, bound to {bound_to}");
        }
        let bound = Claims::of("alice").with("htu", format!("https://{address}/orders")).authorization(&scene.key);
        let forged = Request::get("/orders").header("X-Forwarded-Proto", "https").authorization(&bound);
        assert_challenge(&scene.gateway.send(&forged).await, "request_mismatch");
    }
}

/// Asks for `/orders` over HTTP/2 without TLS; the status, and what `x-auth-error` says.
async fn over_http2(gateway: SocketAddr, scheme: &str, forwarded: Option<&str>, token: &str) -> (u16, Option<String>) {
    let stream = TokioIo::new(TcpStream::connect(gateway).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = hyper::Request::get(format!("{scheme}://{gateway}/orders")).header("authorization", token);
    if let Some(forwarded) = forwarded {
        request = request.header("x-forwarded-proto", forwarded);
    }
    let answer = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    let error = answer.headers().get("x-auth-error").map(|value| value.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    drop(sender);
    connection.await.unwrap().unwrap();
    (status, error)
}

/// Over HTTP the path is all that a route has to say what it asks for, and the client has no part in it.
#[tokio::test]
async fn a_route_asks_for_scopes_by_its_path() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    for (name, scopes) in [("alice", "admin"), ("bob", "admin https://api.test/write")] {
        deployment.done(&["principal", "add", name, "--scope", scopes]);
        deployment.add_key(name, &key);
    }
    let (countersign, echo) = (deployment.serve(), Echo::start());
    let by_path = |path: &'static str| [("path_prefix: /decide/scope/admin", path)];
    let token = |name: &str| Claims::of(name).authorization(&key);
    let of_two = by_path("path_prefix: /decide/scope/admin+https:%2F%2Fapi.test%2Fwrite");
    let two = Gateway::EnvoyHttp.start_edited(&countersign, &echo, &of_two).await;
    for (name, target, status) in [
        ("alice", "/admin/users?scope=admin", 403),
        ("bob", "/admin/users?scope=nobody&scopes=nobody", 200),
        ("alice", "/decide/scope/nobody/x", 200),
        ("alice", "/?scopes=nobody", 200),
    ] {
        let answer = two.send(&Request::get(target).authorization(&token(name))).await;
        assert_eq!(answer.status, status, "{name} {target}: {answer:?}");
        if status == 200 {
            assert_eq!(Seen::by(&answer).target, target);
        }
    }
    let bound = Claims::of("bob").with("htu", format!("http://{}/admin/users", two.address)).authorization(&key);
    Seen::by(&two.send(&Request::get("/admin/users").authorization(&bound)).await);

    // To Envoy an error of the service, which the client hears of as one.
    for path in ["path_prefix: /decide/scope/", "path_prefix: /decide/scopes/admin"] {
        let wrong = Gateway::EnvoyHttp.start_edited(&countersign, &echo, &by_path(path)).await;
        let answer = wrong.send(&Request::get("/admin/users").authorization(&token("bob"))).await;
        assert!(answer.status >= 500, "{path}: {answer:?}");
        assert_eq!(wrong.send(&Request::get("/").authorization(&token("bob"))).await.status, 200);
    }
}
