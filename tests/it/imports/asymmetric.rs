//! `countersign import asymmetric-jwt-auth`: from Django projects made by their own migrations and
//! filled through their own models.

use serde_json::{Value, json};

use crate::harness::http::Request;
use crate::harness::{
    ADMIN_TOKEN, AsymmetricJwtAuth, Behaviour, Database, Deployment, JwksServer, Key,
    LegacyDatabase, PyJwt,
};

const SYSTEM: &str = "asymmetric-jwt-auth";
const KEYS: &str = "asymmetric_jwt_auth_publickey";
/// RSA of 1024 bit: such a key can be broken.
const WEAK: &str = include_str!("../fixtures/rsa1024.pub");

/// From each database into the same kind: clients continue unchanged.
#[tokio::test]
async fn its_clients_are_accepted_on_sqlite() {
    its_clients_are_accepted(LegacyDatabase::sqlite(), Database::sqlite()).await;
}

#[tokio::test]
async fn its_clients_are_accepted_on_postgresql() {
    its_clients_are_accepted(LegacyDatabase::on(Database::postgres()), Database::postgres()).await;
}

#[tokio::test]
async fn its_clients_are_accepted_on_mariadb() {
    its_clients_are_accepted(LegacyDatabase::on(Database::mariadb()), Database::mariadb()).await;
}

