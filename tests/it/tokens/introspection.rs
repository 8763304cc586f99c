//! Introspection and revocation: the vocabulary of django-jwtconnect-auth, RFC 7662 and RFC 7009.

use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::harness::{
    ADMIN_TOKEN, Claims, Countersign, Deployment, Key, Pair, TokenApi, claims_in, eventually_async,
    members,
};

const INTROSPECTION: &str = "/token/introspection";
const REVOCATION: &str = "/token/revoke";

#[tokio::test]
async fn tokens_are_told_about_by_themselves_and_by_name() {
    let world = World::start();
    let World { deployment, api, alice, bob, .. } = &world;
    let access = claims_in(&alice.access);
    let by_token = api.post_as(&bob.access, INTROSPECTION, &json!({"token": alice.access})).await;
    assert_eq!(by_token.status, 200, "{by_token:?}");
    let told = by_token.json();
    let expected = json!({
        "active": true,
        "jti": access["jti"],
        "iat": access["iat"],
        "issued_at": told["issued_at"],
        "exp": access["exp"],
        "expire_at": told["expire_at"],
        "nbf": access["nbf"],
        "iss": "https://tokens.test",
        "sub": access["sub"],
        "aud": ["orders"],
        "username": "alice",
        "scope": "read write",
        "token_type": "Bearer",
    });
    assert_eq!(told, expected);
    for (seconds, written) in [("iat", "issued_at"), ("exp", "expire_at")] {
        let written = OffsetDateTime::parse(told[written].as_str().unwrap(), &Rfc3339).unwrap();
        assert_eq!(written.unix_timestamp(), told[seconds].as_i64().unwrap());
    }

    let refresh =
        api.post_as(&bob.access, INTROSPECTION, &json!({"token": alice.refresh})).await.json();
    assert!(
        refresh["jti"] != told["jti"] && refresh["exp"].as_i64() > told["exp"].as_i64(),
        "{refresh}"
    );
    assert!(!members(&refresh).contains(&"token_type"), "{refresh}");
    assert_eq!(refresh["sub"], told["sub"]);
    let listed = deployment.list(&["token", "list", "alice"]);
    for (jti, same) in [(&listed[0]["access_jti"], &told), (&listed[0]["refresh_jti"], &refresh)] {
        // By either name: django-jwtconnect-auth searches all of its tokens for the given value.
        for body in [json!({"jti": jti}), json!({"token": jti})] {
            for asker in [&alice.access, ADMIN_TOKEN] {
                assert_eq!(api.post_as(asker, INTROSPECTION, &body).await.json(), *same);
            }
            // Names are not secret, and can be guessed: without a token, nobody learns anything by
            // its name.
            let others = api.post_as(&bob.access, INTROSPECTION, &body).await;
            assert_eq!(
                (others.status, &others.json()["error"]),
                (401, &json!("invalid_token")),
                "{others:?}"
            );
            let (name, value) = body.as_object().unwrap().iter().next().unwrap();
            let form = TokenApi::form_request(INTROSPECTION, &[(name, value.as_str().unwrap())]);
            let others = api.send(&form.authorization(&format!("Bearer {}", bob.access))).await;
            assert_eq!(
                (others.status, others.json()),
                (200, json!({"active": false})),
                "{others:?}"
            );
        }
    }
    for token in [&alice.access, &alice.refresh] {
        let form = TokenApi::form_request(
            INTROSPECTION,
            &[("token", token), ("token_type_hint", "access_token")],
        );
        let answer = api.send(&form.authorization(&format!("Bearer {}", bob.access))).await;
        assert_eq!((answer.status, &answer.json()["active"]), (200, &json!(true)), "{answer:?}");
    }
}

