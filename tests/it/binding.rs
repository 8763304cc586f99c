//! Tokens that are bound to a request: `htm`, `htu`, `aud`, at both doors.

use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use serde_json::{Value, json};

use crate::harness::http::Request;
use crate::harness::{
    Claims, Countersign, Deployment, Door, Key, Question, Verdict, bare_request, http_attributes,
};

const AUDIENCE: &str = "https://countersign.test";
/// SHA-256 of no bytes, and of `delete=one`, in base64url: `printf %s delete=one | openssl dgst
/// -sha256 -binary | basenc --base64url`.
const QUERY_OF_NOTHING: &str = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";
const DELETE_ONE: &str = "RG2VKr26oQPqN6jMrzZOF2QLcMozMRWPyi5R5HnDawg";
const DIGEST_OF_NOTHING: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
/// `printf %s hello | openssl dgst -sha256 -binary | base64`
const DIGEST_OF_HELLO: &str = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";

#[tokio::test]
async fn a_matching_binding_is_allowed() {
    let world = World::start();
    for (method, target, claims) in [
        ("GET", "/", json!({"htm": "GET"})),
        ("PURGE", "/", json!({"htm": "PURGE"})),
        ("GET", "/a/b", json!({"htu": "https://gateway.test/a/b"})),
        ("GET", "/a/b?c=d", json!({"htu": "https://gateway.test/a/b"})),
        ("GET", "/", json!({"htu": "https://gateway.test/"})),
        ("GET", "/a/b", json!({"htu": "HTTPS://Gateway.Test/a/b"})),
        ("GET", "/a/b", json!({"htu": "https://gateway.test:443/a/b"})),
        ("POST", "/a", json!({"htm": "POST", "htu": "https://gateway.test/a", "aud": AUDIENCE})),
        ("GET", "/%7Ebob/%c3%bc", json!({"htu": "https://gateway.test/~bob/%C3%BC"})),
        ("GET", "/~bob", json!({"htu": "https://gateway.test/%7ebob"})),
        ("GET", "/a", json!({"htq": QUERY_OF_NOTHING})),
        ("GET", "/a?", json!({"htq": QUERY_OF_NOTHING})),
        ("GET", "/a?delete=one", json!({"htu": "https://gateway.test/a", "htq": DELETE_ONE})),
        ("GET", "/", json!({"aud": AUDIENCE})),
        ("GET", "/", json!({"aud": ["elsewhere", AUDIENCE]})),
    ] {
        for door in Door::BOTH {
            let verdict = world.ask(door, method, target, &claims).await;
            assert!(verdict.allowed(), "{door:?}, {method} {target}, {claims}: {verdict:?}");
        }
    }
}

#[tokio::test]
async fn a_contradicting_binding_is_refused() {
    let world = World::start();
    for (method, target, claims) in [
        ("GET", "/", json!({"htm": "POST"})),
        ("GET", "/", json!({"htm": "get"})),
        ("GET", "/", json!({"htm": ""})),
        ("GET", "/a/b", json!({"htu": "http://gateway.test/a/b"})),
        ("GET", "/a/b", json!({"htu": "https://gateway.test/a/B"})),
        ("GET", "/a/b", json!({"htu": "https://gateway.test/a/b/"})),
        ("GET", "/a/b", json!({"htu": "https://gateway.test/a"})),
        ("GET", "/a/b", json!({"htu": "https://gateway.test:8443/a/b"})),
        ("GET", "/a/b", json!({"htu": "https://elsewhere.test/a/b"})),
        ("GET", "/a/b", json!({"htu": "/a/b"})),
        ("GET", "/a/b", json!({"htu": "not a URL"})),
        ("GET", "/a:b", json!({"htu": "https://gateway.test/a%3Ab"})),
        ("GET", "/orders#/things", json!({"htu": "https://gateway.test/orders"})),
        ("GET", "/orders?#", json!({"htu": "https://gateway.test/orders"})),
        ("GET", "/a?delete=one", json!({"htq": QUERY_OF_NOTHING})),
        ("GET", "/a?delete=all", json!({"htq": DELETE_ONE})),
        ("GET", "/a?delete=one&", json!({"htq": DELETE_ONE})),
        ("GET", "/a?delete%3Done", json!({"htq": DELETE_ONE})),
        ("GET", "/a", json!({"htq": DELETE_ONE})),
        ("GET", "/a?delete=one", json!({"htq": format!("{DELETE_ONE}=")})),
        ("GET", "/a", json!({"htq": ""})),
        ("GET", "/", json!({"aud": ""})),
        ("GET", "/", json!({"aud": []})),
        ("GET", "/", json!({"aud": format!("{AUDIENCE}/")})),
        // One of the three is wrong.
        ("POST", "/a", json!({"htm": "POST", "htu": "https://gateway.test/a", "aud": "elsewhere"})),
        ("POST", "/a", json!({"htm": "POST", "htu": "https://gateway.test/b", "aud": AUDIENCE})),
    ] {
        for door in Door::BOTH {
            let verdict = world.ask(door, method, target, &claims).await;
            assert_eq!(
                verdict.code(),
                Some("request_mismatch"),
                "{door:?}, {method} {target}, {claims}: {verdict:?}"
            );
        }
    }
}

