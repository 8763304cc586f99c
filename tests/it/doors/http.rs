//! The HTTP door, in the modes of all gateways that use it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gateways::every::IDENTITY;
use crate::harness::http::{Connection, Request};
use crate::harness::{Claims, Countersign, Deployment, Key, decision_request, eventually, now};

/// A proxy overwrites a client's header only with one that it gets, so all seven are set, some of
/// them empty.
#[tokio::test]
async fn an_allow_carries_every_identity_header() {
    let (_deployment, countersign, key) = alice();

    let allow = countersign.decide(&Claims::of("alice").authorization(&key)).await;

    assert_eq!(allow.status, 200);
    assert!(allow.body.is_empty());
    for name in IDENTITY {
        assert!(allow.header(name).is_some(), "no {name} in {allow:?}");
    }
    assert_eq!(allow.header("x-auth-username"), Some("alice"));
    assert_eq!(allow.header("x-auth-method"), Some("self_signed"));
    assert_eq!(allow.header("x-auth-scopes"), Some(""));
    assert_eq!(allow.header("cache-control"), Some("no-store"));
    let removed = allow.header("x-envoy-auth-headers-to-remove").unwrap_or_default();
    assert!(removed.eq_ignore_ascii_case("authorization"), "{removed}");
}

#[tokio::test]
async fn every_kind_of_key_signs_either_profile() {
    let (deployment, keys) =
        (Deployment::new(), [Key::ed25519(), Key::rsa(), Key::p256(), Key::p384()]);
    deployment.done(&["principal", "add", "alice"]);
    for key in &keys {
        deployment.add_key("alice", key);
    }
    let countersign = deployment.serve();
    let mut serial = 1_i64..;
    for key in &keys {
        for claims in [
            Claims::of("alice"),
            Claims::of("alice").with("nonce", serial.next().unwrap()),
            Claims::registered("alice"),
            Claims::registered("alice").with("iss", Value::Null).with("sub", "alice"),
            Claims::of("alice").with("sub", "alice").with("iat", now()).with("time", now()),
            Claims::of("alice").with_header("kid", key.fingerprint()),
        ] {
            let allow = countersign.decide(&claims.authorization(key)).await;
            assert_eq!(
                allow.header("x-auth-username"),
                Some("alice"),
                "{}, {claims:?}: {allow:?}",
                key.usual_algorithm()
            );
            assert_eq!(allow.header("x-auth-key-id"), Some(key.fingerprint().as_str()));
        }
    }
}

#[tokio::test]
async fn names_are_spelled_in_visible_ascii() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("Zoë 100%", &key);
    let countersign = deployment.serve();

    let allow = countersign.decide(&Claims::of("Zoë 100%").authorization(&key)).await;

    assert_eq!(allow.header("x-auth-username"), Some("Zo%C3%AB%20100%25"), "{allow:?}");
}

/// nginx announces the client's body to the subrequest but never sends it.
#[tokio::test]
async fn an_announced_body_is_not_waited_for() {
    let (_deployment, countersign, key) = alice();
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let token = Claims::of("alice").authorization(&key);
        let mut stream = TcpStream::connect(countersign.http).await.unwrap();
        let question = format!(
            "GET /validate_request {version}\r\nHost: countersign\r\nAuthorization: {token}\r\nContent-Length: 5000\r\n\r\n"
        );
        stream.write_all(question.as_bytes()).await.unwrap();

        let mut answer = [0; 12];
        let read =
            tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await;
        read.unwrap_or_else(|_| panic!("{version}: it waits for the body")).unwrap();
        assert!(answer.ends_with(b" 200"), "{version}: {}", String::from_utf8_lossy(&answer));
    }
}

/// nginx uses HTTP/1.0 by default, and keeps connections open if it is configured to.
#[tokio::test]
async fn an_old_client_may_keep_its_connection() {
    let (_deployment, countersign, key) = alice();
    let mut stream = TcpStream::connect(countersign.http).await.unwrap();
    for (connection, kept) in [
        ("keep-alive", "connection: keep-alive\r\n"),
        ("keep-alive", "HTTP/1.0 200"),
        ("close", "HTTP/1.0 200"),
    ] {
        let token = Claims::of("alice").authorization(&key);
        let question = format!(
            "GET /validate_request HTTP/1.0\r\nConnection: {connection}\r\nAuthorization: {token}\r\n\r\n"
        );
        stream.write_all(question.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed");
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains(kept) && answer.starts_with("HTTP/1.0 200"), "{answer}");
    }
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "it is closed as it asked");
}

