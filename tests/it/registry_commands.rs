//! What operators do with principals, keys and trusts on the command line, and what it prints.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::harness::{
    Behaviour, Claims, Countersign, Database, Deployment, Door, JwksServer, Key, Question, Ran,
    Signer, eventually_async, now,
};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_principal_is_added_with_all_that_people_know_of_it() {
    for database in [Database::sqlite(), Database::postgres(), Database::mariadb()] {
        let deployment = Deployment::on(database);
        let added = deployment.list_one(&[
            "principal",
            "add",
            "zoë@example",
            "--disabled",
            "--scope",
            "orders:write orders:read",
            "--scope",
            "admin",
            "--given-name",
            "Zoë 佐",
            "--family-name",
            "O'Brien \"Z\"",
            "--email",
            "zoë@example.org",
        ]);
        let id = added["id"].as_i64().unwrap();
        is_recent(&added["created_at"]);
        let expected = json!({
            "id": id,
            "username": "zoë@example",
            "is_active": false,
            "scopes": added["scopes"],
            "given_name": "Zoë 佐",
            "family_name": "O'Brien \"Z\"",
            "email": "zoë@example.org",
            "created_at": added["created_at"],
            "updated_at": added["created_at"],
        });
        assert_eq!(added, expected);
        let mut scopes: Vec<&str> = added["scopes"].as_str().unwrap().split(' ').collect();
        scopes.sort_unstable();
        assert_eq!(scopes, ["admin", "orders:read", "orders:write"]);

        assert_eq!(deployment.list_one(&["principal", "show", "zoë@example"]), added);
        assert_eq!(deployment.list(&["principal", "list"]), [added]);
        let table = deployment.done(&["principal", "show", "zoë@example"]);
        for text in ["zoë@example", "false", "Zoë 佐", "O'Brien \"Z\"", "zoë@example.org"] {
            assert!(table.contains(text), "{text} is not in {table}");
        }
        let bare = deployment.list_one(&["principal", "add", "bare"]);
        assert_eq!([&bare["is_active"], &bare["scopes"]], [&json!(true), &json!("")]);
        for unknown in ["given_name", "family_name", "email"] {
            assert_eq!(bare[unknown], Value::Null);
        }
        let table = deployment.done(&["principal", "list"]);
        let rows: Vec<&str> =
            table.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
        assert_eq!(rows, ["zoë@example", "bare"], "{table}");
    }
}

#[tokio::test]
async fn bad_texts_and_scopes_add_nobody() {
    let deployment = Deployment::new();
    let long = "x".repeat(256);
    for (option, value, named) in [
        ("--given-name", "", "given_name"),
        ("--family-name", long.as_str(), "family_name"),
        ("--email", "a\nb", "email"),
        ("--scope", "qu\"ote", "scope"),
    ] {
        let ran = deployment.run(&["principal", "add", "alice", option, value]);
        assert!(
            ran.code == 1 && ran.stdout.is_empty() && ran.stderr.contains(named),
            "{option}: {ran:?}"
        );
    }
    assert_eq!(deployment.list(&["principal", "list"]), [] as [Value; 0]);
}

#[tokio::test]
async fn who_was_added_disabled_passes_once_enabled() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.done(&["principal", "add", "alice", "--disabled"]);
    deployment.add_key("alice", &key);
    let countersign = deployment.serve();
    assert_eq!(ask(&countersign, &key).await, "invalid_token");

    deployment.done(&["principal", "enable", "alice"]);
    becomes("allowed", &countersign, &key).await;
    let enabled = deployment.list_one(&["principal", "show", "alice"]);
    assert_eq!(enabled["is_active"], true);
    assert_ne!(enabled["created_at"], enabled["updated_at"]);
    // A repeated command changes nothing.
    deployment.done(&["principal", "enable", "alice"]);
    assert_eq!(deployment.list_one(&["principal", "show", "alice"]), enabled);
}