#[tokio::test]
async fn only_holders_of_a_token_may_ask() {
    let world = World::start();
    let World { deployment, api, alice, key, .. } = &world;
    let self_signed = Claims::of("alice").authorization(key);
    let forged = format!("Bearer {}", Claims::in_token(&alice.access).sign(&Key::rsa()));
    for authorization in
        ["", "Bearer", "Bearer x", &format!("Bearer {}", alice.refresh), &self_signed, &forged]
    {
        let request = TokenApi::json(INTROSPECTION, &json!({"jti": "many things"}))
            .authorization(authorization);
        let answer = api.send(&request).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (403, &json!("invalid_request")),
            "{authorization}: {answer:?}"
        );
    }
    assert_eq!(api.post(INTROSPECTION, &json!({"jti": "many things"})).await.status, 403);
    let twice = TokenApi::json(INTROSPECTION, &json!({"token": alice.access}))
        .authorization(&format!("Bearer {}", alice.access))
        .authorization(&format!("Bearer {}", alice.access));
    assert_eq!(api.send(&twice).await.status, 403);
    deployment.done(&["principal", "disable", "alice"]);
    let ask = async || {
        api.post_as(&alice.access, INTROSPECTION, &json!({"token": alice.refresh})).await.status
    };
    eventually_async("a disabled principal may ask", Duration::from_secs(2), async || {
        (ask().await == 403).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_over_is_told_in_two_ways() {
    let world = World::start();
    let World { deployment, api, alice, bob, .. } = &world;
    let rotated = deployment.tokens("alice");
    api.rotated(&rotated.refresh).await;
    let revoked = deployment.tokens("alice");
    assert_eq!(
        api.post_as(&alice.access, REVOCATION, &json!({"token": revoked.access})).await.status,
        200
    );
    let forged = Claims::in_token(&alice.access).sign(&Key::rsa());
    for token in [
        "INVALID",
        "a.b.c",
        "",
        "00000000-0000-4000-8000-000000000000",
        &rotated.refresh,
        &revoked.access,
        &revoked.refresh,
        &forged,
    ] {
        let expected =
            if token.is_empty() { (400, "invalid_request") } else { (401, "invalid_token") };
        let answer = api.post_as(&bob.access, INTROSPECTION, &json!({"token": token})).await;
        assert_eq!(
            (answer.status, answer.json()["error"].as_str().unwrap()),
            expected,
            "{token}: {answer:?}"
        );
        let form = TokenApi::form_request(INTROSPECTION, &[("token", token)])
            .authorization(&format!("Bearer {}", bob.access));
        let answer = api.send(&form).await;
        if token.is_empty() {
            assert_eq!(answer.status, 400, "{answer:?}");
        } else {
            assert_eq!(
                (answer.status, answer.json()),
                (200, json!({"active": false})),
                "{token}: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_principal_revokes_its_own() {
    let world = World::start();
    let World { deployment, countersign, api, alice, bob, .. } = &world;
    let login = deployment.tokens("alice");
    let next = api.rotated(&login.refresh).await;
    for (caller, expected) in [(&bob.access, 403), (&alice.access, 200)] {
        let answer = api.post_as(caller, REVOCATION, &json!({"token": next.access})).await;
        assert_eq!(answer.status, expected, "{answer:?}");
    }
    // With all tokens of the same login.
    for token in [&login.access, &next.access] {
        ends(api, token).await;
        assert_eq!(countersign.decide(&format!("Bearer {token}")).await.status, 401);
    }
    assert_eq!(api.rotate(&next.refresh).await.status, 401);
    assert_eq!(api.validate(&alice.access).await, 200);

    for body in
        [json!({"token": "unknown"}), json!({"jti": "unknown"}), json!({"token": next.access})]
    {
        assert_eq!(api.post_as(&alice.access, REVOCATION, &body).await.status, 200, "{body}");
    }
    for body in [json!({}), json!({"token": 1}), json!({"token": ""})] {
        assert_eq!(api.post_as(&alice.access, REVOCATION, &body).await.status, 400, "{body}");
    }
    let form = TokenApi::form_request(
        REVOCATION,
        &[("token", &alice.refresh), ("token_type_hint", "refresh_token")],
    );
    assert_eq!(
        api.send(&form.authorization(&format!("Bearer {}", alice.access))).await.status,
        200
    );
    ends(api, &alice.access).await;
}

#[tokio::test]
async fn the_admin_token_revokes_any() {
    let world = World::start();
    let World { deployment, api, alice, bob, .. } = &world;
    let listed = deployment.list(&["token", "list", "bob"]);
    for body in [json!({"token": alice.refresh}), json!({"jti": listed[0]["refresh_jti"]})] {
        assert_eq!(api.post_as(ADMIN_TOKEN, REVOCATION, &body).await.status, 200);
    }
    for pair in [alice, bob] {
        ends(api, &pair.access).await;
    }
    for authorization in [None, Some("Bearer wrong"), Some("Basic eDp5"), Some("")] {
        let mut request = TokenApi::json(REVOCATION, &json!({"token": bob.access}));
        if let Some(value) = authorization {
            request = request.authorization(value);
        }
        let answer = api.send(&request).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer "), "{answer:?}");
    }
}

/// A client that guesses has to wait; others do not.
#[tokio::test]
async fn failures_count_towards_the_limit() {
    let deployment = Deployment::new().administered().set("issuer.failures_per_peer", "3");
    for name in ["alice", "bob"] {
        deployment.done(&["principal", "add", name]);
    }
    let (alice, bob) = (deployment.tokens("alice"), deployment.tokens("bob"));
    let name = deployment.list(&["token", "list", "alice"])[0]["access_jti"].clone();
    let guesses = [
        TokenApi::json(INTROSPECTION, &json!({ "jti": name }))
            .authorization(&format!("Bearer {}", bob.access)),
        TokenApi::form_request(INTROSPECTION, &[("jti", name.as_str().unwrap())])
            .authorization(&format!("Bearer {}", bob.access)),
        TokenApi::json(INTROSPECTION, &json!({ "token": "csr_guessed" }))
            .authorization(&format!("Bearer {}", bob.access)),
        TokenApi::json(INTROSPECTION, &json!({ "jti": name })).authorization("Bearer guessed"),
    ];
    for guess in guesses {
        let countersign = deployment.serve();
        let api = TokenApi::of(&countersign);
        for _ in 0..10 {
            for (asker, named) in [
                (alice.access.as_str(), &name),
                (ADMIN_TOKEN, &name),
                (ADMIN_TOKEN, &json!("not there")),
            ] {
                let answer = api.post_as(asker, INTROSPECTION, &json!({ "jti": named })).await;
                assert_eq!(
                    answer.status,
                    if named == &name { 200 } else { 401 },
                    "what is no guess: {answer:?}"
                );
            }
            // Tokens that a resource server receives from others do not count as its guesses.
            let form = TokenApi::form_request(INTROSPECTION, &[("token", "from a client")]);
            assert_eq!(
                api.send(&form.authorization(&format!("Bearer {}", bob.access))).await.status,
                200
            );
        }
        let mut statuses = Vec::new();
        for _ in 0..6 {
            statuses.push(api.send(&guess).await.status);
        }
        assert!(statuses[..3].iter().all(|status| *status != 429), "{statuses:?}");
        assert!(statuses[3..].iter().all(|status| *status == 429), "{statuses:?}");
    }
}

/// The replica that was asked looks at once; that takes a moment.
async fn ends(api: &TokenApi, token: &str) {
    eventually_async("it is still valid", Duration::from_secs(1), async || {
        (api.validate(token).await == 401).then_some(())
    })
    .await;
}

/// Alice and Bob with tokens; Alice also with a key.
struct World {
    deployment: Deployment,
    countersign: Countersign,
    api: TokenApi,
    alice: Pair,
    bob: Pair,
    key: Key,
}

impl World {
    fn start() -> Self {
        let key = Key::ed25519();
        let deployment = Deployment::new()
            .administered()
            .set("issuer.audience", "orders")
            .set("issuer.url", "https://tokens.test");
        deployment.done(&["principal", "add", "alice", "--scope", "write read"]);
        deployment.add_key("alice", &key);
        deployment.done(&["principal", "add", "bob"]);
        let (alice, bob) = (deployment.tokens("alice"), deployment.tokens("bob"));
        let countersign = deployment.serve();
        Self { api: TokenApi::of(&countersign), deployment, countersign, alice, bob, key }
    }
}
