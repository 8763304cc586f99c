//! Tests for Envoy only.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::gateways::common::{self, LENIENT, STRICT};
use crate::gateways::every::{Scene, assert_challenge};
use crate::gateways::matrix::no_reading_goes_round_the_scope;
use crate::harness::http::Request;
use crate::harness::{
    Claims, Deployment, Echo, Gateway, GrpcBackEnd, Key, Seen, eventually, repository,
};

const ENVOYS: [Gateway; 2] = [Gateway::EnvoyGrpc, Gateway::EnvoyHttp];

/// Headers then arrive as raw bytes, in another field.
#[tokio::test]
async fn raw_headers_are_read_too() {
    let raw = (
        "failure_mode_allow: false",
        "failure_mode_allow: false\n              encode_raw_headers: true",
    );
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

/// With a body Envoy may check one request more than once; it is still one attempt.
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
                let request = Request::new("POST", "/")
                    .authorization(&scene.authorization())
                    .body(body.as_str());
                let seen = Seen::by(&scene.gateway.send(&request).await);
                assert_eq!(seen.body, body, "{gateway:?}, pack_as_bytes {pack}");
                assert_challenge(&scene.gateway.send(&request).await, "replayed");
            }
        }
    }
}

const BUFFERED: &str = "failure_mode_allow: false\n              with_request_body: \
                        { max_request_bytes: 1024, allow_partial_message: true, pack_as_bytes: true }";

/// Envoy may send more than Countersign accepts. That is not a failure of the service, for which
/// Envoy would apply its failure mode.
#[tokio::test]
async fn a_body_that_is_too_large_is_denied_whatever_envoy_makes_of_failures() {
    let lenient = "failure_mode_allow: true\n              with_request_body: { max_request_bytes: 4194304, pack_as_bytes: true }";
    let scene = Scene::edited(
        Gateway::EnvoyGrpc,
        Key::ed25519(),
        &[("failure_mode_allow: false", lenient)],
    )
    .await;
    let post = |length| {
        Request::new("POST", "/").authorization(&scene.authorization()).body("x".repeat(length))
    };

    let answer = scene.gateway.send(&post(3 * 1024 * 1024)).await;
    assert_eq!(
        (answer.status, answer.header("x-auth-error")),
        (503, Some("unavailable")),
        "{answer:?}"
    );
    assert_eq!(Seen::by(&scene.gateway.send(&post(100_000)).await).body.len(), 100_000);
}

/// A token for one body is not valid for another body, for its beginning, or for no body.
#[tokio::test]
async fn a_body_that_is_handed_over_has_the_digest() {
    let long = "0123456789abcdef".repeat(100);
    for raw in ["", "\n              encode_raw_headers: true"] {
        let edit = ("failure_mode_allow: false", format!("{BUFFERED}{raw}"));
        let scene = Scene::edited(Gateway::EnvoyGrpc, Key::ed25519(), &[(edit.0, &edit.1)]).await;
        let bound = |body: &str| {
            Claims::of("alice").with("content_digest", digest(body)).authorization(&scene.key)
        };
        let post = |body: &str| Request::new("POST", "/").body(body);
        let claims_to_be_partial =
            |word: &str| post("hello").header("x-envoy-auth-partial-body", word);
        let chunked = Request::new("POST", "/")
            .header("Transfer-Encoding", "chunked")
            .with_bytes("5\r\nhello\r\n0\r\n\r\n");

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
            (
                "another, which the client says is whole",
                claims_to_be_partial("false"),
                "hullo",
                false,
            ),
        ] {
            let answer = scene.gateway.send(&request.authorization(&bound(body))).await;
            if is_good {
                assert_eq!(
                    Seen::by(&answer).values("x-auth-content-digest"),
                    [digest(body).as_str()],
                    "{case}{raw}"
                );
            } else {
                assert_challenge(&answer, "request_mismatch");
            }
        }
    }
}

