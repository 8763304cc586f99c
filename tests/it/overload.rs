//! Thousands of connections, silent or slow ones, and connections that do not speak HTTP: none
//! starves others, and memory is bounded.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::http::{Answer, Connection, Request};
use crate::harness::{
    ADMIN_TOKEN, Claims, Countersign, Deployment, Key, Redis, Sluice, check_request,
    decision_request, eventually, eventually_async,
};

/// Longer than any deadline of a connection that is not idle, for busy machines.
const SECONDS: Duration = Duration::from_secs(40);
/// The preface of an HTTP/2 client, with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// With so few file descriptors that one listener's connections would use them all.
#[tokio::test]
async fn silent_connections_at_one_listener_starve_no_other() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = Countersign::start_with_files(&deployment, 143);
    assert!(
        countersign.log().contains("server.max_connections"),
        "nothing is said of the limit: {}",
        countersign.log()
    );
    let token = || Claims::of("alice").authorization(&key);
    for silent_at in [countersign.http, countersign.grpc, countersign.admin] {
        let silent = connections(silent_at, 300).await;
        if silent_at != countersign.http {
            assert_eq!(countersign.decide(&token()).await.status, 200);
            assert_eq!(Request::get("/livez").send(countersign.http).await.status, 200);
        }
        if silent_at != countersign.grpc {
            countersign.ext_authz().check(check_request(&token())).await.ok();
        }
        if silent_at != countersign.admin {
            for path in ["/livez", "/readyz"] {
                assert_eq!(Request::get(path).send(countersign.admin).await.status, 200, "{path}");
            }
        }
        drop(silent);
    }
}

#[tokio::test]
async fn what_never_becomes_a_request_is_closed() {
    let deployment = Deployment::new().set("admin.token", ADMIN_TOKEN);
    let countersign = deployment.serve();
    let half_head = b"GET /validate_request HTTP/1.1\r\nHost: gateway.test\r\nX-Half: ";
    let half_body = |path: &str, authorization: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: countersign\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\
             Authorization: {authorization}\r\n\r\n{{\"key\": "
        )
        .into_bytes()
    };
    let half_chunk =
        b"POST /authenticate HTTP/1.1\r\nHost: countersign\r\nContent-Type: application/json\r\n\
                       Transfer-Encoding: chunked\r\n\r\n5\r\n{\"k";
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let mut waiting = Vec::new();
    for (listener, sent) in [
        (countersign.http, Vec::new()),
        (countersign.http, half_head.to_vec()),
        (countersign.http, half_body("/authenticate", "none")),
        (countersign.http, half_chunk.to_vec()),
        (countersign.http, PREFACE[..10].to_vec()),
        (countersign.http, PREFACE.to_vec()),
        (countersign.admin, Vec::new()),
        (countersign.admin, half_head.to_vec()),
        (countersign.admin, half_body("/admin/v1/principals", &bearer)),
        (countersign.grpc, Vec::new()),
        (countersign.grpc, PREFACE[..10].to_vec()),
        (countersign.grpc, PREFACE.to_vec()),
    ] {
        let mut stream = TcpStream::connect(listener).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        let is_told = sent == half_head;
        waiting.push(async move {
            let mut told = Vec::new();
            let closed = tokio::time::timeout(SECONDS, stream.read_to_end(&mut told)).await;
            assert!(
                closed.is_ok(),
                "{listener} keeps a connection that sent {:?}",
                String::from_utf8_lossy(&sent)
            );
            let told = String::from_utf8_lossy(&told);
            if is_told {
                assert!(
                    told.starts_with("HTTP/1.1 408 ")
                        && told.contains("\r\nx-auth-error: request_timeout\r\n"),
                    "{told}"
                );
            }
        });
    }
    futures_util::future::join_all(waiting).await;
    let metrics = Request::get("/metrics").send(countersign.admin).await.text();
    for reason in ["silent", "head", "body"] {
        let line = format!(
            "countersign_connections_given_up_total{{listener=\"http\",reason=\"{reason}\"}}"
        );
        let count = sample(&metrics, &line);
        assert!(count > 0.0, "{line} is {count}");
    }
}

/// Browsers and gateways send more headers than most servers accept.
#[tokio::test]
async fn many_headers_are_taken_and_too_many_are_answered() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    // 200 headers, 64 KiB.
    let many = (0..195).fold(decision_request(), |request, number| {
        request.header(&format!("X-Client-{number}"), &"v".repeat(64 * 1024 / 195 - 20))
    });
    let answer = many
        .clone()
        .authorization(&Claims::of("alice").authorization(&key))
        .send(countersign.http)
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");

    let too_many = (0..400).fold(decision_request(), |request, number| {
        request.header(&format!("X-Client-{number}"), "v")
    });
    let too_long = decision_request().header("X-Client", &"v".repeat(300 * 1024));
    for request in [too_many, too_long] {
        let answer = request.send(countersign.http).await;
        assert_eq!(
            (answer.status, answer.header("x-auth-error")),
            (431, Some("request_too_large")),
            "{answer:?}"
        );
        is_our_problem(&answer);
    }
    let metrics = Request::get("/metrics").send(countersign.admin).await.text();
    assert_eq!(
        sample(
            &metrics,
            "countersign_malformed_requests_total{kind=\"headers_too_large\",listener=\"http\"}"
        )
        .to_string(),
        "2"
    );
}

