//! Mistakes on the command line: one clear line that names the fix, and nothing is written.

use std::net::TcpListener;

use crate::harness::{Database, Deployment, Key, LISTENERS, Ran};

#[tokio::test]
async fn a_private_key_is_not_registered() {
    let deployment = with_alice();
    for key in [Key::ed25519(), Key::rsa(), Key::p256()] {
        let file = deployment.file("private.pem", &key.private_pem());
        let ran = deployment.run(&["key", "add", "alice", file.to_str().unwrap()]);
        refused(&ran, &["private", "public"]);
        let secret = key.private_pem();
        let body = secret.lines().nth(1).unwrap();
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(body), "it repeats the key");
    }
    assert!(deployment.list(&["key", "list", "alice"]).is_empty());
}

#[tokio::test]
async fn a_short_rsa_key_is_refused() {
    let deployment = with_alice();
    let file = deployment.file("rsa1024.pub", include_str!("fixtures/rsa1024.pub"));

    refused(&deployment.run(&["key", "add", "alice", file.to_str().unwrap()]), &["1024", "2048"]);

    assert!(deployment.list(&["key", "list", "alice"]).is_empty());
    refused(
        &deployment.run(&["key", "generate", "--type", "rsa", "--bits", "1024", "--out", "short"]),
        &["2048"],
    );
    assert!(!deployment.dir.path().join("short").exists());
}

#[tokio::test]
async fn something_else_is_not_a_key() {
    let deployment = with_alice();
    for (name, content) in
        [("empty", ""), ("text", "hello\n"), ("torn", "-----BEGIN PUBLIC KEY-----\nMCow\n")]
    {
        let file = deployment.file(name, content);
        refused(
            &deployment.run(&["key", "add", "alice", file.to_str().unwrap()]),
            &[name, "PEM", "OpenSSH"],
        );
    }
    refused(&deployment.run(&["key", "add", "alice", "missing.pub"]), &["missing.pub"]);
    assert!(deployment.list(&["key", "list", "alice"]).is_empty());
}

