//! `/authenticate`, `/refresh` and `/validate`, as jwthenticator's clients use them; the key set;
//! and rules for all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::harness::http::{Answer, Request};
use crate::harness::{
    ADMIN_TOKEN, ApiKey, Countersign, Database, Deployment, Key, TokenApi, claims_in,
    eventually_async, members,
};

const PATIENCE: Duration = Duration::from_secs(20);
const STRANGER: &str = "00000000-0000-4000-8000-000000000000";
const ENDPOINTS: [&str; 7] = [
    "/authenticate",
    "/refresh",
    "/validate",
    "/token/refresh",
    "/token/introspection",
    "/token/revoke",
    "/oauth2/token",
];

#[tokio::test]
async fn an_api_key_earns_tokens_that_pass() {
    let world = World::start();
    let World { countersign, api, key, .. } = &world;

    let answer = api.authenticate(key).await;

    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json")),
        "{answer:?}"
    );
    assert_eq!(members(&answer.json()), ["jwt", "refresh_token"]);
    let pair = api.login(key).await;
    let claims = claims_in(&pair.access);
    assert_eq!(
        (&claims["username"], &claims["identifier"]),
        (&json!("alice"), &json!(key.identifier))
    );
    let allow = countersign.decide(&format!("Bearer {}", pair.access)).await;
    assert_eq!((allow.status, allow.header("x-auth-username")), (200, Some("alice")), "{allow:?}");
    assert_eq!(allow.header("x-auth-method"), Some("access_token"));

    let refreshed = api.post("/refresh", &refresh_request(&pair.refresh, &key.identifier)).await;
    assert_eq!((refreshed.status, members(&refreshed.json())), (200, vec!["jwt"]), "{refreshed:?}");
    let next = refreshed.json()["jwt"].as_str().unwrap().to_owned();
    assert_ne!(next, pair.access);
    for token in [&pair.access, &next] {
        let valid = api.post("/validate", &json!({"jwt": token})).await;
        assert_eq!((valid.status, valid.json()), (200, json!({"result": true})));
    }
    // The same refresh token, as often as its client likes.
    assert_eq!(
        api.post("/refresh", &refresh_request(&pair.refresh, &key.identifier)).await.status,
        200
    );
    // Any notation of a UUID is accepted.
    let other =
        json!({"key": key.key, "identifier": key.identifier.replace('-', "").to_uppercase()});
    assert_eq!(api.post("/authenticate", &other).await.status, 200);
}

/// However often the refresh token is exchanged, no token is valid longer than the API key.
#[tokio::test]
async fn what_an_api_key_earned_is_over_when_the_key_is() {
    let world = World::start();
    let World { deployment, api, .. } = &world;
    let issued: Value = serde_json::from_str(&deployment.done(&[
        "api-key",
        "issue",
        "alice",
        "--expires-in",
        "5m",
        "--output",
        "json",
    ]))
    .unwrap();
    let issued = issued.as_array().map_or(&issued, |rows| &rows[0]).clone();
    let text = |member: &str| issued[member].as_str().unwrap().to_owned();
    let key =
        ApiKey { id: issued["id"].to_string(), key: text("key"), identifier: text("identifier") };
    let pair = api.login(&key).await;
    let in_place =
        api.post("/refresh", &refresh_request(&pair.refresh, &key.identifier)).await.json();
    let next = api.rotated(&pair.refresh).await;
    let last = api.rotated(&next.refresh).await;

    let until = OffsetDateTime::parse(&text("expires_at"), &Rfc3339).unwrap();
    for token in [&pair.access, in_place["jwt"].as_str().unwrap(), &next.access, &last.access] {
        assert!(
            claims_in(token)["exp"].as_i64().unwrap() <= until.unix_timestamp(),
            "{}",
            claims_in(token)
        );
    }
    let grants: Vec<Value> = deployment.list(&["token", "list", "alice"]);
    let earned: Vec<_> =
        grants.iter().filter(|grant| grant["api_key_id"] == issued["id"]).collect();
    assert_eq!(earned.len(), 4);
    for end in
        earned.iter().flat_map(|grant| [&grant["access_expires_at"], &grant["refresh_expires_at"]])
    {
        let Some(end) = end.as_str().filter(|end| !end.is_empty()) else { continue };
        assert_eq!(OffsetDateTime::parse(end, &Rfc3339).unwrap(), until, "{earned:#?}");
    }
}