#[tokio::test]
async fn what_is_no_request_is_answered_counted_and_hardly_logged() {
    let deployment = Deployment::new();
    let countersign = deployment.serve();
    let malformed: [&[u8]; 5] = [
        b"nonsense\r\n\r\n",
        b"GET /validate_request HTTP/1.1\r\nno header\r\n\r\n",
        b"GET /validate_request HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST /authenticate HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /validate_request HTTP/9.9\r\n\r\n",
    ];
    for _ in 0..20 {
        for bytes in malformed {
            let mut stream = TcpStream::connect(countersign.http).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(
                text.starts_with("HTTP/1.1 400 "),
                "{} → {text}",
                String::from_utf8_lossy(bytes)
            );
            assert!(text.contains("x-auth-error: malformed_request\r\n"), "{text}");
            assert!(text.contains("cache-control: no-store\r\n"), "{text}");
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            let problem: Value = serde_json::from_str(body).unwrap();
            assert_eq!(problem["status"], 400);
        }
    }
    let metrics = Request::get("/metrics").send(countersign.admin).await.text();
    let counted =
        sample(&metrics, "countersign_malformed_requests_total{kind=\"syntax\",listener=\"http\"}");
    assert_eq!(counted.to_string(), "100");
    let log = eventually_async("the log tells of them", SECONDS, async || {
        Some(countersign.log()).filter(|log| log.contains("malformed requests were refused"))
    })
    .await;
    assert!(!log.contains("\"ERROR\""), "{log}");
    let lines = log.lines().filter(|line| line.contains("malformed")).count();
    assert!(lines < 50, "{lines} lines for 100 requests");
}