async fn its_clients_are_accepted(legacy: LegacyDatabase, database: Database) {
    let [ed25519, rsa, second, disabled] =
        [Key::ed25519(), Key::rsa(), Key::ed25519(), Key::ed25519()];
    let users = json!([
        {
            "username": "alice", "first_name": "Alice", "last_name": "Liddell", "email": "alice@gateway.test",
            "date_joined": "2021-02-03T04:05:06+00:00",
            "keys": [
                {"key": ed25519.public_pem(), "comment": "laptop", "last_used_on": "2026-01-02T03:04:05.678+00:00"},
                {"key": rsa.public_pem().replace('\n', "\r\n")},
            ],
        },
        {"username": "Bób b", "keys": [{"key": second.public_pem()}]},
        {"username": "carol", "is_active": false, "keys": [{"key": disabled.public_pem()}]},
        {"username": "a person without keys"},
    ]);
    let peer = AsymmetricJwtAuth::new();
    let legacy = legacy.asymmetric(&users);
    let deployment = Deployment::on(database);

    let rehearsed = deployment.import(SYSTEM, &legacy, &["--dry-run"]);
    assert_eq!(
        (rehearsed.counts("principal"), rehearsed.counts("key")),
        ([3, 0, 0], [4, 0, 0]),
        "{rehearsed:?}"
    );
    assert_eq!(rehearsed.result["dry_run"], true);
    assert!(deployment.is_empty(), "a dry run changes nothing");

    let imported = deployment.import(SYSTEM, &legacy, &[]);
    assert_eq!((imported.code, imported.result["dry_run"].clone()), (0, json!(false)));
    assert_eq!(
        (imported.counts("principal"), imported.counts("key")),
        ([3, 0, 0], [4, 0, 0]),
        "{imported:?}"
    );
    assert_eq!(imported.result["passed_over"], 1, "{imported:?}");
    let alice = principal(&deployment, "alice");
    let profile = ["given_name", "family_name", "email", "created_at", "is_active"]
        .map(|name| alice[name].clone());
    let expected = json!(["Alice", "Liddell", "alice@gateway.test", "2021-02-03T04:05:06Z", true]);
    assert_eq!(json!(profile), expected, "{alice}");
    assert_eq!(principal(&deployment, "carol")["is_active"], false);
    let keys = deployment.list(&["key", "list", "alice"]);
    let laptop = keys.iter().find(|key| key["fingerprint"] == ed25519.fingerprint()).unwrap();
    assert_eq!(
        (&laptop["comment"], &laptop["last_used_on"]),
        (&json!("laptop"), &json!("2026-01-02T03:04:05.678Z"))
    );

    let countersign = deployment.serve();
    for (username, key) in [("alice", &ed25519), ("alice", &rsa), ("Bób b", &second)] {
        let answer = countersign.decide(&peer.authorization(username, key)).await;
        assert_eq!(answer.status, 200, "{username}: {answer:?}");
    }
    for (username, key) in [("carol", &disabled), ("alice", &second)] {
        let answer = countersign.decide(&peer.authorization(username, key)).await;
        assert_eq!(answer.header("x-auth-error"), Some("invalid_token"), "{username}");
    }
    drop(countersign);

    let before = deployment.all(["principal", "key"]);
    let again = deployment.import(SYSTEM, &legacy, &[]);
    assert_eq!(
        (again.code, again.counts("principal"), again.counts("key")),
        (0, [0, 3, 0], [0, 4, 0]),
        "{again:?}"
    );
    assert_eq!(deployment.all(["principal", "key"]), before, "a second run changes nothing");
    let told = deployment.done(&["import", SYSTEM, "--database", &legacy.url]);
    assert!(told.contains("nothing was changed"), "{told}");

    // Imports what is new there since, and nothing else.
    let newer = Key::ed25519();
    let legacy =
        legacy.asymmetric(&json!([{"username": "alice", "keys": [{"key": newer.public_pem()}]}]));
    let more = deployment.import(SYSTEM, &legacy, &["--all-users"]);
    assert_eq!((more.counts("principal"), more.counts("key")), ([1, 3, 0], [1, 4, 0]), "{more:?}");
    assert_eq!(deployment.serve().decide(&peer.authorization("alice", &newer)).await.status, 200);
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_reported_and_holds_nothing_up() {
    let [held, revoked, good, theirs] =
        [Key::ed25519(), Key::ed25519(), Key::ed25519(), Key::ed25519()];
    let users = json!([
        {"username": "alice", "keys": [
            {"key": WEAK}, {"key": "no key at all"}, {"key": good.public_pem()}, {"key": good.public_pem(), "comment": "again"},
            {"key": held.public_pem()}, {"key": revoked.public_pem()},
        ]},
        {"username": "bob", "first_name": "Robert", "keys": [{"key": theirs.public_pem()}], "jwks_url": "https://keys.example/b"},
        {"username": "carol", "jwks_url": "http://keys.example/jwks.json"},
    ]);
    let legacy = LegacyDatabase::sqlite().asymmetric(&users);
    let deployment = Deployment::new();
    deployment.enrol("alice", &held);
    let gone = deployment.add_key("alice", &revoked);
    deployment.done(&["key", "revoke", &gone]);
    deployment.done(&["principal", "add", "bob", "--given-name", "Somebody else"]);

    for options in [&["--dry-run"][..], &[]] {
        let imported = deployment.import(SYSTEM, &legacy, options);
        assert_eq!(imported.code, 1, "{imported:?}");
        assert_eq!(imported.counts("principal"), [1, 1, 1]);
        assert_eq!(imported.counts("key"), [1, 2, 4]);
        assert_eq!(imported.counts("jwks_trust"), [0, 0, 2]);
        let expected = [
            (KEYS, "1", "alice", "RSA key of 1024 bit refused"),
            (KEYS, "2", "alice", "not a key in a known format"),
            (KEYS, "4", "alice", "the same key as asymmetric_jwt_auth_publickey 3"),
            (KEYS, "6", "alice", "that key was revoked here"),
            ("auth_user", "2", "bob", "there is a principal of that name with another given_name"),
            (KEYS, "7", "bob", "its principal was not taken over"),
            (
                "asymmetric_jwt_auth_jwksendpointtrust",
                "1",
                "bob",
                "its principal was not taken over",
            ),
            ("asymmetric_jwt_auth_jwksendpointtrust", "2", "carol", "https"),
        ];
        let remarks = imported.remarks();
        assert_eq!(remarks.len(), expected.len(), "{remarks:#?}");
        for ((table, id, username, reason), remark) in expected.into_iter().zip(&remarks) {
            assert_eq!(remark[..3], [table, id, username], "{remarks:#?}");
            assert!(remark[3].contains(reason), "{reason}: {remark:?}");
        }
        assert!(imported.ran.stderr.contains("7 rows were not taken over"), "{:?}", imported.ran);
    }
    let countersign = deployment.serve();
    let peer = AsymmetricJwtAuth::new();
    for (username, key, status) in [
        ("alice", &good, 200),
        ("alice", &held, 200),
        ("alice", &revoked, 401),
        ("bob", &theirs, 401),
    ] {
        assert_eq!(
            countersign.decide(&peer.authorization(username, key)).await.status,
            status,
            "{username}"
        );
    }
    let told = deployment.run(&["import", SYSTEM, "--database", &legacy.url]);
    assert!(
        told.stdout.contains("not taken over: asymmetric_jwt_auth_publickey 1 (key of \"alice\"): RSA key of 1024 bit"),
        "{told:?}"
    );
}

/// Trusted key sets, and who changed what.
#[tokio::test]
async fn trusts_are_taken_over_with_audit_events() {
    let keys = JwksServer::https();
    let key = Key::rsa();
    keys.put("/jwks.json", Behaviour::text(PyJwt::new().jwks(&[("the-kid", "RS256", &key)])));
    let url = keys.url("/jwks.json");
    let legacy =
        LegacyDatabase::sqlite().asymmetric(&json!([{"username": "alice", "jwks_url": url}]));
    let deployment = Deployment::new().trusting(&keys).set("admin.token", ADMIN_TOKEN);

    let imported = deployment.import(SYSTEM, &legacy, &[]);

    assert_eq!((imported.code, imported.counts("jwks_trust")), (0, [1, 0, 0]), "{imported:?}");
    assert_eq!(deployment.list(&["trust", "list", "alice"])[0]["jwks_url"], url);
    let countersign = deployment.serve();
    let token = PyJwt::new().token("alice", "the-kid", "RS256", &key);
    assert_eq!(countersign.decide(&format!("JWT {token}")).await.status, 200);
    let audit = Request::get("/admin/v1/audit")
        .authorization(&format!("Bearer {ADMIN_TOKEN}"))
        .send(countersign.admin)
        .await
        .json();
    let events: Vec<(&str, &str)> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["action"].as_str().unwrap(), event["actor"].as_str().unwrap()))
        .collect();
    assert_eq!(
        events.iter().map(|(action, _)| *action).collect::<Vec<_>>(),
        ["trust.add", "principal.add"]
    );
    assert!(
        events.iter().all(|(_, actor)| actor.starts_with("cli:")
            && actor.ends_with("(import asymmetric-jwt-auth)")),
        "{events:?}"
    );
}