/// Whatever an HTTP/1.0 client asks for, at either listener: it gets an answer in its version, and
/// the connection is closed, as it expects.
#[tokio::test]
async fn an_old_client_is_answered_and_its_connection_closed() {
    let (_deployment, countersign, key) = alice();
    let token = Claims::of("alice").authorization(&key);
    let json = "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    for (listener, request, status) in [
        (
            countersign.http,
            format!("GET /validate_request HTTP/1.0\r\nAuthorization: {token}\r\n\r\n"),
            200,
        ),
        (countersign.http, "GET /validate_request HTTP/1.0\r\n\r\n".to_owned(), 401),
        (countersign.http, "GET /livez HTTP/1.0\r\n\r\n".to_owned(), 200),
        (countersign.http, "HEAD /livez HTTP/1.0\r\n\r\n".to_owned(), 200),
        (countersign.http, "GET /nothing HTTP/1.0\r\n\r\n".to_owned(), 404),
        (countersign.http, format!("POST /authenticate HTTP/1.0\r\n{json}"), 400),
        (countersign.admin, "GET /readyz HTTP/1.0\r\n\r\n".to_owned(), 200),
        (countersign.admin, "GET /metrics HTTP/1.0\r\n\r\n".to_owned(), 200),
    ] {
        let mut stream = TcpStream::connect(listener).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read =
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await;
        read.unwrap_or_else(|_| panic!("{request} keeps the connection")).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.0 {status} ")), "{request}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            !head.contains("keep-alive") && !head.contains("transfer-encoding"),
            "{request}: {answer}"
        );
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let expected = if request.starts_with("HEAD") { "0" } else { length };
        assert_eq!(body.len().to_string(), expected, "{request}: {answer}");
    }
}

#[tokio::test]
async fn any_method_may_ask() {
    let (_deployment, countersign, key) = alice();
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "PURGE"]
    {
        let token = Claims::of("alice").authorization(&key);
        let allow = Request::new(method, "/validate_request")
            .authorization(&token)
            .send(countersign.http)
            .await;
        let deny = Request::new(method, "/validate_request")
            .authorization(&token)
            .send(countersign.http)
            .await;
        assert_eq!((allow.status, deny.status), (200, 401), "{method}");
        assert_eq!(allow.header("x-auth-username"), Some("alice"), "{method}");
    }
}

#[tokio::test]
async fn one_connection_carries_many_decisions() {
    let (_deployment, countersign, key) = alice();
    let mut connection = Connection::open(countersign.http).await.unwrap();
    for round in 0..50 {
        let (authorization, status) = match round % 3 {
            0 => (Claims::of("alice").authorization(&key), 200),
            1 => ("JWT nonsense".to_owned(), 401),
            _ => (Claims::of("nobody").authorization(&key), 401),
        };
        let answer =
            connection.send(&decision_request().authorization(&authorization)).await.unwrap();
        assert_eq!(answer.status, status, "round {round}: {answer:?}");
    }
}

/// Envoy's HTTP mode sends the request's own method, path and host.
#[tokio::test]
async fn a_path_tail_is_the_original_request() {
    let (_deployment, countersign, key) = alice();
    for (target, path) in
        [("/validate_request/orders/7?x=1", "/orders/7"), ("/validate_request/", "/")]
    {
        let bound =
            Claims::of("alice").with("htm", "POST").with("htu", format!("http://api.test{path}"));
        let ask = |method: &str| {
            Request::new(method, target)
                .header("Host", "api.test")
                .authorization(&bound.authorization(&key))
        };

        let wrong = ask("PUT").send(countersign.http).await;
        let right = ask("POST").send(countersign.http).await;

        assert_eq!(wrong.header("x-auth-error"), Some("request_mismatch"), "{target}: {wrong:?}");
        assert_eq!(right.status, 200, "{target}: {right:?}");
    }
}

