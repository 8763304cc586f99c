//! The service's own signing keys, as operators list and rotate them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::harness::{Deployment, Ran, now, variable};

#[test]
fn a_rotation_says_what_it_made_and_when_it_signs() {
    let deployment = Deployment::bare();
    assert_eq!(deployment.list(&["signing-key", "list"]), [] as [Value; 0]);
    assert!(!deployment.dir.path().join("signing-keys").exists(), "listing makes nothing");

    let first = rotated(&deployment);
    assert_eq!([&first["algorithm"], &first["state"]], [&json!("RS256"), &json!("signing")]);
    assert_eq!([&first["signs_until"], &first["verifies_until"]], [&Value::Null; 2]);
    let second = rotated(&deployment);
    assert_eq!(second["state"], "published");
    assert_eq!(seconds(&second["signs_from"]), seconds(&second["created_at"]) + 300);
    assert!((now() - 60..=now() + 1).contains(&seconds(&second["created_at"])), "{second:#}");

    let listed = deployment.list(&["signing-key", "list"]);
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1], second);
    assert_eq!([&listed[0]["id"], &listed[0]["state"]], [&first["id"], &json!("signing")]);
    assert_eq!(listed[0]["signs_until"], second["signs_from"]);
    assert_eq!(
        seconds(&listed[0]["verifies_until"]),
        seconds(&second["signs_from"]) + 30 * 60 + 60
    );

    let table = deployment.done(&["signing-key", "list"]);
    let said = deployment.done(&["signing-key", "rotate"]);
    for text in ["RS256", "published", "signs_from", "signing-keys/"] {
        assert!(table.contains(text), "{text} is not in {table}");
        assert!(said.contains(text), "{text} is not in {said}");
    }
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&deployment.dir.path().join("signing-keys")), 0o700);
    for key in [&first, &second] {
        let file = deployment.dir.path().join(key["file"].as_str().unwrap());
        assert_eq!(mode(&file), 0o600);
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
    }
}

#[test]
fn keys_are_of_the_kind_that_is_set() {
    let mut deployment = Deployment::bare().set("issuer.signing_key_delay", "1h");
    for algorithm in ["RS256", "PS256", "ES256", "ES384", "EdDSA"] {
        deployment = deployment.set("issuer.algorithm", algorithm);
        assert_eq!(rotated(&deployment)["algorithm"], algorithm);
    }
    let last = deployment.list(&["signing-key", "list"]).pop().unwrap();
    assert_eq!(seconds(&last["signs_from"]), seconds(&last["created_at"]) + 3600);
    for (value, accepted) in [("HS256", "hs256_secret_file"), ("RS512", "PS256"), ("none", "EdDSA")]
    {
        let ran = Deployment::bare().set("issuer.algorithm", value).run(&["signing-key", "rotate"]);
        assert!(
            ran.code == 2
                && ran.stderr.contains("issuer.algorithm")
                && ran.stderr.contains(accepted),
            "{ran:?}"
        );
    }
}

#[test]
fn processes_that_rotate_at_once_leave_one_signing_key() {
    let deployment = Deployment::bare().set("issuer.algorithm", "ES256");
    let rotate = |_| {
        deployment
            .command(&["signing-key", "rotate"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let processes: Vec<_> = (0..10).map(rotate).collect();
    for process in processes {
        let ran = Ran::from(process.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    }
    let listed = deployment.list(&["signing-key", "list"]);
    let signing = listed.iter().filter(|key| key["state"] == "signing");
    assert_eq!((listed.len(), signing.count()), (10, 1), "{listed:#?}");
    let files = std::fs::read_dir(deployment.dir.path().join("signing-keys")).unwrap();
    assert_eq!(files.count(), 10, "no draft is left behind");
}

#[test]
fn what_is_no_key_is_named() {
    let deployment = Deployment::bare();
    rotated(&deployment);
    std::fs::write(
        deployment.dir.path().join("signing-keys/half.pem"),
        "-----BEGIN PRIVATE KEY-----\nMIIE",
    )
    .unwrap();
    for command in ["list", "rotate"] {
        let ran = deployment.run(&["signing-key", command]);
        assert!(
            ran.code == 1 && ran.stdout.is_empty() && ran.stderr.contains("signing-keys/half.pem"),
            "{ran:?}"
        );
    }
}

#[test]
fn with_a_secret_there_are_no_signing_keys() {
    let deployment = Deployment::bare().set("issuer.hs256_secret_file", "secret");
    deployment.file("secret", &"s".repeat(32));
    for command in ["list", "rotate"] {
        let ran = deployment.run(&["signing-key", command]);
        assert!(ran.code == 1 && ran.stdout.is_empty(), "{ran:?}");
        for text in ["there are no signing keys", "issuer.hs256_secret_file"] {
            assert!(ran.stderr.contains(text), "{ran:?}");
        }
    }
    assert!(!deployment.dir.path().join("signing-keys").exists());
    let ran = deployment.set("issuer.algorithm", "ES256").run(&["config", "check"]);
    assert!(ran.code == 2 && ran.stderr.contains(&variable("issuer.algorithm")), "{ran:?}");
}

fn rotated(deployment: &Deployment) -> Value {
    let json = deployment.done(&["signing-key", "rotate", "--output", "json"]);
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"))
}

fn seconds(moment: &Value) -> i64 {
    let text = moment.as_str().unwrap_or_else(|| panic!("{moment} is no moment"));
    OffsetDateTime::parse(text, &Rfc3339)
        .unwrap_or_else(|error| panic!("{error} in {text}"))
        .unix_timestamp()
}
