//! The API tests of jwthenticator 1.6.3, case by case, run against the service over HTTP.
//!
//! | test of theirs | here |
//! | --- | --- |
//! | `test_api.py`: `TestAPI.test_full_flow`; `test_server.py`: `TestServer.test_full_flow` | [`full_flow`] |
//! | `TestServer.test_bad_json_request`, `test_authentication_bad_request`, `test_refresh_bad_request`, `test_validate_bad_request`, `test_register_key_bad_request`, `test_is_key_registered_bad_request` | [`bad_requests`] |
//! | `test_authentication_unknown_key`, `test_refresh_unknown_refresh_token`, `test_validate_bad_jwt` | [`what_is_unknown_is_401`] |
//! | `test_authentication_expired_key`, `test_register_key_already_registered` | [`keys_expire_and_are_registered_again`] |
//! | `test_refresh_expired_refresh_token`, `test_validate_expired_jwt`, `test_validate_request_expired_token` | [`tokens_expire`] |
//! | `test_validate_request`, `test_validate_request_bad_header` | [`validate_request`] |
//! | `TestExternalOnlyServer.*`, `TestInternalOnlyServer.*` | [`each_api_has_its_listener`] |
//! | `test_integration.py`: `TestIntegration.test_client_and_authenticated_server` | `jwthenticator::its_internal_client_registers_keys`, `its_client_passes_the_gateway`, by its own clients |
//! | `test_keys.py`, `test_tokens.py`, `test_utils.py` | nothing over HTTP: they test functions of its own |
//!
//! Deliberately different: an `identifier` other than the one the key was registered for is a 401
//! (the original accepts any), and `/validate_request` without credentials is a 401, as RFC 9110
//! says (the original answers 403).

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::http::{Answer, Request};
use crate::harness::{Countersign, Deployment, TokenApi, eventually_async};

const IDENTIFIER: &str = "6f2f4f5e-0c39-4a0e-9f6c-3a4b6f0b7a11";
const STRANGER: &str = "00000000-0000-4000-8000-000000000000";
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    _deployment: Deployment,
    countersign: Countersign,
}

impl World {
    fn start(settings: &[(&str, &str)]) -> Self {
        let open = Deployment::new().set("admin.open_key_registration", "true");
        let deployment =
            settings.iter().fold(open, |deployment, (key, value)| deployment.set(key, value));
        Self { countersign: deployment.serve(), _deployment: deployment }
    }

    /// The original has one server; here each API has its listener.
    async fn post(&self, path: &str, body: &Value) -> Answer {
        let listener = if path.ends_with("key") || path.ends_with("registered") {
            self.countersign.admin
        } else {
            self.countersign.http
        };
        TokenApi::json(path, body).send(listener).await
    }

    async fn registered(&self, key: &str) {
        let answer =
            self.post("/register_key", &json!({"key": key, "identifier": IDENTIFIER})).await;
        assert_eq!((answer.status, answer.json()), (201, json!({"result": true})), "{answer:?}");
    }

