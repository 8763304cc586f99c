use std::process::Command;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::*;
use crate::domain::algorithm::Algorithm;

/// OpenSSL and OpenSSH are the independent implementations that our formats are tested against.
fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; install it with `make test-setup`"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn text(program: &str, arguments: &[&str]) -> String {
    String::from_utf8(run(program, arguments)).unwrap()
}

fn pem_file(key: &PrivateKey) -> tempfile::TempPath {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), key.to_pem().unwrap().expose_secret()).unwrap();
    file.into_temp_path()
}

fn sample(family: KeyFamily) -> PrivateKey {
    PrivateKey::generate(family, 2048).unwrap()
}

#[test]
fn a_fingerprint_is_the_digest_of_the_pem_text() {
    for family in KeyFamily::ALL {
        let key = sample(family);
        let file = pem_file(&key);
        let pem = text("openssl", &["pkey", "-in", file.to_str().unwrap(), "-pubout"]);
        assert_eq!(key.public_key().to_pem(), pem, "{family}");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, pem.as_bytes());
        let hex =
            digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        assert_eq!(key.public_key().fingerprint().to_string(), hex);
        assert_eq!(hex.parse(), Ok(key.public_key().fingerprint()));
    }
    assert_eq!("ABCDEF".parse::<Fingerprint>(), Err(NotAFingerprint));
    assert_eq!("A".repeat(64).parse::<Fingerprint>(), Err(NotAFingerprint));
}

#[test]
fn every_public_format_gives_the_same_key() {
    for family in KeyFamily::ALL {
        let key = sample(family);
        let file = pem_file(&key);
        let path = file.to_str().unwrap();
        let expected = key.public_key();
        assert_eq!(&PublicKey::parse(&expected.to_pem()).unwrap().key, expected, "{family} SPKI");

        let certificate =
            text("openssl", &["req", "-x509", "-key", path, "-subj", "/CN=test", "-days", "1"]);
        assert_eq!(&PublicKey::parse(&certificate).unwrap().key, expected, "{family} certificate");

        let jwk = serde_json::to_string(&expected.to_jwk()).unwrap();
        assert_eq!(&PublicKey::parse(&jwk).unwrap().key, expected, "{family} JWK");
        assert!(jwk.contains(&expected.fingerprint().to_string()));

        if family == KeyFamily::Rsa {
            let pkcs1 = text("openssl", &["rsa", "-in", path, "-RSAPublicKey_out"]);
            assert!(pkcs1.contains("BEGIN RSA PUBLIC KEY"));
            assert_eq!(&PublicKey::parse(&pkcs1).unwrap().key, expected, "PKCS#1");
        }
    }
}

#[test]
fn openssh_keys_are_read_with_and_without_passphrase() {
    for (kind, bits) in
        [("rsa", "2048"), ("rsa", "3072"), ("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384")]
    {
        for passphrase in ["", "a passphrase"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("key");
            let path = path.to_str().unwrap();
            run(
                "ssh-keygen",
                &["-q", "-t", kind, "-b", bits, "-N", passphrase, "-C", "alice@laptop", "-f", path],
            );
            let private = std::fs::read_to_string(path).unwrap();
            let public =
                PublicKey::parse(&std::fs::read_to_string(format!("{path}.pub")).unwrap()).unwrap();
            assert_eq!(public.comment.as_deref(), Some("alice@laptop"));

            let secret = SecretString::from(passphrase);
            let key =
                PrivateKey::parse(&private, (!passphrase.is_empty()).then_some(&secret)).unwrap();
            assert_eq!(key.public_key(), &public.key, "{kind} {bits}");
            assert_eq!(key.public_key().bits().to_string(), bits);
            let algorithm = key.public_key().family().algorithms()[0];
            let signature = key.sign(algorithm, b"message").unwrap();
            assert!(VerifyingKey::new(&public.key).verify(algorithm, b"message", &signature));

            if !passphrase.is_empty() {
                assert!(matches!(
                    PrivateKey::parse(&private, None),
                    Err(KeyError::PassphraseMissing)
                ));
                assert!(matches!(
                    PrivateKey::parse(&private, Some(&"wrong".into())),
                    Err(KeyError::WrongPassphrase)
                ));
            }
            assert!(matches!(PublicKey::parse(&private), Err(KeyError::PrivateKeyGiven)));
        }
    }
}

