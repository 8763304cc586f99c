//! The admin API: authentication, refusals and their answers, and the life of principals.

use serde_json::{Value, json};

use crate::harness::http::Request;
use crate::harness::{
    ADMIN_TOKEN, Admin, Claims, Countersign, Database, Deployment, Door, Key, Question,
    hold_to_promises,
};

const PATHS: [&str; 20] = [
    "/principals",
    "/principals/alice",
    "/principals/alice/keys",
    "/principals/alice/jwks-trusts",
    "/principals/alice/api-keys",
    "/principals/alice/tokens",
    "/keys",
    "/keys/1",
    "/jwks-trusts",
    "/jwks-trusts/1",
    "/jwks-trusts/1/refresh",
    "/api-keys",
    "/api-keys/1",
    "/tokens",
    "/tokens/1",
    "/audit",
    "/explain",
    "/openapi.json",
    "/no-such-path",
    "",
];

#[tokio::test]
async fn nobody_gets_in_without_the_token() {
    let deployment = Deployment::new().administered().set("admin.failures_per_peer", "0");
    let countersign = deployment.serve();
    let wrong = [
        "Bearer",
        "Bearer ",
        "Bearer let me in",
        "Basic bGV0IG1lIGlu",
        "JWT let me in, please",
        "let me in, please",
    ];
    for path in PATHS {
        for method in ["GET", "POST", "PATCH", "DELETE", "PUT"] {
            let request = Request::new(method, &format!("/admin/v1{path}"));
            refused(&request.send(countersign.admin).await);
        }
        for value in wrong {
            refused(
                &Request::get(&format!("/admin/v1{path}"))
                    .authorization(value)
                    .send(countersign.admin)
                    .await,
            );
        }
    }
    let twice =
        Admin::request("GET", "/principals").authorization(&format!("Bearer {ADMIN_TOKEN}"));
    refused(&twice.send(countersign.admin).await);
    // Schemes are case-insensitive (RFC 9110 section 11.1).
    let lower =
        Request::get("/admin/v1/principals").authorization(&format!("bearer {ADMIN_TOKEN}"));
    assert_eq!(lower.send(countersign.admin).await.status, 200);
    assert_eq!(
        Request::get("/admin/v1/principals").send(countersign.http).await.status,
        404,
        "another listener"
    );
}

#[tokio::test]
async fn nobody_gets_in_where_no_token_is_set() {
    let deployment = Deployment::new();
    let countersign = deployment.serve();
    for value in ["Bearer ", "Bearer", "Bearer x", ""] {
        refused(
            &Request::get("/admin/v1/principals")
                .authorization(value)
                .send(countersign.admin)
                .await,
        );
    }
    refused(&Request::get("/admin/v1/principals").send(countersign.admin).await);
}

#[tokio::test]
async fn the_token_may_be_in_a_file_and_the_api_under_a_prefix() {
    let deployment = Deployment::new().set("server.url_prefix", "/auth");
    let file = deployment.file("token", &format!("{ADMIN_TOKEN}\n"));
    let deployment = deployment.set("admin.token_file", file.to_str().unwrap());
    let countersign = deployment.serve();
    for (mount, username) in [("", "alice"), ("/auth", "bob")] {
        let request = |method: &str, path: &str| {
            Request::new(method, &format!("{mount}{path}"))
                .authorization(&format!("Bearer {ADMIN_TOKEN}"))
        };
        let body = json!({ "username": username }).to_string();
        let added = request("POST", "/admin/v1/principals")
            .header("Content-Type", "application/json")
            .body(body);
        let added = added.send(countersign.admin).await;
        assert_eq!(
            added.header("location"),
            Some(format!("{mount}/admin/v1/principals/{username}").as_str()),
            "{added:?}"
        );
        let described =
            request("GET", "/admin/v1/openapi.json").send(countersign.admin).await.json();
        assert_eq!(described["servers"][0]["url"], if mount.is_empty() { "/" } else { mount });
        refused(&Request::get(&format!("{mount}/admin/v1/audit")).send(countersign.admin).await);
    }
}

