//! The token endpoint of RFC 6749, for clients that sign an assertion (RFC 7523).

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::http::Answer;
use crate::harness::{
    Behaviour, Claims, Countersign, Database, Deployment, JwksServer, Key, Pair, Redis, Signer,
    TokenApi, claims_in, eventually_async, members,
};

const TOKEN: &str = "/oauth2/token";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const ISSUER: &str = "http://localhost:8080";

#[tokio::test]
async fn an_assertion_earns_an_access_token() {
    let world = World::start();
    let World { countersign, api, key, .. } = &world;
    for (audience, scope) in [
        (json!(ISSUER), None),
        (json!("http://localhost:8080/oauth2/token"), Some("read")),
        (json!(["elsewhere", ISSUER]), Some("write read")),
    ] {
        let answer = api
            .client(
                &assertion(&audience, key),
                &scope.map(|scope| ("scope", scope)).into_iter().collect::<Vec<_>>(),
            )
            .await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("application/json")),
            "{answer:?}"
        );
        assert_eq!(answer.header("pragma"), Some("no-cache"));
        let body = answer.json();
        assert_eq!(members(&body), ["access_token", "expires_in", "scope", "token_type"]);
        let granted = if scope == Some("read") { "read" } else { "read write" };
        assert_eq!(
            (&body["token_type"], &body["expires_in"], &body["scope"]),
            (&json!("Bearer"), &json!(1800), &json!(granted))
        );
        let access = body["access_token"].as_str().unwrap();
        assert_eq!(claims_in(access)["scope"], granted);
        let allow = countersign.decide(&format!("Bearer {access}")).await;
        assert_eq!(
            (allow.status, allow.header("x-auth-scopes")),
            (200, Some(granted)),
            "{allow:?}"
        );
    }
}

#[tokio::test]
async fn an_assertion_is_for_here_and_for_once() {
    let world = World::start();
    let World { countersign, api, key, .. } = &world;
    let (good, stranger) = (assertion(&json!(ISSUER), key), Key::ed25519());
    assert_eq!(api.client(&good, &[]).await.status, 200);
    for (bad, why) in [
        (good.clone(), "a replay"),
        (Claims::registered("alice").sign(key), "no audience"),
        (assertion(&json!("https://elsewhere.test"), key), "another audience"),
        (assertion(&json!(ISSUER), &stranger), "another key"),
        (Claims::registered("nobody").with("aud", ISSUER).sign(key), "an unknown client"),
        (Claims::registered("alice").with("aud", ISSUER).with("iat", 1).sign(key), "an old one"),
        (
            Claims::registered("alice").with("aud", ISSUER).with_header("alg", "none").sign(key),
            "no algorithm",
        ),
        ("x".to_owned(), "no JWT"),
    ] {
        invalid_client(&api.client(&bad, &[]).await, why);
    }
    // Nor does an assertion pass a gateway, spent or not.
    for token in [good, assertion(&json!(ISSUER), key)] {
        assert_eq!(countersign.decide(&format!("JWT {token}")).await.status, 401);
    }
    // A token that passed a gateway is spent here.
    let answer = api.client(&assertion(&json!(ISSUER), key), &[("client_id", "bob")]).await;
    invalid_client(&answer, "another client_id");
    assert_eq!(
        api.client(&assertion(&json!(ISSUER), key), &[("client_id", "alice")]).await.status,
        200
    );
}

#[tokio::test]
async fn only_assertions_prove_a_client() {
    let world = World::start();
    let World { api, key, .. } = &world;
    let signed = assertion(&json!(ISSUER), key);
    let credentials = [("grant_type", "client_credentials")];
    invalid_client(&api.form(TOKEN, &credentials).await, "nothing");
    let secret =
        [("grant_type", "client_credentials"), ("client_id", "alice"), ("client_secret", "s3cret")];
    let answer = api.form(TOKEN, &secret).await;
    invalid_client(&answer, "a secret");
    assert!(!format!("{answer:?}").contains("s3cret"), "{answer:?}");
    let basic = TokenApi::form_request(TOKEN, &credentials).authorization("Basic YWxpY2U6czNjcmV0");
    invalid_client(&api.send(&basic).await, "Basic");
    let saml = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer";
    let other = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", saml),
        ("client_assertion", &signed),
    ];
    invalid_client(&api.form(TOKEN, &other).await, "another type");
    let untyped = [("grant_type", "client_credentials"), ("client_assertion", &signed)];
    fails(&api.form(TOKEN, &untyped).await, 400, "invalid_request");
}

