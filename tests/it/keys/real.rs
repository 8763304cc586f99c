//! Key files of other programs: `cryptography` and `PyCryptodome`, `ssh-keygen`, `puttygen`, and
//! `openssl`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::{
    Admin, Countersign, Deployment, Door, Question, Ran, peer, program, repository,
};

/// The passphrase of the fixtures.
const PASSPHRASE: &str = "test";
/// The passphrase of keys made here: OpenSSL requires more characters from `ssh-keygen`.
const LONGER_PASSPHRASE: &str = "test words";

fn fixture(name: &str) -> String {
    repository().join("tests/it/fixtures/real_clients/keys").join(name).to_str().unwrap().to_owned()
}

fn world() -> Deployment {
    let deployment = Deployment::new()
        .variable("KEY_PASSPHRASE", PASSPHRASE)
        .variable("LONGER_PASSPHRASE", LONGER_PASSPHRASE);
    deployment.done(&["principal", "add", "alice"]);
    deployment
}

fn sign(deployment: &Deployment, key: &str) -> Ran {
    deployment.run(&["sign", "alice", "--key", key, "--passphrase-env", "KEY_PASSPHRASE"])
}

async fn passes(countersign: &Countersign, token: &str) -> bool {
    Door::Http.ask(countersign, &Question::with(format!("JWT {}", token.trim()))).await.allowed()
}

#[tokio::test]
async fn keys_that_failed_are_read_or_refused_with_the_reason() {
    let deployment = world();
    for public in ["openssh-with-bom.pub", "rsa.pub.pem"] {
        deployment.done(&["key", "add", "alice", &fixture(public)]);
    }
    let short = deployment.dir.path().join("short.pub");
    let private = private_copy(&deployment, "openssh-p256-short-scalar");
    fs::write(
        &short,
        output_of(Command::new(program("ssh-keygen")).args(["-y", "-f"]).arg(private)),
    )
    .unwrap();
    deployment.done(&["key", "add", "alice", short.to_str().unwrap()]);
    let countersign = deployment.serve();
    for private in [
        "openssh-64-columns",
        "openssh-76-columns",
        "openssh-p256-short-scalar",
        "pkcs8-hmac-sha1.pem",
        "pkcs8-des3.pem",
        "pkcs8-pbe-sha1-3des.pem",
        "pkcs8-pycryptodome-default.pem",
        "certificate-before-key.pem",
    ] {
        let signed = sign(&deployment, &fixture(private));
        assert_eq!(signed.code, 0, "{private}: {signed:?}");
        assert!(passes(&countersign, &signed.stdout).await, "{private}");
    }

    deployment.done(&["principal", "add", "bob"]);
    for (file, reason) in [
        ("two-public-keys.pem", "holds 2 keys"),
        ("two-openssh-lines.pub", "holds 2 keys"),
        ("certificate-before-key.pem", "this is a private key"),
    ] {
        for comment in [&[][..], &["--comment", "mine"]] {
            let refused =
                deployment.run(&[&["key", "add", "bob", &fixture(file)], comment].concat());
            assert!(refused.code == 1 && refused.stderr.contains(reason), "{file}: {refused:?}");
        }
    }
    let utf16: Vec<u8> =
        "\u{feff}ssh-ed25519 AAAA".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let file = deployment.dir.path().join("utf16.pub");
    fs::write(&file, utf16).unwrap();
    let refused = deployment.run(&["key", "add", "bob", file.to_str().unwrap()]);
    assert!(refused.code == 1 && refused.stderr.contains("UTF-16"), "{refused:?}");
    assert_eq!(deployment.list(&["key", "list", "bob"]).len(), 0);
}

#[tokio::test]
async fn the_admin_api_says_the_same_of_two_keys() {
    let deployment = Deployment::new().administered();
    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    admin.add(&json!({"username": "alice"})).await;
    for file in ["two-public-keys.pem", "two-openssh-lines.pub"] {
        for comment in [json!(null), json!("mine")] {
            let mut body = json!({"key": fs::read_to_string(fixture(file)).unwrap()});
            if !comment.is_null() {
                body["comment"] = comment;
            }
            let refused = admin.post("/principals/alice/keys", &body).await;
            assert!(refused.status == 422 || refused.status == 400, "{refused:?}");
            assert!(refused.text().contains("holds 2 keys"), "{refused:?}");
        }
    }
}

