//! `countersign token`: what operators do with tokens on the command line, and what it prints.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Claims, Database, Deployment, Key, Ran, eventually, eventually_async};

const PATIENCE: Duration = Duration::from_secs(20);
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn a_token_is_issued_told_about_and_revoked() {
    for database in [Database::sqlite(), Database::postgres(), Database::mariadb()] {
        let deployment = Deployment::on(database);
        deployment.done(&["principal", "add", "alice", "--scope", "read write"]);
        let options = [
            "--audience",
            "orders",
            "--audience",
            "carts",
            "--scope",
            "read",
            "--scope",
            "admin",
            "--sid",
            "session 1",
        ];
        let issued = one(&deployment, &[["token", "issue", "alice"].as_slice(), &options].concat());
        let mut record = issued.clone();
        let members = record.as_object_mut().unwrap();
        let [access, refresh] =
            ["access_token", "refresh_token"].map(|name| members.remove(name).unwrap());
        let (access, refresh) = (access.as_str().unwrap(), refresh.as_str().unwrap());
        assert_eq!(
            (members.remove("token_type"), members.remove("expires_in")),
            (Some(json!("Bearer")), Some(json!(1800)))
        );
        let expected = json!({
            "id": record["id"],
            "username": "alice",
            "family": record["family"],
            "access_jti": record["access_jti"],
            "refresh_jti": record["refresh_jti"],
            "audience": ["orders", "carts"],
            "sid": "session 1",
            "scopes": "read",
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
        assert_eq!(deployment.list(&["token", "list", "alice"]), [record.clone()]);
        let table = deployment.done(&["token", "list"]);
        assert!(
            table.contains("orders carts") && !table.contains(access) && !table.contains("csr_"),
            "{table}"
        );

        for (token, kind) in [(access, "access"), (refresh, "refresh")] {
            let told = one(&deployment, &["token", "introspect", token]);
            let expected = json!({
                "active": true,
                "kind": kind,
                "jti": record[format!("{kind}_jti")],
                "iss": "http://localhost:8080",
                "username": "alice",
                "sub": told["sub"],
                "audience": ["orders", "carts"],
                "scopes": "read",
                "sid": "session 1",
                "issued_at": record["issued_at"],
                "expires_at": record[format!("{kind}_expires_at")],
            });
            assert_eq!(told, expected);
            assert!(told["sub"].is_string());
            let read = Ran::reading(
                &mut deployment.command(&["token", "introspect", "-"]),
                format!("{token}\n").as_bytes(),
            );
            assert!(read.code == 0 && read.stdout.contains("alice"), "{read:?}");
        }

        let said = deployment.done(&["token", "revoke", record["refresh_jti"].as_str().unwrap()]);
        assert!(said.contains("revoked"), "{said}");
        for token in [access, refresh] {
            is_not_active(&deployment, token);
        }
        let revoked = deployment.list(&["token", "list"]);
        assert!(revoked[0]["revoked_at"].is_string(), "{revoked:?}");
        deployment.done(&["token", "revoke", record["access_jti"].as_str().unwrap()]);
        assert_eq!(deployment.list(&["token", "list"]), revoked, "its first date stays");
    }
}

/// One signs and another verifies: they share the folder of keys.
#[tokio::test]
async fn an_issued_token_passes_until_it_is_revoked() {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice", "--scope", "read"]);
    let issued = one(&deployment, &["token", "issue", "alice"]);
    let countersign = deployment.serve();
    let bearer = format!("Bearer {}", issued["access_token"].as_str().unwrap());
    let allowed = countersign.decide(&bearer).await;
    assert_eq!(
        (allowed.status, allowed.header("x-auth-username")),
        (200, Some("alice")),
        "{allowed:?}"
    );

    deployment.done(&["token", "revoke", issued["access_jti"].as_str().unwrap()]);

    eventually_async("the revocation is in force", PATIENCE, async || {
        (countersign.decide(&bearer).await.status == 401).then_some(())
    })
    .await;
}

#[test]
fn what_is_not_active_is_not_told_about() {
    let deployment = Deployment::new().set("issuer.access_token_lifetime", "1s");
    deployment.done(&["principal", "add", "alice"]);
    is_not_active(&deployment, "nonsense");
    assert!(
        !deployment.dir.path().join("signing-keys").exists(),
        "whoever only looks makes no key"
    );
    let issued = one(&deployment, &["token", "issue", "alice"]);
    let [access, refresh] =
        ["access_token", "refresh_token"].map(|name| issued[name].as_str().unwrap().to_owned());
    eventually("the token does not expire", Duration::from_secs(10), || {
        (deployment.run(&["token", "introspect", &access]).code != 0).then_some(())
    });
    is_not_active(&deployment, &access);
    one(&deployment, &["token", "introspect", &refresh]);
    deployment.done(&["principal", "disable", "alice"]);
    is_not_active(&deployment, &refresh);
    for other in
        ["nonsense", "a.b.c", "", &Claims::of("alice").sign(&Key::rsa()), &format!("{refresh}x")]
    {
        is_not_active(&deployment, other);
    }
}

#[test]
fn exit_codes_tell_refusals_from_bad_usage() {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice"]);
    deployment.done(&["principal", "add", "bob", "--disabled"]);
    for (arguments, code, named) in [
        (["token", "issue", "nobody"].as_slice(), 1, "nobody"),
        (&["token", "issue", "bob"], 1, "disabled"),
        (&["token", "issue", "alice", "--audience", "a b"], 1, "audience"),
        (&["token", "issue", "alice", "--sid", ""], 1, "sid"),
        (&["token", "issue", "alice", "--scope", "qu\"ote"], 1, "scope"),
        (&["token", "issue"], 2, "USERNAME"),
        (&["token", "list", "nobody"], 1, "nobody"),
        (&["token", "revoke", NOBODY], 1, NOBODY),
        (&["token", "revoke", "x"], 2, "`jti`"),
        (&["token", "introspect"], 2, "TOKEN"),
    ] {
        let ran: Ran = deployment.run(arguments);
        assert!(
            ran.code == code && ran.stdout.is_empty() && ran.stderr.contains(named),
            "{arguments:?}: {ran:?}"
        );
    }
    assert_eq!(deployment.list(&["token", "list"]), [] as [Value; 0]);
}

fn is_not_active(deployment: &Deployment, token: &str) {
    let ran = deployment.run(&["token", "introspect", token, "--output", "json"]);
    assert!(
        ran.code == 1 && ran.stdout.is_empty() && ran.stderr.contains("not active"),
        "{token}: {ran:?}"
    );
}

/// The object that a command prints with `--output json`.
fn one(deployment: &Deployment, command: &[&str]) -> Value {
    let ran = deployment.run(&[command, &["--output", "json"]].concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{command:?}: {ran:?}");
    ran.json()
}

/// Other users of the machine can see the arguments of a command.
#[test]
fn tokens_are_handed_over_on_standard_input() {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice"]);
    let pair = deployment.tokens("alice");
    let reading = |arguments: &[&str], input: &str| {
        Ran::reading(&mut deployment.command(arguments), input.as_bytes())
    };
    for help in [["explain", "--help"].as_slice(), &["token", "introspect", "--help"]] {
        let shown = deployment.done(help);
        assert!(shown.contains(" - < token.txt"), "{shown}");
    }

    let told =
        reading(&["token", "introspect", "-", "--output", "json"], &format!("{}\n", pair.refresh));
    assert_eq!((told.code, &told.json()["active"]), (0, &json!(true)), "{told:?}");
    let explained =
        reading(&["explain", "-", "--output", "json"], &format!("Bearer {}\n", pair.access));
    assert_eq!(
        (explained.code, &explained.json()["verdict"]),
        (0, &json!("allow")),
        "{explained:?}"
    );

    let ran = deployment.run(&["token", "revoke", &pair.access]);
    assert!(ran.code == 2 && !ran.stderr.contains(&pair.access), "{ran:?}");
    let ran = reading(&["token", "revoke", "-"], "csr_nobody");
    assert_eq!(ran.code, 1, "{ran:?}");
    let ran = reading(&["token", "revoke", "-"], &format!("{}\n", pair.access));
    assert!(ran.code == 0 && !ran.stdout.contains(&pair.access), "{ran:?}");
    for token in [&pair.access, &pair.refresh] {
        assert_eq!(reading(&["token", "introspect", "-"], token).code, 1);
    }
}