#[tokio::test]
async fn one_connection_too_many_is_refused_at_once() {
    let deployment = Deployment::new().set("server.max_connections", "8");
    let countersign = deployment.serve();
    for listener in [countersign.http, countersign.admin] {
        let mut held = kept_alive(listener, 8).await;
        let mut refused = TcpStream::connect(listener).await.unwrap();
        let mut text = String::new();
        refused.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
        for header in
            ["x-auth-error: unavailable\r\n", "retry-after: 1\r\n", "connection: close\r\n"]
        {
            assert!(text.contains(header), "{header} is not in {text}");
        }
        held.pop();
        eventually_async("a place is free", SECONDS, async || {
            Request::get("/livez")
                .try_send(listener)
                .await
                .ok()
                .filter(|answer| answer.status == 200)
        })
        .await;
    }
    let held = connections(countersign.grpc, 8).await;
    let mut refused = TcpStream::connect(countersign.grpc).await.unwrap();
    let mut frames = Vec::new();
    refused.read_to_end(&mut frames).await.unwrap();
    // SETTINGS, then GOAWAY.
    assert_eq!((frames.get(3), frames.get(12)), (Some(&4), Some(&7)), "{frames:?}");
    drop(held);
    eventually_async("a place is free", SECONDS, async || {
        countersign.ext_authz().try_check(check_request("JWT nonsense")).await.ok()
    })
    .await;
    let metrics = Request::get("/metrics").send(countersign.admin).await.text();
    for listener in ["http", "grpc", "admin"] {
        assert!(
            sample(
                &metrics,
                &format!("countersign_connections_refused_total{{listener=\"{listener}\"}}")
            ) >= 1.0
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_too_many_is_refused_before_anything_is_done() {
    let redis = Redis::start();
    let sluice = Sluice::before(redis.address).await;
    let deployment = Deployment::new()
        .nonces_at(sluice.address())
        .set("server.max_in_flight", "2")
        .set("nonce.timeout", "1s");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let token = || Claims::of("alice").authorization(&key);
    assert_eq!(countersign.decide(&token()).await.status, 200);

    sluice.shut();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (request, http) = (decision_request().authorization(&token()), countersign.http);
            tokio::spawn(async move { request.send(http).await })
        })
        .collect();
    sluice.holds(2).await;
    let spared = token();
    let others = ["/authenticate", "/oauth2/token", "/jwks", "/nothing"];
    let asked = others.map(|path| Request::new("POST", path).body("{}"));
    for request in [decision_request().authorization(&spared)].into_iter().chain(asked) {
        let answer = request.send(countersign.http).await;
        assert_eq!(
            (answer.status, answer.header("x-auth-error")),
            (503, Some("unavailable")),
            "{answer:?}"
        );
        assert_eq!(
            (answer.header("retry-after"), answer.header("cache-control")),
            (Some("1"), Some("no-store"))
        );
        if request.target() == "/validate_request" {
            assert_eq!(answer.json()["code"], "unavailable");
        } else {
            // In the format of the token API: this is not a decision.
            assert_eq!(
                (answer.json()["error"].as_str(), &answer.json()["code"]),
                (Some("temporarily_unavailable"), &Value::Null)
            );
            let is_oauth = request.target() == "/oauth2/token";
            let media_type = if is_oauth { "application/json" } else { "application/problem+json" };
            assert_eq!(answer.header("content-type"), Some(media_type));
        }
    }
    let metrics = Request::get("/metrics").send(countersign.admin).await.text();
    let refused = |listener: &str| {
        sample(&metrics, &format!("countersign_requests_refused_total{{listener=\"{listener}\"}}"))
    };
    assert_eq!(
        ["http", "grpc", "admin"].map(|listener| refused(listener).to_string()),
        ["4", "0", "0"]
    );
    let overloaded = "countersign_decisions_total{door=\"http\",method=\"none\",outcome=\"unavailable\",reason=\"overloaded\"}";
    assert_eq!(sample(&metrics, overloaded).to_string(), "1", "what is no decision counts as none");
    let logged = |text: &str| countersign.log().lines().filter(|line| line.contains(text)).count();
    eventually("a line tells of them", SECONDS, || {
        (logged("requests were refused because there were too many") > 0).then_some(())
    });
    assert_eq!(logged("\"overloaded\""), 1);
    assert_eq!(Request::get("/livez").send(countersign.http).await.status, 200);
    sluice.open();
    for answer in futures_util::future::join_all(waiting).await {
        // 503 if the claims took too long: that is not a refusal for overload.
        assert!(matches!(answer.unwrap().status, 200 | 503));
    }
    // No work was done for it: its nonce is not spent.
    assert_eq!(countersign.decide(&spared).await.status, 200);
}

/// Whatever the clients send, how slowly they send it, and whether they read or not.
#[tokio::test]
async fn thousands_of_connections_take_bounded_memory() {
    const EACH: usize = 5_000;
    let deployment = Deployment::new();
    let countersign = deployment.serve();
    let before = countersign.usage().resident_kib;
    let mut all = Vec::new();
    for listener in [countersign.http, countersign.grpc, countersign.admin] {
        for number in 0..EACH {
            // A refused connection may be closed already.
            let Ok(mut stream) = TcpStream::connect(listener).await else { continue };
            let sent: Vec<u8> = match number % 4 {
                0 => Vec::new(),
                // Heads without an end.
                1 => [b"GET /validate_request HTTP/1.1\r\nX-Long: ".to_vec(), vec![b'v'; 60 * 1024]].concat(),
                // Pipelined requests whose answers are not read.
                2 => b"GET /livez HTTP/1.1\r\nHost: countersign\r\n\r\n".repeat(100),
                _ if listener == countersign.grpc || number % 8 == 3 && listener == countersign.http => PREFACE.to_vec(),
                // Bodies without an end.
                _ => b"POST /authenticate HTTP/1.1\r\nHost: countersign\r\nContent-Type: application/json\r\n\
                       Content-Length: 60000\r\n\r\n{"
                    .to_vec(),
            };
            let _ = stream.write_all(&sent).await;
            all.push(stream);
        }
    }
    let used = countersign.usage().resident_kib.saturating_sub(before) / 1024;
    assert!(used < 256, "{} connections take {used} MiB", all.len());
    // The service still works.
    drop(all);
    eventually_async("decisions are answered", SECONDS, async || {
        decision_request()
            .try_send(countersign.http)
            .await
            .ok()
            .filter(|answer| answer.status == 401)
    })
    .await;
}

/// Some load balancers send HEAD.
#[tokio::test]
async fn head_answers_as_get_wherever_health_is_told() {
    let countersign = Deployment::new().serve();
    for (listener, path) in [
        (countersign.http, "/"),
        (countersign.http, "/health"),
        (countersign.http, "/livez"),
        (countersign.admin, "/livez"),
        (countersign.admin, "/readyz"),
    ] {
        let get = Request::get(path).send(listener).await;
        let head = Request::new("HEAD", path).send(listener).await;
        assert_eq!((get.status, head.status), (200, 200), "{path}");
        assert_eq!(get.header("content-length"), head.header("content-length"), "{path}");
        assert_eq!(get.header("content-type"), head.header("content-type"), "{path}");
    }
    assert_eq!(Request::new("HEAD", "/metrics").send(countersign.admin).await.status, 200);
}

async fn connections(listener: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(TcpStream::connect(listener).await.unwrap());
    }
    all
}

/// Opens `count` connections. Each has been answered once, so the service has counted it.
async fn kept_alive(listener: SocketAddr, count: usize) -> Vec<Connection> {
    eventually_async("there is room for them", SECONDS, async || {
        let mut all = Vec::new();
        for _ in 0..count {
            let mut connection = Connection::open(listener).await.ok()?;
            connection
                .send(&Request::get("/livez"))
                .await
                .ok()
                .filter(|answer| answer.status == 200)?;
            all.push(connection);
        }
        Some(all)
    })
    .await
}

fn is_our_problem(answer: &Answer) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    assert_eq!(answer.json()["status"], answer.status);
}

/// The value of the series that `line` begins with; 0 if it is missing.
fn sample(metrics: &str, line: &str) -> f64 {
    let value = metrics.lines().find_map(|found| found.strip_prefix(line));
    value.map_or(0.0, |value| value.trim().parse().unwrap())
}