#[tokio::test]
async fn refusals_look_alike() {
    let world = World::start();
    let World { deployment, api, key, .. } = &world;
    let (revoked, disabled) = (deployment.api_key("alice"), {
        deployment.done(&["principal", "add", "bob"]);
        deployment.api_key("bob")
    });
    let (pair, ended, bobs) =
        (api.login(key).await, api.login(&revoked).await, api.login(&disabled).await);
    deployment.done(&["api-key", "revoke", &revoked.id]);
    deployment.done(&["principal", "disable", "bob"]);

    let mut answers = Vec::new();
    for (secret, identifier) in [
        (revoked.key.as_str(), revoked.identifier.as_str()),
        (&disabled.key, &disabled.identifier),
        (&key.key, STRANGER),
        (&key.key, &disabled.identifier),
        ("csk_made_up", &key.identifier),
        ("", &key.identifier),
        (&pair.refresh, &key.identifier),
        (&key.id, &key.identifier),
    ] {
        answers.push(
            api.post("/authenticate", &json!({"key": secret, "identifier": identifier})).await,
        );
    }
    alike(&answers);
    let mut answers = Vec::new();
    for (token, identifier) in [
        (ended.refresh.as_str(), revoked.identifier.as_str()),
        (&bobs.refresh, &disabled.identifier),
        (&pair.refresh, STRANGER),
        ("csr_made_up", &key.identifier),
        (&key.key, &key.identifier),
        (&pair.access, &key.identifier),
        ("", &key.identifier),
    ] {
        answers.push(api.post("/refresh", &refresh_request(token, identifier)).await);
    }
    alike(&answers);
    assert_eq!(
        api.post("/refresh", &refresh_request(&pair.refresh, &key.identifier)).await.status,
        200
    );
}

#[tokio::test]
async fn what_is_malformed_is_400_and_not_repeated() {
    let world = World::start();
    let World { api, key, .. } = &world;
    let pair = api.login(key).await;
    let good = json!({"key": key.key, "identifier": key.identifier});
    let with = |member: &str, value: Value| {
        let mut changed = good.clone();
        changed[member] = value;
        changed.to_string()
    };
    for body in [
        String::new(),
        "{".to_owned(),
        "null".to_owned(),
        json!(key.key).to_string(),
        json!([key.key, key.identifier]).to_string(),
        format!("{good}{good}"),
        json!({"key": key.key}).to_string(),
        json!({"identifier": key.identifier}).to_string(),
        with("identifier", json!(key.key)),
        with("identifier", Value::Null),
        with("identifier", json!(1)),
        with("key", json!(1)),
        with("key", json!([key.key])),
        with("extra", json!(key.key)),
        format!(r#"{{"key": "{0}", "key": "{0}", "identifier": "{1}"}}"#, key.key, key.identifier),
    ] {
        let answer = api.send(&as_json("/authenticate", &body)).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (400, &json!("invalid_request")),
            "{body}: {answer:?}"
        );
        assert!(!format!("{answer:?}").contains(&key.key), "{answer:?}");
    }
    for (path, body) in [
        ("/refresh", json!({"refresh_token": pair.refresh})),
        ("/refresh", json!({"refresh_token": pair.refresh, "identifier": "x"})),
        (
            "/refresh",
            json!({"refresh_token": pair.refresh, "identifier": key.identifier, "jwt": pair.access}),
        ),
        ("/validate", json!({})),
        ("/validate", json!({"jwt": 1})),
        ("/validate", json!({"jwt": pair.access, "extra": 1})),
    ] {
        assert_eq!(api.post(path, &body).await.status, 400, "{path} {body}");
    }
    for token in ["", "x", "a.b.c", "a, b", &pair.refresh, &key.key] {
        assert_eq!(api.validate(token).await, 401, "{token}");
    }
}

#[tokio::test]
async fn methods_sizes_and_media_types_are_told() {
    let world = World::start();
    let World { api, .. } = &world;
    for path in ENDPOINTS {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = api.send(&Request::new(method, path)).await;
            assert_eq!(
                (answer.status, answer.header("allow")),
                (405, Some("POST")),
                "{method} {path}: {answer:?}"
            );
        }
        // These two authenticate the caller first.
        if !["/token/introspection", "/token/revoke"].contains(&path) {
            let answer = api
                .send(&Request::new("POST", path).header("Content-Type", "text/xml").body("<key/>"))
                .await;
            // jwthenticator ignores the content type.
            let expected =
                if ["/authenticate", "/refresh", "/validate"].contains(&path) { 400 } else { 415 };
            assert_eq!(answer.status, expected, "{path}: {answer:?}");
        }
    }
    let large = "x".repeat(70_000);
    for request in [
        as_json("/authenticate", &json!({"key": large, "identifier": STRANGER}).to_string()),
        as_json("/token/refresh", &json!({"token": large}).to_string()),
        TokenApi::form_request("/oauth2/token", &[("grant_type", &large)]),
    ] {
        assert_eq!(api.send(&request).await.status, 413);
    }
    assert_eq!(
        api.form("/authenticate", &[("key", "x"), ("identifier", STRANGER)]).await.status,
        400
    );
    assert_eq!(
        api.post("/oauth2/token", &json!({"grant_type": "client_credentials"})).await.status,
        415
    );
    // jwthenticator accepts a body without a content type.
    let bare = Request::new("POST", "/authenticate")
        .body(json!({"key": "x", "identifier": STRANGER}).to_string());
    assert_eq!(api.send(&bare).await.status, 401);
}

