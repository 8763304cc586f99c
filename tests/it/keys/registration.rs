//! jwthenticator's internal API on the admin listener: `/register_key` and `/is_key_registered`.

use serde_json::{Value, json};

use crate::harness::http::{Answer, Request};
use crate::harness::{ADMIN_TOKEN, Admin, Countersign, Database, Deployment, hold_to_promises};

const IDENTIFIER: &str = "6f2f4f5e-0c39-4a0e-9f6c-3a4b6f0b7a11";
const STRANGER: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn a_key_is_registered_and_extended() {
    for database in [Database::sqlite(), Database::postgres(), Database::mariadb()] {
        let (_deployment, countersign, admin) = open(Deployment::on(database));
        assert_eq!(is_registered(&countersign, "a key of mine").await, json!({ "result": false }));
        let registered = register(&countersign, "a key of mine", IDENTIFIER).await;
        assert_eq!(
            (registered.status, registered.json()),
            (201, json!({ "result": true })),
            "{registered:?}"
        );
        assert_eq!(is_registered(&countersign, "a key of mine").await, json!({ "result": true }));
        assert_eq!(is_registered(&countersign, "another").await, json!({ "result": false }));

        let [before] = &admin.all("/api-keys").await[..] else { panic!("one was registered") };
        assert_eq!(
            (&before["username"], &before["identifier"]),
            (&json!(IDENTIFIER), &json!(IDENTIFIER))
        );
        assert_eq!(admin.all("/principals").await[0]["username"], IDENTIFIER);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        assert_eq!(
            register(&countersign, "a key of mine", &IDENTIFIER.replace('-', "").to_uppercase())
                .await
                .status,
            201
        );
        let [after] = &admin.all("/api-keys").await[..] else { panic!("still one") };
        let moment = |key: &Value| key["expires_at"].as_str().unwrap().to_owned();
        assert!(moment(after) > moment(before), "{before} {after}");
        assert_eq!((&after["id"], &after["created_at"]), (&before["id"], &before["created_at"]));

        assert_eq!(register(&countersign, "a second key", IDENTIFIER).await.status, 201);
        assert_eq!(
            (admin.all("/api-keys").await.len(), admin.all("/principals").await.len()),
            (2, 1)
        );

        let audit = admin.all("/audit").await;
        let mut actions: Vec<&str> =
            audit.iter().map(|event| event["action"].as_str().unwrap()).collect();
        actions.sort_unstable();
        assert_eq!(actions, ["api_key.add", "api_key.add", "api_key.extend", "principal.add"]);
        let text = Value::from(audit).to_string();
        assert!(!text.contains("a key of mine") && !text.contains("hash"), "{text}");
    }
}

#[tokio::test]
async fn a_key_of_another_or_a_revoked_one_is_refused() {
    let (_deployment, countersign, admin) = open(Deployment::new());
    assert_eq!(register(&countersign, "a key of mine", IDENTIFIER).await.status, 201);
    let key = admin.all("/api-keys").await[0].clone();
    let conflict = register(&countersign, "a key of mine", STRANGER).await;
    assert_eq!(
        (conflict.status, &conflict.json()["conflict"]),
        (409, &json!({ "kind": "api_key" })),
        "{conflict:?}"
    );
    assert_eq!(admin.all("/api-keys").await, std::slice::from_ref(&key));
    assert_eq!(admin.all("/principals").await.len(), 1, "nobody is added for nothing");

    assert_eq!(admin.delete(&format!("/api-keys/{}", key["id"])).await.status, 200);
    assert_eq!(register(&countersign, "a key of mine", IDENTIFIER).await.status, 409);
    assert_eq!(is_registered(&countersign, "a key of mine").await, json!({ "result": false }));
}

