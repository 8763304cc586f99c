//! API keys through the admin API: shown once, listed, revoked.

use std::time::Duration;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::harness::http::Request;
use crate::harness::{Admin, Countersign, Database, Deployment, eventually_async, now};

const IDENTIFIER: &str = "6f2f4f5e-0c39-4a0e-9f6c-3a4b6f0b7a11";
const DAY: i64 = 86_400;

#[tokio::test]
async fn a_key_is_shown_once() {
    for database in [Database::sqlite(), Database::postgres(), Database::mariadb()] {
        let (_deployment, _countersign, admin) = start(Deployment::on(database));
        admin.add(&json!({ "username": "alice" })).await;
        let asked = json!({ "identifier": IDENTIFIER, "comment": "nightly", "expires_at": "2096-01-01T00:00:00Z" });
        let issued = admin.post("/principals/alice/api-keys", &asked).await;
        assert_eq!(issued.status, 201, "{issued:?}");
        let (record, key) = without_key(&issued.json());
        assert!(key.starts_with("csk_") && key.len() == 53, "{key}");
        let expected = json!({
            "id": record["id"],
            "username": "alice",
            "identifier": IDENTIFIER,
            "comment": "nightly",
            "expires_at": "2096-01-01T00:00:00Z",
            "revoked_at": null,
            "last_used_on": null,
            "created_at": record["created_at"],
        });
        assert_eq!(record, expected);
        assert!((seconds(&record["created_at"]) - now()).abs() < 60);

        let path = format!("/api-keys/{}", record["id"]);
        assert_eq!(issued.header("location"), Some(format!("/admin/v1{path}").as_str()));
        let shown = admin.get(&path).await;
        assert_eq!((shown.status, shown.json()), (200, record.clone()));
        assert_eq!(shown.header("etag"), issued.header("etag"));
        for list in ["/api-keys", "/principals/alice/api-keys"] {
            assert_eq!(admin.all(list).await, std::slice::from_ref(&record), "{list}");
        }
        let audit = admin.all("/audit").await;
        assert_eq!(
            (&audit[0]["action"], &audit[0]["subject_id"]),
            (&json!("api_key.add"), &record["id"])
        );
        assert_eq!(audit[0]["after"]["identifier"], IDENTIFIER);
        is_nowhere_in(&audit, &[&key, "hash"]);
    }
}

#[tokio::test]
async fn nothing_has_to_be_said_about_a_key() {
    let (_deployment, _countersign, admin) = start(Deployment::new());
    admin.add(&json!({ "username": "alice" })).await;
    let mut identifiers = Vec::new();
    let nulls = json!({ "identifier": null, "comment": null, "expires_at": null });
    for answer in [
        admin.send(&Admin::request("POST", "/principals/alice/api-keys")).await,
        admin
            .send(
                &Admin::request("POST", "/principals/alice/api-keys").header("Content-Length", "0"),
            )
            .await,
        admin.post("/principals/alice/api-keys", &json!({})).await,
        admin.post("/principals/alice/api-keys", &nulls).await,
    ] {
        assert_eq!(answer.status, 201, "{answer:?}");
        let issued = answer.json();
        let lifetime = seconds(&issued["expires_at"]) - now();
        assert!((120 * DAY - 60..=120 * DAY + 1).contains(&lifetime), "{issued:#}");
        assert_eq!(issued["comment"], Value::Null);
        identifiers.push(issued["identifier"].as_str().unwrap().to_owned());
    }
    identifiers.sort();
    identifiers.dedup();
    assert_eq!(identifiers.len(), 4);

    let (_deployment, _countersign, admin) =
        start(Deployment::new().set("issuer.api_key_lifetime", "1d"));
    admin.add(&json!({ "username": "alice" })).await;
    let lifetime =
        seconds(&admin.post("/principals/alice/api-keys", &json!({})).await.json()["expires_at"])
            - now();
    assert!((DAY - 60..=DAY + 1).contains(&lifetime), "{lifetime}");
}