#[tokio::test]
async fn the_key_set_is_public_and_kept_for_a_while() {
    let world = World::start();
    let World { api, key, .. } = &world;
    let pair = api.login(key).await;
    let mut seen = Vec::new();
    for path in ["/jwks", "/.well-known/jwks.json"] {
        let set = Request::get(path).send(api.address).await;
        assert_eq!(
            (set.status, set.header("content-type")),
            (200, Some("application/json")),
            "{set:?}"
        );
        assert_eq!(
            set.header("cache-control"),
            Some("public, max-age=150"),
            "half of issuer.signing_key_delay"
        );
        let tag = set.header("etag").unwrap();
        for known in [tag, &format!("W/{tag}, \"x\""), "*"] {
            let unchanged =
                Request::get(path).header("If-None-Match", known).send(api.address).await;
            assert_eq!(
                (unchanged.status, unchanged.header("etag")),
                (304, Some(tag)),
                "{known}: {unchanged:?}"
            );
        }
        assert_eq!(
            Request::get(path).header("If-None-Match", "\"x\"").send(api.address).await.status,
            200
        );
        let head = Request::new("HEAD", path).send(api.address).await;
        assert_eq!((head.status, head.header("etag")), (200, Some(tag)), "{head:?}");
        let post = api.post(path, &json!({})).await;
        assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")), "{post:?}");
        seen.push(set.json());
    }
    assert_eq!(seen[0], seen[1]);
    assert!(!seen[0].to_string().contains("\"d\""), "{seen:?}");
    let verified = jsonwebtoken_verifies(&pair.access, &seen[0]);
    assert_eq!(verified["username"], "alice");
}

#[tokio::test]
async fn without_the_token_api_the_keys_stay() {
    let deployment = Deployment::new().set("server.token_api", "false");
    let key = Key::ed25519();
    deployment.enrol("alice", &key);
    let tokens = deployment.tokens("alice");
    let countersign = deployment.serve();
    for path in ENDPOINTS.into_iter().chain(["/.well-known/oauth-authorization-server"]) {
        for method in ["GET", "POST"] {
            let answer = Request::new(method, path).send(countersign.http).await;
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
        }
    }
    for path in ["/jwks", "/.well-known/jwks.json"] {
        assert_eq!(Request::get(path).send(countersign.http).await.status, 200);
    }
    assert_eq!(countersign.decide(&format!("Bearer {}", tokens.access)).await.status, 200);
}

#[tokio::test]
async fn everything_is_under_the_prefix() {
    let deployment = Deployment::new()
        .set("server.url_prefix", "/auth")
        .set("issuer.url", "https://example.com/auth/");
    deployment.done(&["principal", "add", "alice"]);
    let (key, countersign) = (deployment.api_key("alice"), deployment.serve());
    let api = TokenApi::of(&countersign).under("/auth");
    let pair = api.login(&key).await;
    assert_eq!(api.validate(&pair.access).await, 200);
    assert_eq!(
        TokenApi::json("/authenticate", &json!({})).send(countersign.http).await.status,
        404
    );
    assert_eq!(Request::get("/auth/jwks").send(countersign.http).await.status, 200);
    for path in [
        "/auth/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/auth",
    ] {
        let metadata = Request::get(path).send(countersign.http).await.json();
        assert_eq!(metadata["issuer"], "https://example.com/auth/");
        assert_eq!(metadata["token_endpoint"], "https://example.com/auth/oauth2/token");
    }
}

#[tokio::test]
async fn metadata_names_what_there_is() {
    let world = World::start();
    let World { api, .. } = &world;
    let answer = Request::get("/.well-known/oauth-authorization-server").send(api.address).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json")),
        "{answer:?}"
    );
    let metadata = answer.json();
    assert_eq!(metadata["issuer"], "http://localhost:8080");
    assert_eq!(metadata["grant_types_supported"], json!(["client_credentials", "refresh_token"]));
    for (member, method) in [
        ("token_endpoint", "POST"),
        ("introspection_endpoint", "POST"),
        ("revocation_endpoint", "POST"),
        ("jwks_uri", "GET"),
    ] {
        let path = metadata[member]
            .as_str()
            .unwrap()
            .strip_prefix("http://localhost:8080")
            .unwrap()
            .to_owned();
        let answer = Request::new(method, &path).send(api.address).await;
        assert!(answer.status != 404 && answer.status != 405, "{path}: {answer:?}");
    }
}

