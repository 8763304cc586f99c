//! `countersign import jwtconnect`: from Django projects that use django-jwtconnect-auth.

use serde_json::{Value, json};

use crate::harness::{Database, Deployment, LegacyDatabase, TokenApi, claims_in};

const SYSTEM: &str = "jwtconnect";
const HOUR: i64 = 3600;

#[tokio::test]
async fn its_refresh_tokens_go_on_on_sqlite() {
    its_refresh_tokens_go_on(LegacyDatabase::sqlite(), Database::sqlite()).await;
}

#[tokio::test]
async fn its_refresh_tokens_go_on_on_postgresql() {
    its_refresh_tokens_go_on(LegacyDatabase::on(Database::postgres()), Database::postgres()).await;
}

#[tokio::test]
async fn its_refresh_tokens_go_on_on_mariadb() {
    its_refresh_tokens_go_on(LegacyDatabase::on(Database::mariadb()), Database::mariadb()).await;
}

async fn its_refresh_tokens_go_on(legacy: LegacyDatabase, database: Database) {
    let given = legacy.jwtconnect(&json!([
        {"username": "alice", "first_name": "Alice", "tokens": [
            {"refresh_expires_in": HOUR, "audience": "orders carts", "sid": "a session"},
            {"refresh_expires_in": HOUR},
            {"refresh_expires_in": -60},
            {"refresh_expires_in": HOUR, "is_active": false},
        ]},
        {"username": "bob", "is_active": false, "tokens": [{"refresh_expires_in": HOUR}]},
        {"username": "carol"},
    ]));
    let token = |username: &str, at: usize, kind: &str| {
        given[username][at][kind].as_str().unwrap().to_owned()
    };
    let deployment = Deployment::on(database).set("issuer.audience", "countersign");

    let rehearsed = deployment.import(SYSTEM, &legacy, &["--dry-run"]);
    assert_eq!(
        (rehearsed.counts("principal"), rehearsed.counts("refresh_token")),
        ([3, 0, 0], [3, 0, 0])
    );
    assert!(deployment.is_empty(), "a dry run changes nothing");
    let imported = deployment.import(SYSTEM, &legacy, &[]);
    assert_eq!(
        (imported.code, imported.result["passed_over"].clone()),
        (0, json!(2)),
        "{imported:?}"
    );
    assert_eq!(
        (imported.counts("principal"), imported.counts("refresh_token")),
        ([3, 0, 0], [3, 0, 0]),
        "{imported:?}"
    );
    let before = deployment.all(["principal", "token"]);
    let again = deployment.import(SYSTEM, &legacy, &[]);
    assert_eq!(
        (again.code, again.counts("principal"), again.counts("refresh_token")),
        (0, [0, 3, 0], [0, 3, 0])
    );
    assert_eq!(deployment.all(["principal", "token"]), before, "a second run changes nothing");

    let countersign = deployment.serve();
    let api = TokenApi::of(&countersign);
    let pair = api.rotated(&token("alice", 0, "refresh_token")).await;
    let claims = claims_in(&pair.access);
    let told = ["username", "given_name", "aud", "sub", "ttype"].map(|name| claims[name].clone());
    let theirs = claims_in(&token("alice", 0, "access_token"));
    assert_eq!(
        json!(told),
        json!(["alice", "Alice", ["orders", "carts", "countersign"], theirs["sub"], "T"]),
        "{claims}"
    );
    assert_eq!(countersign.decide(&format!("Bearer {}", pair.access)).await.status, 200);
    api.rotated(&pair.refresh).await;
    for (username, at) in [("alice", 2), ("alice", 3), ("bob", 0)] {
        assert_eq!(
            api.rotate(&token(username, at, "refresh_token")).await.status,
            401,
            "{username} {at}"
        );
    }
    // An access token of another system no longer passes: its holder refreshes.
    let answer = countersign.decide(&format!("Bearer {}", token("alice", 1, "access_token"))).await;
    assert_eq!(answer.status, 401);

    // Changes made here since are kept by the next import.
    let sole = token("alice", 1, "refresh_token");
    let told = introspected(&api, &pair.access, &sole).await;
    assert_eq!(
        (told["active"].clone(), told["sub"].clone()),
        (json!(true), theirs["sub"].clone()),
        "{told}"
    );
    assert_eq!(
        api.post_as(&pair.access, "/token/revoke", &json!({"token": sole})).await.status,
        200
    );
    assert_eq!(deployment.import(SYSTEM, &legacy, &[]).counts("refresh_token"), [0, 3, 0]);
    assert_eq!(api.rotate(&sole).await.status, 401);
}

/// That system ignores `aud`. Here a token whose audience is not this service would be refused.
#[tokio::test]
async fn an_audience_needs_the_name_of_this_service() {
    let legacy = LegacyDatabase::sqlite();
    let given = legacy.jwtconnect(&json!([
        {"username": "alice", "tokens": [{"refresh_expires_in": HOUR, "audience": "orders"}, {"refresh_expires_in": HOUR}]},
    ]));
    let deployment = Deployment::new();

    let imported = deployment.import(SYSTEM, &legacy, &["--dry-run"]);
    assert_eq!((imported.code, imported.counts("refresh_token")), (1, [1, 0, 1]), "{imported:?}");
    let remarks = imported.remarks();
    assert!(
        remarks.len() == 1 && remarks[0][3].contains("unless issuer.audience is set"),
        "{remarks:?}"
    );

    let deployment = deployment.set("issuer.audience", "countersign");
    assert_eq!(deployment.import(SYSTEM, &legacy, &[]).code, 0);
    let countersign = deployment.serve();
    for (at, audience) in [(0, json!(["orders", "countersign"])), (1, json!("countersign"))] {
        let pair = TokenApi::of(&countersign)
            .rotated(given["alice"][at]["refresh_token"].as_str().unwrap())
            .await;
        let aud = claims_in(&pair.access)["aud"].clone();
        assert!(aud == audience || aud == json!([audience]), "{aud}");
        assert_eq!(countersign.decide(&format!("Bearer {}", pair.access)).await.status, 200);
    }
}

async fn introspected(api: &TokenApi, bearer: &str, token: &str) -> Value {
    let answer = api.post_as(bearer, "/token/introspection", &json!({"token": token})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}
