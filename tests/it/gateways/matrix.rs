//! What clients send through gateways besides plain requests: WebSockets, events, preflights, many
//! headers, and paths that a back end reads in more ways than one.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::gateways::every::{Scene, assert_challenge, through_every_gateway};
use crate::harness::http::{Answer, Request};
use crate::harness::{Claims, Framework, Gateway, Key, Seen, WebSocket};

/// The origin that every example allows.
const ORIGIN: &str = "https://app.example.com";

through_every_gateway!(
    a_websocket_is_decided_once_and_carried,
    events_arrive_one_by_one,
    a_preflight_is_answered_by_the_gateway,
    an_options_request_that_is_no_preflight_is_decided,
    two_hundred_headers_pass,
    no_reading_of_a_path_goes_round_the_scope,
);

/// Older Envoys that are still in use, each with the same examples.
macro_rules! through_older_envoys {
    ($($module:ident $gateway:ident $version:literal),+ $(,)?) => {
        $(through_older_envoys!(@ $module $gateway $version
            a_websocket_is_decided_once_and_carried
            events_arrive_one_by_one
            a_preflight_is_answered_by_the_gateway
            an_options_request_that_is_no_preflight_is_decided
            two_hundred_headers_pass
            no_reading_of_a_path_goes_round_the_scope
        );)+
    };
    (@ $module:ident $gateway:ident $version:literal $($test:ident)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(crate::harness::Gateway::$gateway($version)).await;
                }
            )+
        }
    };
}

through_older_envoys!(
    envoy_1_36_grpc OlderEnvoyGrpc "1.36.4",
    envoy_1_36_http OlderEnvoyHttp "1.36.4",
    envoy_1_37_grpc OlderEnvoyGrpc "1.37.0",
    envoy_1_37_http OlderEnvoyHttp "1.37.0",
    envoy_1_38_grpc OlderEnvoyGrpc "1.38.3",
    envoy_1_38_http OlderEnvoyHttp "1.38.3",
    envoy_1_39_grpc OlderEnvoyGrpc "1.39.3",
    envoy_1_39_http OlderEnvoyHttp "1.39.3",
);

/// Envoy 1.37.0 passes on the status of a denial over HTTP, but none of its headers: a bug of that
/// version only.
fn loses_denials(gateway: Gateway) -> bool {
    gateway == Gateway::OlderEnvoyHttp("1.37.0")
}

/// A 401 for this reason, as far as the gateway passes it on.
fn assert_denied(gateway: Gateway, denial: &Answer, code: &str) {
    if loses_denials(gateway) {
        assert_eq!((denial.status, denial.header("www-authenticate")), (401, None), "{denial:?}");
    } else {
        assert_challenge(denial, code);
    }
}

async fn a_websocket_is_decided_once_and_carried(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let at = scene.gateway.address;
    let authorization = scene.authorization();
    let headers = [("Authorization", authorization.as_str()), ("X-Auth-Username", "made-up")];

    let mut socket = WebSocket::open(at, "/socket?room=1", &headers).await.expect("a socket");
    assert_eq!(socket.seen.target, "/socket?room=1");
    assert_eq!(socket.seen.values("x-auth-username"), ["alice"]);
    assert!(socket.seen.values("authorization").is_empty(), "{:?}", socket.seen);
    socket.bounce(Message::text("hello")).await;
    socket.bounce(Message::binary(vec![7; 100_000])).await;
    socket.bounce(Message::text("still there")).await;

    for (headers, code) in [(headers.as_slice(), "replayed"), (&[], "missing_credentials")] {
        let refused =
            WebSocket::open(at, "/socket?room=1", headers).await.err().expect("no socket");
        assert_eq!(refused.status, 401, "{refused:?}");
        let challenge = refused.header("www-authenticate").unwrap_or_default();
        assert!(
            loses_denials(gateway) || challenge.contains(&format!("error=\"{code}\"")),
            "{refused:?}"
        );
    }
    let authorization = scene.authorization();
    let refused = WebSocket::open(at, "/admin/socket", &[("Authorization", &authorization)])
        .await
        .err()
        .expect("no socket");
    let code = (!loses_denials(gateway)).then_some("insufficient_scope");
    assert_eq!((refused.status, refused.header("x-auth-error")), (403, code), "{refused:?}");
}

