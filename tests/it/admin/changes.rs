//! Changes through the admin API: conflicts, concurrent changes, and what the audit keeps of them.

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::task::JoinSet;

use crate::harness::{Admin, Behaviour, Countersign, Database, Deployment, JwksServer, Key};

#[tokio::test]
async fn what_is_there_already_is_named() {
    let (_deployment, _countersign, admin) = start(Database::sqlite());
    let (key, other) = (Key::ed25519(), Key::p256());
    let url = "https://id.example.com/jwks.json";
    admin.add(&json!({ "username": "alice", "keys": [{ "key": key.public_pem() }], "jwks_trusts": [url] })).await;
    let key_conflict = |username: &str| json!({ "kind": "key", "username": username, "fingerprint": key.fingerprint() });
    let trust_conflict =
        |username: &str| json!({ "kind": "jwks_trust", "username": username, "jwks_url": url });
    let twice = [
        json!({ "key": key.public_pem() }),
        json!({ "key": other.public_pem() }),
        json!({ "key": key.public_pem() }),
    ];
    for (path, body, conflict) in [
        (
            "/principals",
            json!({ "username": "alice" }),
            json!({ "kind": "principal", "username": "alice" }),
        ),
        ("/principals/alice/keys", json!({ "key": key.public_pem() }), key_conflict("alice")),
        ("/principals/alice/jwks-trusts", json!({ "jwks_url": url }), trust_conflict("alice")),
        ("/principals", json!({ "username": "bob", "keys": twice }), key_conflict("bob")),
        (
            "/principals",
            json!({ "username": "bob", "jwks_trusts": [url, url] }),
            trust_conflict("bob"),
        ),
    ] {
        let answer = admin.post(path, &body).await;
        assert_eq!(
            (answer.status, &answer.json()["conflict"]),
            (409, &conflict),
            "{body}: {answer:?}"
        );
    }
    assert_eq!(admin.get("/principals/bob").await.status, 404, "all or nothing");
    // Other principals may have the same key, and names differ by every byte.
    assert_eq!(
        admin
            .post(
                "/principals",
                &json!({ "username": "Alice", "keys": [{ "key": key.public_pem() }] })
            )
            .await
            .status,
        201
    );

    // A revoked key still conflicts: it must not come back by accident.
    let id = admin.all("/principals/alice/keys").await[0]["id"].clone();
    assert_eq!(admin.delete(&format!("/keys/{id}")).await.status, 200);
    assert_eq!(
        admin.post("/principals/alice/keys", &json!({ "key": key.public_pem() })).await.status,
        409
    );
}

/// Of any number of clients that change the version they read, one wins; the others have to read it
/// again.
#[tokio::test]
async fn one_tag_is_good_for_one_change() {
    for database in [Database::sqlite(), Database::postgres(), Database::mariadb()] {
        let (_deployment, _countersign, admin) = start(database);
        admin
            .add(&json!({ "username": "alice", "keys": [{ "key": Key::ed25519().public_pem() }] }))
            .await;
        let key = format!("/keys/{}", admin.all("/keys").await[0]["id"]);
        for (path, member) in [("/principals/alice".to_owned(), "given_name"), (key, "comment")] {
            let tag = admin.get(&path).await.header("etag").unwrap().to_owned();
            let mut rivals = JoinSet::new();
            for rival in 0..8 {
                let (admin, path, tag) =
                    (Admin { address: admin.address }, path.clone(), tag.clone());
                rivals.spawn(async move {
                    admin.patch_if(&path, &tag, &json!({ member: format!("number {rival}") })).await
                });
            }
            let answers = rivals.join_all().await;
            let winners: Vec<Value> = answers
                .iter()
                .filter(|answer| answer.status == 200)
                .map(|answer| answer.json()[member].clone())
                .collect();
            assert_eq!(winners.len(), 1, "{answers:?}");
            assert!(
                answers.iter().all(|answer| [200, 412].contains(&answer.status)),
                "{answers:?}"
            );
            assert_eq!(admin.get(&path).await.json()[member], winners[0]);
        }
    }
}