/// In that mode these headers, if present, come from the client.
#[tokio::test]
async fn a_path_tail_outweighs_original_headers() {
    let (_deployment, countersign, key) = alice();
    let bound = Claims::of("alice")
        .with("htm", "GET")
        .with("htu", "http://gateway.test/harmless")
        .authorization(&key);

    let answer = Request::new("DELETE", "/validate_request/precious")
        .header("Host", "gateway.test")
        .header("X-Original-Method", "GET")
        .header("X-Original-URI", "/harmless")
        .header("X-Forwarded-Method", "GET")
        .header("X-Forwarded-Uri", "/harmless")
        .authorization(&bound)
        .send(countersign.http)
        .await;

    assert_eq!(answer.header("x-auth-error"), Some("request_mismatch"), "{answer:?}");
}

/// Traefik, Caddy and others describe the request in their own headers.
#[tokio::test]
async fn forwarded_headers_tell_the_original_request() {
    let (_deployment, countersign, key) = alice();
    let ask = |method: &str| {
        let bound = Claims::of("alice").with("htm", "POST").with("htu", "https://api.test/orders");
        Request::get("/validate_request")
            .header("X-Forwarded-Method", method)
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "api.test")
            .header("X-Forwarded-Uri", "/orders?x=1")
            .authorization(&bound.authorization(&key))
    };

    let wrong = ask("GET").send(countersign.http).await;
    let right = ask("POST").send(countersign.http).await;

    assert_eq!(wrong.header("x-auth-error"), Some("request_mismatch"), "{wrong:?}");
    assert_eq!(right.status, 200, "{right:?}");
}

/// A route may name scopes in the query and in a header; the token needs all of them.
#[tokio::test]
async fn scopes_are_asked_for_from_every_source() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.done(&["principal", "add", "alice", "--scope", "read write"]);
    deployment.add_key_with("alice", &key, &["--scope", "read write"]);
    let countersign = deployment.serve();
    for (query, header, status) in [
        ("?scope=read", "", 200),
        ("?scope=read%20write", "", 200),
        ("?scope=read+write", "", 200),
        ("?scope=read", "write", 200),
        ("?scope=", "", 200),
        ("?scope=admin", "", 403),
        ("?scope=read%20admin", "", 403),
        ("?scope=read&scope=admin", "", 403),
        ("?scope=read", "admin", 403),
        ("", "read admin", 403),
    ] {
        let mut request = Request::get(&format!("/validate_request{query}"));
        if !header.is_empty() {
            request = request.header("X-Required-Scope", header);
        }
        let answer = request
            .authorization(&Claims::of("alice").authorization(&key))
            .send(countersign.http)
            .await;
        assert_eq!(answer.status, status, "{query}, {header}: {answer:?}");
    }
    // With a tail, the query is the client's, and means nothing to Countersign.
    for (target, header, status) in [
        ("/validate_request/?scope=admin&scopes=admin", "", 200),
        ("/validate_request/decide/scope/admin/", "", 200),
        ("/decide/scope/read", "", 200),
        ("/decide/scope/read+write/orders?scope=admin&x=1", "", 200),
        ("/decide/scope/r%65ad%20write/", "", 200),
        ("/decide/scope/read?scope=write", "", 200),
        ("/decide/scope/admin", "", 403),
        ("/decide/scope/admin/", "", 403),
        ("/decide/scope/read+admin/orders", "", 403),
        ("/decide/scope/read?scope=admin", "", 403),
        ("/decide/scope/read/orders", "admin", 403),
        ("/decide/scope/https:%2F%2Fapi.test%2Fread/orders", "", 403),
    ] {
        let mut request = Request::get(target);
        if !header.is_empty() {
            request = request.header("X-Required-Scope", header);
        }
        let answer = request
            .authorization(&Claims::of("alice").authorization(&key))
            .send(countersign.http)
            .await;
        assert_eq!(answer.status, status, "{target}, {header}: {answer:?}");
    }
}

/// What follows the scopes is the client's request, as it is behind `/validate_request`.
#[tokio::test]
async fn a_route_by_path_tells_the_original_request() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.done(&["principal", "add", "alice", "--scope", "read write"]);
    deployment.add_key("alice", &key);
    let countersign = deployment.serve();
    for (route, path) in [("/decide/scope/read+write", "/orders/7"), ("/decide/scope/read", "/")] {
        let bound =
            Claims::of("alice").with("htm", "POST").with("htu", format!("http://api.test{path}"));
        let ask = |method: &str, path: &str| {
            Request::new(method, &format!("{route}{path}?x=1"))
                .header("Host", "api.test")
                .authorization(&bound.authorization(&key))
        };
        for (method, path) in [("PUT", path), ("POST", "/elsewhere")] {
            let answer = ask(method, path).send(countersign.http).await;
            assert_eq!(
                answer.header("x-auth-error"),
                Some("request_mismatch"),
                "{route} {method} {path}: {answer:?}"
            );
        }
        assert_eq!(ask("POST", path).send(countersign.http).await.status, 200, "{route}");
    }
}