/// A shared secret is not published.
#[tokio::test]
async fn with_a_shared_secret_there_is_no_key_to_show() {
    let deployment = Deployment::new();
    let secret = deployment.file("hs256", "0123456789abcdef0123456789abcdef");
    let deployment = deployment
        .set("issuer.hs256_secret_file", secret.to_str().unwrap())
        .set("issuer.algorithm", "RS256");
    deployment.done(&["principal", "add", "alice"]);
    let (key, countersign) = (deployment.api_key("alice"), deployment.serve());
    let api = TokenApi::of(&countersign);
    let pair = api.login(&key).await;
    assert_eq!(api.validate(&pair.access).await, 200);
    assert_eq!(Request::get("/jwks").send(api.address).await.json(), json!({"keys": []}));
    let metadata =
        Request::get("/.well-known/oauth-authorization-server").send(api.address).await.json();
    assert_eq!(metadata["jwks_uri"], Value::Null);
}

#[tokio::test]
async fn secrets_stay_out_of_the_metrics_and_grants_are_counted() {
    let world = World::start();
    let World { countersign, api, key, .. } = &world;
    api.login(key).await;
    api.post("/authenticate", &json!({"key": "x", "identifier": STRANGER})).await;
    let metrics = Request::get("/metrics").send(countersign.admin).await;
    let text = String::from_utf8(metrics.body).unwrap();
    for line in [
        r#"countersign_token_grants_total{grant="api_key",outcome="granted"} 1"#,
        r#"countersign_token_grants_total{grant="api_key",outcome="refused"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(!text.contains(&key.key), "{text}");
}

/// During an outage tokens are neither refused nor granted, and clients keep their credentials.
#[tokio::test]
async fn an_outage_is_503() {
    let mut deployment = Deployment::on(Database::postgres());
    deployment.done(&["principal", "add", "alice"]);
    let (key, countersign) = (deployment.api_key("alice"), deployment.serve());
    let api = TokenApi::of(&countersign);
    let pair = api.login(&key).await;
    assert_eq!(api.validate(&pair.access).await, 200, "from now on alice is in memory");
    deployment.lose_the_database();
    for answer in [
        api.authenticate(&key).await,
        api.post("/refresh", &refresh_request(&pair.refresh, &key.identifier)).await,
        api.rotate(&pair.refresh).await,
        api.form(
            "/oauth2/token",
            &[("grant_type", "refresh_token"), ("refresh_token", &pair.refresh)],
        )
        .await,
        api.post_as(&pair.access, "/token/introspection", &json!({"token": pair.refresh})).await,
        api.post_as(&pair.access, "/token/revoke", &json!({"token": pair.refresh})).await,
    ] {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
        assert_eq!(answer.json()["error"], "temporarily_unavailable");
    }
    assert_eq!(api.validate(&pair.access).await, 200, "decisions go on");
    deployment.restore_the_database();
    eventually_async("it does not recover", PATIENCE, async || {
        (api.rotate(&pair.refresh).await.status == 201).then_some(())
    })
    .await;
}

/// Alice with an API key, and a service.
struct World {
    deployment: Deployment,
    countersign: Countersign,
    api: TokenApi,
    key: ApiKey,
}

impl World {
    fn start() -> Self {
        let deployment = Deployment::new().set("admin.token", ADMIN_TOKEN);
        deployment.done(&["principal", "add", "alice"]);
        let (key, countersign) = (deployment.api_key("alice"), deployment.serve());
        Self { api: TokenApi::of(&countersign), deployment, countersign, key }
    }
}

fn refresh_request(token: &str, identifier: &str) -> Value {
    json!({"refresh_token": token, "identifier": identifier})
}

fn as_json(path: &str, body: &str) -> Request {
    Request::new("POST", path).header("Content-Type", "application/json").body(body)
}

/// 401, with the same answer for every reason.
fn alike(answers: &[Answer]) {
    for answer in answers {
        assert_eq!(answer.status, 401, "{answer:?}");
        let headers = |answer: &Answer| {
            answer
                .headers
                .iter()
                .filter(|(name, _)| name != "date")
                .cloned()
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(
            (headers(answer), &answer.body),
            (headers(&answers[0]), &answers[0].body),
            "{answer:?}"
        );
    }
}

/// Verified by another library, with nothing but the key set.
fn jsonwebtoken_verifies(token: &str, key_set: &Value) -> Value {
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(key_set.clone()).unwrap();
    let header = jsonwebtoken::decode_header(token).unwrap();
    let jwk = keys.find(header.kid.as_deref().unwrap()).unwrap();
    let mut validation = jsonwebtoken::Validation::new(header.alg);
    validation.set_issuer(&["http://localhost:8080"]);
    jsonwebtoken::decode(token, &jsonwebtoken::DecodingKey::from_jwk(jwk).unwrap(), &validation)
        .unwrap()
        .claims
}