#[tokio::test]
async fn a_key_is_shown_with_its_text_and_its_terms() {
    for database in [Database::sqlite(), Database::postgres(), Database::mariadb()] {
        let (deployment, key, other) = (Deployment::on(database), Key::rsa(), Key::ed25519());
        deployment.done(&["principal", "add", "alice", "--scope", "a b"]);
        let file = deployment.file("key.pub", &key.public_pem());
        let added_at = now();
        let added = deployment.list_one(&[
            "key",
            "add",
            "alice",
            file.to_str().unwrap(),
            "--comment",
            "laptop 佐",
            "--scope",
            "a",
            "--expires-in",
            "90d",
            "--not-before",
            "2020-01-31T00:00:00Z",
        ]);
        deployment.add_key("alice", &other);

        let fixed = [
            &added["username"],
            &added["fingerprint"],
            &added["family"],
            &added["comment"],
            &added["scopes"],
        ];
        assert_eq!(
            fixed,
            [
                &json!("alice"),
                &json!(key.fingerprint()),
                &json!("rsa"),
                &json!("laptop 佐"),
                &json!("a")
            ]
        );
        assert_eq!(added["not_before"], "2020-01-31T00:00:00Z");
        let expires_in = seconds(&added["expires_at"]) - added_at;
        assert!((90 * 86_400 - 2..=90 * 86_400 + 60).contains(&expires_in), "{added:#}");
        assert_eq!([&added["revoked_at"], &added["last_used_on"]], [&Value::Null, &Value::Null]);
        is_recent(&added["created_at"]);

        let id = added["id"].to_string();
        let mut shown = deployment.list_one(&["key", "show", &id]);
        assert_eq!(
            shown.as_object_mut().unwrap().remove("key"),
            Some(key.public_pem().trim().into())
        );
        assert_eq!(shown, added);
        let listed = deployment.list(&["key", "list", "alice"]);
        assert_eq!((listed.len(), &listed[0]), (2, &added));
        assert_eq!(
            [&listed[1]["comment"], &listed[1]["scopes"], &listed[1]["expires_at"]],
            [&Value::Null; 3]
        );

        let table = deployment.done(&["key", "show", &id]);
        for text in [&key.fingerprint(), "laptop 佐", "2020-01-31", "BEGIN PUBLIC KEY"] {
            assert!(table.contains(text), "{text} is not in {table}");
        }
        let head = deployment.done(&["key", "list"]);
        assert!(head.lines().next().unwrap().contains("last_used_on"), "{head}");
        for command in ["show", "revoke"] {
            let ran = deployment.run(&["key", command, "12345"]);
            assert!(
                ran.code == 1 && ran.stdout.is_empty() && ran.stderr.contains("12345"),
                "{ran:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_key_without_use_is_not_taken() {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.done(&["principal", "add", "alice"]);
    let file = deployment.file("key.pub", &key.public_pem());
    for (options, code) in [
        (["--expires-in", "1h", "--not-before", "2099-01-01T00:00:00Z"].as_slice(), 1),
        (&["--expires-in", "0s"], 1),
        (&["--comment", ""], 1),
        (&["--expires-in", "soon"], 2),
        (&["--not-before", "tomorrow"], 2),
    ] {
        let ran = deployment
            .run(&[["key", "add", "alice", file.to_str().unwrap()].as_slice(), options].concat());
        assert!(
            ran.code == code && ran.stdout.is_empty() && !ran.stderr.is_empty(),
            "{options:?}: {ran:?}"
        );
    }
    assert_eq!(deployment.list(&["key", "list"]), [] as [Value; 0]);
}

/// Each of several keys has its own validity; the service checks its own clock, and needs no change
/// event.
#[tokio::test]
async fn keys_are_good_in_their_time_and_until_they_are_revoked() {
    let deployment = Deployment::new();
    let [lasting, short, early] = [(); 3].map(|()| Key::ed25519());
    let id = deployment.enrol("alice", &lasting);
    deployment.add_key_with("alice", &early, &["--not-before", "2099-01-01T00:00:00Z"]);
    let countersign = deployment.serve();
    let short_id = deployment.add_key_with("alice", &short, &["--expires-in", "4s"]);
    becomes("allowed", &countersign, &short).await;
    assert_eq!(ask(&countersign, &early).await, "invalid_token");
    becomes("invalid_token", &countersign, &short).await;
    assert!(seconds(&deployment.listed_key(&short_id)["expires_at"]) <= now());
    assert_eq!(ask(&countersign, &lasting).await, "allowed");

    let said = deployment.done(&["key", "revoke", &id]);
    assert!(said.contains(&id) && said.contains("alice"), "{said}");
    let revoked = deployment.listed_key(&id);
    is_recent(&revoked["revoked_at"]);
    becomes("invalid_token", &countersign, &lasting).await;
    // Revocation is final, and its first date is kept.
    deployment.done(&["key", "revoke", &id]);
    assert_eq!(deployment.listed_key(&id)["revoked_at"], revoked["revoked_at"]);
}

#[tokio::test]
async fn a_refresh_tells_what_it_found() {
    let server = JwksServer::https();
    let deployment = Deployment::new().trusting(&server).set("jwks.timeout", "2s");
    deployment.done(&["principal", "add", "alice"]);
    let trust = deployment.add_trust("alice", &server.url("/keys"));
    let [one, two] = ["one", "two"].map(Signer::named);

    server.put(
        "/keys",
        Behaviour::set([
            one.jwk(),
            two.jwk(),
            json!({"kty": "oct", "kid": "three", "k": "c2VjcmV0"}),
        ]),
    );
    let said = deployment.done(&["trust", "refresh", &trust]);
    assert!(said.contains("2 usable keys") && said.contains(&server.url("/keys")), "{said}");

    server.put("/keys", Behaviour::text("").with_status(503));
    let ran = deployment.run(&["trust", "refresh", &trust]);
    assert!(ran.code == 1 && ran.stdout.is_empty() && ran.stderr.contains("503"), "{ran:?}");
    let said = deployment.done(&["trust", "remove", &trust]);
    assert!(said.contains(&trust), "{said}");
}

#[tokio::test]
async fn trusts_are_listed_by_principal() {
    let deployment = Deployment::new();
    for username in ["alice", "bob"] {
        deployment.done(&["principal", "add", username]);
        deployment.add_trust(username, &format!("https://keys.example/{username}"));
    }
    let urls = |arguments: &[&str]| -> Vec<String> {
        let trusts = deployment.list(arguments);
        trusts.iter().map(|trust| trust["jwks_url"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        urls(&["trust", "list"]),
        ["https://keys.example/alice", "https://keys.example/bob"]
    );
    assert_eq!(urls(&["trust", "list", "bob"]), ["https://keys.example/bob"]);
    let unknown: Ran = deployment.run(&["trust", "list", "carol"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("carol"), "{unknown:?}");
}

impl Deployment {
    /// The object that a command prints with `--output json`.
    fn list_one(&self, command: &[&str]) -> Value {
        let ran = self.run(&[command, &["--output", "json"]].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{command:?}: {ran:?}");
        ran.json()
    }
}

async fn becomes(expected: &str, countersign: &Countersign, key: &Key) {
    let what = format!("the key is {expected}");
    eventually_async(&what, PATIENCE, async || {
        (ask(countersign, key).await == expected).then_some(())
    })
    .await;
}

/// `allowed`, or the code of the denial, for a fresh token of `alice`.
async fn ask(countersign: &Countersign, key: &Key) -> String {
    let verdict =
        Door::Http.ask(countersign, &Question::with(Claims::of("alice").authorization(key))).await;
    if verdict.allowed() {
        "allowed".to_owned()
    } else {
        verdict.code().unwrap_or("no code").to_owned()
    }
}

fn seconds(moment: &Value) -> i64 {
    let text = moment.as_str().unwrap_or_else(|| panic!("{moment} is no moment"));
    OffsetDateTime::parse(text, &Rfc3339)
        .unwrap_or_else(|error| panic!("{error} in {text}"))
        .unix_timestamp()
}

fn is_recent(moment: &Value) {
    assert!((now() - 60..=now() + 1).contains(&seconds(moment)), "{moment}");
}