/// The request line has no scheme. Envoy sends it in a header; a client that adds one only harms
/// itself.
#[tokio::test]
async fn the_scheme_of_a_tail_is_in_a_header() {
    let (_deployment, countersign, key) = alice();
    for (headers, is_good) in [
        (&[][..], true),
        (&["https"], true),
        (&["HTTPS"], true),
        (&["https", "https"], true),
        (&["http"], false),
        (&["http", "https"], false),
        (&["wss"], false),
    ] {
        let bound = Claims::of("alice").with("htu", "https://api.test/orders").authorization(&key);
        let request = Request::get("/validate_request/orders")
            .header("Host", "api.test")
            .authorization(&bound);
        let request = headers
            .iter()
            .fold(request, |request, scheme| request.header("X-Forwarded-Proto", scheme));
        let answer = request.send(countersign.http).await;
        assert_eq!(answer.status == 200, is_good, "{headers:?}: {answer:?}");
    }
}

/// A typo must not let requests pass that a route was meant to refuse, and it is the operator's
/// fault, not the client's.
#[tokio::test]
async fn a_misconfigured_question_is_refused() {
    let (_deployment, countersign, key) = alice();
    let token = Claims::of("alice").authorization(&key);
    let cases = [
        ("/validate_request?scopes=admin", "`scopes`"),
        ("/validate_request?SCOPE=admin", "`SCOPE`"),
        ("/validate_request?scope=&page=2", "`page`"),
        ("/validate_request?eyJhbGciOi=", "`eyJhbGciOi`"),
        ("/validate_request?a%20secret", "something else (8 bytes)"),
        ("/decide/scope/read?page=2", "`page`"),
        ("/decide/scope", "no scopes"),
        ("/decide/scope//orders", "no scopes"),
        ("/decide/scope/read+/orders", "`read+`"),
        ("/decide/scope/%22/orders", "`%22`"),
        ("/decide/scopes/read/orders", "`scopes`"),
        ("/decide/", "nothing"),
    ];
    for (target, _) in cases {
        let answer = Request::get(target).authorization(&token).send(countersign.http).await;
        assert_eq!(
            (answer.status, answer.header("x-auth-error")),
            (500, Some("misconfigured")),
            "{target}: {answer:?}"
        );
        assert_eq!(
            (answer.header("retry-after"), answer.header("x-auth-username")),
            (None, None),
            "{target}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(
            (&answer.json()["status"], &answer.json()["code"]),
            (&json!(500), &json!("misconfigured"))
        );
    }
    let lines = eventually("a line for each", Duration::from_secs(10), || {
        let lines = misconfigurations(&countersign);
        (lines.len() == cases.len()).then_some(lines)
    });
    for (target, what) in cases {
        let found = lines
            .iter()
            .find(|line| line["detail"].as_str().is_some_and(|detail| detail.contains(what)));
        let line = found.unwrap_or_else(|| panic!("{target}: {what} is not in {lines:?}"));
        assert_eq!(
            (&line["outcome"], &line["code"]),
            (&json!("denied"), &json!("misconfigured")),
            "{target}: {line}"
        );
    }
    let metrics = Request::get("/metrics").send(countersign.admin).await.text();
    let series = "countersign_decisions_total{door=\"http\",method=\"self_signed\",outcome=\"denied\",reason=\"gateway_misconfigured\"}";
    assert!(metrics.lines().any(|line| line == format!("{series} {}", cases.len())), "{metrics}");
    // The token was not examined, so it is not spent.
    assert_eq!(countersign.decide(&token).await.status, 200);
}

fn misconfigurations(countersign: &Countersign) -> Vec<Value> {
    let lines = countersign.log();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["reason"] == "gateway_misconfigured").collect()
}