#[tokio::test]
async fn an_encrypted_key_needs_its_passphrase() {
    let deployment = with_alice();
    let with_passphrase = |command: &[&str], passphrase: &str| {
        let command = [command, &["--passphrase-env", "SECRET"]].concat();
        Ran::of(deployment.command(&command).env("SECRET", passphrase))
    };
    let generated = with_passphrase(&["key", "generate", "--out", "encrypted"], "open sesame");
    assert_eq!(generated.code, 0, "{generated:?}");
    let key = std::fs::read_to_string(deployment.dir.path().join("encrypted")).unwrap();
    assert!(key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{key}");

    let sign = ["sign", "alice", "--key", "encrypted"];
    refused(&deployment.run(&sign), &["encrypted", "--passphrase-env"]);
    refused(&with_passphrase(&sign, "open poppy"), &["passphrase"]);
    let right = with_passphrase(&sign, "open sesame");
    assert_eq!((right.code, right.stdout.split('.').count()), (0, 3), "{right:?}");
}

#[tokio::test]
async fn a_key_file_is_not_overwritten() {
    let deployment = Deployment::new();
    let precious = deployment.file("key.pem", "precious");

    let ran = deployment.run(&["key", "generate", "--out", precious.to_str().unwrap()]);

    refused(&ran, &["key.pem"]);
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    assert!(!deployment.dir.path().join("key.pem.pub").exists());
}

#[tokio::test]
async fn a_username_is_taken_once() {
    let deployment = with_alice();
    let before = deployment.list(&["principal", "list"]);

    refused(&deployment.run(&["principal", "add", "alice", "--scope", "admin"]), &["alice"]);

    assert_eq!(deployment.list(&["principal", "list"]), before);
    // Usernames are compared byte for byte: another spelling is another principal.
    deployment.done(&["principal", "add", "Alice"]);
    assert_eq!(deployment.list(&["principal", "list"]).len(), 2);
}

#[tokio::test]
async fn a_username_has_to_be_one() {
    let deployment = Deployment::new();
    for username in ["", "ali\tce", &"a".repeat(256)] {
        refused(&deployment.run(&["principal", "add", username]), &["255"]);
    }
    assert!(deployment.list(&["principal", "list"]).is_empty());
}

#[tokio::test]
async fn a_key_is_added_once() {
    let deployment = with_alice();
    let key = Key::ed25519();
    deployment.add_key("alice", &key);
    let file = deployment.file("again.pub", &key.public_pem());

    refused(
        &deployment.run(&["key", "add", "alice", file.to_str().unwrap()]),
        &["alice", &key.fingerprint()],
    );

    assert_eq!(deployment.list(&["key", "list", "alice"]).len(), 1);
    // Another principal may hold the same key.
    deployment.enrol("bob", &key);
}

#[tokio::test]
async fn an_unknown_name_is_told() {
    let deployment = with_alice();
    let file = deployment.file("key.pub", &Key::ed25519().public_pem());
    let file = file.to_str().unwrap();
    for command in [
        ["principal", "show", "bob"].as_slice(),
        &["principal", "disable", "bob"],
        &["principal", "remove", "bob"],
        &["key", "add", "bob", file],
        &["key", "list", "bob"],
    ] {
        let ran = deployment.run(command);
        refused(&ran, &["bob"]);
        assert_eq!(ran.code, 1, "{command:?}: {ran:?}");
    }
}

#[tokio::test]
async fn bad_usage_is_exit_code_2() {
    let deployment = Deployment::new();
    for command in [
        ["principal", "frobnicate"].as_slice(),
        &["principal", "add"],
        &["key", "generate", "--type", "dsa"],
        &["sign", "alice"],
        &["nonsense"],
    ] {
        let ran = deployment.run(command);
        assert_eq!(ran.code, 2, "{command:?}: {ran:?}");
        assert!(!ran.stderr.is_empty());
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in LISTENERS {
        let deployment = Deployment::new().set(key, &address);
        refused(&deployment.run(&["serve"]), &[&address, key]);
    }
}

#[tokio::test]
async fn an_unmigrated_database_is_not_served() {
    let deployment = Deployment::unmigrated(Database::postgres());
    for command in [["serve"].as_slice(), &["principal", "add", "alice"], &["principal", "list"]] {
        refused(&deployment.run(command), &["countersign migrate up"]);
    }
    let checked = deployment.run(&["config", "check"]);
    assert!(checked.code == 1 && checked.stderr.contains("countersign migrate up"), "{checked:?}");

    deployment.done(&["migrate", "up"]);
    deployment.done(&["principal", "add", "alice"]);
    assert_eq!(deployment.list(&["principal", "list"]).len(), 1);
}

#[tokio::test]
async fn an_unreachable_database_is_named() {
    let url =
        format!("postgres://countersign@127.0.0.1:{}/countersign", crate::harness::free_port());
    let deployment = Deployment::bare().set("database.url", &url);
    for command in [["serve"].as_slice(), &["principal", "list"], &["migrate", "up"]] {
        let ran = deployment.run(command);
        refused(&ran, &["database.url"]);
    }
}

fn with_alice() -> Deployment {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice"]);
    deployment
}

/// Refused with one line that says what matters, and nothing on stdout that a script could take for
/// success.
fn refused(ran: &Ran, parts: &[&str]) {
    assert!([1, 2].contains(&ran.code), "{ran:?}");
    assert_eq!(ran.stdout, "", "{ran:?}");
    // The argument parser adds where to find help.
    let complaint =
        ran.stderr.trim_end().trim_end_matches("\n\nFor more information, try '--help'.");
    assert_eq!(complaint.lines().count(), 1, "not one line: {ran:?}");
    for part in parts {
        assert!(ran.stderr.contains(part), "{part} is not in {ran:?}");
    }
}