#[tokio::test]
async fn a_principal_is_added_shown_changed_and_removed() {
    let (_deployment, _countersign, admin) = start();
    let key = Key::ed25519();
    let added = admin
        .post(
            "/principals",
            &json!({
                "username": "alice", "scopes": ["write", "read", "read"], "given_name": "Alice", "email": "alice@example.com",
                "keys": [{ "key": key.public_pem(), "comment": "laptop", "scopes": ["read"] }],
                "jwks_trusts": ["https://id.example.com/a", "https://id.example.com/b"],
            }),
        )
        .await;
    assert_eq!(
        (added.status, added.header("location")),
        (201, Some("/admin/v1/principals/alice")),
        "{added:?}"
    );
    let alice = added.json();
    assert_eq!(alice["scopes"], json!(["read", "write"]));
    assert_eq!(
        (&alice["is_active"], &alice["given_name"], &alice["family_name"]),
        (&json!(true), &json!("Alice"), &Value::Null)
    );
    assert_eq!(alice["created_at"], alice["updated_at"]);
    let keys = admin.all("/principals/alice/keys").await;
    assert_eq!(keys.len(), 1);
    assert_eq!(
        (&keys[0]["comment"], &keys[0]["fingerprint"]),
        (&json!("laptop"), &json!(key.fingerprint()))
    );
    let trusts: Vec<Value> = admin
        .all("/principals/alice/jwks-trusts")
        .await
        .iter()
        .map(|trust| trust["jwks_url"].clone())
        .collect();
    assert_eq!(trusts, ["https://id.example.com/a", "https://id.example.com/b"]);

    let shown = admin.get("/principals/alice").await;
    assert_eq!(
        (shown.status, shown.json(), shown.header("etag")),
        (200, alice.clone(), added.header("etag"))
    );

    // An absent member is left as it is; null removes the value.
    let changed = admin
        .patch(
            "/principals/alice",
            &json!({ "email": null, "family_name": "A.", "is_active": false }),
        )
        .await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let now = changed.json();
    assert_eq!(
        (&now["email"], &now["family_name"], &now["given_name"]),
        (&Value::Null, &json!("A."), &json!("Alice"))
    );
    assert_eq!((&now["is_active"], &now["scopes"]), (&json!(false), &json!(["read", "write"])));
    assert_ne!(changed.header("etag"), added.header("etag"));
    assert_eq!(
        admin.patch("/principals/alice", &json!({ "scopes": null })).await.json()["scopes"],
        json!([])
    );
    let same = admin.patch("/principals/alice", &json!({})).await;
    assert_eq!(
        (same.status, same.header("etag")),
        (200, admin.get("/principals/alice").await.header("etag"))
    );

    assert_eq!(admin.delete("/principals/alice").await.status, 204);
    for (method, path) in [("GET", ""), ("DELETE", ""), ("GET", "/keys"), ("GET", "/jwks-trusts")] {
        let gone = admin.send(&Admin::request(method, &format!("/principals/alice{path}"))).await;
        assert_eq!(gone.status, 404, "{method} {path}: {gone:?}");
    }
    assert_eq!(admin.all("/keys").await, Vec::<Value>::new());
}

/// Every username that the registry accepts has an address.
#[tokio::test]
async fn odd_usernames_have_addresses() {
    let (_deployment, countersign, admin) = start();
    let longest = "ü".repeat(255);
    for username in [
        "a/b", "100%", "%2F", "%252F", "what?", "a#b", "a b", "a+b", "Zoë", "名前", "🦀", ".",
        "..", "a;b=c", "keys", "a/keys", "\u{fffd}", "\"\\", &longest,
    ] {
        let key = Key::ed25519();
        let added = admin
            .post(
                "/principals",
                &json!({ "username": username, "keys": [{ "key": key.public_pem() }] }),
            )
            .await;
        assert_eq!(added.status, 201, "{username}: {added:?}");
        let location =
            added.header("location").unwrap().strip_prefix("/admin/v1").unwrap().to_owned();
        assert!(location.is_ascii() && location.matches('/').count() == 2, "{location}");

        let everything_encoded =
            username.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02x}"));
        for path in [&location, &format!("/principals/{everything_encoded}")] {
            let shown = admin.get(path).await;
            assert_eq!(
                (shown.status, &shown.json()["username"]),
                (200, &json!(username)),
                "{path}: {shown:?}"
            );
            assert_eq!(admin.all(&format!("{path}/keys")).await.len(), 1, "{path}");
        }
        let verdict = Door::Http
            .ask(&countersign, &Question::with(Claims::of(username).authorization(&key)))
            .await;
        assert!(verdict.allowed(), "{username}: {verdict:?}");
        assert_eq!(
            admin.patch(&location, &json!({ "is_active": false })).await.json()["is_active"],
            false
        );
        assert_eq!(admin.delete(&location).await.status, 204, "{username}");
    }
    for nobody in ["%ff", "a%ffb", "%00", "%0a", "", &"a".repeat(256), "nobody"] {
        assert_eq!(admin.get(&format!("/principals/{nobody}")).await.status, 404, "{nobody}");
    }
}