#[tokio::test]
async fn errors_have_the_names_of_the_rfc() {
    let world = World::start();
    let World { api, key, .. } = &world;
    let fresh = || assertion(&json!(ISSUER), key);
    for (parameters, error) in [
        (vec![], "invalid_request"),
        (vec![("grant_type", "")], "invalid_request"),
        (
            vec![("grant_type", "password"), ("username", "alice"), ("password", "x")],
            "unsupported_grant_type",
        ),
        (vec![("grant_type", "authorization_code")], "unsupported_grant_type"),
        (vec![("grant_type", "refresh_token")], "invalid_request"),
        (vec![("grant_type", "refresh_token"), ("refresh_token", "csr_x")], "invalid_grant"),
        (vec![("grant_type", "refresh_token"), ("grant_type", "refresh_token")], "invalid_request"),
    ] {
        fails(&api.form(TOKEN, &parameters).await, 400, error);
    }
    fails(&api.client(&fresh(), &[("scope", "read admin")]).await, 400, "invalid_scope");
    fails(&api.client(&fresh(), &[("scope", "\"")]).await, 400, "invalid_scope");
    fails(
        &api.client(&fresh(), &[("scope", "read"), ("scope", "read")]).await,
        400,
        "invalid_request",
    );
}

#[tokio::test]
async fn a_refresh_token_earns_the_next() {
    let world = World::start();
    let World { deployment, api, key, .. } = &world;
    deployment.done(&["principal", "add", "bob"]);
    let (pair, bobs) = (deployment.tokens("alice"), deployment.tokens("bob"));
    let refresh = |token: &str| {
        vec![("grant_type", "refresh_token".to_owned()), ("refresh_token", token.to_owned())]
    };

    let answer = api.parameters(&refresh(&pair.refresh)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        members(&answer.json()),
        ["access_token", "expires_in", "refresh_token", "scope", "token_type"]
    );
    let next = Pair::of(&answer);
    assert_ne!(next.refresh, pair.refresh);

    let with_client = |token: &str| {
        let client = [
            ("client_assertion_type", JWT_BEARER.to_owned()),
            ("client_assertion", assertion(&json!(ISSUER), key)),
        ];
        [refresh(token), client.to_vec()].concat()
    };
    fails(&api.parameters(&with_client(&bobs.refresh)).await, 400, "invalid_grant");
    assert_eq!(api.parameters(&refresh(&bobs.refresh)).await.status, 200, "it is not spent");
    let again = with_client(&next.refresh);
    assert_eq!(api.parameters(&again).await.status, 200);
    invalid_client(&api.parameters(&again).await, "a replayed assertion");
}

/// On every replica, as fast as any other change.
#[tokio::test]
async fn what_a_key_or_a_trust_earned_ends_with_it() {
    let server = JwksServer::https();
    let deployment = Deployment::on(Database::postgres()).trusting(&server);
    let (revoked, spared, remote) = (Key::ed25519(), Key::rsa(), Signer::named("remote"));
    server.put("/keys", Behaviour::set([remote.jwk()]));
    deployment.done(&["principal", "add", "alice"]);
    let [revoked_id, _] = [&revoked, &spared].map(|key| deployment.add_key("alice", key));
    let trust_id = deployment.add_trust("alice", &server.url("/keys"));
    let redis = Redis::start();
    let deployment = deployment.nonces_in(&redis);
    let replicas = [(); 2].map(|()| deployment.serve());
    let api = TokenApi::of(&replicas[0]);
    let mut earned = Vec::new();
    for key in [&revoked, &spared] {
        earned.push(token_of(&api.client(&assertion(&json!(ISSUER), key), &[]).await));
    }
    let by_trust = Claims::registered("alice")
        .with("aud", ISSUER)
        .with_header("kid", remote.kid.as_str())
        .sign(&remote.key);
    earned.push(token_of(&api.client(&by_trust, &[]).await));
    let listed = deployment.list(&["token", "list", "alice"]);
    let origins: Vec<_> =
        listed.iter().map(|grant| (id(&grant["key_id"]), id(&grant["trust_id"]))).collect();
    assert_eq!(
        (&origins[0], &origins[2]),
        (&(revoked_id.clone(), "null".to_owned()), &("null".to_owned(), trust_id.clone()))
    );

    let passing = async |expected: [bool; 3]| {
        for replica in &replicas {
            eventually_async(
                "exactly those that should pass",
                Duration::from_secs(2),
                async || {
                    for (token, passes) in earned.iter().zip(expected) {
                        if (replica.decide(&format!("Bearer {token}")).await.status == 200)
                            != passes
                        {
                            return None;
                        }
                    }
                    Some(())
                },
            )
            .await;
        }
    };
    passing([true; 3]).await;
    deployment.done(&["key", "revoke", &revoked_id]);
    passing([false, true, true]).await;
    deployment.done(&["trust", "remove", &trust_id]);
    passing([false, true, false]).await;
}