#[test]
fn private_formats_of_openssl_are_read() {
    for (family, traditional) in
        [(KeyFamily::Rsa, "rsa"), (KeyFamily::P256, "ec"), (KeyFamily::P384, "ec")]
    {
        let key = sample(family);
        let file = pem_file(&key);
        let path = file.to_str().unwrap();
        let pem = match traditional {
            "rsa" => text("openssl", &["rsa", "-in", path, "-traditional"]),
            other => text("openssl", &[other, "-in", path]),
        };
        assert!(pem.contains("RSA PRIVATE KEY") || pem.contains("EC PRIVATE KEY"), "{pem}");
        assert_eq!(
            PrivateKey::parse(&pem, None).unwrap().public_key(),
            key.public_key(),
            "{family}"
        );
    }
    let with_parameters = text("openssl", &["ecparam", "-name", "prime256v1", "-genkey"]);
    assert!(with_parameters.contains("BEGIN EC PARAMETERS"));
    assert_eq!(
        PrivateKey::parse(&with_parameters, None).unwrap().public_key().family(),
        KeyFamily::P256
    );
}

#[test]
fn encrypted_pkcs8_opens_with_its_passphrase_alone() {
    for family in KeyFamily::ALL {
        let key = sample(family);
        let file = pem_file(&key);
        let by_openssl = text(
            "openssl",
            &[
                "pkcs8",
                "-topk8",
                "-in",
                file.to_str().unwrap(),
                "-passout",
                "pass:secret",
                "-v2",
                "aes-256-cbc",
            ],
        );
        let by_us = key.to_encrypted_pem(&"secret".into()).unwrap();
        for pem in [by_openssl.as_str(), by_us.expose_secret()] {
            assert!(pem.contains("BEGIN ENCRYPTED PRIVATE KEY"));
            assert_eq!(
                PrivateKey::parse(pem, Some(&"secret".into())).unwrap().public_key(),
                key.public_key()
            );
            assert!(matches!(PrivateKey::parse(pem, None), Err(KeyError::PassphraseMissing)));
            assert!(
                matches!(
                    PrivateKey::parse(pem, Some(&"wrong".into())),
                    Err(KeyError::WrongPassphrase)
                ),
                "{family}"
            );
        }
    }
}

/// The file itself specifies the work, so without a limit its author could keep the reader busy for
/// days.
#[test]
fn an_encrypted_key_that_asks_for_too_much_work_is_refused_at_once() {
    let key = sample(KeyFamily::Ed25519);
    let file = pem_file(&key);
    let by_scrypt = text(
        "openssl",
        &["pkcs8", "-topk8", "-in", file.to_str().unwrap(), "-passout", "pass:secret", "-scrypt"],
    );
    let by_pbkdf2 = key.to_encrypted_pem(&"secret".into()).unwrap();
    for (pem, asked, patched) in [
        // 600,000 iterations, and 8,388,607.
        (by_pbkdf2.expose_secret(), &[2, 3, 0x09, 0x27, 0xc0][..], &[2, 3, 0x7f, 0xff, 0xff][..]),
        // N = 16384, r = 8 and p = 1, and p = 127: 16 MB, 127 times.
        (
            by_scrypt.as_str(),
            &[2, 2, 0x40, 0, 2, 1, 8, 2, 1, 1],
            &[2, 2, 0x40, 0, 2, 1, 8, 2, 1, 127],
        ),
    ] {
        assert!(PrivateKey::parse(pem, Some(&"secret".into())).is_ok());
        let mut der = pem::parse(pem).unwrap().contents().to_vec();
        let at = der.windows(asked.len()).position(|bytes| bytes == asked).unwrap();
        der[at..][..patched.len()].copy_from_slice(patched);
        let costly = pem::encode(&pem::Pem::new("ENCRYPTED PRIVATE KEY", der));
        let refused = PrivateKey::parse(&costly, Some(&"secret".into())).unwrap_err();
        assert!(matches!(refused, KeyError::TooCostly { .. }), "{refused}");
    }
}

