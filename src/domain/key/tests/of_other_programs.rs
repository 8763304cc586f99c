//! Keys as other programs write them. The files are described in `fixtures`.

use super::*;

const TEST: &str = "test";

fn fixture(name: &str) -> String {
    let path = format!("{}/tests/it/fixtures/real_clients/keys/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn public(name: &str) -> PublicKey {
    PublicKey::parse(&fixture(name)).unwrap().key
}

fn generated(arguments: &[&str]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key").to_str().unwrap().to_owned();
    run("ssh-keygen", &[&["-q", "-f", &path], arguments].concat());
    (folder, path)
}

#[test]
fn private_keys_are_opened() {
    let passphrase = SecretString::from(TEST);
    for (name, expected) in [
        ("ed25519.pem", "ed25519.pub.pem"),
        ("rsa.pem", "rsa.pub.pem"),
        ("certificate-before-key.pem", "rsa.pub.pem"),
        ("openssh-64-columns", "ed25519.pub.pem"),
        ("openssh-76-columns", "ed25519.pub.pem"),
        ("pkcs8-des3.pem", "rsa.pub.pem"),
        ("pkcs8-hmac-sha1.pem", "rsa.pub.pem"),
        ("pkcs8-pbe-sha1-3des.pem", "rsa.pub.pem"),
        ("pkcs8-pycryptodome-default.pem", "rsa.pub.pem"),
    ] {
        let key = PrivateKey::parse(&fixture(name), Some(&passphrase))
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(key.public_key(), &public(expected), "{name}");
        if name.starts_with("pkcs8-") {
            assert!(
                matches!(PrivateKey::parse(&fixture(name), None), Err(KeyError::PassphraseMissing)),
                "{name}"
            );
            let refused = PrivateKey::parse(&fixture(name), Some(&"other".into()));
            assert!(matches!(refused, Err(KeyError::WrongPassphrase)), "{name}: {refused:?}");
        }
    }
    let short = PrivateKey::parse(&fixture("openssh-p256-short-scalar"), None).unwrap();
    let signature = short.sign(Algorithm::Es256, b"message").unwrap();
    assert!(VerifyingKey::new(short.public_key()).verify(Algorithm::Es256, b"message", &signature));
}

#[test]
fn openssh_keys_are_read_however_they_are_padded_and_wrapped() {
    let (_folder, path) = generated(&["-t", "ed25519", "-N", "", "-C", ""]);
    let file = std::fs::read_to_string(&path).unwrap();
    let expected =
        PublicKey::parse(&std::fs::read_to_string(format!("{path}.pub")).unwrap()).unwrap().key;
    let bytes = pem::parse(&file).unwrap().contents().to_vec();
    // The private section is the last field: its length, then two check numbers.
    let public_length = 4 + 11 + 4 + 32;
    let at = b"openssh-key-v1\0".len() + 2 * (4 + 4) + 4 + 4 + 4 + public_length;
    let (head, private) = bytes.split_at(at);
    let private = &private[4..];
    let unpadded = private.len() - usize::from(*private.last().unwrap());
    for padding in [0, 1, 5, 8, 16, 255, 300] {
        let padded: Vec<u8> = private[..unpadded]
            .iter()
            .copied()
            .chain((0..=255).cycle().skip(1).take(padding))
            .collect();
        let container =
            [head, &u32::try_from(padded.len()).unwrap().to_be_bytes(), &padded].concat();
        for columns in [48, 64, 70, 76] {
            let config = pem::EncodeConfig::new().set_line_wrap(columns);
            let text = pem::encode_config(
                &pem::Pem::new("OPENSSH PRIVATE KEY", container.clone()),
                config,
            );
            let text = format!("\u{feff}{text}");
            assert_eq!(
                PrivateKey::parse(&text, None).unwrap().public_key(),
                &expected,
                "{padding} {columns}"
            );
        }
    }
    for (at, byte) in [(8, 1_u8), (private.len() - 1, 99)] {
        let mut damaged = private.to_vec();
        damaged[at] ^= byte;
        let container =
            [head, &u32::try_from(damaged.len()).unwrap().to_be_bytes(), &damaged].concat();
        let error = PrivateKey::parse(&encoding::to_pem("OPENSSH PRIVATE KEY", &container), None)
            .unwrap_err();
        assert!(
            matches!(error, KeyError::Malformed { .. } | KeyError::UnsupportedKind { .. }),
            "{error:?}"
        );
    }
}

#[test]
fn openssh_keys_are_opened_whatever_their_cipher() {
    for cipher in [
        "3des-cbc",
        "aes128-cbc",
        "aes192-ctr",
        "aes256-cbc",
        "aes256-gcm@openssh.com",
        "chacha20-poly1305@openssh.com",
    ] {
        let (_folder, path) = generated(&["-t", "ecdsa", "-Z", cipher, "-a", "4", "-N", TEST]);
        let file = std::fs::read_to_string(&path).unwrap();
        let key = PrivateKey::parse(&file, Some(&TEST.into()))
            .unwrap_or_else(|error| panic!("{cipher}: {error:?}"));
        let public =
            PublicKey::parse(&std::fs::read_to_string(format!("{path}.pub")).unwrap()).unwrap();
        assert_eq!(key.public_key(), &public.key, "{cipher}");
        assert!(
            matches!(PrivateKey::parse(&file, None), Err(KeyError::PassphraseMissing)),
            "{cipher}"
        );
        assert!(
            matches!(
                PrivateKey::parse(&file, Some(&"other".into())),
                Err(KeyError::WrongPassphrase)
            ),
            "{cipher}"
        );
    }
}

#[test]
fn every_scheme_of_openssl_is_opened_or_named_with_its_cure() {
    let key = sample(KeyFamily::P256);
    let file = pem_file(&key);
    let encrypt = |options: &[&str]| {
        let common = ["pkcs8", "-topk8", "-in", file.to_str().unwrap(), "-passout", "pass:test"];
        text("openssl", &[&common, options].concat())
    };
    let opened: [&[&str]; 10] = [
        &["-v1", "PBE-SHA1-3DES"],
        &["-v1", "PBE-SHA1-2DES"],
        &["-v2", "des3"],
        &["-v2", "des3", "-v2prf", "hmacWithSHA1"],
        &["-v2", "aes128", "-v2prf", "hmacWithSHA1"],
        &["-v2", "aes192", "-v2prf", "hmacWithSHA224"],
        &["-v2", "aes256", "-v2prf", "hmacWithSHA384"],
        &["-v2", "aes256", "-v2prf", "hmacWithSHA512"],
        &["-scrypt", "-scrypt_N", "1024"],
        &[],
    ];
    for options in opened {
        let pem = encrypt(options);
        let read = PrivateKey::parse(&pem, Some(&TEST.into()))
            .unwrap_or_else(|error| panic!("{options:?}: {error:?}"));
        assert_eq!(read.public_key(), key.public_key(), "{options:?}");
        let wrong = PrivateKey::parse(&pem, Some(&"other".into()));
        assert!(matches!(wrong, Err(KeyError::WrongPassphrase)), "{options:?}: {wrong:?}");
    }
    let legacy = ["-provider", "legacy", "-provider", "default"];
    for (options, name) in [
        (["-v1", "PBE-MD5-DES"], "PBE-MD5-DES"),
        (["-v1", "PBE-SHA1-RC4-128"], "PBE-SHA1-RC4-128"),
        (["-v2", "rc2"], "RC2-CBC"),
        (["-v2", "camellia256"], "an unknown scheme"),
    ] {
        let pem = encrypt(&[&options[..], &legacy].concat());
        let error = PrivateKey::parse(&pem, Some(&TEST.into())).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("openssl pkcs8 -topk8"), "{error}");
        // A stated size must be the real one.
        let (old, new) =
            (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(old.path(), pem).unwrap();
        let command = error.split('`').nth(1).unwrap();
        let (old, new) = (old.path().to_str().unwrap(), new.path().to_str().unwrap());
        let words: Vec<&str> = command
            .split(' ')
            .map(|word| {
                [("FILE", old), ("NEW", new)]
                    .into_iter()
                    .find(|(name, _)| *name == word)
                    .map_or(word, |(_, path)| path)
            })
            .collect();
        run(words[0], &[&words[1..], &["-passin", "pass:test", "-passout", "pass:test"]].concat());
        let converted =
            PrivateKey::parse(&std::fs::read_to_string(new).unwrap(), Some(&TEST.into())).unwrap();
        assert_eq!(converted.public_key(), key.public_key(), "{name}");
    }
}

#[test]
fn a_pkcs12_derivation_that_asks_for_too_much_work_is_refused_at_once() {
    let pem = fixture("pkcs8-pbe-sha1-3des.pem");
    let der = pem::parse(pem).unwrap().contents().to_vec();
    let less = private::Work { pbkdf2_iterations: 2047, ..private::Work::ACCEPTED };
    let refused = encrypted::open(&less, &der, Some(&TEST.into())).unwrap_err();
    assert!(matches!(refused, KeyError::TooCostly { .. }), "{refused}");
}

#[test]
fn a_file_with_two_keys_is_refused() {
    for name in ["two-public-keys.pem", "two-openssh-lines.pub"] {
        let error = PublicKey::parse(&fixture(name)).unwrap_err();
        assert!(error.to_string().contains("holds 2 keys"), "{name}: {error}");
    }
    let two = format!("{}{}", fixture("ed25519.pem"), fixture("rsa.pem"));
    assert!(matches!(PrivateKey::parse(&two, None), Err(KeyError::SeveralKeys { count: 2 })));
    let (_folder, path) = generated(&["-t", "ed25519", "-N", ""]);
    let openssh = std::fs::read_to_string(path).unwrap();
    let two = format!("{openssh}{}", fixture("rsa.pem"));
    assert!(matches!(PrivateKey::parse(&two, None), Err(KeyError::SeveralKeys { count: 2 })));
    // The same key twice counts as one key.
    let twice = format!("{0}{0}", fixture("rsa.pub.pem"));
    assert_eq!(PublicKey::parse(&twice).unwrap().key, public("rsa.pub.pem"));
    let certificate = fixture("certificate-before-key.pem");
    let certificate = &certificate[..certificate.find("-----BEGIN PRIVATE KEY-----").unwrap()];
    assert_eq!(PublicKey::parse(certificate).unwrap().key, public("rsa.pub.pem"));
    assert_eq!(
        PublicKey::parse(&format!("{certificate}{}", fixture("rsa.pub.pem"))).unwrap().key,
        public("rsa.pub.pem")
    );
    let other = PublicKey::parse(&format!("{certificate}{}", fixture("ed25519.pub.pem")));
    assert!(matches!(other, Err(KeyError::SeveralKeys { count: 2 })));
    let private = PublicKey::parse(&fixture("certificate-before-key.pem"));
    assert!(
        matches!(private, Err(KeyError::PrivateKeyGiven)),
        "it would be kept with the certificate: {private:?}"
    );
}

#[test]
fn of_a_chain_the_leaf_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (authority, leaf) = (sample(KeyFamily::P256), sample(KeyFamily::Ed25519));
    std::fs::write(at("ca.key"), authority.to_pem().unwrap().expose_secret()).unwrap();
    std::fs::write(at("leaf.key"), leaf.to_pem().unwrap().expose_secret()).unwrap();
    let ca = text(
        "openssl",
        &["req", "-x509", "-key", &at("ca.key"), "-subj", "/CN=the authority", "-days", "1"],
    );
    std::fs::write(at("ca.pem"), &ca).unwrap();
    let request =
        ["req", "-new", "-key", &at("leaf.key"), "-subj", "/CN=client", "-out", &at("leaf.csr")];
    run("openssl", &request);
    let signing = [
        "x509",
        "-req",
        "-in",
        &at("leaf.csr"),
        "-CA",
        &at("ca.pem"),
        "-CAkey",
        &at("ca.key"),
        "-days",
        "1",
    ];
    let leaf_certificate = text("openssl", &signing);

    assert_eq!(
        &PublicKey::parse(&ca).unwrap().key,
        authority.public_key(),
        "alone, also what `openssl req -x509` makes"
    );
    assert_eq!(
        &PublicKey::parse(&format!("{leaf_certificate}{ca}")).unwrap().key,
        leaf.public_key()
    );
    let error = PublicKey::parse(&format!("{ca}{leaf_certificate}")).unwrap_err().to_string();
    assert!(error.contains("the authority") && error.contains("2 certificates"), "{error}");
    let stranger = fixture("certificate-before-key.pem");
    let stranger = &stranger[..stranger.find("-----BEGIN PRIVATE KEY-----").unwrap()];
    let error = PublicKey::parse(&format!("{leaf_certificate}{stranger}")).unwrap_err();
    assert!(matches!(error, KeyError::SeveralKeys { count: 2 }), "{error}");
    // As `openssl pkcs12 -nodes` prints it, with attributes between the blocks.
    std::fs::write(at("leaf.pem"), &leaf_certificate).unwrap();
    let export = [
        "pkcs12",
        "-export",
        "-in",
        &at("leaf.pem"),
        "-inkey",
        &at("leaf.key"),
        "-certfile",
        &at("ca.pem"),
        "-passout",
        "pass:test",
    ];
    run("openssl", &[&export[..], &["-out", &at("all.p12")]].concat());
    let printed =
        text("openssl", &["pkcs12", "-in", &at("all.p12"), "-nodes", "-passin", "pass:test"]);
    assert!(printed.contains("Bag Attributes"), "{printed}");
    assert_eq!(PrivateKey::parse(&printed, None).unwrap().public_key(), leaf.public_key());
    assert!(matches!(PublicKey::parse(&printed), Err(KeyError::PrivateKeyGiven)));
}