#[tokio::test]
async fn tags_are_compared_as_http_says() {
    let (_deployment, _countersign, admin) = start(Database::sqlite());
    let key = Key::ed25519();
    admin
        .add(&json!({ "username": "alice", "keys": [{ "key": key.public_pem() }], "jwks_trusts": ["https://id.example.com/"] }))
        .await;
    let key = format!("/keys/{}", admin.all("/keys").await[0]["id"]);
    let trust = format!("/jwks-trusts/{}", admin.all("/jwks-trusts").await[0]["id"]);
    let tag = admin.get("/principals/alice").await.header("etag").unwrap().to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "a strong one: {tag}");
    for (value, status) in [
        (tag.clone(), 200),
        (format!("\"other\", {tag}"), 200),
        ("*".to_owned(), 200),
        (format!("W/{tag}"), 412),
        ("\"other\"".to_owned(), 412),
        ("\"\"".to_owned(), 412),
        (tag.trim_matches('"').to_owned(), 400),
        (String::new(), 400),
    ] {
        assert_eq!(
            admin.patch_if("/principals/alice", &value, &json!({})).await.status,
            status,
            "{value}"
        );
        let nobody = admin.patch_if("/principals/nobody", &value, &json!({})).await.status;
        assert_eq!(nobody, if status == 400 { 400 } else { 404 }, "{value}");
    }
    for (value, status) in [
        (tag.clone(), 304),
        (format!("W/{tag}"), 304),
        ("*".to_owned(), 304),
        ("\"other\"".to_owned(), 200),
        ("x".to_owned(), 400),
    ] {
        let answer = admin
            .send(&Admin::request("GET", "/principals/alice").header("If-None-Match", &value))
            .await;
        assert_eq!(answer.status, status, "{value}");
        assert_eq!(answer.header("etag").is_some(), status != 400, "{value}");
    }
    for path in [&key, &trust, "/principals/alice"] {
        let stale = admin
            .send(&Admin::request("DELETE", path).header("If-Match", "\"0123456789abcdef\""))
            .await;
        assert_eq!(stale.status, 412, "{path}");
        let tag = admin.get(path).await.header("etag").unwrap().to_owned();
        let done = admin.send(&Admin::request("DELETE", path).header("If-Match", &tag)).await;
        assert!([200, 204].contains(&done.status), "{path}: {done:?}");
    }
}