#[tokio::test]
async fn an_attempt_may_ask_again() {
    let deployment = Deployment::new().set("self_signed.attempt_header", "X-Request-Id");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let token = Claims::of("alice").authorization(&key);
    let ask = |attempt: &str, uri: &str| {
        Request::get("/validate_request")
            .header("X-Original-Method", "GET")
            .header("X-Original-URI", uri)
            .header("X-Request-Id", attempt)
            .authorization(&token)
    };

    for (attempt, uri, status) in [
        ("one", "/a", 200),
        ("one", "/a", 200),
        ("two", "/a", 401),
        ("one", "/b", 401),
        ("", "/a", 401),
        ("one", "/a", 200),
    ] {
        let answer = ask(attempt, uri).send(countersign.http).await;
        assert_eq!(answer.status, status, "{attempt} {uri}: {answer:?}");
    }
}

/// An empty id counts as none: two requests without an id are two attempts.
#[tokio::test]
async fn an_empty_attempt_is_none() {
    let deployment = Deployment::new().set("self_signed.attempt_header", "X-Request-Id");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let request = decision_request()
        .header("X-Request-Id", "")
        .authorization(&Claims::of("alice").authorization(&key));

    assert_eq!(request.send(countersign.http).await.status, 200);
    assert_eq!(request.send(countersign.http).await.status, 401);
}

/// Nobody can know which of two names is the gateway's, and a value that is not text names nothing.
#[tokio::test]
async fn an_attempt_has_one_name() {
    let deployment = Deployment::new().set("self_signed.attempt_header", "X-Request-Id");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let named = |names: &[&[u8]]| {
        let mut request =
            format!("GET /validate_request HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\nAuthorization: {}\r\n", {
                Claims::of("alice").authorization(&key)
            })
            .into_bytes();
        for name in names {
            request.extend([b"X-Request-Id: ", *name, b"\r\n"].concat());
        }
        [request.as_slice(), b"\r\n"].concat()
    };
    for (names, statuses) in [
        (&[&b"one"[..]][..], ["200", "200"]),
        (&[b"one", b"one"], ["200", "401"]),
        (&[b"one", b"two"], ["200", "401"]),
        (&[b"", b"one"], ["200", "401"]),
        (&[b"one\xff"], ["200", "401"]),
        (&[b"\xff"], ["200", "401"]),
    ] {
        let request = named(names);
        for status in statuses {
            let mut stream = TcpStream::connect(countersign.http).await.unwrap();
            stream.write_all(&request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer.split(' ').nth(1), Some(status), "{names:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_prefix_moves_every_path() {
    let deployment = Deployment::new().set("server.url_prefix", "/auth");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    let ask =
        |target: &str| Request::get(target).authorization(&Claims::of("alice").authorization(&key));

    assert_eq!(ask("/auth/validate_request").send(countersign.http).await.status, 200);
    assert_eq!(ask("/auth/validate_request/tail").send(countersign.http).await.status, 200);
    assert_eq!(ask("/auth/decide/scope/admin/tail").send(countersign.http).await.status, 403);
    assert_eq!(ask("/decide/scope/admin/tail").send(countersign.http).await.status, 404);
    assert_eq!(ask("/validate_request").send(countersign.http).await.status, 404);
    assert_eq!(Request::get("/auth/livez").send(countersign.http).await.status, 200);
}

/// Only the decision endpoint decides: a typo in a gateway's configuration must not look like an
/// allow.
#[tokio::test]
async fn other_paths_decide_nothing() {
    let (_deployment, countersign, key) = alice();
    for target in [
        "/validate_requests",
        "/validate",
        "/Validate_Request",
        "//validate_request",
        "/x/validate_request",
        "/decided",
        "/Decide/scope/read",
        "//decide/scope/read",
        "/x/decide/scope/read",
    ] {
        let token = Claims::of("alice").authorization(&key);
        let answer = Request::get(target).authorization(&token).send(countersign.http).await;
        assert!(answer.status >= 400, "{target}: {answer:?}");
        assert_eq!(answer.header("x-auth-username"), None, "{target}");
    }
}

#[tokio::test]
async fn liveness_needs_no_token() {
    let (_deployment, countersign, _) = alice();
    for path in ["/", "/health", "/livez"] {
        let answer = Request::get(path).send(countersign.http).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"result": true})), "{path}");
    }
}

fn alice() -> (Deployment, Countersign, Key) {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    (deployment, countersign, key)
}