#[test]
fn authorized_keys_files_are_read_or_refused_with_the_reason() {
    let line = fixture("two-openssh-lines.pub").lines().next().unwrap().to_owned();
    assert_eq!(
        PublicKey::parse(&fixture("openssh-with-bom.pub")).unwrap().key,
        public("ed25519.pub.pem")
    );
    for text in [
        format!("# the laptop\n\n{line}\n"),
        format!("\u{feff}# x\r\n{line}\r\n"),
        format!("  {line}  \n#end"),
    ] {
        let parsed = PublicKey::parse(&text).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
        assert_eq!(
            (parsed.key, parsed.comment.as_deref()),
            (public("ed25519.pub.pem"), Some("laptop"))
        );
    }
    for options in ["restrict", r#"from="10.0.0.0/8",command="/bin/true a b""#, "cert-authority"] {
        let error = PublicKey::parse(&format!("{options} {line}")).unwrap_err();
        assert!(
            matches!(&error, KeyError::OptionsBeforeKey { options: found, kind } if found == options && kind == "ssh-ed25519")
        );
        assert!(error.to_string().contains(options), "{error}");
    }
    let (kind, rest) = line.split_at(40);
    let error = PublicKey::parse(&format!("{kind}\n{rest}")).unwrap_err();
    assert!(error.to_string().contains("OpenSSH"), "{error}");
    let with_kind = |kind: &str| {
        PublicKey::parse(&line.replacen("ssh-ed25519", kind, 1)).unwrap_err().to_string()
    };
    assert!(with_kind("sk-ssh-ed25519@openssh.com").contains("security key"));
    assert!(with_kind("ssh-ed25519-cert-v01@openssh.com").contains("certificate"));
    for (text, command) in [
        ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none", "puttygen"),
        ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA", "ssh-keygen -i"),
    ] {
        assert!(PublicKey::parse(text).unwrap_err().to_string().contains(command), "{text}");
        assert!(PrivateKey::parse(text, None).unwrap_err().to_string().contains(command), "{text}");
    }
}