/// A client that reads page by page sees every entry that was there all the time, exactly once.
#[tokio::test]
async fn pages_hold_still_while_rows_come_and_go() {
    for database in [Database::sqlite(), Database::postgres(), Database::mariadb()] {
        let (_deployment, _countersign, admin) = start(database);
        for index in 0..25 {
            let key = json!({ "key": Key::ed25519().public_pem() });
            admin
                .add(&json!({ "username": format!("user-{index}"), "keys": [key], "jwks_trusts": ["https://id.example.com/"] }))
                .await;
        }
        for list in ["/principals", "/keys", "/jwks-trusts"] {
            assert_eq!(
                admin.all(&format!("{list}?limit=25")).await.len(),
                25,
                "{list}: a full page is not followed by an empty one"
            );
            assert_eq!(
                admin.all(&format!("{list}?limit=7")).await,
                admin.all(list).await,
                "{list}"
            );
        }
        assert_eq!(admin.get("/principals?limit=25").await.json()["next_cursor"], Value::Null);

        let (mut seen, mut cursor, mut page_number) = (Vec::new(), String::new(), 0);
        loop {
            let page = admin.get(&format!("/principals?limit=4{cursor}")).await.json();
            seen.extend(
                page["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|item| item["username"].as_str().unwrap().to_owned()),
            );
            // Meanwhile an entry that was seen is removed, one that was not seen is removed, and a
            // new one is added.
            admin.delete(&format!("/principals/user-{page_number}")).await;
            admin.delete(&format!("/principals/user-{}", 24 - page_number)).await;
            admin.add(&json!({ "username": format!("new-{page_number}") })).await;
            page_number += 1;
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
            assert!(page_number < 25);
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "nothing twice: {seen:?}");
        for stayed in 8..17 {
            assert!(
                seen.contains(&format!("user-{stayed}")),
                "user-{stayed} is missing in {seen:?}"
            );
        }

        let newest_first: Vec<i64> = admin
            .all("/audit?limit=10")
            .await
            .iter()
            .map(|event| event["id"].as_i64().unwrap())
            .collect();
        assert!(newest_first.is_sorted_by(|later, earlier| later > earlier), "{newest_first:?}");
        assert!(newest_first.len() >= 75, "{}", newest_first.len());
    }
}

/// The audit names who, what, before, after and when, for every kind of change and every author.
#[tokio::test]
async fn every_change_is_remembered() {
    let server = JwksServer::https();
    server.put("/keys", Behaviour::set([]));
    let deployment = Deployment::new().administered().trusting(&server);
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    let start = OffsetDateTime::now_utc();

    let alice =
        admin.add(&json!({ "username": "alice", "scopes": ["read"], "keys": [{ "key": Key::ed25519().public_pem() }] })).await;
    let alice_now =
        admin.patch("/principals/alice", &json!({ "scopes": ["read", "write"] })).await.json();
    admin.patch("/principals/alice", &json!({ "scopes": ["write", "read"] })).await;
    let key = admin
        .post("/principals/alice/keys", &json!({ "key": Key::p256().public_pem() }))
        .await
        .json();
    let key_path = format!("/keys/{}", key["id"]);
    let renamed =
        admin.patch(&key_path, &json!({ "comment": "spare", "scopes": ["read"] })).await.json();
    let revoked = admin.delete(&key_path).await.json();
    admin.delete(&key_path).await;
    let trust = admin
        .post("/principals/alice/jwks-trusts", &json!({ "jwks_url": server.url("/keys") }))
        .await
        .json();
    let trust_path = format!("/jwks-trusts/{}", trust["id"]);
    let refreshed = admin.send(&Admin::request("POST", &format!("{trust_path}/refresh"))).await;
    assert_eq!(
        (refreshed.status, &refreshed.json()["usable_keys"]),
        (200, &json!(0)),
        "{refreshed:?}"
    );
    admin.delete(&trust_path).await;
    deployment.done(&["principal", "disable", "alice"]);
    admin.delete("/principals/alice").await;
    deployment.done(&["principal", "add", "bob"]);

    let mut events = admin.all("/audit?username=alice").await;
    events.reverse();
    let told: Vec<(&str, bool)> = events
        .iter()
        .map(|event| (event["action"].as_str().unwrap(), event["actor"] == "admin-api@127.0.0.1"))
        .collect();
    assert_eq!(
        told,
        [
            ("principal.add", true),
            ("key.add", true),
            ("principal.change", true),
            ("key.add", true),
            ("key.change", true),
            ("key.revoke", true),
            ("trust.add", true),
            ("trust.refresh", true),
            ("trust.remove", true),
            ("principal.change", false),
            ("principal.remove", true),
        ],
        "what changes nothing leaves no trace: {events:#?}"
    );
    assert!(events[9]["actor"].as_str().unwrap().starts_with("cli:"), "{:?}", events[9]);
    // A key set changed by a fetch is not a change by a person.
    let mut added = trust.clone();
    for fetched in ["usable_keys", "left_out"] {
        added.as_object_mut().unwrap().remove(fetched).unwrap();
    }
    for (event, subject, before, after) in [
        (0, &alice, &Value::Null, &alice),
        (2, &alice, &alice, &alice_now),
        (3, &key, &Value::Null, &key),
        (4, &key, &key, &renamed),
        (5, &key, &renamed, &revoked),
        (6, &trust, &Value::Null, &added),
    ] {
        let event = &events[event];
        assert_eq!(
            (&event["subject_id"], &event["before"], &event["after"]),
            (&subject["id"], before, after),
            "{event:#}"
        );
    }
    for (event, before_is_there, after_is_there) in
        [(7, true, true), (8, true, false), (9, true, true), (10, true, false)]
    {
        let event = &events[event];
        assert_eq!(
            (!event["before"].is_null(), !event["after"].is_null()),
            (before_is_there, after_is_there),
            "{event:#}"
        );
    }
    assert_eq!(
        (&events[9]["before"]["is_active"], &events[9]["after"]["is_active"]),
        (&json!(true), &json!(false))
    );
    for event in &events {
        let at = OffsetDateTime::parse(event["at"].as_str().unwrap(), &Rfc3339).unwrap();
        assert!(
            at >= start - time::Duration::seconds(1)
                && at <= OffsetDateTime::now_utc() + time::Duration::seconds(1),
            "{event}"
        );
        assert_eq!(event["username"], "alice");
    }
    let all = admin.all("/audit").await;
    assert_eq!((all.len(), &all[0]["username"]), (events.len() + 1, &json!("bob")));
}

fn start(database: Database) -> (Deployment, Countersign, Admin) {
    let deployment = Deployment::on(database).administered();
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    (deployment, countersign, admin)
}
