//! What a thief or a forger tries at the token API, and at the gateway with tokens from there.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::http::Request;
use crate::harness::{
    ADMIN_TOKEN, Claims, Countersign, Deployment, Key, TokenApi, decision_request,
    eventually_async, now,
};

const STRANGER: &str = "00000000-0000-4000-8000-000000000000";
const PATIENCE: Duration = Duration::from_secs(20);

/// The public key cannot be used as an HMAC secret.
#[tokio::test]
async fn public_keys_sign_nothing() {
    let (deployment, countersign, access) = world();
    let own = own_key(&deployment);
    let jwks = Request::get("/jwks").send(countersign.http).await.json();
    let jwk = &jwks["keys"][0];
    let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    for secret in [
        own.public_pem().into_bytes(),
        own.public_pem().trim().as_bytes().to_vec(),
        jwk.to_string().into_bytes(),
        jwks.to_string().into_bytes(),
        modulus,
        jwk["n"].as_str().unwrap().as_bytes().to_vec(),
        Vec::new(),
    ] {
        for (algorithm, hash) in [("HS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)] {
            let forged = Claims::in_token(&access).with_header("alg", algorithm);
            let key = hmac::Key::new(hash, &secret);
            refused(
                &countersign,
                &forged.sealed(|signed| hmac::sign(&key, signed).as_ref().to_vec()),
            )
            .await;
            let nameless = forged.with_header("kid", Value::Null);
            refused(
                &countersign,
                &nameless.sealed(|signed| hmac::sign(&key, signed).as_ref().to_vec()),
            )
            .await;
        }
    }
    let signature = access.rsplit('.').next().unwrap();
    for algorithm in ["none", "None", "NONE", ""] {
        let unsigned =
            Claims::in_token(&access).with_header("alg", algorithm).sealed(|_| Vec::new());
        refused(&countersign, &unsigned).await;
        refused(&countersign, &format!("{unsigned}{signature}")).await;
    }
}

/// A token that we never issued is refused, even with our own signature.
#[tokio::test]
async fn only_our_own_access_tokens_count() {
    let (deployment, countersign, access) = world();
    let (own, honest) = (own_key(&deployment), Claims::in_token(&access));
    let api = TokenApi::of(&countersign);
    assert_eq!(api.validate(&honest.sign(&own)).await, 200, "or the rest proves nothing");
    for (claim, value) in [
        ("iss", json!("https://elsewhere.test")),
        ("iss", Value::Null),
        ("aud", json!("carts")),
        ("aud", json!(["carts", "bills"])),
        ("aud", Value::Null),
        ("ttype", json!("R")),
        ("ttype", Value::Null),
        // Beyond the tolerance for clocks.
        ("exp", json!(now() - 10)),
        ("exp", Value::Null),
        ("nbf", json!(now() + 60)),
        ("jti", Value::Null),
        ("username", json!("nobody")),
    ] {
        refused(&countersign, &honest.clone().with(claim, value).sign(&own)).await;
    }
    refused(&countersign, &honest.sign(&Key::rsa())).await;
    for header in ["jwk", "jku", "x5u"] {
        let key = Key::rsa();
        let own_words = if header == "jwk" {
            key.jwk(&own.fingerprint())
        } else {
            json!("https://evil.test/jwks")
        };
        refused(&countersign, &honest.clone().with_header(header, own_words).sign(&key)).await;
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_own_purpose_only() {
    let (deployment, countersign, access) = world();
    let (api, pair, key) =
        (TokenApi::of(&countersign), deployment.tokens("alice"), deployment.api_key("alice"));
    for token in [&pair.refresh, &key.key] {
        refused(&countersign, token).await;
    }
    for (path, body) in [
        ("/token/refresh", json!({"token": access})),
        ("/token/refresh", json!({"token": key.key})),
        ("/authenticate", json!({"key": pair.refresh, "identifier": key.identifier})),
        ("/refresh", json!({"refresh_token": pair.refresh, "identifier": key.identifier})),
    ] {
        assert_eq!(api.post(path, &body).await.status, 401, "{path} {body}");
    }
    let jwt = countersign.decide(&format!("JWT {access}")).await;
    assert_eq!(jwt.status, 401, "{jwt:?}");
}

/// A principal that reuses a name is not the one who had it before.
#[tokio::test]
async fn tokens_end_with_their_principal() {
    let (deployment, countersign, access) = world();
    let (api, key) = (TokenApi::of(&countersign), deployment.api_key("alice"));
    let pair = api.login(&key).await;
    deployment.done(&["principal", "remove", "alice"]);
    deployment.done(&["principal", "add", "alice"]);
    eventually_async("the old token still passes", PATIENCE, async || {
        (countersign.decide(&format!("Bearer {access}")).await.status == 401).then_some(())
    })
    .await;
    for token in [&access, &pair.access] {
        refused(&countersign, token).await;
    }
    assert_eq!(api.rotate(&pair.refresh).await.status, 401);
    assert_eq!(api.authenticate(&key).await.status, 401);
    assert_eq!(
        api.validate(&deployment.tokens("alice").access).await,
        200,
        "the new one's are its own"
    );
}

#[tokio::test]
async fn guessing_is_slowed_down_and_nothing_else_is() {
    let (deployment, countersign, access) = limited("issuer.failures_per_peer", 10);
    let (api, key) = (TokenApi::of(&countersign), deployment.api_key("alice"));
    let guess = json!({"key": "csk_guess", "identifier": STRANGER});
    // Successes and malformed requests do not count as guesses.
    for _ in 0..15 {
        api.login(&key).await;
        assert_eq!(api.post("/authenticate", &json!({})).await.status, 400);
    }
    for _ in 0..10 {
        assert_eq!(api.post("/authenticate", &guess).await.status, 401);
    }
    for (path, body) in [
        ("/authenticate", guess),
        ("/refresh", json!({"refresh_token": "x", "identifier": STRANGER})),
        ("/token/refresh", json!({"token": "x"})),
        ("/token/revoke", json!({"token": "x"})),
    ] {
        let answer = api.post(path, &body).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (429, &json!("too_many_failures")),
            "{path}: {answer:?}"
        );
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=6).contains(&wait), "{answer:?}");
    }
    let form = [("grant_type", "refresh_token"), ("refresh_token", "x")];
    assert_eq!(api.form("/oauth2/token", &form).await.status, 429);
    let admin = TokenApi::json("/token/revoke", &json!({"token": "x"}))
        .authorization(&format!("Bearer {ADMIN_TOKEN}"));
    assert_eq!(api.send(&admin).await.status, 429, "the right one cannot be found by going on");

    for _ in 0..50 {
        assert_eq!(countersign.decide(&format!("Bearer {access}")).await.status, 200);
        assert_eq!(decision_request().send(countersign.http).await.status, 401);
    }
    assert_eq!(api.validate(&access).await, 200);
    eventually_async("it is not forgiven", PATIENCE, async || {
        (api.authenticate(&key).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn guesses_in_the_name_of_one_slow_down_that_one() {
    let (deployment, countersign, _) = limited("issuer.failures_per_identifier", 3);
    let api = TokenApi::of(&countersign);
    let (victim, other) = (deployment.api_key("alice"), deployment.api_key("alice"));
    for _ in 0..3 {
        let guess = json!({"key": "csk_guess", "identifier": victim.identifier});
        assert_eq!(api.post("/authenticate", &guess).await.status, 401);
    }
    assert_eq!(api.authenticate(&victim).await.status, 429);
    api.login(&other).await;
    let key = Key::ed25519();
    let assertion =
        |name: &str| Claims::registered(name).with("aud", "http://localhost:8080").sign(&key);
    let ask = async |name: &str| {
        let assertion = assertion(name);
        let parameters = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", &assertion),
        ];
        api.form("/oauth2/token", &parameters).await.status
    };
    for expected in [401, 401, 401, 429] {
        assert_eq!(ask("bob").await, expected);
    }
    assert_eq!(ask("carol").await, 401);
}

/// For any number of concurrent requests, no more than the limit are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_at_once_is_no_way_around_it() {
    let (_deployment, countersign, _) = limited("issuer.failures_per_peer", 5);
    let guesses: Vec<_> = (0..60)
        .map(|_| {
            let api = TokenApi::of(&countersign);
            tokio::spawn(async move {
                api.post("/token/refresh", &json!({"token": "csr_guess"})).await.status
            })
        })
        .collect();
    let mut answered = 0;
    for guess in guesses {
        let status = guess.await.unwrap();
        assert!(status == 401 || status == 429, "{status}");
        answered += usize::from(status == 401);
    }
    // Time passes meanwhile, and allows one more every 12 s.
    assert!((5..=6).contains(&answered), "{answered}");
}

fn world() -> (Deployment, Countersign, String) {
    started(Deployment::new().set("issuer.failures_per_peer", "0"))
}

fn limited(setting: &str, failures: u32) -> (Deployment, Countersign, String) {
    started(Deployment::new().administered().set(setting, &failures.to_string()))
}

fn started(deployment: Deployment) -> (Deployment, Countersign, String) {
    let deployment = deployment.set("issuer.audience", "orders").set("issuer.algorithm", "RS256");
    deployment.done(&["principal", "add", "alice"]);
    let (access, countersign) = (deployment.tokens("alice").access, deployment.serve());
    (deployment, countersign, access)
}

/// The service's own signing key.
fn own_key(deployment: &Deployment) -> Key {
    let files: Vec<_> =
        std::fs::read_dir(deployment.dir.path().join("signing-keys")).unwrap().collect();
    let pem = files
        .iter()
        .map(|file| file.as_ref().unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "pem"));
    Key::rsa_in(&std::fs::read_to_string(pem.unwrap()).unwrap())
}

/// At the gateway, and at every token API endpoint that takes an access token.
async fn refused(countersign: &Countersign, token: &str) {
    let api = TokenApi::of(countersign);
    let denial = countersign.decide(&format!("Bearer {token}")).await;
    assert_eq!(denial.status, 401, "{token}: {denial:?}");
    assert_eq!(api.validate(token).await, 401, "{token}");
    let caller = api.post_as(token, "/token/introspection", &json!({"token": token})).await;
    assert_eq!(caller.status, 403, "{caller:?}");
    let caller = api.post_as(token, "/token/revoke", &json!({"token": token})).await;
    assert_eq!(caller.status, 401, "{caller:?}");
}
