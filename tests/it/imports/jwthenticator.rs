//! `countersign import jwthenticator`: from databases made by its own server, filled by its own
//! clients and managers.

use serde_json::json;

use crate::harness::{Countersign, Database, Deployment, Jwthenticator, LegacyDatabase, TokenApi};

const SYSTEM: &str = "jwthenticator";
const ALICE: &str = "6f2f4f5e-0c39-4a0e-9f6c-3a4b6f0b7a11";
const BOB: &str = "00000000-0000-4000-8000-00000000000b";
const HOUR: i64 = 3600;

/// Its clients hold their key, a refresh token and the address of a server. After the import,
/// Countersign is at that address.
#[tokio::test]
async fn its_clients_go_on_on_sqlite() {
    its_clients_go_on(LegacyDatabase::sqlite(), Database::sqlite()).await;
}

#[tokio::test]
async fn its_clients_go_on_on_postgresql() {
    its_clients_go_on(LegacyDatabase::on(Database::postgres()), Database::postgres()).await;
}

#[tokio::test]
async fn its_clients_go_on_on_sqlite_into_mariadb() {
    its_clients_go_on(LegacyDatabase::sqlite(), Database::mariadb()).await;
}

async fn its_clients_go_on(legacy: LegacyDatabase, database: Database) {
    let peer = Jwthenticator::start();
    let server = legacy.jwthenticator_server();
    let url = format!("http://{}/", server.address);
    peer.internal_client(&url, ALICE).await.register_key("a key of its own").await.unwrap();
    let client = peer.client(&url, ALICE, "a key of its own").await;
    client.authenticate().await.unwrap();
    let held = client.tokens().await;
    let address = server.address;
    drop(server);
    let deployment = Deployment::on(database);

    let rehearsed = deployment.import(SYSTEM, &legacy, &["--dry-run"]);
    assert_eq!(
        (rehearsed.code, rehearsed.counts("api_key"), rehearsed.counts("refresh_token")),
        (0, [1, 0, 0], [1, 0, 0])
    );
    assert!(deployment.is_empty(), "a dry run changes nothing");
    let imported = deployment.import(SYSTEM, &legacy, &[]);
    assert_eq!((imported.code, imported.counts("principal")), (0, [1, 0, 0]), "{imported:?}");
    assert_eq!(
        (imported.counts("api_key"), imported.counts("refresh_token")),
        ([1, 0, 0], [1, 0, 0]),
        "{imported:?}"
    );
    assert_eq!(deployment.list(&["principal", "list"])[0]["username"], ALICE);

    let countersign = Countersign::start_at(&deployment, address);
    client.refresh_alone().await.unwrap();
    let refreshed = client.tokens().await;
    assert_eq!(refreshed.refresh_token, held.refresh_token, "it keeps the one that it has");
    assert_ne!(refreshed.jwt, held.jwt);
    client.refresh_alone().await.unwrap();
    client.authenticate().await.unwrap();
    let fresh = client.tokens().await;
    let answer = countersign.decide(&format!("Bearer {}", fresh.jwt.unwrap())).await;
    assert_eq!((answer.status, answer.header("x-auth-username")), (200, Some(ALICE)));
    let other = peer.client_with_refresh_token(&url, BOB, &held.refresh_token.unwrap()).await;
    assert_eq!(
        other.refresh_alone().await.unwrap_err().class,
        "RefreshError",
        "another identifier"
    );
    // The access token issued with it belongs to the other system.
    assert_eq!(TokenApi::of(&countersign).validate(&held.jwt.unwrap()).await, 401);
    drop(countersign);

    let before = deployment.all(["api-key", "token"]);
    let again = deployment.import(SYSTEM, &legacy, &[]);
    assert_eq!(
        (again.code, again.counts("api_key"), again.counts("refresh_token")),
        (0, [0, 1, 0], [0, 1, 0]),
        "{again:?}"
    );
    assert_eq!(deployment.all(["api-key", "token"]), before, "a second run changes nothing");
}

#[tokio::test]
async fn what_has_expired_stays_behind_unless_something_depends_on_it() {
    let legacy = LegacyDatabase::sqlite();
    let tokens = legacy.jwthenticator(&json!([
        {"key": "good", "identifier": ALICE, "expires_in": 2 * HOUR, "tokens": [HOUR, -HOUR]},
        {"key": "second", "identifier": ALICE, "expires_in": 2 * HOUR},
        {"key": "expired", "identifier": BOB, "expires_in": -1},
        {"key": "expired, with a token that lives", "identifier": BOB, "expires_in": -1, "tokens": [HOUR]},
    ]));
    let deployment = Deployment::new();

    let imported = deployment.import(SYSTEM, &legacy, &[]);

    assert_eq!((imported.code, imported.counts("principal")), (1, [2, 0, 0]), "{imported:?}");
    assert_eq!(
        (imported.counts("api_key"), imported.counts("refresh_token")),
        ([3, 0, 1], [2, 0, 0]),
        "{imported:?}"
    );
    assert_eq!(imported.result["passed_over"], 1);
    let [[table, id, username, reason]] = imported.remarks()[..] else { panic!("{imported:?}") };
    assert!(
        (table, id, username) == ("keys", "3", BOB) && reason.starts_with("it expired at "),
        "{imported:?}"
    );
    let countersign = deployment.serve();
    let (peer, url) = (Jwthenticator::start(), format!("http://{}/", countersign.http));
    for key in ["good", "second"] {
        peer.client(&url, ALICE, key).await.authenticate().await.unwrap();
    }
    for key in ["expired", "expired, with a token that lives"] {
        let refused = peer.client(&url, BOB, key).await.authenticate().await.unwrap_err();
        assert_eq!(refused.class, "AuthenticationError", "{key}");
    }
    peer.client_with_refresh_token(&url, BOB, &tokens[3][0]).await.refresh_alone().await.unwrap();
}

/// A key that was registered here for another identifier, or revoked here, stays as it is.
#[tokio::test]
async fn keys_that_are_not_the_same_here_are_reported() {
    let legacy = LegacyDatabase::sqlite();
    legacy.jwthenticator(&json!([
        {"key": "revoked here", "identifier": ALICE, "expires_in": HOUR, "tokens": [HOUR]},
        {"key": "of another here", "identifier": ALICE, "expires_in": HOUR},
    ]));
    let deployment = Deployment::new().set("admin.open_key_registration", "true");
    let countersign = deployment.serve();
    let (peer, url) = (Jwthenticator::start(), format!("http://{}/", countersign.admin));
    peer.internal_client(&url, ALICE).await.register_key("revoked here").await.unwrap();
    peer.internal_client(&url, BOB).await.register_key("of another here").await.unwrap();
    let keys = deployment.list(&["api-key", "list", ALICE]);
    deployment.done(&["api-key", "revoke", &keys[0]["id"].to_string()]);

    let imported = deployment.import(SYSTEM, &legacy, &[]);

    assert_eq!(imported.counts("api_key"), [0, 0, 2], "{imported:?}");
    assert_eq!((imported.code, imported.counts("refresh_token")), (1, [0, 0, 1]), "{imported:?}");
    let reasons: Vec<_> = imported
        .remarks()
        .iter()
        .map(|[table, id, _, reason]| (*table, *id, reason.contains("revoked")))
        .collect();
    assert_eq!(
        reasons,
        [("keys", "1", true), ("refresh_tokens", "1", false), ("keys", "2", true)],
        "{imported:?}"
    );
}