    async fn authenticated(&self, key: &str) -> (String, String) {
        let answer =
            self.post("/authenticate", &json!({"key": key, "identifier": IDENTIFIER})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = |member: &str| answer.json()[member].as_str().unwrap().to_owned();
        (text("jwt"), text("refresh_token"))
    }

    async fn validated(&self, jwt: &str) -> u16 {
        self.post("/validate", &json!({"jwt": jwt})).await.status
    }

    async fn becomes(&self, what: &str, status: u16, path: &str, body: &Value) {
        eventually_async(what, PATIENCE, async || {
            (self.post(path, body).await.status == status).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn full_flow() {
    let world = World::start(&[]);
    world.registered("a key").await;
    let known = world.post("/is_key_registered", &json!({"key": "a key"})).await;
    assert_eq!(
        (known.status, known.json()),
        (200, json!({"result": true})),
        "TestServer.test_full_flow"
    );
    let (jwt, refresh_token) = world.authenticated("a key").await;
    assert_eq!(world.validated(&jwt).await, 200, "TestServer.test_full_flow");
    let refreshed = world
        .post("/refresh", &json!({"refresh_token": refresh_token, "identifier": IDENTIFIER}))
        .await;
    assert_eq!(refreshed.status, 200, "TestServer.test_full_flow: {refreshed:?}");
    assert_eq!(
        world.validated(refreshed.json()["jwt"].as_str().unwrap()).await,
        200,
        "TestServer.test_full_flow"
    );
    let jwks = Request::get("/jwks").send(world.countersign.http).await;
    let header = jwt.split('.').next().unwrap();
    assert_eq!(jwks.status, 200);
    assert_eq!(
        jwks.json()["keys"].as_array().unwrap().len(),
        1,
        "{header}: the key that signed it is the one there is"
    );
    // Deliberately unlike `TestServer.perform_auth`, which authenticates with another identifier.
    let other = world.post("/authenticate", &json!({"key": "a key", "identifier": STRANGER})).await;
    assert_eq!(other.status, 401, "{other:?}");
}

#[tokio::test]
async fn bad_requests() {
    let world = World::start(&[]);
    for route in ["/authenticate", "/refresh", "/validate", "/register_key", "/is_key_registered"] {
        let answer = world.post(route, &json!("{")).await;
        assert_eq!(answer.status, 400, "test_bad_json_request {route}: {answer:?}");
    }
    for (original, route, body) in [
        ("test_authentication_bad_request, missing", "/authenticate", json!({"key": "k"})),
        (
            "test_authentication_bad_request, extra",
            "/authenticate",
            json!({"key": "k", "identifier": IDENTIFIER, "extra": "extra"}),
        ),
        ("test_refresh_bad_request, missing", "/refresh", json!({"refresh_token": "t"})),
        (
            "test_refresh_bad_request, extra",
            "/refresh",
            json!({"refresh_token": "t", "identifier": IDENTIFIER, "extra": "extra"}),
        ),
        ("test_validate_bad_request, missing", "/validate", json!({})),
        (
            "test_validate_bad_request, extra",
            "/validate",
            json!({"jwt": "hello_world", "extra": "extra"}),
        ),
        ("test_register_key_bad_request, missing", "/register_key", json!({})),
        (
            "test_register_key_bad_request, extra",
            "/register_key",
            json!({"key": "k", "extra": "extra"}),
        ),
        ("test_is_key_registered_bad_request, missing", "/is_key_registered", json!({})),
        (
            "test_is_key_registered_bad_request, extra",
            "/is_key_registered",
            json!({"key": "k", "extra": "extra"}),
        ),
    ] {
        let answer = world.post(route, &body).await;
        assert_eq!(answer.status, 400, "{original}: {answer:?}");
    }
}

#[tokio::test]
async fn what_is_unknown_is_401() {
    let world = World::start(&[]);
    world.registered("a key").await;
    let (jwt, _) = world.authenticated("a key").await;
    for (original, route, body) in [
        (
            "test_authentication_unknown_key",
            "/authenticate",
            json!({"key": "another key", "identifier": IDENTIFIER}),
        ),
        (
            "test_refresh_unknown_refresh_token",
            "/refresh",
            json!({"refresh_token": "x".repeat(128), "identifier": IDENTIFIER}),
        ),
        (
            "test_validate_bad_jwt, its end cut off",
            "/validate",
            json!({"jwt": jwt[..jwt.len() - 2]}),
        ),
        ("test_validate_bad_jwt, its start cut off", "/validate", json!({"jwt": jwt[2..]})),
    ] {
        let answer = world.post(route, &body).await;
        assert_eq!(answer.status, 401, "{original}: {answer:?}");
    }
}

#[tokio::test]
async fn keys_expire_and_are_registered_again() {
    let world = World::start(&[("issuer.api_key_lifetime", "2s")]);
    world.registered("a key").await;
    world.registered("a key").await;
    let body = json!({"key": "a key", "identifier": IDENTIFIER});
    world.becomes("test_authentication_expired_key", 401, "/authenticate", &body).await;
    // test_register_key_already_registered: also if the key has expired.
    world.registered("a key").await;
    assert_eq!(world.post("/authenticate", &body).await.status, 200);
}

#[tokio::test]
async fn tokens_expire() {
    let world = World::start(&[
        ("issuer.access_token_lifetime", "1s"),
        ("issuer.refresh_token_lifetime", "2s"),
    ]);
    world.registered("a key").await;
    let (jwt, refresh_token) = world.authenticated("a key").await;
    let refresh = json!({"refresh_token": refresh_token, "identifier": IDENTIFIER});
    world.becomes("test_refresh_expired_refresh_token", 401, "/refresh", &refresh).await;
    world.becomes("test_validate_expired_jwt", 401, "/validate", &json!({"jwt": jwt})).await;
    let answer = world.countersign.decide(&format!("Bearer {jwt}")).await;
    assert_eq!(answer.status, 401, "test_validate_request_expired_token: {answer:?}");
}

#[tokio::test]
async fn validate_request() {
    let world = World::start(&[]);
    world.registered("a key").await;
    let (jwt, _) = world.authenticated("a key").await;
    let ask = async |request: Request| request.send(world.countersign.http).await;
    let bare = || Request::get("/validate_request");
    assert_eq!(
        ask(bare().authorization(&format!("Bearer {jwt}"))).await.status,
        200,
        "test_validate_request"
    );
    // 403 in the original: see above.
    assert_eq!(ask(bare()).await.status, 401, "test_validate_request_bad_header, none");
    assert_eq!(
        ask(bare().authorization("Bearer ")).await.status,
        401,
        "test_validate_request_bad_header, empty"
    );
}

#[tokio::test]
async fn each_api_has_its_listener() {
    let world = World::start(&[]);
    let empty = |path: &str| TokenApi::json(path, &json!({}));
    let Countersign { http, admin, .. } = world.countersign;
    assert_eq!(
        empty("/validate").send(http).await.status,
        400,
        "TestExternalOnlyServer.test_external_api_sanity"
    );
    for path in ["/register_key", "/is_key_registered"] {
        assert_eq!(
            empty(path).send(http).await.status,
            404,
            "TestExternalOnlyServer.test_disabled_internal_api {path}"
        );
    }
    assert_eq!(
        empty("/register_key").send(admin).await.status,
        400,
        "TestInternalOnlyServer.test_internal_api_sanity"
    );
    for path in ["/authenticate", "/refresh", "/validate"] {
        assert_eq!(
            empty(path).send(admin).await.status,
            404,
            "TestInternalOnlyServer.test_disabled_external_api {path}"
        );
    }
    let closed = World::start(&[("server.token_api", "false")]);
    for path in ["/authenticate", "/refresh", "/validate"] {
        let answer = empty(path).send(closed.countersign.http).await;
        assert_eq!(answer.status, 404, "TestInternalOnlyServer.test_disabled_external_api {path}");
    }
    // The admin listener has `/readyz` for the same: it says more.
    for (listener, path) in
        [(http, "/health"), (closed.countersign.http, "/health"), (admin, "/readyz")]
    {
        let answer = Request::get(path).send(listener).await;
        assert_eq!(
            answer.status, 200,
            "TestInternalOnlyServer.test_health_check {path}: {answer:?}"
        );
    }
}