#[tokio::test]
async fn the_admin_token_is_asked_for_unless_registration_is_open() {
    let (closed, opened) = (
        Deployment::new().administered(),
        Deployment::new().set("admin.open_key_registration", "true"),
    );
    let (closed, opened) =
        (closed.set("server.url_prefix", "/auth"), opened.set("server.url_prefix", "/auth"));
    let (closed, opened) = (closed.serve(), opened.serve());
    for (path, body, status) in [
        ("/register_key", json!({ "key": "k", "identifier": IDENTIFIER }), 201),
        ("/is_key_registered", json!({ "key": "k" }), 200),
    ] {
        for prefix in ["", "/auth"] {
            let request = post(&format!("{prefix}{path}"), &body);
            let bare = request.send(closed.admin).await;
            refused(&bare);
            refused(&request.clone().authorization("Bearer let me in").send(closed.admin).await);
            refused(&Request::get(&format!("{prefix}{path}")).send(closed.admin).await);
            let with_token = request.clone().authorization(&format!("Bearer {ADMIN_TOKEN}"));
            for answer in [
                with_token.send(closed.admin).await,
                request.send(opened.admin).await,
                with_token.send(opened.admin).await,
            ] {
                hold_to_promises(&answer);
                assert_eq!(
                    (answer.status, answer.json()),
                    (status, json!({ "result": true })),
                    "{answer:?}"
                );
            }
            for door in [closed.http, opened.http] {
                assert_eq!(request.send(door).await.status, 404, "another listener");
            }
        }
    }
    // Everything else stays closed: there is no admin token.
    refused(&Admin::request("GET", "/api-keys").send(opened.admin).await);
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let (_deployment, countersign, admin) = open(Deployment::new());
    let long = "k".repeat(1001);
    for body in [
        json!({}),
        json!([]),
        json!(null),
        json!({ "key": "k" }),
        json!({ "identifier": IDENTIFIER }),
        json!({ "key": 1, "identifier": IDENTIFIER }),
        json!({ "key": null, "identifier": IDENTIFIER }),
        json!({ "key": "k", "identifier": "x" }),
        json!({ "key": "k", "identifier": 1 }),
        json!({ "key": "k", "identifier": IDENTIFIER, "comment": "mine" }),
        json!({ "key": "", "identifier": IDENTIFIER }),
        json!({ "key": long, "identifier": IDENTIFIER }),
    ] {
        let answer = post("/register_key", &body).send(countersign.admin).await;
        hold_to_promises(&answer);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
    }
    for body in [
        json!({}),
        json!("k"),
        json!({ "key": 1 }),
        json!({ "key": "k", "identifier": IDENTIFIER }),
    ] {
        assert_eq!(
            post("/is_key_registered", &body).send(countersign.admin).await.status,
            400,
            "{body}"
        );
    }
    for path in ["/register_key", "/is_key_registered"] {
        let json = Request::new("POST", path).header("Content-Type", "application/json");
        for body in ["", "{", "key=k"] {
            assert_eq!(
                json.clone().body(body).send(countersign.admin).await.status,
                400,
                "{path} {body}"
            );
        }
        // A page of another origin may send this without a preflight (Fetch, CORS-safelisted): it
        // is refused.
        let text = Request::new("POST", path)
            .header("Content-Type", "text/plain")
            .header("Origin", "https://elsewhere.example");
        let body = json!({ "key": "k", "identifier": IDENTIFIER }).to_string();
        assert_eq!(text.body(body).send(countersign.admin).await.status, 403, "{path}");
        let get = Request::get(path).send(countersign.admin).await;
        assert_eq!((get.status, get.header("allow")), (405, Some("POST")), "{path}");
    }
    assert_eq!(admin.all("/principals").await, [] as [Value; 0]);
}

/// With registration open, and an admin token to check the result.
fn open(deployment: Deployment) -> (Deployment, Countersign, Admin) {
    let deployment = deployment.administered().set("admin.open_key_registration", "true");
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    (deployment, countersign, admin)
}

async fn register(countersign: &Countersign, key: &str, identifier: &str) -> Answer {
    let answer = post("/register_key", &json!({ "key": key, "identifier": identifier }))
        .send(countersign.admin)
        .await;
    hold_to_promises(&answer);
    answer
}

async fn is_registered(countersign: &Countersign, key: &str) -> Value {
    let answer = post("/is_key_registered", &json!({ "key": key })).send(countersign.admin).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn post(path: &str, body: &Value) -> Request {
    Request::new("POST", path).header("Content-Type", "application/json").body(body.to_string())
}

fn refused(answer: &Answer) {
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer realm=\"countersign admin\""),
        "{answer:?}"
    );
    hold_to_promises(answer);
}