#[tokio::test]
async fn malformed_requests_are_told_what_is_wrong() {
    let (_deployment, _countersign, admin) = start();
    admin.add(&json!({ "username": "alice" })).await;
    let key = Key::ed25519();
    let bad_principals = [
        (json!({}), Value::Null, "username"),
        (json!([]), Value::Null, "expected"),
        (json!({ "username": "" }), json!("username"), "1 to 255"),
        (json!({ "username": "a\u{7}" }), json!("username"), "control"),
        (json!({ "username": "bob", "scope": [] }), json!("scope"), "scopes"),
        (json!({ "username": "bob", "scopes": ["a b"] }), json!("scopes"), "malformed scope"),
        (json!({ "username": "bob", "scopes": "a" }), json!("scopes"), "a sequence"),
        (json!({ "username": "bob", "is_active": 1 }), json!("is_active"), "a boolean"),
        (json!({ "username": "bob", "email": "e".repeat(256) }), json!("email"), "1 to 255"),
        (
            json!({ "username": "bob", "keys": [{ "key": key.public_pem() }, { "key": "x" }] }),
            json!("keys[1].key"),
            "OpenSSH",
        ),
        (
            json!({ "username": "bob", "keys": [{ "key": key.private_pem() }] }),
            json!("keys[0].key"),
            "private key",
        ),
        (
            json!({ "username": "bob", "keys": [{ "key": key.public_pem(), "expires_at": "soon" }] }),
            json!("keys[0].expires_at"),
            "RFC 3339",
        ),
        (
            json!({ "username": "bob", "jwks_trusts": ["ftp://id.example.com"] }),
            json!("jwks_trusts[0]"),
            "https://",
        ),
        (
            json!({ "username": "bob", "jwks_trusts": ["https://127.0.0.1/"] }),
            json!("jwks_trusts"),
            "allowed_hosts",
        ),
        (
            json!({ "username": "bob", "jwks_trusts": [format!("https://{}", "u".repeat(2000))] }),
            json!("jwks_trusts[0]"),
            "https://",
        ),
    ];
    for (body, member, hint) in bad_principals {
        let refused = admin.post("/principals", &body).await;
        assert_eq!(
            (refused.status, &refused.json()["member"]),
            (400, &member),
            "{body}: {refused:?}"
        );
        assert!(refused.json()["detail"].as_str().unwrap().contains(hint), "{body}: {refused:?}");
    }
    assert_eq!(admin.all("/principals").await.len(), 1, "nothing is half-done");
    let bad_changes = [
        json!({ "is_active": null }),
        json!({ "username": "carol" }),
        json!({ "given_name": "" }),
        json!(null),
    ];
    for body in bad_changes {
        assert_eq!(admin.patch("/principals/alice", &body).await.status, 400, "{body}");
    }
    let json = |method: &str, path: &str, body: &str| {
        Admin::request(method, path).header("Content-Type", "application/json").body(body)
    };
    for body in [
        "",
        "{",
        "{} {}",
        "{\"username\":\"x\"",
        "{\"username\":\"\\ud800\"}",
        "{\"username\":\"a\",\"username\":\"b\"}",
    ] {
        assert_eq!(admin.send(&json("POST", "/principals", body)).await.status, 400, "{body}");
    }
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "cursor=x",
        "cursor=",
        "curser=1",
        "limit=1&limit=2",
    ] {
        let refused = admin.get(&format!("/principals?{query}")).await;
        let member = query.split('=').next().unwrap();
        assert_eq!(
            (refused.status, &refused.json()["member"]),
            (400, &json!(member)),
            "{query}: {refused:?}"
        );
    }
    for query in ["username=", "username=%00", "user=alice"] {
        assert_eq!(admin.get(&format!("/audit?{query}")).await.status, 400, "{query}");
    }
    // A cursor is valid for its own list only.
    admin.add(&json!({ "username": "bob" })).await;
    let cursor =
        admin.get("/principals?limit=1").await.json()["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(admin.get(&format!("/keys?cursor={cursor}")).await.status, 400);

    for (path, content_type, status) in [
        ("/principals/alice", "application/json; charset=utf-8", 200),
        ("/principals/alice", "Application/Merge-Patch+JSON", 200),
        ("/principals/alice", "text/plain", 415),
        ("/principals/alice", "application/jsonp", 415),
    ] {
        let request = Admin::request("PATCH", path).header("Content-Type", content_type).body("{}");
        assert_eq!(admin.send(&request).await.status, status, "{content_type}");
    }
    assert_eq!(
        admin.send(&Admin::request("PATCH", "/principals/alice").body("{}")).await.status,
        415
    );
    let patch = Admin::request("POST", "/principals")
        .header("Content-Type", "application/merge-patch+json")
        .body("{}");
    assert_eq!(admin.send(&patch).await.status, 415, "only changes are patches");
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let (_deployment, _countersign, admin) = start();
    let mut body = json!({ "username": "alice" }).to_string();
    body.push_str(&" ".repeat(1024 * 1024 - body.len()));
    let post = |body: &str| {
        Admin::request("POST", "/principals").header("Content-Type", "application/json").body(body)
    };
    assert_eq!(admin.send(&post(&body)).await.status, 201, "1 MiB");
    body.push(' ');
    assert_eq!(admin.send(&post(&body)).await.status, 413);
    assert_eq!(admin.send(&post(&body.repeat(5))).await.status, 413);
}

