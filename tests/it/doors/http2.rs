//! The HTTP door over HTTP/2 without TLS: the same answers, deadlines and limits as over HTTP/1.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, future, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gateways::every::IDENTITY;
use crate::harness::{
    Claims, Countersign, Deployment, Http2, Key, Redis, Signal, Sluice, eventually, http,
};

/// Longer than a body may take, for busy machines.
const SECONDS: Duration = Duration::from_secs(40);

#[tokio::test]
async fn one_connection_carries_many_decisions_at_once() {
    let (_deployment, countersign, key) = alice();
    let client = Http2::open(countersign.http).await;
    let tokens: Vec<String> = (0..60).map(|_| Claims::of("alice").authorization(&key)).collect();

    let allowed = future::join_all(tokens.iter().map(|token| client.send(question(token)))).await;
    let replayed = future::join_all(tokens.iter().map(|token| client.send(question(token)))).await;

    for answer in &allowed {
        assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
        assert!(IDENTITY.iter().all(|name| answer.headers().contains_key(*name)), "{answer:?}");
        assert_eq!(answer.headers()["x-auth-username"], "alice");
        assert!(!answer.headers().contains_key("connection"), "{answer:?}");
    }
    for answer in &replayed {
        assert_eq!(
            (answer.status(), &answer.headers()["x-auth-error"]),
            (StatusCode::UNAUTHORIZED, &"replayed".parse().unwrap())
        );
    }
}

/// A token is bound to the request's own host, if no header names another.
#[tokio::test]
async fn the_authority_is_the_host() {
    let (_deployment, countersign, key) = alice();
    let client = Http2::open(countersign.http).await;
    let bound =
        |url: &str| Claims::of("alice").with("htm", "GET").with("htu", url).authorization(&key);
    let ask = async |token: &str| {
        let request = Request::get("http://gateway.test/validate_request")
            .header("X-Original-Method", "GET")
            .header("X-Original-URI", "/orders")
            .header("X-Forwarded-Proto", "https")
            .header("Authorization", token);
        client.send(request.body("").unwrap()).await.status()
    };

    assert_eq!(ask(&bound("https://gateway.test/orders")).await, StatusCode::OK);
    assert_eq!(ask(&bound("https://another.test/orders")).await, StatusCode::UNAUTHORIZED);
}

