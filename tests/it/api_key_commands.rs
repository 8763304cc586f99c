//! `countersign api-key`: what operators do with API keys on the command line, and what it prints.

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::harness::{Database, Deployment, Ran, now};

const IDENTIFIER: &str = "6f2f4f5e-0c39-4a0e-9f6c-3a4b6f0b7a11";
const DAY: i64 = 86_400;

#[test]
fn a_key_is_issued_listed_and_revoked() {
    for database in [Database::sqlite(), Database::postgres(), Database::mariadb()] {
        let deployment = Deployment::on(database);
        deployment.done(&["principal", "add", "alice"]);
        let options =
            ["--expires-in", "90d", "--identifier", IDENTIFIER, "--comment", "nightly 佐"];
        let mut issued =
            one(&deployment, &[["api-key", "issue", "alice"].as_slice(), &options].concat());
        let key = issued.as_object_mut().unwrap().remove("key").unwrap();
        assert!(key.as_str().unwrap().starts_with("csk_"), "{key}");
        let expected = json!({
            "id": issued["id"],
            "username": "alice",
            "identifier": IDENTIFIER,
            "comment": "nightly 佐",
            "expires_at": issued["expires_at"],
            "revoked_at": null,
            "last_used_on": null,
            "created_at": issued["created_at"],
        });
        assert_eq!(issued, expected);
        lasts(90 * DAY, &issued);

        assert_eq!(deployment.list(&["api-key", "list"]), [issued.clone()]);
        assert_eq!(deployment.list(&["api-key", "list", "alice"]), [issued.clone()]);
        let table = deployment.done(&["api-key", "list"]);
        assert!(
            table.lines().next().unwrap().trim().starts_with("id ") && table.contains(IDENTIFIER),
            "{table}"
        );
        assert!(!table.contains("csk_"), "{table}");

        let id = issued["id"].to_string();
        let said = deployment.done(&["api-key", "revoke", &id]);
        assert!(said.contains(&id) && said.contains("alice"), "{said}");
        let revoked = deployment.list(&["api-key", "list"]);
        assert!(revoked[0]["revoked_at"].is_string(), "{revoked:?}");
        deployment.done(&["api-key", "revoke", &id]);
        assert_eq!(deployment.list(&["api-key", "list"]), revoked, "its first date stays");
    }
}

#[test]
fn what_is_not_said_is_made_up() {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice"]);
    let [first, second] = [(); 2].map(|()| one(&deployment, &["api-key", "issue", "alice"]));
    assert_ne!(first["identifier"], second["identifier"]);
    assert_ne!(first["key"], second["key"]);
    lasts(120 * DAY, &first);
    let table = deployment.done(&["api-key", "issue", "alice"]);
    let listed = deployment.list(&["api-key", "list"]).pop().unwrap();
    for shown in
        ["csk_", listed["identifier"].as_str().unwrap(), listed["expires_at"].as_str().unwrap()]
    {
        assert!(table.contains(shown), "{shown} is not in {table}");
    }
    // A lifetime that ends after the last year that can be written is cut to that year.
    let lasting = one(&deployment, &["api-key", "issue", "alice", "--expires-in", "10000y"]);
    assert_eq!(lasting["expires_at"], "9999-12-31T23:59:59.999Z");
    let deployment = deployment.set("issuer.api_key_lifetime", "1d");
    lasts(DAY, &one(&deployment, &["api-key", "issue", "alice"]));
}

#[test]
fn exit_codes_tell_refusals_from_bad_usage() {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice"]);
    for (arguments, code, named) in [
        (["api-key", "issue", "nobody"].as_slice(), 1, "nobody"),
        (&["api-key", "issue", "alice", "--expires-in", "0s"], 1, "use"),
        (&["api-key", "issue", "alice", "--comment", ""], 1, "comment"),
        (&["api-key", "issue", "alice", "--expires-in", "soon"], 2, "--expires-in"),
        (&["api-key", "issue", "alice", "--identifier", "x"], 2, "--identifier"),
        (&["api-key", "issue"], 2, "USERNAME"),
        (&["api-key", "list", "nobody"], 1, "nobody"),
        (&["api-key", "revoke", "12345"], 1, "12345"),
        (&["api-key", "revoke", "x"], 2, "ID"),
    ] {
        let ran: Ran = deployment.run(arguments);
        assert!(
            ran.code == code && ran.stdout.is_empty() && ran.stderr.contains(named),
            "{arguments:?}: {ran:?}"
        );
    }
    assert_eq!(deployment.list(&["api-key", "list"]), [] as [Value; 0]);
}

/// The object that a command prints with `--output json`.
fn one(deployment: &Deployment, command: &[&str]) -> Value {
    let ran = deployment.run(&[command, &["--output", "json"]].concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{command:?}: {ran:?}");
    ran.json()
}

fn lasts(lifetime: i64, key: &Value) {
    let text = key["expires_at"].as_str().unwrap();
    let lasts = OffsetDateTime::parse(text, &Rfc3339).unwrap().unix_timestamp() - now();
    assert!((lifetime - 60..=lifetime + 1).contains(&lasts), "{key:#}");
}