#[test]
fn an_openssh_key_that_asks_for_too_much_work_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    run(
        "ssh-keygen",
        &["-q", "-t", "ed25519", "-a", "4", "-N", "secret", "-f", path.to_str().unwrap()],
    );
    let armoured = std::fs::read_to_string(&path).unwrap();
    assert!(PrivateKey::parse(&armoured, Some(&"secret".into())).is_ok());
    let mut bytes = pem::parse(&armoured).unwrap().contents().to_vec();
    // After the name come the length of the options, the length of the salt, the salt, and the
    // number of rounds.
    let at = bytes.windows(6).position(|bytes| bytes == b"bcrypt").unwrap() + 6 + 4 + 4 + 16;
    assert_eq!(bytes[at..at + 4], [0, 0, 0, 4]);
    bytes[at..at + 4].copy_from_slice(&[0, 1, 0, 0]);
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF).set_line_wrap(70);
    let costly = pem::encode_config(&pem::Pem::new("OPENSSH PRIVATE KEY", bytes), config);
    let refused = PrivateKey::parse(&costly, Some(&"secret".into())).unwrap_err();
    assert!(matches!(refused, KeyError::TooCostly { .. }), "{refused}");
}

#[test]
fn what_openssl_reads_of_ours_is_the_same_key() {
    for family in KeyFamily::ALL {
        let key = sample(family);
        let encrypted = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            encrypted.path(),
            key.to_encrypted_pem(&"secret".into()).unwrap().expose_secret(),
        )
        .unwrap();
        let arguments = [
            "pkey",
            "-in",
            encrypted.path().to_str().unwrap(),
            "-passin",
            "pass:secret",
            "-pubout",
        ];
        assert_eq!(text("openssl", &arguments), key.public_key().to_pem(), "{family}");
    }
}

#[test]
fn weak_and_foreign_keys_are_refused_by_name() {
    let weak = text("openssl", &["genrsa", "1024"]);
    assert!(matches!(PrivateKey::parse(&weak, None), Err(KeyError::RsaTooSmall { bits: 1024 })));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &weak).unwrap();
    let public = text("openssl", &["pkey", "-in", file.path().to_str().unwrap(), "-pubout"]);
    assert!(matches!(PublicKey::parse(&public), Err(KeyError::RsaTooSmall { bits: 1024 })));

    let secp256k1 = text("openssl", &["ecparam", "-name", "secp256k1", "-genkey", "-noout"]);
    assert!(matches!(PrivateKey::parse(&secp256k1, None), Err(KeyError::UnsupportedKind { .. })));
    let legacy =
        text("openssl", &["genrsa", "-aes128", "-passout", "pass:secret", "-traditional", "2048"]);
    assert!(matches!(
        PrivateKey::parse(&legacy, Some(&"secret".into())),
        Err(KeyError::LegacyEncryption)
    ));
}

#[test]
fn the_wrong_half_is_told_apart() {
    let key = sample(KeyFamily::Ed25519);
    assert!(matches!(
        PublicKey::parse(key.to_pem().unwrap().expose_secret()),
        Err(KeyError::PrivateKeyGiven)
    ));
    assert!(matches!(
        PrivateKey::parse(&key.public_key().to_pem(), None),
        Err(KeyError::PublicKeyGiven)
    ));
    let private_jwk = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}"#;
    assert!(matches!(PublicKey::parse(private_jwk), Err(KeyError::PrivateKeyGiven)));
    assert!(matches!(PublicKey::parse("hello"), Err(KeyError::UnknownFormat { .. })));
}

#[test]
fn points_off_the_curve_are_refused() {
    let mut jwk = sample(KeyFamily::P256).public_key().to_jwk();
    jwk.y.clone_from(&jwk.x);
    assert!(matches!(
        ParsedPublic::from_jwk(&jwk),
        Err(KeyError::Invalid { family: KeyFamily::P256, .. })
    ));
}