/// Both versions give the same answer.
#[tokio::test]
async fn everything_else_is_answered_as_over_http_1() {
    let (_deployment, countersign, _) = alice();
    let client = Http2::open(countersign.http).await;
    for (method, path, body) in [
        ("GET", "/livez", ""),
        ("GET", "/jwks", ""),
        ("GET", "/nothing", ""),
        ("POST", "/authenticate", "{\"key\": \"nonsense\"}"),
        ("POST", "/authenticate", "no JSON"),
        ("POST", "/token", "grant_type=password"),
        ("DELETE", "/authenticate", ""),
    ] {
        let kind =
            if path == "/token" { "application/x-www-form-urlencoded" } else { "application/json" };
        let old = http::Request::new(method, path)
            .header("Content-Type", kind)
            .body(body)
            .send(countersign.http)
            .await;
        let new = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", countersign.http))
            .header("Content-Type", kind);
        let new = client.send(new.body(body).unwrap()).await;

        assert_eq!(new.status().as_u16(), old.status, "{method} {path}");
        assert_eq!(new.body().as_ref(), old.body, "{method} {path}");
        let names = |names: Vec<&str>| -> Vec<String> {
            let mut names: Vec<String> = names
                .into_iter()
                .filter(|name| !["connection", "date"].contains(name))
                .map(str::to_owned)
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            names(new.headers().keys().map(hyper::header::HeaderName::as_str).collect()),
            names(old.headers.iter().map(|(name, _)| name.as_str()).collect()),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_connection_goes_on() {
    let (_deployment, countersign, key) = alice();
    let client = Http2::open(countersign.http).await;
    let with = |headers: usize, length: usize| {
        let mut request = question(&Claims::of("alice").authorization(&key));
        for number in 0..headers {
            let name: hyper::header::HeaderName = format!("x-client-{number}").parse().unwrap();
            request.headers_mut().insert(name, "v".repeat(length).parse().unwrap());
        }
        request
    };
    let many = client.send(with(195, 64 * 1024 / 195 - 20)).await;
    assert_eq!(many.status(), StatusCode::OK, "{many:?}");

    let too_many = client.send(with(400, 1)).await;
    assert_eq!(
        (too_many.status().as_u16(), error_code(&too_many).as_str()),
        (431, "request_too_large")
    );
    let too_long = client.send(with(6, 16 * 1024)).await;
    assert_eq!(too_long.status().as_u16(), 431, "{too_long:?}");

    let mut two_hosts = question(&Claims::of("alice").authorization(&key));
    two_hosts.headers_mut().insert("host", "another.test".parse().unwrap());
    let refused = client.send(two_hosts).await;
    assert_eq!(
        (refused.status().as_u16(), error_code(&refused).as_str()),
        (400, "malformed_request")
    );

    let allowed = client.send(question(&Claims::of("alice").authorization(&key))).await;
    assert_eq!(allowed.status(), StatusCode::OK);
}

/// Each request has its own deadlines, and does not delay others.
#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let (_deployment, countersign, key) = alice();
    let client = Http2::open(countersign.http).await;
    let half = stream::once(future::ready(Ok(hyper::body::Frame::data(Bytes::from_static(
        b"{\"key\": ",
    )))))
    .chain(stream::pending());
    let request = Request::post(format!("http://{}/authenticate", countersign.http))
        .header("Content-Type", "application/json");
    let (slow, request) =
        (client.clone(), request.body(BodyExt::boxed(StreamBody::new(half))).unwrap());
    let waiting = tokio::spawn(async move { slow.try_send(request).await });

    let allowed = client.send(question(&Claims::of("alice").authorization(&key))).await;
    assert_eq!(allowed.status(), StatusCode::OK);
    let given_up =
        tokio::time::timeout(SECONDS, waiting).await.expect("it is waited for").unwrap().unwrap();
    assert_eq!(given_up.status(), StatusCode::BAD_REQUEST, "{given_up:?}");
    let allowed = client.send(question(&Claims::of("alice").authorization(&key))).await;
    assert_eq!(allowed.status(), StatusCode::OK);
}

/// nginx announces the client's body but never sends it; other gateways may do so over HTTP/2.
#[tokio::test]
async fn the_body_of_a_question_is_not_waited_for() {
    let (_deployment, countersign, key) = alice();
    let client = Http2::open(countersign.http).await;
    let question = question(&Claims::of("alice").authorization(&key))
        .map(|_| BodyExt::boxed(StreamBody::new(stream::pending())));

    let answer = tokio::time::timeout(Duration::from_secs(4), client.try_send(question))
        .await
        .expect("it waits for the body");

    assert_eq!(answer.unwrap().status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_too_many_is_refused_and_those_in_flight_are_finished_at_the_end() {
    let redis = Redis::start();
    let sluice = Sluice::before(redis.address).await;
    let deployment = Deployment::new()
        .nonces_at(sluice.address())
        .set("server.max_in_flight", "2")
        .set("server.drain", "0s");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let mut countersign = deployment.serve();
    let client = Http2::open(countersign.http).await;
    let token = || Claims::of("alice").authorization(&key);
    assert_eq!(client.send(question(&token())).await.status(), StatusCode::OK);

    sluice.shut();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (client, question) = (client.clone(), question(&token()));
            tokio::spawn(async move { client.send(question).await })
        })
        .collect();
    sluice.holds(2).await;
    let refused = client.send(question(&token())).await;
    assert_eq!((refused.status().as_u16(), error_code(&refused).as_str()), (503, "unavailable"));
    countersign.signal(Signal::Term);
    eventually("it takes nothing new", SECONDS, || {
        countersign.log().contains("finishing what is in flight").then_some(())
    });
    sluice.open();

    for answer in future::join_all(waiting).await {
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(countersign.exited_within(Duration::from_secs(10)).code(), Some(0));
    assert!(client.is_closed());
}

/// A client may send the bytes that distinguish the versions in pieces, and a method may start with
/// the same bytes.
#[tokio::test]
async fn the_version_is_told_by_what_the_client_sends_first() {
    let (_deployment, countersign, _) = alice();
    let mut stream = TcpStream::connect(countersign.http).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".chunks(1) {
        stream.write_all(byte).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "settings come first: {frame:?}");

    let token = http::Request::new("PRI", "/validate_request").authorization("JWT nonsense");
    assert_eq!(token.send(countersign.http).await.status, 401);
    let get = http::Request::new("P", "/livez");
    assert_eq!(get.send(countersign.http).await.status, 405);
}

/// What nginx asks about `GET /` of `gateway.test`.
fn question(authorization: &str) -> Request<&'static str> {
    Request::get("http://countersign.test/validate_request")
        .header("X-Original-Method", "GET")
        .header("X-Original-URI", "/")
        .header("X-Forwarded-Proto", "http")
        .header("X-Forwarded-Host", "gateway.test")
        .header("Authorization", authorization)
        .body("")
        .unwrap()
}

fn error_code(answer: &Response<Bytes>) -> String {
    let code = answer.headers().get("x-auth-error").map(|code| code.to_str().unwrap().to_owned());
    let body: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(code.as_deref().map(|code| json!(code)), Some(body["code"].clone()), "{answer:?}");
    code.unwrap()
}

fn alice() -> (Deployment, Countersign, Key) {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    (deployment, countersign, key)
}