/// A replica that has not seen the change verifies the assertion with what it knows, and issues
/// tokens to the principal that it verified.
#[tokio::test]
async fn a_client_that_is_gone_earns_nothing_even_where_nobody_knows() {
    type Change = fn(&Deployment, &str);
    let changes: [(&str, Change); 3] = [
        ("removed, and another has the name", |deployment, _| {
            deployment.done(&["principal", "remove", "alice"]);
            deployment.done(&["principal", "add", "alice", "--scope", "admin"]);
        }),
        ("disabled", |deployment, _| drop(deployment.done(&["principal", "disable", "alice"]))),
        ("its key revoked", |deployment, key| drop(deployment.done(&["key", "revoke", key]))),
    ];
    for (what, change) in changes {
        let (deployment, key) =
            (Deployment::new().set("registry.poll_interval", "1m"), Key::ed25519());
        let id = deployment.enrol("alice", &key);
        let countersign = deployment.serve();
        let api = TokenApi::of(&countersign);
        assert_eq!(api.client(&assertion(&json!(ISSUER), &key), &[]).await.status, 200);
        change(&deployment, &id);
        let before = deployment.list(&["token", "list"]).len();
        let answer = api.client(&assertion(&json!(ISSUER), &key), &[]).await;
        invalid_client(&answer, what);
        assert_eq!(deployment.list(&["token", "list"]).len(), before, "{what}");
    }
}

/// No token issued for a key is valid longer than the key.
#[tokio::test]
async fn what_a_key_earned_is_over_when_the_key_is() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.done(&["principal", "add", "alice"]);
    deployment.add_key_with("alice", &key, &["--expires-in", "5m"]);
    let countersign = deployment.serve();
    let api = TokenApi::of(&countersign);
    let answer = api.client(&assertion(&json!(ISSUER), &key), &[]).await;
    let expires_in = answer.json()["expires_in"].as_u64().unwrap();
    assert!((200..=300).contains(&expires_in), "{answer:?}");
    let claims = claims_in(answer.json()["access_token"].as_str().unwrap());
    assert!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap() <= 300, "{claims}");
}

struct World {
    deployment: Deployment,
    countersign: Countersign,
    api: TokenApi,
    key: Key,
}

impl World {
    fn start() -> Self {
        let (deployment, key) = (Deployment::new(), Key::ed25519());
        deployment.done(&["principal", "add", "alice", "--scope", "read write"]);
        deployment.add_key("alice", &key);
        let countersign = deployment.serve();
        Self { api: TokenApi::of(&countersign), deployment, countersign, key }
    }
}

impl TokenApi {
    async fn client(&self, assertion: &str, more: &[(&str, &str)]) -> Answer {
        let client = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", JWT_BEARER),
            ("client_assertion", assertion),
        ];
        self.form(TOKEN, &[&client, more].concat()).await
    }

    async fn parameters(&self, parameters: &[(&str, String)]) -> Answer {
        let parameters: Vec<(&str, &str)> =
            parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.form(TOKEN, &parameters).await
    }
}

fn assertion(audience: &Value, key: &Key) -> String {
    Claims::registered("alice").with("sub", "alice").with("aud", audience.clone()).sign(key)
}

fn token_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn id(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn invalid_client(answer: &Answer, why: &str) {
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (401, &json!("invalid_client")),
        "{why}: {answer:?}"
    );
}

fn fails(answer: &Answer, status: u16, error: &str) {
    assert_eq!((answer.status, &answer.json()["error"]), (status, &json!(error)), "{answer:?}");
}