/// Each event arrives as soon as the back end sends it, for as long as it likes.
async fn events_arrive_one_by_one(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let mut stream = TcpStream::connect(scene.gateway.address).await.unwrap();
    let head = format!(
        "GET /events HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nAuthorization: {}\r\n\r\n",
        scene.gateway.address,
        scene.authorization()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut received = String::new();
    read_until(&mut stream, &mut received, "\n\n").await;
    assert!(received.starts_with("HTTP/1.1 200"), "{received}");
    assert!(received.contains(r#"["x-auth-username","alice"]"#), "{received}");

    for _ in 0..3 {
        received.clear();
        assert_eq!(scene.send(Request::new("POST", "/events/next").body("")).await.status, 200);
        read_until(&mut stream, &mut received, "data: next\n\n").await;
    }
}

async fn read_until(stream: &mut TcpStream, received: &mut String, end: &str) {
    while !received.contains(end) {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).await.unwrap();
        assert!(length > 0, "over before {end:?}: {received}");
        received.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
}

/// A browser asks before it sends a token, and without one. The back end does not see that request.
async fn a_preflight_is_answered_by_the_gateway(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    let preflight = |origin: &str| {
        Request::new("OPTIONS", "/orders")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "DELETE")
            .header("Access-Control-Request-Headers", "authorization, content-type")
    };

    let answer = scene.gateway.send(&preflight(ORIGIN)).await;
    assert!([200, 204].contains(&answer.status), "{answer:?}");
    assert!(answer.body.is_empty(), "of the back end: {answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN));
    let allowed = |name: &str| answer.header(name).unwrap_or_default().to_ascii_lowercase();
    assert!(allowed("access-control-allow-methods").contains("delete"), "{answer:?}");
    for header in ["authorization", "content-type"] {
        assert!(allowed("access-control-allow-headers").contains(header), "{answer:?}");
    }

    let stranger = scene.gateway.send(&preflight("https://elsewhere.example")).await;
    assert_eq!(stranger.header("access-control-allow-origin"), None, "{stranger:?}");

    // The page may read the answer to its request, even a denial.
    let request = || Request::new("DELETE", "/orders").header("Origin", ORIGIN);
    let allowed = scene.send(request()).await;
    assert_eq!(Seen::by(&allowed).method, "DELETE");
    let denied = scene.gateway.send(&request()).await;
    assert_denied(gateway, &denied, "missing_credentials");
    for answer in [allowed, denied] {
        let origins: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "access-control-allow-origin")
            .collect();
        assert!(matches!(origins[..], [(_, origin)] if origin == ORIGIN), "{answer:?}");
    }
}

async fn an_options_request_that_is_no_preflight_is_decided(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    for request in [
        Request::new("OPTIONS", "/orders"),
        Request::new("OPTIONS", "/orders").header("Origin", ORIGIN),
        Request::new("OPTIONS", "/orders").header("Access-Control-Request-Method", "GET"),
        Request::get("/orders")
            .header("Origin", ORIGIN)
            .header("Access-Control-Request-Method", "GET"),
    ] {
        assert_denied(gateway, &scene.gateway.send(&request).await, "missing_credentials");
        assert_eq!(Seen::by(&scene.send(request).await).values("x-auth-username"), ["alice"]);
    }
}

/// Some applications send that many. The headers added for the identity must not push a request
/// over a limit once its token is spent.
async fn two_hundred_headers_pass(gateway: Gateway) {
    let scene = Scene::of(gateway, Key::ed25519()).await;
    for count in [90, 95, 100, 200] {
        let request = (0..count).fold(Request::get("/"), |request, number| {
            request.header(&format!("X-Own-{number}"), "value")
        });
        let token =
            Claims::of("alice").with("padding", "x".repeat(5_000)).authorization(&scene.key);

        let seen = Seen::by(&scene.gateway.send(&request.authorization(&token)).await);

        assert_eq!(seen.values("x-auth-username"), ["alice"]);
        assert_eq!(
            seen.headers.iter().filter(|(name, _)| name.starts_with("x-own-")).count(),
            count
        );
    }
}

/// Paths that some back end takes for its administration require the scope.
async fn no_reading_of_a_path_goes_round_the_scope(gateway: Gateway) {
    no_reading_goes_round_the_scope(gateway, &[]).await;
}

/// The same with edits to the gateway's example.
pub async fn no_reading_goes_round_the_scope(gateway: Gateway, edits: &[(&str, &str)]) {
    let readings = [
        "/admin",
        "/admin/",
        "/admin/keys",
        "/admin/keys/",
        "/ADMIN",
        "/Admin/",
        "/aDmIn/keys",
        "/ADMIN/KEYS",
        "/admin;v=1",
        "/admin;v=1/keys",
        "/;v=1/admin/keys",
        "/admin/keys;v=1",
        "/admin%3Bv=1/keys",
        "/admin.json",
        "/Admin.json",
        "/admin/keys.json",
        "/%41dmin/keys",
        "/%61dmin/keys",
        "/admin?page=1",
        "/ADMIN/?page=1",
    ];
    for framework in Framework::ALL {
        let back_end = framework.start();
        let scene = Scene::before(gateway, Key::ed25519(), back_end.echo(), edits).await;
        let mut served = 0;
        for path in readings {
            let is_served = is_administration(&Request::get(path).send(back_end.address).await);
            served += usize::from(is_served);
            let answer = scene.send(Request::get(path)).await;
            assert!(!is_administration(&answer), "{framework:?} serves {path} without the scope");
            if is_served {
                assert!([400, 403].contains(&answer.status), "{framework:?}, {path}: {answer:?}");
            }
        }
        // Django accepts only the plain spellings.
        assert!(served >= 2, "{framework:?} has no administration");

        // The plain spellings, for principals with the scope.
        let root = |path: &str| {
            Request::get(path).authorization(&Claims::of("root").authorization(&scene.root_key))
        };
        assert!(
            is_administration(&scene.gateway.send(&root("/admin/keys")).await),
            "{framework:?}"
        );
        assert!(is_administration(&scene.gateway.send(&root("/admin/")).await), "{framework:?}");
        assert_eq!(route(&scene.send(Request::get("/orders")).await).as_deref(), Some("/orders"));
    }
}

fn is_administration(answer: &Answer) -> bool {
    route(answer).is_some_and(|route| route.starts_with("/admin"))
}

/// Which route of a framework served it.
fn route(answer: &Answer) -> Option<String> {
    let is_served = answer.status == 200 && !answer.body.is_empty();
    is_served.then(|| answer.json()["route"].as_str().unwrap_or_default().to_owned())
}