/// Gateways interpret such paths differently, so equal spelling proves nothing.
#[tokio::test]
async fn a_path_in_disguise_is_refused() {
    let world = World::start();
    for path in [
        "/a/..%2fb",
        "/a/..%2Fb",
        "/a//b",
        "//a",
        "/a/../b",
        "/a/./b",
        "/a/%2e%2e/b",
        "/a/..",
        "/a\\b",
        "/a%5cb",
    ] {
        for door in Door::BOTH {
            let claims = json!({"htu": format!("https://gateway.test{path}")});
            let verdict = world.ask(door, "GET", path, &claims).await;
            assert_eq!(verdict.code(), Some("request_mismatch"), "{door:?}, {path}: {verdict:?}");
        }
    }
}

/// When scheme, host and path were joined and parsed again, the first of these made a token for
/// `/orders` valid for any request.
#[tokio::test]
async fn a_host_in_disguise_is_refused() {
    let world = World::start();
    for (scheme, host) in [
        ("http", "gateway.test:80\\orders#"),
        ("http", "gateway.test/orders#"),
        ("http", "gateway.test/orders?"),
        ("http", "@gateway.test"),
        ("http", "user@gateway.test"),
        ("http", "%67ateway.test"),
        ("http", "ｇateway.test"),
        ("http", "gateway.test:080"),
        ("http", "gateway.test:"),
        ("https", "gateway.test:0443"),
        ("http", "gateway.test\\"),
        ("http", "gateway.test."),
    ] {
        for target in ["/orders", "/things/1?delete=all"] {
            let token = world.token(&json!({"htu": format!("{scheme}://gateway.test/orders")}));
            let question = Question {
                scheme: scheme.to_owned(),
                host: host.to_owned(),
                target: target.to_owned(),
                ..Question::with(token)
            };
            for door in Door::BOTH {
                let verdict = door.ask(&world.countersign, &question).await;
                assert_eq!(
                    verdict.code(),
                    Some("request_mismatch"),
                    "{door:?}, {host} {target}: {verdict:?}"
                );
            }
        }
    }
}

/// A token that was sent to another service, which relays it to us with the host that it is bound
/// to.
#[tokio::test]
async fn authorities_are_the_only_hosts_to_be_bound_to() {
    let world =
        World::on(Deployment::new().set("self_signed.authorities", "API.test, gateway.test:8443"));
    for (host, is_ours) in [
        ("api.test", true),
        ("api.test:443", true),
        ("gateway.test:8443", true),
        ("gateway.test", false),
        ("api.test:8443", false),
        ("other.test", false),
        ("api.test.other.test", false),
    ] {
        for door in Door::BOTH {
            let token = world.token(&json!({"htu": format!("https://{host}/orders")}));
            let question = Question {
                scheme: "https".to_owned(),
                host: host.to_owned(),
                target: "/orders".to_owned(),
                ..Question::with(token)
            };
            let verdict = door.ask(&world.countersign, &question).await;
            assert_eq!(
                verdict.code(),
                (!is_ours).then_some("request_mismatch"),
                "{door:?}, {host}: {verdict:?}"
            );
        }
    }
    // Without `htu` there is nothing to compare.
    let verdict =
        Door::Http.ask(&world.countersign, &Question::with(world.token(&json!({})))).await;
    assert!(verdict.allowed(), "{verdict:?}");
}