#[tokio::test]
async fn other_methods_are_told_which_there_are() {
    let (_deployment, _countersign, admin) = start();
    admin.add(&json!({ "username": "alice" })).await;
    for (path, allow) in [
        ("/principals", "GET, HEAD, POST"),
        ("/principals/alice", "GET, HEAD, PATCH, DELETE"),
        ("/principals/alice/keys", "GET, HEAD, POST"),
        ("/principals/alice/jwks-trusts", "GET, HEAD, POST"),
        ("/principals/alice/api-keys", "GET, HEAD, POST"),
        ("/principals/alice/tokens", "GET, HEAD, POST"),
        ("/keys", "GET, HEAD"),
        ("/keys/1", "GET, HEAD, PATCH, DELETE"),
        ("/jwks-trusts", "GET, HEAD"),
        ("/jwks-trusts/1", "GET, HEAD, DELETE"),
        ("/jwks-trusts/1/refresh", "POST"),
        ("/api-keys", "GET, HEAD"),
        ("/api-keys/1", "GET, HEAD, DELETE"),
        ("/tokens", "GET, HEAD"),
        ("/tokens/1", "GET, HEAD, DELETE"),
        ("/audit", "GET, HEAD"),
        ("/explain", "POST"),
        ("/openapi.json", "GET, HEAD"),
    ] {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            let answer = admin.send(&Admin::request(method, path)).await;
            let is_allowed = allow.split(", ").any(|allowed| allowed == method);
            assert_eq!(answer.status == 405, !is_allowed, "{method} {path}: {answer:?}");
            assert_eq!(answer.header("allow"), (!is_allowed).then_some(allow), "{method} {path}");
        }
    }
    for path in ["/nothing", "/principals/alice/tokens/1", "/keys/", "", "/"] {
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
    for id in ["0", "-1", "01", "+1", "1.0", "x", "99999999999999999999", "7"] {
        assert_eq!(admin.get(&format!("/keys/{id}")).await.status, 404, "{id}");
        for list in ["jwks-trusts", "api-keys", "tokens"] {
            assert_eq!(admin.delete(&format!("/{list}/{id}")).await.status, 404, "{list} {id}");
        }
    }
}

/// The answer says that the service cannot decide, not why: clients need not know of the database.
#[tokio::test]
async fn without_its_database_it_is_unavailable() {
    let mut deployment = Deployment::on(Database::postgres()).administered();
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    admin.add(&json!({ "username": "alice" })).await;

    deployment.lose_the_database();

    let key = json!({ "key": Key::ed25519().public_pem() });
    for answer in [
        admin.get("/principals").await,
        admin.get("/principals/alice").await,
        admin.get("/audit").await,
        admin.post("/principals", &json!({ "username": "bob" })).await,
        admin.post("/principals/alice/keys", &key).await,
        admin.patch("/principals/alice", &json!({ "is_active": false })).await,
        admin
            .patch_if("/principals/alice", "\"0123456789abcdef\"", &json!({ "is_active": false }))
            .await,
        admin.delete("/keys/1").await,
        admin.post("/principals/alice/api-keys", &json!({})).await,
        admin.post("/principals/alice/tokens", &json!({})).await,
        admin.get("/api-keys").await,
        admin.get("/tokens").await,
        admin.delete("/tokens/1").await,
        admin.send(&Admin::request("POST", "/jwks-trusts/1/refresh")).await,
    ] {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
        let text = String::from_utf8(answer.body).unwrap();
        assert!(!text.contains("postgres") && !text.contains("127.0.0.1"), "{text}");
    }
    assert_eq!(admin.get("/openapi.json").await.status, 200);
    refused(&Request::get("/admin/v1/principals").send(countersign.admin).await);
}

#[tokio::test]
async fn an_unmigrated_database_is_told() {
    let deployment = Deployment::new().administered();
    let countersign = deployment.serve();
    let migrations = deployment.list(&["migrate", "status"]).len();
    for _ in 0..migrations {
        deployment.done(&["migrate", "down"]);
    }
    let answer = Admin::of(&countersign).get("/keys").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    assert!(
        answer.json()["detail"].as_str().unwrap().contains("countersign migrate up"),
        "{answer:?}"
    );
}

fn refused(answer: &crate::harness::http::Answer) {
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer realm=\"countersign admin\""),
        "{answer:?}"
    );
    hold_to_promises(answer);
}

fn start() -> (Deployment, Countersign, Admin) {
    let deployment = Deployment::new().administered();
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    (deployment, countersign, admin)
}
