//! Tokens that say which request they are for: `htm`, `htu`, `aud`, at both doors.

use serde_json::{Value, json};

use crate::harness::http::Request;
use crate::harness::{Claims, Countersign, Deployment, Door, Key, Question, Verdict};

const AUDIENCE: &str = "https://countersign.test";

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
        ("GET", "/", json!({"aud": ""})),
        ("GET", "/", json!({"aud": []})),
        ("GET", "/", json!({"aud": format!("{AUDIENCE}/")})),
        // One of three is wrong.
        ("POST", "/a", json!({"htm": "POST", "htu": "https://gateway.test/a", "aud": "elsewhere"})),
        ("POST", "/a", json!({"htm": "POST", "htu": "https://gateway.test/b", "aud": AUDIENCE})),
    ] {
        for door in Door::BOTH {
            let verdict = world.ask(door, method, target, &claims).await;
            assert_eq!(verdict.code(), Some("request_mismatch"), "{door:?}, {method} {target}, {claims}: {verdict:?}");
        }
    }
}

/// Gateways read such paths each in their own way, so equal spelling proves nothing.
#[tokio::test]
async fn a_path_in_disguise_is_refused() {
    let world = World::start();
    for path in ["/a/..%2fb", "/a/..%2Fb", "/a//b", "//a", "/a/../b", "/a/./b", "/a/%2e%2e/b", "/a/..", "/a\\b", "/a%5cb"] {
        for door in Door::BOTH {
            let claims = json!({"htu": format!("https://gateway.test{path}")});
            let verdict = world.ask(door, "GET", path, &claims).await;
            assert_eq!(verdict.code(), Some("request_mismatch"), "{door:?}, {path}: {verdict:?}");
        }
    }
}

/// While scheme, host and path were put together and parsed again, the first of these made a token for `/orders` good for anything.
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
            let question =
                Question { scheme: scheme.to_owned(), host: host.to_owned(), target: target.to_owned(), ..Question::with(token) };
            for door in Door::BOTH {
                let verdict = door.ask(&world.countersign, &question).await;
                assert_eq!(verdict.code(), Some("request_mismatch"), "{door:?}, {host} {target}: {verdict:?}");
            }
        }
    }
}

/// A token that was sent to another service, and by that one to us, at the host that it is bound to.
#[tokio::test]
async fn authorities_are_the_only_hosts_to_be_bound_to() {
    let world = World::on(Deployment::new().set("self_signed.authorities", "API.test, gateway.test:8443"));
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
            assert_eq!(verdict.code(), (!is_ours).then_some("request_mismatch"), "{door:?}, {host}: {verdict:?}");
        }
    }
    // Without `htu` there is nothing to compare.
    let verdict = Door::Http.ask(&world.countersign, &Question::with(world.token(&json!({})))).await;
    assert!(verdict.allowed(), "{verdict:?}");
}

/// A binding that cannot be checked is not fulfilled.
#[tokio::test]
async fn a_binding_needs_a_gateway_that_tells_the_request() {
    let world = World::start();
    for claims in [json!({"htm": "GET"}), json!({"htu": "https://gateway.test/"})] {
        let token = world.token(&claims);
        let answer = Request::get("/validate_request").authorization(&token).send(world.countersign.http).await;
        assert_eq!(answer.header("x-auth-error"), Some("request_mismatch"), "{claims}: {answer:?}");
    }
}

/// A refused binding leaves the token good: it was not presented where it belongs.
#[tokio::test]
async fn a_mismatch_spends_nothing() {
    let world = World::start();
    let token = world.token(&json!({"htm": "POST"}));
    let ask = |method: &str| Question { method: method.to_owned(), ..Question::with(token.as_str()) };

    let elsewhere = Door::Http.ask(&world.countersign, &ask("GET")).await;
    let meant = Door::Http.ask(&world.countersign, &ask("POST")).await;

    assert_eq!(elsewhere.code(), Some("request_mismatch"));
    assert!(meant.allowed(), "{meant:?}");
}

struct World {
    countersign: Countersign,
    key: Key,
    _deployment: Deployment,
}

impl World {
    fn start() -> Self {
        Self::on(Deployment::new())
    }

    fn on(deployment: Deployment) -> Self {
        let deployment = deployment.set("issuer.audience", AUDIENCE);
        let key = Key::ed25519();
        deployment.enrol("alice", &key);
        Self { countersign: deployment.serve(), key, _deployment: deployment }
    }

    /// Over https, of `gateway.test`.
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
        let token = claims.fold(Claims::of("alice"), |token, (claim, value)| token.with(claim, value.clone()));
        token.authorization(&self.key)
    }
}