/// A custom user model: its own table, a UUID as primary key, and none of the optional columns.
#[tokio::test]
async fn a_project_may_have_its_own_user_model() {
    let key = Key::ed25519();
    for (legacy, database) in [
        (LegacyDatabase::sqlite(), Database::sqlite()),
        (LegacyDatabase::on(Database::postgres()), Database::sqlite()),
    ] {
        let legacy = legacy.asymmetric_with_people(
            &json!([{"username": "alice", "keys": [{"key": key.public_pem()}]}]),
        );
        let deployment = Deployment::on(database);
        let another = deployment.run(&["import", SYSTEM, "--database", &legacy.url]);
        assert_eq!(another.code, 1, "{another:?}");
        assert!(another.stderr.contains(r#"no column "id" in a table "auth_user""#), "{another:?}");

        let imported = deployment.import(
            SYSTEM,
            &legacy,
            &["--user-table", "people_person", "--user-id-column", "person_uuid"],
        );

        assert_eq!(
            (imported.code, imported.counts("principal"), imported.counts("key")),
            (0, [1, 0, 0], [1, 0, 0])
        );
        let peer = AsymmetricJwtAuth::new();
        assert_eq!(deployment.serve().decide(&peer.authorization("alice", &key)).await.status, 200);
    }
}

/// More than fit in one page.
#[tokio::test]
async fn thousands_are_taken_over_in_batches() {
    let legacy =
        LegacyDatabase::sqlite().asymmetric(&json!([{"username": "machine", "many": 2000}]));
    let deployment = Deployment::new();

    let imported = deployment.import(SYSTEM, &legacy, &[]);

    assert_eq!(
        (imported.counts("principal"), imported.counts("key")),
        ([2000, 0, 0], [2000, 0, 0])
    );
    assert_eq!(deployment.list(&["key", "list"]).len(), 2000);
    let again = deployment.import(SYSTEM, &legacy, &[]);
    assert_eq!(
        (again.code, again.counts("principal"), again.counts("key")),
        (0, [0, 2000, 0], [0, 2000, 0])
    );
}

#[test]
fn what_is_asked_wrongly_is_said() {
    let deployment = Deployment::new();
    let legacy = LegacyDatabase::sqlite();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["import", SYSTEM], 2, "--database"),
        (
            &["import", SYSTEM, "--database", "postgresql+pg8000://host/name"],
            2,
            "not a database URL",
        ),
        (&["import", SYSTEM, "--database-env", "NOT_SET"], 2, "NOT_SET"),
        (
            &["import", SYSTEM, "--database", "sqlite:///nonexistent/file.db"],
            1,
            "cannot be reached",
        ),
        (
            &["import", SYSTEM, "--database", "postgres://nobody:secret@127.0.0.1:1/x"],
            1,
            "cannot be reached",
        ),
        (&["import", "jwthenticator", "--database", &legacy.url], 1, "cannot be reached"),
    ];
    for (arguments, code, says) in cases {
        let ran = deployment.run(arguments);
        assert!(
            ran.code == code && ran.stderr.contains(says) && !ran.stderr.contains("secret"),
            "{arguments:?}: {ran:?}"
        );
    }
    // A database of one system is refused by the import of another.
    legacy.jwthenticator(&json!([]));
    let ran = deployment.run(&["import", SYSTEM, "--database", &legacy.url]);
    assert!(
        ran.code == 1 && ran.stderr.contains("is it the one of asymmetric_jwt_auth?"),
        "{ran:?}"
    );
    let unmigrated = Deployment::unmigrated(Database::sqlite());
    legacy.jwthenticator(&json!([{"key": "k", "identifier": "6f2f4f5e-0c39-4a0e-9f6c-3a4b6f0b7a11", "expires_in": 60}]));
    let ran = unmigrated.run(&["import", "jwthenticator", "--database", &legacy.url, "--dry-run"]);
    assert!(ran.code == 1 && ran.stderr.contains("countersign migrate up"), "{ran:?}");
}

fn principal(deployment: &Deployment, username: &str) -> Value {
    let principals = deployment.list(&["principal", "list"]);
    principals.into_iter().find(|listed| listed["username"] == username).unwrap()
}