#[test]
fn kinds_that_are_not_taken_are_named() {
    let pss = text("openssl", &["genpkey", "-algorithm", "RSA-PSS"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &pss).unwrap();
    let pss_public = text("openssl", &["pkey", "-in", file.path().to_str().unwrap(), "-pubout"]);
    assert!(PrivateKey::parse(&pss, None).unwrap_err().to_string().contains("RSASSA-PSS"));
    assert!(PublicKey::parse(&pss_public).unwrap_err().to_string().contains("RSASSA-PSS"));
    for (algorithm, name) in [("ED448", "Ed448"), ("X25519", "X25519")] {
        let key = text("openssl", &["genpkey", "-algorithm", algorithm]);
        let error = PrivateKey::parse(&key, None).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn rsa_exponents_are_taken_or_called_what_they_are() {
    let made = |exponent: &str| {
        let option = format!("rsa_keygen_pubexp:{exponent}");
        let private = text(
            "openssl",
            &[
                "genpkey",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-pkeyopt",
                &option,
            ],
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &private).unwrap();
        let public = text("openssl", &["pkey", "-in", file.path().to_str().unwrap(), "-pubout"]);
        (PublicKey::parse(&public), PrivateKey::parse(&private, None))
    };
    for exponent in ["3", "65537", "4294967297"] {
        let (public, private) = made(exponent);
        let (public, private) = (public.unwrap(), private.unwrap());
        let signature = private.sign(Algorithm::Rs256, b"message").unwrap();
        assert!(
            VerifyingKey::new(&public.key).verify(Algorithm::Rs256, b"message", &signature),
            "{exponent}"
        );
    }
    let (public, private) = made("18446744073709551557");
    for error in [public.unwrap_err(), private.unwrap_err()] {
        assert!(error.to_string().contains("has 64 bits, and at most 33"), "{error}");
    }
}

#[test]
fn another_salt_than_the_digest_has_is_found_out() {
    let key = sample(KeyFamily::Rsa);
    let (file, message) = (pem_file(&key), tempfile::NamedTempFile::new().unwrap());
    std::fs::write(message.path(), b"message").unwrap();
    let ready = VerifyingKey::new(key.public_key());
    let signed = |digest: &str, salt: &str| {
        let salt = format!("rsa_pss_saltlen:{salt}");
        let padding = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", &salt];
        let arguments = [
            &["dgst", digest, "-sign", file.to_str().unwrap()],
            &padding[..],
            &[message.path().to_str().unwrap()],
        ];
        run("openssl", &arguments.concat())
    };
    for (digest, algorithm, right) in [
        ("-sha256", Algorithm::Ps256, "32"),
        ("-sha384", Algorithm::Ps384, "48"),
        ("-sha512", Algorithm::Ps512, "64"),
    ] {
        assert!(ready.verify(algorithm, b"message", &signed(digest, right)), "{algorithm}");
        assert_eq!(ready.pss_salt(algorithm, b"message", &signed(digest, right)), None);
        for salt in [0, 20, 100] {
            let signature = signed(digest, &salt.to_string());
            assert!(!ready.verify(algorithm, b"message", &signature), "{algorithm}");
            assert_eq!(
                ready.pss_salt(algorithm, b"message", &signature),
                Some(salt),
                "{algorithm}"
            );
            assert_eq!(ready.pss_salt(algorithm, b"another", &signature), None);
            assert_eq!(ready.pss_salt(Algorithm::Rs256, b"message", &signature), None);
        }
    }
}