/// Over HTTP Countersign sees no body: the back end receives the digest to check. Without that
/// claim the header is empty, and overwrites the client's.
#[tokio::test]
async fn a_digest_is_handed_on() {
    let world = World::start();
    for (claim, told) in [
        (json!({}), ""),
        (json!({"content_digest": DIGEST_OF_HELLO}), DIGEST_OF_HELLO),
        (json!({"content_digest": format!("md5=:AAAA:,{DIGEST_OF_HELLO}")}), DIGEST_OF_HELLO),
    ] {
        let verdict = world.ask(Door::Http, "POST", "/", &claim).await;
        assert!(verdict.allowed(), "{claim}: {verdict:?}");
        assert_eq!(verdict.header("x-auth-content-digest"), Some(told), "{claim}");
    }
    for digest in ["", "sha-256=:AAAA:", "md5=:AAAA:", "sha-256"] {
        let verdict = world.ask(Door::Http, "POST", "/", &json!({"content_digest": digest})).await;
        assert_eq!(verdict.code(), Some("malformed_credentials"), "{digest}: {verdict:?}");
    }
}

/// As Envoy sends bodies, and as it reports a body that it does not send.
#[tokio::test]
async fn a_body_that_is_seen_has_the_digest() {
    const PARTIAL: &str = "x-envoy-auth-partial-body";
    let world = World::start();
    let body = |body: &str, headers: &[(&str, &str)]| HttpRequest {
        body: body.to_owned(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..bare_request()
    };
    let raw =
        |bytes: &[u8]| HttpRequest { raw_body: bytes.to_vec(), ..body("", &[(PARTIAL, "false")]) };
    for (case, request, of_hello, of_nothing) in [
        ("the body", body("hello", &[("content-length", "5"), (PARTIAL, "false")]), true, false),
        ("its bytes", raw(b"hello"), true, false),
        ("another", raw(b"hello\xff"), false, false),
        (
            "only its beginning",
            body("hello", &[("content-length", "500"), (PARTIAL, "true")]),
            false,
            false,
        ),
        ("of which the client says so", body("hello", &[(PARTIAL, "true")]), false, false),
        ("no body", body("", &[]), false, true),
        ("no body, by its length", body("", &[("content-length", "0")]), false, true),
        ("one that is not handed over", body("", &[("content-length", "5")]), true, true),
        ("one that nothing speaks of", body("", &[("content-type", "text/plain")]), false, true),
        (
            "a length of nothing in another spelling",
            body("", &[("content-length", "00")]),
            false,
            true,
        ),
        ("lengths that contradict each other", body("", &[("content-length", "0,5")]), false, true),
        ("a length that is none", body("", &[("content-length", "-5")]), false, true),
        (
            "chunks that are not handed over",
            body("", &[("transfer-encoding", "chunked")]),
            false,
            false,
        ),
        (
            "what comes with an upgrade",
            body("", &[("upgrade", "websocket"), ("content-length", "5")]),
            false,
            false,
        ),
        ("an upgrade", body("", &[("upgrade", "websocket")]), false, true),
        (
            "two bodies",
            HttpRequest { raw_body: b"hello".to_vec(), ..body("hullo", &[]) },
            false,
            false,
        ),
    ] {
        for (digest, is_good) in [(DIGEST_OF_HELLO, of_hello), (DIGEST_OF_NOTHING, of_nothing)] {
            let mut request = request.clone();
            request.headers.insert(
                "authorization".to_owned(),
                world.token(&json!({"content_digest": digest})),
            );
            let verdict =
                Verdict::from(world.countersign.ext_authz().check(http_attributes(request)).await);
            assert_eq!(
                verdict.code(),
                (!is_good).then_some("request_mismatch"),
                "{case}, {digest}: {verdict:?}"
            );
            assert!(
                !is_good || verdict.header("x-auth-content-digest") == Some(digest),
                "{case}: {verdict:?}"
            );
        }
    }
}

#[tokio::test]
async fn query_and_body_can_be_required() {
    let world = World::on(Deployment::new().set("self_signed.require", "htq,digest"));
    for (claims, code) in [
        (json!({}), Some("malformed_credentials")),
        (json!({"htq": QUERY_OF_NOTHING}), Some("malformed_credentials")),
        (json!({"content_digest": DIGEST_OF_NOTHING}), Some("malformed_credentials")),
        (json!({"htq": QUERY_OF_NOTHING, "content_digest": DIGEST_OF_NOTHING}), None),
    ] {
        for door in Door::BOTH {
            let verdict = world.ask(door, "GET", "/", &claims).await;
            assert_eq!(verdict.code(), code, "{door:?}, {claims}: {verdict:?}");
        }
    }
}

/// `countersign sign`
#[tokio::test]
async fn the_command_line_binds_query_and_body() {
    let world = World::on(Deployment::new().set("self_signed.require", "htm,htu,htq,digest"));
    let key = world.deployment.file("private.pem", &world.key.private_pem());
    let body = world.deployment.file("body", "hello");
    let sign = |options: &[&str]| {
        let sign = ["sign", "alice", "--key", key.to_str().unwrap(), "--method", "POST"];
        world.deployment.run(&[&sign, options].concat())
    };
    let url = "https://gateway.test/a?delete=one#top";
    let signed = sign(&["--url", url, "--bind-query", "--body", body.to_str().unwrap()]);
    let question = |target: &str| Question {
        method: "POST".to_owned(),
        scheme: "https".to_owned(),
        target: target.to_owned(),
        ..Question::with(format!("JWT {}", signed.stdout.trim()))
    };

    let other = Door::Http.ask(&world.countersign, &question("/a?delete=all")).await;
    let right = Door::Http.ask(&world.countersign, &question("/a?delete=one")).await;

    assert_eq!(other.code(), Some("request_mismatch"), "{other:?}");
    assert_eq!(right.header("x-auth-content-digest"), Some(DIGEST_OF_HELLO), "{right:?}");
    assert_eq!(sign(&["--bind-query"]).code, 2, "there is no query without a URL");
    assert_eq!(sign(&["--body", "no such file"]).code, 1);
}

/// A binding that cannot be checked is a mismatch.
#[tokio::test]
async fn a_binding_needs_a_gateway_that_tells_the_request() {
    let world = World::start();
    for claims in [
        json!({"htm": "GET"}),
        json!({"htu": "https://gateway.test/"}),
        json!({"htq": QUERY_OF_NOTHING}),
    ] {
        let token = world.token(&claims);
        let answer = Request::get("/validate_request")
            .authorization(&token)
            .send(world.countersign.http)
            .await;
        assert_eq!(answer.header("x-auth-error"), Some("request_mismatch"), "{claims}: {answer:?}");
    }
}

/// A refused binding does not spend the token: it was not presented to the request it is for.
#[tokio::test]
async fn a_mismatch_spends_nothing() {
    let world = World::start();
    let token = world.token(&json!({"htm": "POST"}));
    let ask =
        |method: &str| Question { method: method.to_owned(), ..Question::with(token.as_str()) };

    let elsewhere = Door::Http.ask(&world.countersign, &ask("GET")).await;
    let meant = Door::Http.ask(&world.countersign, &ask("POST")).await;

    assert_eq!(elsewhere.code(), Some("request_mismatch"));
    assert!(meant.allowed(), "{meant:?}");
}

struct World {
    countersign: Countersign,
    key: Key,
    deployment: Deployment,
}

impl World {
    fn start() -> Self {
        Self::on(Deployment::new())
    }

    fn on(deployment: Deployment) -> Self {
        let deployment = deployment.set("issuer.audience", AUDIENCE);
        let key = Key::ed25519();
        deployment.enrol("alice", &key);
        Self { countersign: deployment.serve(), key, deployment }
    }

    /// A request for `gateway.test` over https.
    async fn ask(&self, door: Door, method: &str, target: &str, claims: &Value) -> Verdict {
        let question = Question {
            method: method.to_owned(),
            scheme: "https".to_owned(),
            target: target.to_owned(),
            ..Question::with(self.token(claims))
        };
        door.ask(&self.countersign, &question).await
    }

    fn token(&self, claims: &Value) -> String {
        let claims = claims.as_object().unwrap().iter();
        let token = claims
            .fold(Claims::of("alice"), |token, (claim, value)| token.with(claim, value.clone()));
        token.authorization(&self.key)
    }
}