/// The private and public keys that each program writes match here as well.
#[tokio::test]
async fn keys_of_other_programs_sign_and_verify() {
    let deployment = world();
    let folder = deployment.dir.path().join("made");
    fs::create_dir(&folder).unwrap();
    let script = repository().join("tests/it/peers/key_makers.py");
    output_of(
        Command::new(peer("key_makers/bin/python")).arg(script).arg(&folder).arg(LONGER_PASSPHRASE),
    );
    make_with_ssh_keygen(&folder);
    make_with_puttygen(&folder);
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() > 60, "{names:?}");
    let is_kind = |name: &String, kind: &str| {
        Path::new(name).extension().is_some_and(|extension| extension == kind)
    };
    let (public, private): (Vec<String>, Vec<String>) = names
        .into_iter()
        .filter(|name| !is_kind(name, "foreign"))
        .partition(|name| is_kind(name, "pub"));
    for name in &public {
        let username = name.trim_end_matches(".pub");
        deployment.done(&["principal", "add", username]);
        deployment.done(&["key", "add", username, folder.join(name).to_str().unwrap()]);
    }
    let countersign = deployment.serve();
    for name in private {
        let username = name.trim_end_matches(".encrypted");
        let file = folder.join(&name);
        let signed = deployment.run(&[
            "sign",
            username,
            "--key",
            file.to_str().unwrap(),
            "--passphrase-env",
            "LONGER_PASSPHRASE",
        ]);
        assert_eq!(signed.code, 0, "{name}: {signed:?}");
        assert!(passes(&countersign, &signed.stdout).await, "{name}");
    }
    for (name, cure) in [
        ("putty.ppk.foreign", "puttygen FILE -O private-openssh-new"),
        ("putty.rfc4716.foreign", "ssh-keygen -i -f FILE"),
    ] {
        let file = folder.join(name);
        let refused = deployment.run(&["key", "add", "alice", file.to_str().unwrap()]);
        assert!(refused.code == 1 && refused.stderr.contains(cure), "{name}: {refused:?}");
    }
}

fn make_with_ssh_keygen(folder: &Path) {
    for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("rsa", "2048")] {
        for (format, options) in
            [("new", &[][..]), ("pem", &["-m", "PEM"]), ("pkcs8", &["-m", "PKCS8"])]
        {
            // It has no format for Ed25519 except its own.
            if kind == "ed25519" && format != "new" {
                continue;
            }
            let name = folder.join(format!("ssh-keygen-{kind}-{bits}-{format}"));
            let name = name.to_str().unwrap();
            let keygen = || Command::new(program("ssh-keygen"));
            output_of(
                keygen()
                    .args(["-q", "-t", kind, "-b", bits, "-N", "", "-C", "caf\u{e9}", "-f", name])
                    .args(options),
            );
            let encrypted = format!("{name}.encrypted");
            // Its PEM encryption uses a single round of MD5, which is refused.
            if format != "pem" {
                fs::copy(name, &encrypted).unwrap();
                output_of(
                    keygen()
                        .args([
                            "-q",
                            "-p",
                            "-a",
                            "4",
                            "-P",
                            "",
                            "-N",
                            LONGER_PASSPHRASE,
                            "-f",
                            &encrypted,
                        ])
                        .args(options),
                );
            }
        }
    }
}

fn make_with_puttygen(folder: &Path) {
    let passphrase = folder.join("passphrase.foreign");
    fs::write(&passphrase, LONGER_PASSPHRASE).unwrap();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let puttygen = |arguments: &[&str]| {
        output_of(Command::new(program("puttygen")).args(["-q"]).args(arguments))
    };
    for (kind, bits) in [("ed25519", "255"), ("ecdsa", "256"), ("ecdsa", "384"), ("rsa", "2048")] {
        let name = format!("putty-{kind}-{bits}");
        let (ppk, file) = (at("putty.ppk.foreign"), at(&name));
        let random = ["--random-device", "/dev/urandom", "--new-passphrase", "/dev/null"];
        puttygen(
            &[
                &["-t", kind, "-b", bits, "-C", "a comment", "-O", "private", "-o", &ppk],
                &random[..],
            ]
            .concat(),
        );
        puttygen(&[&ppk, "-O", "private-openssh-new", "-o", &file]);
        puttygen(&[&ppk, "-O", "private-openssh", "-o", &at(&format!("{name}-old"))]);
        let encrypted = at(&format!("{name}.encrypted"));
        puttygen(&[
            &ppk,
            "-O",
            "private-openssh-new",
            "--new-passphrase",
            passphrase.to_str().unwrap(),
            "-o",
            &encrypted,
        ]);
        for public in [format!("{name}.pub"), format!("{name}-old.pub")] {
            puttygen(&[&ppk, "-O", "public-openssh", "-o", &at(&public)]);
        }
        puttygen(&[&ppk, "-O", "public", "-o", &at("putty.rfc4716.foreign")]);
    }
}

/// A copy that only its owner may read, as `ssh-keygen` requires.
fn private_copy(deployment: &Deployment, name: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;

    let copy = deployment.file(name, &fs::read_to_string(fixture(name)).unwrap());
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
    copy
}

fn output_of(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run `make test-setup`"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