#[tokio::test]
async fn what_cannot_be_a_key_is_told() {
    let (_deployment, _countersign, admin) = start(Deployment::new());
    admin.add(&json!({ "username": "alice" })).await;
    for (body, member) in [
        (json!({ "identifier": "x" }), json!("identifier")),
        (json!({ "identifier": 1 }), json!("identifier")),
        (json!({ "comment": "" }), json!("comment")),
        (json!({ "comment": "x".repeat(1001) }), json!("comment")),
        (json!({ "expires_at": "2020-01-01T00:00:00Z" }), json!("expires_at")),
        (json!({ "expires_at": "soon" }), json!("expires_at")),
        (json!({ "key": "of my own" }), json!("key")),
        (json!([]), Value::Null),
    ] {
        let refused = admin.post("/principals/alice/api-keys", &body).await;
        assert_eq!(
            (refused.status, &refused.json()["member"]),
            (400, &member),
            "{body}: {refused:?}"
        );
    }
    let text = Admin::request("POST", "/principals/alice/api-keys")
        .header("Content-Type", "text/plain")
        .body("{}");
    assert_eq!(admin.send(&text).await.status, 415);
    assert_eq!(
        admin.send(&Admin::request("POST", "/principals/alice/api-keys").body("{}")).await.status,
        415
    );
    assert_eq!(admin.post("/principals/nobody/api-keys", &json!({})).await.status, 404);
    assert_eq!(admin.get("/principals/nobody/api-keys").await.status, 404);
    assert_eq!(admin.all("/api-keys").await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_key_is_revoked_once_and_for_good() {
    let (_deployment, _countersign, admin) = start(Deployment::new());
    admin.add(&json!({ "username": "alice" })).await;
    let issued = admin.post("/principals/alice/api-keys", &json!({})).await;
    let path = format!("/api-keys/{}", issued.json()["id"]);
    let delete_if = async |tag: &str| {
        admin.send(&Admin::request("DELETE", &path).header("If-Match", tag)).await
    };

    assert_eq!(delete_if("\"0123456789abcdef\"").await.status, 412);
    let revoked = delete_if(issued.header("etag").unwrap()).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    assert!(
        revoked.json()["revoked_at"].is_string() && revoked.json()["key"].is_null(),
        "{revoked:?}"
    );
    assert_ne!(revoked.header("etag"), issued.header("etag"));
    assert_eq!(
        delete_if(issued.header("etag").unwrap()).await.status,
        412,
        "it is another state now"
    );
    for again in [admin.delete(&path).await, admin.get(&path).await] {
        assert_eq!(
            (again.status, again.json(), again.header("etag")),
            (200, revoked.json(), revoked.header("etag"))
        );
    }
    let actions: Vec<Value> =
        admin.all("/audit").await.iter().map(|event| event["action"].clone()).collect();
    assert_eq!(actions, ["api_key.revoke", "api_key.add", "principal.add"]);
}

#[tokio::test]
async fn keys_are_listed_page_by_page() {
    let (_deployment, _countersign, admin) = start(Deployment::new());
    for username in ["alice", "bob"] {
        admin.add(&json!({ "username": username })).await;
        for _ in 0..3 {
            assert_eq!(
                admin.post(&format!("/principals/{username}/api-keys"), &json!({})).await.status,
                201
            );
        }
    }
    for list in ["/api-keys", "/principals/alice/api-keys"] {
        let all = admin.all(list).await;
        assert_eq!(admin.all(&format!("{list}?limit=2")).await, all, "{list}");
        assert_eq!(admin.all(&format!("{list}?limit=3")).await, all, "{list}");
    }
    assert_eq!(
        (admin.all("/api-keys").await.len(), admin.all("/principals/bob/api-keys").await.len()),
        (6, 3)
    );
    let cursor =
        admin.get("/api-keys?limit=1").await.json()["next_cursor"].as_str().unwrap().to_owned();
    for other in ["/keys", "/tokens"] {
        assert_eq!(admin.get(&format!("{other}?cursor={cursor}")).await.status, 400, "{other}");
    }
}

#[tokio::test]
async fn what_a_revoked_key_was_exchanged_for_is_revoked_too() {
    let (_deployment, countersign, admin) = start(Deployment::new());
    admin.add(&json!({ "username": "alice" })).await;
    let issued = admin.post("/principals/alice/api-keys", &json!({})).await.json();
    let body = json!({ "key": issued["key"], "identifier": issued["identifier"] }).to_string();
    let exchange =
        Request::new("POST", "/authenticate").header("Content-Type", "application/json").body(body);
    let tokens = exchange.send(countersign.http).await;
    assert_eq!(tokens.status, 200, "{tokens:?}");
    let bearer = format!("Bearer {}", tokens.json()["jwt"].as_str().unwrap());
    assert_eq!(countersign.decide(&bearer).await.status, 200);
    let [listed] = &admin.all("/tokens").await[..] else { panic!("one was given out") };
    assert_eq!((&listed["api_key_id"], &listed["revoked_at"]), (&issued["id"], &Value::Null));

    assert_eq!(admin.delete(&format!("/api-keys/{}", issued["id"])).await.status, 200);

    let ended = async || (countersign.decide(&bearer).await.status == 401).then_some(());
    eventually_async("its token still passes", Duration::from_secs(1), ended).await;
    assert_eq!(exchange.send(countersign.http).await.status, 401);
    assert!(admin.all("/tokens").await[0]["revoked_at"].is_string());
}

fn start(deployment: Deployment) -> (Deployment, Countersign, Admin) {
    let deployment = deployment.administered();
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    (deployment, countersign, admin)
}

/// The record, and the key that was created with it.
fn without_key(issued: &Value) -> (Value, String) {
    let mut record = issued.clone();
    let key = record.as_object_mut().unwrap().remove("key").unwrap();
    (record, key.as_str().unwrap().to_owned())
}

fn is_nowhere_in(events: &[Value], secrets: &[&str]) {
    let text = Value::from(events).to_string();
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}

fn seconds(moment: &Value) -> i64 {
    let text = moment.as_str().unwrap_or_else(|| panic!("{moment} is no moment"));
    OffsetDateTime::parse(text, &Rfc3339)
        .unwrap_or_else(|error| panic!("{error} in {text}"))
        .unix_timestamp()
}
