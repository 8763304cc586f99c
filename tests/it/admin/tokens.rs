//! Tokens through the admin API: issued to a principal, listed, revoked.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::http::Request;
use crate::harness::{Admin, Countersign, Database, Deployment, eventually_async, now};

/// The promise is one second; the rest is for a busy machine.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_token_is_given_shown_once_and_revoked() {
    for database in [Database::sqlite(), Database::postgres(), Database::mariadb()] {
        let (_deployment, countersign, admin) = start(Deployment::on(database));
        admin.add(&json!({ "username": "alice", "scopes": ["read", "write"] })).await;
        let answer = admin.post("/principals/alice/tokens", &json!({})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let issued = answer.json();
        let (record, [access_token, refresh_token]) = without_secrets(&issued);
        assert_eq!(
            (&issued["token_type"], &issued["expires_in"]),
            (&json!("Bearer"), &json!(1800))
        );
        assert!(refresh_token.starts_with("csr_") && refresh_token.len() == 53, "{refresh_token}");
        let path = format!("/tokens/{}", record["id"]);
        assert_eq!(answer.header("location"), Some(format!("/admin/v1{path}").as_str()));
        let claims = claims(&access_token);
        assert_eq!(claims["jti"], record["access_jti"]);
        let expected = json!({
            "id": record["id"],
            "username": "alice",
            "family": record["family"],
            "access_jti": record["access_jti"],
            "refresh_jti": record["refresh_jti"],
            "audience": [],
            "sid": null,
            "scopes": ["read", "write"],
            "api_key_id": null,
            "key_id": null,
            "trust_id": null,
            "issued_at": record["issued_at"],
            "access_expires_at": record["access_expires_at"],
            "refresh_expires_at": record["refresh_expires_at"],
            "rotated_at": null,
            "revoked_at": null,
        });
        assert_eq!(record, expected);
        assert!(record["refresh_jti"].is_string() && record["refresh_expires_at"].is_string());
        assert_eq!(
            (admin.get(&path).await.json(), admin.all("/tokens").await),
            (record.clone(), vec![record.clone()])
        );

        let bearer = format!("Bearer {access_token}");
        let allowed = countersign.decide(&bearer).await;
        assert_eq!(
            (allowed.status, allowed.header("x-auth-username")),
            (200, Some("alice")),
            "{allowed:?}"
        );
        assert_eq!(
            (allowed.header("x-auth-method"), allowed.header("x-auth-scopes")),
            (Some("access_token"), Some("read write"))
        );

        let revoked = admin.delete(&path).await;
        assert_eq!(revoked.status, 200, "{revoked:?}");
        assert!(revoked.json()["revoked_at"].is_string());
        becomes(401, &countersign, &bearer).await;
        for again in [admin.delete(&path).await, admin.get(&path).await] {
            assert_eq!((again.status, again.json()), (200, revoked.json()));
        }

        let audit = admin.all("/audit").await;
        let actions: Vec<&Value> = audit.iter().map(|event| &event["action"]).collect();
        assert_eq!(actions, ["token.revoke", "token.issue", "principal.add"]);
        assert_eq!(
            (&audit[1]["subject_id"], &audit[1]["username"]),
            (&record["id"], &json!("alice"))
        );
        assert!(audit[1]["actor"].as_str().unwrap().starts_with("admin-api@"), "{audit:?}");
        let text = Value::from(audit).to_string();
        for secret in [access_token.as_str(), &refresh_token, "hash", "seed"] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
}

#[tokio::test]
async fn a_token_says_what_was_asked_for() {
    let (_deployment, _countersign, admin) =
        start(Deployment::new().set("issuer.audience", "gateway"));
    admin.add(&json!({ "username": "alice", "scopes": ["read", "write"] })).await;
    let asked = json!({ "audience": ["orders", "https://名前.example/"], "scopes": ["read", "admin"], "sid": "session 1" });
    let issued = admin.post("/principals/alice/tokens", &asked).await.json();
    assert_eq!(
        (&issued["audience"], &issued["sid"], &issued["scopes"]),
        (&asked["audience"], &asked["sid"], &json!(["read"]))
    );
    let said = claims(issued["access_token"].as_str().unwrap());
    assert_eq!(
        (&said["aud"], &said["sid"], &said["scope"]),
        (&asked["audience"], &asked["sid"], &json!("read"))
    );
    assert_eq!(admin.all("/tokens").await[0]["audience"], asked["audience"]);

    let usual = admin.send(&Admin::request("POST", "/principals/alice/tokens")).await.json();
    assert_eq!(
        (&usual["audience"], &usual["scopes"]),
        (&json!(["gateway"]), &json!(["read", "write"]))
    );
    let nobody = admin
        .post("/principals/alice/tokens", &json!({ "audience": [], "scopes": [] }))
        .await
        .json();
    assert_eq!((&nobody["audience"], &nobody["scopes"]), (&json!([]), &json!([])));
    assert!(claims(nobody["access_token"].as_str().unwrap())["aud"].is_null());

    let longest = "ü".repeat(255);
    let many: Vec<String> = (0..21).map(|number| format!("audience-{number}")).collect();
    assert_eq!(
        admin
            .post(
                "/principals/alice/tokens",
                &json!({ "audience": vec![&longest; 20], "sid": longest })
            )
            .await
            .status,
        201
    );
    for (body, member) in [
        (json!({ "audience": ["orders", "a b"] }), "audience[1]"),
        (json!({ "audience": [""] }), "audience[0]"),
        (json!({ "audience": [format!("{longest}x")] }), "audience[0]"),
        (json!({ "audience": many }), "audience"),
        (json!({ "audience": "orders" }), "audience"),
        (json!({ "sid": "" }), "sid"),
        (json!({ "sid": format!("{longest}x") }), "sid"),
        (json!({ "scopes": ["a b"] }), "scopes"),
        (json!({ "aud": ["orders"] }), "aud"),
    ] {
        let refused = admin.post("/principals/alice/tokens", &body).await;
        assert_eq!(
            (refused.status, &refused.json()["member"]),
            (400, &json!(member)),
            "{body}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn who_is_disabled_or_unknown_is_given_none() {
    let (_deployment, countersign, admin) = start(Deployment::new());
    admin.add(&json!({ "username": "alice", "is_active": false })).await;
    let refused = admin.post("/principals/alice/tokens", &json!({})).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.json()["detail"].as_str().unwrap().contains("disabled"), "{refused:?}");
    for path in ["/principals/nobody/tokens", "/tokens/1"] {
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
    assert_eq!(admin.post("/principals/nobody/tokens", &json!({})).await.status, 404);
    assert_eq!(admin.all("/tokens").await, [] as [Value; 0]);

    admin.patch("/principals/alice", &json!({ "is_active": true })).await;
    assert_eq!(admin.post("/principals/alice/tokens", &json!({})).await.status, 201);
    let metrics = Request::get("/metrics").send(countersign.admin).await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    for (outcome, count) in [("granted", 1), ("refused", 2), ("unavailable", 0)] {
        let line = format!(
            "countersign_token_grants_total{{grant=\"minted\",outcome=\"{outcome}\"}} {count}\n"
        );
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    assert!(metrics.contains("countersign_decisions_total{"), "{metrics}");
}

#[tokio::test]
async fn tokens_are_listed_page_by_page() {
    let (_deployment, _countersign, admin) = start(Deployment::new());
    for username in ["alice", "bob"] {
        admin.add(&json!({ "username": username })).await;
        for _ in 0..3 {
            assert_eq!(
                admin.post(&format!("/principals/{username}/tokens"), &json!({})).await.status,
                201
            );
        }
    }
    for list in ["/tokens", "/principals/alice/tokens"] {
        let all = admin.all(list).await;
        assert_eq!(admin.all(&format!("{list}?limit=2")).await, all, "{list}");
        assert_eq!(admin.all(&format!("{list}?limit=3")).await, all, "{list}");
    }
    assert_eq!(
        (admin.all("/tokens").await.len(), admin.all("/principals/bob/tokens").await.len()),
        (6, 3)
    );
    let cursor =
        admin.get("/tokens?limit=1").await.json()["next_cursor"].as_str().unwrap().to_owned();
    for other in ["/jwks-trusts", "/api-keys"] {
        assert_eq!(admin.get(&format!("{other}?cursor={cursor}")).await.status, 400, "{other}");
    }
}

/// Tokens of one family are revoked together; other families are left alone, unless a principal may
/// have only one.
#[tokio::test]
async fn families_are_revoked_alone_unless_there_may_be_one_only() {
    for (several, revoked) in [("true", [false, false]), ("false", [true, false])] {
        let (_deployment, countersign, admin) =
            start(Deployment::new().set("issuer.multiple_tokens", several));
        admin.add(&json!({ "username": "alice" })).await;
        let mut bearers = Vec::new();
        for _ in 0..2 {
            let issued = admin.post("/principals/alice/tokens", &json!({})).await.json();
            bearers.push(format!("Bearer {}", issued["access_token"].as_str().unwrap()));
        }
        let listed: Vec<bool> = admin
            .all("/tokens")
            .await
            .iter()
            .map(|token| token["revoked_at"].is_string())
            .collect();
        assert_eq!(listed, revoked);
        for (bearer, is_revoked) in bearers.iter().zip(revoked) {
            becomes(if is_revoked { 401 } else { 200 }, &countersign, bearer).await;
        }
        assert_eq!(admin.delete("/tokens/2").await.status, 200);
        let listed: Vec<bool> = admin
            .all("/tokens")
            .await
            .iter()
            .map(|token| token["revoked_at"].is_string())
            .collect();
        assert_eq!(listed, [revoked[0], true]);
    }
}

fn start(deployment: Deployment) -> (Deployment, Countersign, Admin) {
    let deployment = deployment.administered();
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    (deployment, countersign, admin)
}

/// The record, and the access and refresh tokens that were issued with it.
fn without_secrets(issued: &Value) -> (Value, [String; 2]) {
    let mut record = issued.clone();
    let members = record.as_object_mut().unwrap();
    let secrets = ["access_token", "refresh_token"]
        .map(|name| members.remove(name).unwrap().as_str().unwrap().to_owned());
    for name in ["token_type", "expires_in"] {
        members.remove(name).unwrap();
    }
    (record, secrets)
}

/// The claims of an access token.
fn claims(token: &str) -> Value {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    assert!((claims["iat"].as_i64().unwrap() - now()).abs() < 60, "{claims}");
    claims
}

async fn becomes(status: u16, countersign: &Countersign, authorization: &str) {
    eventually_async(&format!("the token is told {status}"), IN_FORCE_WITHIN, async || {
        (countersign.decide(authorization).await.status == status).then_some(())
    })
    .await;
}
