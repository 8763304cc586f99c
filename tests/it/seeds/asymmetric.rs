//! The middleware tests of `asymmetric_jwt_auth`, case by case, run against the service over HTTP.
//!
//! The original passes a request without a user on to the application. A gateway needs an answer,
//! so "not logged in" is a 401 here, with the code in the table.
//!
//! | test of theirs (`test_middleware.py`) | original | here |
//! | --- | --- | --- |
//! | `MiddlewareTest.test_no_auth_header` | no user | 401 `missing_credentials` |
//! | `MiddlewareTest.test_auth_header_missing_type` | no user | 401 `malformed_credentials` |
//! | `MiddlewareTest.test_auth_header_not_jwt_type` | no user | 401 `malformed_credentials`: Bearer is for access tokens, and this is none |
//! | `MiddlewareTest.test_header_jwt_missing_username` | no user | 401 `malformed_credentials` |
//! | `MiddlewareTest.test_header_jwt_claimed_username_doesnt_exist` | no user | 401 `invalid_token` |
//! | `MiddlewareTest.test_authenticate_request_rsa_valid` | user, `last_used_on` set | 200, `last_used_on` set |
//! | `MiddlewareTest.test_authenticate_request_rsa_unregistered_key` | no user | 401 `invalid_token` |
//! | `MiddlewareTest.test_authenticate_request_ed25519_valid` | user, `last_used_on` set | 200, `last_used_on` set |
//! | `MiddlewareTest.test_missing_data` | no user | 401 `timestamp_outside_tolerance`: the time is 0 |
//! | `MiddlewareTest.test_cant_reuse_nonce` | user, then none | 200, then 401 `replayed` |
//! | `MiddlewareJWKSTest.test_authenticate_request_rsa` | user | 200 |
//! | `MiddlewareJWKSTest.test_no_matching_key` | no user | 401 `invalid_token` |
//! | `MiddlewareJWKSTest.test_header_jwt_claimed_username_doesnt_exist` | no user | 401 `invalid_token` |
//! | `MiddlewareJWKSTest.test_missing_data` | no user | 401 `timestamp_outside_tolerance` |

use std::time::Duration;

use crate::harness::{
    Behaviour, Claims, Countersign, Deployment, Door, JwksServer, Key, Question, Signer,
    eventually_async,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// The answer of the HTTP door: 200 with the name, or the status with the code.
async fn outcome(countersign: &Countersign, question: &Question) -> (u16, String) {
    let verdict = Door::Http.ask(countersign, question).await;
    if verdict.allowed() {
        return (200, verdict.header("x-auth-username").unwrap_or_default().to_owned());
    }
    (verdict.status, verdict.code().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn middleware_with_registered_keys() {
    let deployment = Deployment::new();
    let (ed25519, rsa, bars) = (Key::ed25519(), Key::rsa(), Key::p256());
    let ids = [deployment.enrol("foo", &ed25519), deployment.add_key("foo", &rsa)];
    deployment.enrol("bar", &bars);
    let countersign = deployment.serve();
    let fresh = |username: &str, key: &Key| Claims::of(username).authorization(key);
    let once = fresh("foo", &ed25519);

    for (original, question, expected) in [
        ("test_no_auth_header", Question::bare(), (401, "missing_credentials")),
        (
            "test_auth_header_missing_type",
            Question::with("Fooopbar"),
            (401, "malformed_credentials"),
        ),
        (
            "test_auth_header_not_jwt_type",
            Question::with("Bearer foobar"),
            (401, "malformed_credentials"),
        ),
        (
            "test_header_jwt_missing_username",
            Question::with(fresh("", &rsa)),
            (401, "malformed_credentials"),
        ),
        (
            "test_header_jwt_claimed_username_doesnt_exist",
            Question::with(fresh("rusty", &rsa)),
            (401, "invalid_token"),
        ),
        ("test_authenticate_request_rsa_valid", Question::with(fresh("foo", &rsa)), (200, "foo")),
        (
            "test_authenticate_request_rsa_unregistered_key",
            Question::with(fresh("foo", &bars)),
            (401, "invalid_token"),
        ),
        (
            "test_authenticate_request_ed25519_valid",
            Question::with(fresh("foo", &ed25519)),
            (200, "foo"),
        ),
        (
            "test_missing_data",
            Question::with(Claims::of("foo").with("time", 0).authorization(&ed25519)),
            (401, "timestamp_outside_tolerance"),
        ),
        ("test_cant_reuse_nonce, first", Question::with(once.clone()), (200, "foo")),
        ("test_cant_reuse_nonce, second", Question::with(once), (401, "replayed")),
    ] {
        let (status, text) = outcome(&countersign, &question).await;
        assert_eq!((status, text.as_str()), expected, "MiddlewareTest.{original}");
    }
    for id in &ids {
        let what = "assertLoggedIn: the key has its last_used_on";
        eventually_async(what, PATIENCE, async || deployment.last_used_on(id).map(|_| ())).await;
    }
}

#[tokio::test]
async fn middleware_with_a_trusted_key_set() {
    let server = JwksServer::https();
    let deployment = Deployment::new().trusting(&server);
    deployment.done(&["principal", "add", "foo"]);
    deployment.done(&["principal", "add", "mismatched"]);
    let signer = Signer::new("rsa", Key::rsa());
    let renamed = Signer::new("foobar", Key::rsa());
    server.put("/jwks.json", Behaviour::set([signer.jwk()]));
    server.put("/renamed.json", Behaviour::set([renamed.jwk()]));
    deployment.add_trust("foo", &server.url("/jwks.json"));
    deployment.add_trust("mismatched", &server.url("/renamed.json"));
    let countersign = deployment.serve();

    eventually_async("MiddlewareJWKSTest.test_authenticate_request_rsa", PATIENCE, async || {
        (outcome(&countersign, &Question::with(signer.authorization("foo"))).await
            == (200, "foo".to_owned()))
            .then_some(())
    })
    .await;
    eventually_async("the other set is there, too", PATIENCE, async || {
        (outcome(&countersign, &Question::with(renamed.authorization("mismatched"))).await.0 == 200)
            .then_some(())
    })
    .await;
    for (original, authorization, code) in [
        // The key is from the set; the token names it differently.
        (
            "test_no_matching_key",
            Signer::new("rsa", renamed.key).authorization("mismatched"),
            "invalid_token",
        ),
        (
            "test_header_jwt_claimed_username_doesnt_exist",
            signer.authorization("rusty"),
            "invalid_token",
        ),
        (
            "test_missing_data",
            signer.claims("foo").with("time", 0).authorization(&signer.key),
            "timestamp_outside_tolerance",
        ),
    ] {
        let (status, text) = outcome(&countersign, &Question::with(authorization)).await;
        assert_eq!((status, text.as_str()), (401, code), "MiddlewareJWKSTest.{original}");
    }
}