/// By default neither Envoy sends bodies: the back end always receives the digest to check. Over
/// gRPC a body without a length counts as none.
#[tokio::test]
async fn a_digest_of_an_unseen_body_is_handed_on() {
    for gateway in ENVOYS {
        let scene = Scene::of(gateway, Key::ed25519()).await;
        let chunked = Request::new("POST", "/")
            .header("Transfer-Encoding", "chunked")
            .with_bytes("5\r\nhullo\r\n0\r\n\r\n");
        for (request, is_told) in [
            (Request::new("POST", "/").body("hullo"), true),
            (chunked, gateway == Gateway::EnvoyHttp),
        ] {
            let token = Claims::of("alice")
                .with("content_digest", digest("hello"))
                .authorization(&scene.key);
            let request =
                request.header("X-Auth-Content-Digest", &digest("hullo")).authorization(&token);
            let answer = scene.gateway.send(&request).await;
            if is_told {
                let seen = Seen::by(&answer);
                assert_eq!(
                    seen.values("x-auth-content-digest"),
                    [digest("hello").as_str()],
                    "{gateway:?}"
                );
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

/// A preflight carries no credentials, and needs none.
#[tokio::test]
async fn a_preflight_needs_no_token() {
    for gateway in ENVOYS {
        let scene = Scene::of(gateway, Key::ed25519()).await;
        let preflight = |origin: &str| {
            Request::new("OPTIONS", "/")
                .header("Origin", origin)
                .header("Access-Control-Request-Method", "GET")
        };

        let known = scene.gateway.send(&preflight("https://app.example.com")).await;
        let stranger = scene.gateway.send(&preflight("https://elsewhere.example.com")).await;

        assert_eq!(known.status, 200);
        assert_eq!(known.header("access-control-allow-origin"), Some("https://app.example.com"));
        assert_challenge(&stranger, "missing_credentials");
    }
}

/// A unary call, a stream of answers and a bidirectional stream: each is decided once, by its head,
/// and carried for as long as it lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_calls_and_streams_pass() {
    for gateway in ENVOYS {
        let back_end = GrpcBackEnd::start().await;
        let (commented, code) = lines_below("A gRPC back end speaks HTTP/2:", gateway);
        let scene =
            Scene::before(gateway, Key::ed25519(), back_end.echo(), &[(&commented, &code)]).await;
        let endpoint = Endpoint::from_shared(format!("http://{}", scene.gateway.address)).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let mut health = HealthClient::new(channel.clone());
        let orders = HealthCheckRequest { service: "orders".to_owned() };
        back_end.report("orders", ServingStatus::Serving).await;

        let token = scene.authorization();
        let answer = health.check(carrying(&token, orders.clone())).await.unwrap();
        assert_eq!(answer.into_inner().status, ServingStatus::Serving as i32);
        assert_grpc_denial(
            &health.check(carrying(&token, orders.clone())).await.unwrap_err(),
            "replayed",
        );
        assert_grpc_denial(&health.check(orders.clone()).await.unwrap_err(), "missing_credentials");

        let token = scene.authorization();
        let mut states = health.watch(carrying(&token, orders.clone())).await.unwrap().into_inner();
        assert_eq!(states.message().await.unwrap().unwrap().status, ServingStatus::Serving as i32);
        for status in [ServingStatus::NotServing, ServingStatus::Serving, ServingStatus::NotServing]
        {
            back_end.report("orders", status).await;
            assert_eq!(states.message().await.unwrap().unwrap().status, status as i32);
        }
        assert_grpc_denial(
            &health.watch(carrying(&token, orders.clone())).await.unwrap_err(),
            "replayed",
        );

        let (questions, stream) = tokio::sync::mpsc::channel(1);
        let mut reflection = ServerReflectionClient::new(channel);
        let token = scene.authorization();
        let mut answers = reflection
            .server_reflection_info(carrying(&token, ReceiverStream::new(stream)))
            .await
            .unwrap()
            .into_inner();
        for _ in 0..3 {
            let message_request = Some(MessageRequest::ListServices(String::new()));
            questions
                .send(ServerReflectionRequest { host: String::new(), message_request })
                .await
                .unwrap();
            let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
            assert!(matches!(answer, MessageResponse::ListServicesResponse(_)), "{answer:?}");
        }

        let named = back_end.named();
        assert_eq!(named.len(), 3, "{named:?}");
        for metadata in named {
            assert!(metadata.get_all("x-auth-username").iter().eq(["alice"]), "{metadata:?}");
            assert!(!metadata.contains_key("authorization"), "{metadata:?}");
        }
    }
}

fn carrying<T>(token: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", token.parse().unwrap());
    request.metadata_mut().insert("x-auth-username", "made-up".parse().unwrap());
    request
}

fn assert_grpc_denial(denial: &Status, code: &str) {
    let said = denial.metadata().get("x-auth-error").and_then(|value| value.to_str().ok());
    assert_eq!((denial.code(), said), (Code::Unauthenticated, Some(code)), "{denial:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_keep_their_rules() {
    let application = "              - match: { prefix: / }\n                route: *backend\n";
    let another = format!(
        r#"            - name: strict
              domains: ["{STRICT}", "{STRICT}:*"]
              routes:
              - match: {{ prefix: / }}
                route: *backend
                typed_per_filter_config: *asks-for-admin
            - name: others
              domains: ["*"]
              routes:
              - match: {{ path: /healthz }}
                route: *backend
                typed_per_filter_config: *asks-nobody
"#
    );
    let with_another = [application, &another].concat();
    let first = format!("domains: [\"{LENIENT}\", \"{LENIENT}:*\"]");
    for gateway in ENVOYS {
        let edits = [(application, with_another.as_str()), ("domains: [\"*\"]", &first)];
        common::two_sites_keep_their_rules(gateway, &edits).await;
    }
}

/// What the example has commented out below a comment, and the same uncommented.
fn lines_below(comment: &str, gateway: Gateway) -> (String, String) {
    let text = example(gateway);
    let below = text.lines().skip_while(|line| !line.contains(comment)).skip(1);
    let commented: Vec<_> = below.take_while(|line| line.trim_start().starts_with("# ")).collect();
    assert!(!commented.is_empty(), "nothing below `{comment}`");
    let code: Vec<_> = commented.iter().map(|line| line.replacen("# ", "", 1)).collect();
    (commented.join("\n"), code.join("\n"))
}

fn example(gateway: Gateway) -> String {
    let name = if gateway == Gateway::EnvoyGrpc { "envoy-grpc.yaml" } else { "envoy-http.yaml" };
    std::fs::read_to_string(repository().join("examples/envoy").join(name)).unwrap()
}

/// The form in the README that lists what everyone may access: it works without any list of
/// spellings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_listed_needs_the_scope() {
    let readme = std::fs::read_to_string(repository().join("examples/envoy/README.md")).unwrap();
    let blocks = readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let listed = blocks
        .into_iter()
        .find(|block| block.contains("path_separated_prefix: /orders"))
        .expect("the listed routes");
    let indent = "              ";
    let listed: Vec<_> = listed.lines().map(|line| format!("{indent}{line}")).collect();
    for gateway in ENVOYS {
        let text = example(gateway);
        let from_there = text.lines().skip_while(|line| !line.contains("# The application."));
        let application: Vec<_> = from_there.take_while(|line| line.starts_with(indent)).collect();
        let narrow =
            ("{ safe_regex: { regex: '(?i)/admin([^-_a-z0-9].*)?' } }", "{ prefix: /admin/ }");
        let edits = [narrow, (&application.join("\n"), &listed.join("\n"))];
        no_reading_goes_round_the_scope(gateway, &edits).await;
    }
}

/// Some back ends interpret these as administration paths. So do newer Envoys; older ones refuse
/// them with the example's route.
#[tokio::test]
async fn segments_without_a_name_go_round_no_scope() {
    for gateway in ENVOYS
        .into_iter()
        .chain([Gateway::OlderEnvoyGrpc("1.38.3"), Gateway::OlderEnvoyHttp("1.38.3")])
    {
        let scene = Scene::of(gateway, Key::ed25519()).await;
        let token = scene.authorization();
        for path in ["/;v=1/admin/keys", "/orders/;/x"] {
            let answer = scene.gateway.send(&Request::get(path).authorization(&token)).await;
            assert_eq!(answer.status, 400, "{path}: {answer:?}");
        }
        for path in ["/orders/..;/admin", "/orders/..;v=1/admin/keys"] {
            let answer = scene.send(Request::get(path)).await;
            let steps_up = ENVOYS.contains(&gateway);
            let code = steps_up.then_some("insufficient_scope");
            assert_eq!(
                (answer.status, answer.header("x-auth-error")),
                (if steps_up { 403 } else { 400 }, code),
                "{path}: {answer:?}"
            );
        }
        // Not spent so far.
        let seen = Seen::by(
            &scene
                .gateway
                .send(&Request::get("/orders;v=1/a..;b?c=/..;/").authorization(&token))
                .await,
        );
        assert_eq!(seen.target, "/orders;v=1/a..;b?c=/..;/");
    }
}

/// The unspent token would be valuable to anyone who reads it.
#[tokio::test]
async fn an_open_route_hands_on_no_token() {
    for gateway in ENVOYS {
        let scene = Scene::of(gateway, Key::ed25519()).await;
        let request = Request::get("/healthz")
            .header("X-Application", "kept")
            .authorization(&scene.authorization());

        let seen = Seen::by(&scene.gateway.send(&request).await);

        assert_eq!(seen.values("x-application"), ["kept"]);
        assert!(seen.values("authorization").is_empty(), "{gateway:?}: {seen:?}");
    }
}

/// Envoy counts the headers that Countersign adds to the client's. If they do not all fit, the
/// client receives the reason.
#[tokio::test]
async fn an_allow_that_does_not_fit_says_so() {
    for gateway in ENVOYS {
        let scene = Scene::of(gateway, Key::ed25519()).await;
        let mut answers = Vec::new();
        for count in 230..260 {
            let request = (0..count).fold(Request::get("/"), |request, number| {
                request.header(&format!("X-Own-{number}"), "value")
            });
            let answer = scene.send(request).await;
            assert!([200, 431].contains(&answer.status), "{count}: {answer:?}");
            answers.push(answer);
        }
        assert_eq!(answers[0].status, 200);
        let crowded =
            answers.iter().filter(|answer| answer.body == b"too many request headers\n").count();
        assert!(crowded >= 1, "{gateway:?}: the limit was never reached by what is added");
    }
}

/// When a back end redirects Envoy internally, Envoy asks again about the new path, with another id
/// and without the token. The README says so.
#[tokio::test]
async fn an_internal_redirect_is_another_request_without_the_token() {
    for gateway in ENVOYS {
        let follow = (
            "timeout: 0s",
            "timeout: 0s\n                  internal_redirect_policy: { max_internal_redirects: 1 }",
        );
        for (edits, is_followed) in [(&[][..], false), (&[follow][..], true)] {
            let scene =
                Scene::before(gateway, Key::ed25519(), moving_back_end().await, edits).await;
            let answer = scene.send(Request::get("/moved")).await;
            if is_followed {
                assert_challenge(&answer, "missing_credentials");
            } else {
                assert_eq!(answer.status, 302, "{answer:?}");
            }
        }
    }
}

/// Redirects requests for `/moved` to `/orders`, on the host that they used.
async fn moving_back_end() -> Echo {
    let moved = async |headers: HeaderMap| {
        let location = format!("http://{}/orders", headers[header::HOST].to_str().unwrap());
        (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
    };
    let app = Router::new()
        .route("/healthz", get("well"))
        .route("/orders", get("orders"))
        .route("/moved", get(moved));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    Echo::at(address)
}

/// The configuration of an access log with the status of each request and our dynamic metadata.
fn access_log(file: &Path) -> String {
    let said =
        |name: &str| format!("%DYNAMIC_METADATA(envoy.filters.http.ext_authz:countersign:{name})%");
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
    let scene = Scene::edited(
        Gateway::EnvoyGrpc,
        Key::ed25519(),
        &[("stat_prefix: gateway", &access_log(&file))],
    )
    .await;
    let request = Request::get("/orders").authorization(&scene.authorization());

    Seen::by(&scene.gateway.send(&request).await);
    let replayed = scene.gateway.send(&request).await;
    assert_challenge(&replayed, "replayed");
    let forged = Claims::of("nobody").authorization(&scene.key);
    assert_challenge(
        &scene.gateway.send(&Request::get("/orders").authorization(&forged)).await,
        "invalid_token",
    );

    // The test's own open route is there, too, because the test waited for it.
    let lines = eventually("three lines of the access log", Duration::from_secs(20), || {
        let log = std::fs::read_to_string(&file).unwrap_or_default();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let lines: Vec<_> = lines.filter(|line| !line["id"].is_null()).collect();
        (lines.len() == 3).then_some(lines)
    });
    let told: Vec<_> = lines
        .iter()
        .map(|line| (&line["status"], &line["username"], &line["code"], &line["cacheable_for"]))
        .collect();
    let (none, text) = (Value::Null, |text: &str| Value::from(text));
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
    assert_eq!(
        (number(told[0].0), told[0].1, told[0].2, number(told[0].3)),
        (Some(200.0), &text("alice"), &none, Some(0.0))
    );
    for (line, code) in told[1..].iter().zip(["replayed", "invalid_token"]) {
        assert_eq!(
            (number(line.0), line.1, line.2, line.3),
            (Some(401.0), &none, &text(code), &none)
        );
    }
    assert_eq!(lines[1]["id"].as_str(), replayed.header("x-auth-decision-id"));
    // The exact reasons.
    for reason in ["nonce_claimed", "unknown_principal"] {
        assert!(lines.iter().all(|line| !line.to_string().contains(reason)), "{lines:?}");
    }
}

/// A client controls `:scheme`, and a header of that name; Envoy knows how the client is connected.
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
            let bound = Claims::of("alice")
                .with("htu", format!("{bound_to}://{address}/orders"))
                .authorization(&scene.key);
            let (status, error) = over_http2(address, scheme, forwarded, &bound).await;
            let expected =
                if is_good { (200, None) } else { (401, Some("request_mismatch".to_owned())) };
            assert_eq!(
                (status, error),
                expected,
                "{gateway:?}: {scheme}, {forwarded:?}, bound to {bound_to}"
            );
        }
        let bound = Claims::of("alice")
            .with("htu", format!("https://{address}/orders"))
            .authorization(&scene.key);
        let forged =
            Request::get("/orders").header("X-Forwarded-Proto", "https").authorization(&bound);
        assert_challenge(&scene.gateway.send(&forged).await, "request_mismatch");
    }
}

/// Requests `/orders` over HTTP/2 without TLS. Returns the status and `x-auth-error`.
async fn over_http2(
    gateway: SocketAddr,
    scheme: &str,
    forwarded: Option<&str>,
    token: &str,
) -> (u16, Option<String>) {
    let stream = TokioIo::new(TcpStream::connect(gateway).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request =
        hyper::Request::get(format!("{scheme}://{gateway}/orders")).header("authorization", token);
    if let Some(forwarded) = forwarded {
        request = request.header("x-forwarded-proto", forwarded);
    }
    let answer =
        sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    let error =
        answer.headers().get("x-auth-error").map(|value| value.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    drop(sender);
    connection.await.unwrap().unwrap();
    (status, error)
}

/// Over HTTP a route can state its scopes in the path only, and the client cannot change that.
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
    let bound = Claims::of("bob")
        .with("htu", format!("http://{}/admin/users", two.address))
        .authorization(&key);
    Seen::by(&two.send(&Request::get("/admin/users").authorization(&bound)).await);

    // To Envoy this is an error of the service, and the client receives it as one.
    for path in ["path_prefix: /decide/scope/", "path_prefix: /decide/scopes/admin"] {
        let wrong = Gateway::EnvoyHttp.start_edited(&countersign, &echo, &by_path(path)).await;
        let answer = wrong.send(&Request::get("/admin/users").authorization(&token("bob"))).await;
        assert!(answer.status >= 500, "{path}: {answer:?}");
        assert_eq!(wrong.send(&Request::get("/").authorization(&token("bob"))).await.status, 200);
    }
}