#[test]
fn keys_of_the_broken_generator_are_refused_in_every_format() {
    let modulus = broken_modulus(2048);
    let encoded = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let jwk = format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB"}}"#, encoded(&modulus));
    let numbers = encoding::Numbers::Rsa { modulus, exponent: vec![1, 0, 1] };
    let pem = encoding::to_pem("PUBLIC KEY", &numbers.to_spki().unwrap());
    for text in [&jwk, &pem] {
        let error = PublicKey::parse(text).unwrap_err();
        assert!(matches!(error, KeyError::RsaOfBrokenGenerator), "{error:?}");
        assert!(error.to_string().contains("CVE-2017-15361"), "{error}");
    }
}

#[test]
fn what_a_jwk_is_for_binds() {
    let key = sample(KeyFamily::Rsa);
    let read = |member: &str, value: serde_json::Value| {
        let mut jwk =
            serde_json::to_value(Jwk { r#use: None, alg: None, ..key.public_key().to_jwk() })
                .unwrap();
        jwk[member] = value;
        PublicKey::parse(&jwk.to_string())
    };
    assert_eq!(read("alg", json!("PS256")).unwrap().only, Some(Algorithm::Ps256));
    let mut named = sample(KeyFamily::Ed25519).public_key().to_jwk();
    for name in ["EdDSA", "Ed25519"] {
        named.alg = Some(name.to_owned());
        assert_eq!(ParsedPublic::from_jwk(&named).unwrap().only, Some(Algorithm::EdDsa), "{name}");
    }
    let unbound = [
        ("use", json!("sig")),
        ("key_ops", json!(["verify"])),
        ("key_ops", json!(["sign", "verify"])),
        ("kid", json!("x")),
    ];
    for (member, value) in unbound {
        assert_eq!(read(member, value).unwrap().only, None, "{member}");
    }
    for (member, value) in [
        ("use", json!("enc")),
        ("use", json!("")),
        ("key_ops", json!(["encrypt"])),
        ("key_ops", json!([])),
    ] {
        let error = read(member, value).unwrap_err();
        assert!(
            matches!(&error, KeyError::NotForSignatures { member: named, .. } if *named == member),
            "{error:?}"
        );
    }
    for name in ["ES256", "RSA-OAEP", "HS256", "none", ""] {
        let error = read("alg", json!(name)).unwrap_err();
        assert!(matches!(error, KeyError::AlgorithmOfJwk { .. }), "{error:?}");
    }
    let bound = read("alg", json!("PS256")).unwrap().verifying_key();
    let sign = |algorithm| key.sign(algorithm, b"message").unwrap();
    assert!(bound.verify(Algorithm::Ps256, b"message", &sign(Algorithm::Ps256)));
    assert!(!bound.verify(Algorithm::Rs256, b"message", &sign(Algorithm::Rs256)));
}

#[test]
fn keys_do_not_show_themselves() {
    let key = sample(KeyFamily::Ed25519);
    assert_eq!(
        format!("{key:?}"),
        format!("PrivateKey(ed25519 {})", key.public_key().fingerprint())
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC*", label in "[A-Z ]{0,20}", body in "[A-Za-z0-9+/=\n]{0,200}") {
        for text in [text.clone(), format!("ssh-rsa {text}"), format!("{{{text}}}"), format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")] {
            let _ = PublicKey::parse(&text);
            let _ = PrivateKey::parse(&text, None);
        }
    }

    #[test]
    fn no_der_makes_the_parsers_panic(der: Vec<u8>) {
        let _ = PublicKey::from_spki(&der);
        let _ = PrivateKey::from_pkcs8(&der);
        for label in ["PUBLIC KEY", "RSA PUBLIC KEY", "CERTIFICATE", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"] {
            let pem = encoding::to_pem(label, &der);
            let _ = PublicKey::parse(&pem);
            let _ = PrivateKey::parse(&pem, Some(&"secret".into()));
        }
    }
}

mod of_other_programs;
