//! Key sets found in practice: as libraries and identity providers write them, and as servers send
//! them.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Admin, Behaviour, Claims, Deployment, JwksServer, Key, Signer, eventually_async, member,
    repository,
};
use crate::jwks::{MARGIN, PATIENCE, World, outcome};

/// What each file is, which tokens pass, which do not, and which keys are left out.
const SETS: [Set; 13] = {
    const RS256: Token = Token { algorithm: "RS256", kid: Some("k1") };
    const PS256: Token = Token { algorithm: "PS256", kid: Some("k1") };
    const RS512: Token = Token { algorithm: "RS512", kid: Some("k1") };
    const EDDSA: Token = Token { algorithm: "EdDSA", kid: Some("k2") };
    const ED25519: Token = Token { algorithm: "Ed25519", kid: Some("k2") };
    const UNNAMED: Token = Token { kid: None, ..RS256 };
    const OTHERWISE: Token = Token { kid: Some("k3"), ..RS256 };
    const ANY: &[Token] = &[RS256, PS256, RS512, UNNAMED];
    const fn good(name: &'static str) -> Set {
        Set { name, usable: 1, pass: ANY, fail: &[OTHERWISE, EDDSA], left_out: &[] }
    }
    [
        Set {
            left_out: &[("k1", "RSA", "\"use\" is \"enc\"")],
            ..good("sig-and-enc-different-keys")
        },
        Set { left_out: &[("k1", "RSA", "\"use\" is \"enc\"")], ..good("sig-and-enc-of-one-key") },
        good("identical-twice"),
        Set {
            left_out: &[("k1", "AKP", "unsupported kind of key")],
            ..good("unknown-kty-of-the-same-kid")
        },
        Set { usable: 2, ..good("rsa-and-ec-of-one-kid") },
        Set {
            usable: 2,
            pass: &[RS256, PS256, UNNAMED],
            fail: &[RS512, OTHERWISE, EDDSA],
            ..good("rs256-and-ps256-of-one-key")
        },
        Set { pass: &[RS256, UNNAMED, OTHERWISE], fail: &[EDDSA], ..good("no-kid") },
        Set {
            pass: &[EDDSA, ED25519, Token { kid: None, ..EDDSA }],
            fail: ANY,
            ..good("ed25519-name")
        },
        Set { left_out: &[("", "EC P-256", "\"use\" is \"x509-svid\"")], ..good("spiffe-bundle") },
        good("nulls"),
        good("padding-in-members"),
        good("unknown-member-out-of-range"),
        Set {
            usable: 0,
            pass: &[],
            fail: ANY,
            left_out: &[("k1", "RSA", "\"key_ops\" is [\"encrypt\"]")],
            ..good("key-ops-encrypt-only")
        },
    ]
};

struct Set {
    name: &'static str,
    usable: usize,
    pass: &'static [Token],
    fail: &'static [Token],
    /// `kid` (empty for none), kind, and a part of the reason.
    left_out: &'static [(&'static str, &'static str, &'static str)],
}

struct Token {
    algorithm: &'static str,
    kid: Option<&'static str>,
}

/// The file `name`, in its own order and reversed.
fn bodies(name: &str) -> [String; 2] {
    let text = fixture(&format!("jwks/{name}.json"));
    // Numbers that are out of range cannot be reversed here.
    let reversed = serde_json::from_str::<Value>(&text).map_or_else(
        |_| text.clone(),
        |mut set| {
            set["keys"].as_array_mut().unwrap().reverse();
            set.to_string()
        },
    );
    [text, reversed]
}

fn fixture(name: &str) -> String {
    std::fs::read_to_string(repository().join("tests/it/fixtures/real_clients").join(name)).unwrap()
}

#[tokio::test]
async fn sets_are_read_as_they_are_written() {
    let files =
        std::fs::read_dir(repository().join("tests/it/fixtures/real_clients/jwks")).unwrap();
    let files = files.filter(|file| {
        file.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "json")
    });
    assert_eq!(files.count(), SETS.len(), "each is tried");
    let world = World::start(&[]);
    let (rsa, ed25519) =
        (Key::rsa_in(&fixture("keys/rsa.pem")), Key::ed25519_in(&fixture("keys/ed25519.pem")));
    for set in &SETS {
        for (order, body) in bodies(set.name).into_iter().enumerate() {
            let username = format!("{}-{order}", set.name);
            world.server.put(&format!("/{username}"), Behaviour::text(body));
            world.deployment.done(&["principal", "add", &username]);
            let url = world.server.url(&format!("/{username}"));
            let added: Value = serde_json::from_str(
                &world.deployment.done(&["trust", "add", &username, &url, "--output", "json"]),
            )
            .unwrap();
            is_told(&added, set);
            let [listed] = &world.deployment.list(&["trust", "list", &username])[..] else {
                panic!("one trust of {username}")
            };
            is_told(listed, set);
            assert_eq!(listed["id"], added["id"]);

            let ask = async |token: &Token| {
                let claims = Claims::of(&username).with_header("alg", token.algorithm);
                let claims =
                    if let Some(kid) = token.kid { claims.with_header("kid", kid) } else { claims };
                let key = if token.algorithm.starts_with("Ed") { &ed25519 } else { &rsa };
                outcome(&world.ask(claims.authorization(key)).await)
            };
            for token in set.pass {
                eventually_async(
                    &format!("{username}: {} {:?}", token.algorithm, token.kid),
                    PATIENCE,
                    async || (ask(token).await == "allowed").then_some(()),
                )
                .await;
            }
            for token in set.fail {
                assert_eq!(
                    ask(token).await,
                    "invalid_token",
                    "{username}: {} {:?}",
                    token.algorithm,
                    token.kid
                );
            }
        }
    }
}

fn is_told(told: &Value, set: &Set) {
    assert_eq!(
        (&told["usable_keys"], &told["last_error"]),
        (&json!(set.usable), &Value::Null),
        "{}: {told}",
        set.name
    );
    let left_out = told["left_out"].as_array().unwrap();
    assert_eq!(left_out.len(), set.left_out.len(), "{}: {told}", set.name);
    for (told, (kid, kind, reason)) in left_out.iter().zip(set.left_out) {
        assert_eq!(
            (told["kid"].as_str().unwrap_or_default(), told["kind"].as_str().unwrap()),
            (*kid, *kind),
            "{}",
            set.name
        );
        assert!(told["reason"].as_str().unwrap().contains(reason), "{}: {told}", set.name);
    }
}

/// On the command line, in the admin API and in the log.
#[tokio::test]
async fn what_a_set_has_is_told_everywhere() {
    let server = JwksServer::https();
    let deployment = Deployment::new().trusting(&server).administered();
    deployment.done(&["principal", "add", "alice"]);
    let (good, encrypting, private) =
        (Signer::named("good"), Signer::named("encrypting"), Signer::named("private"));
    let keys = [
        good.jwk(),
        member(encrypting.jwk(), "use", "enc"),
        member(private.jwk(), "d", private.key.jwk_d()),
    ];
    server.put("/keys", Behaviour::set(keys));
    let url = server.url("/keys");

    let said = deployment.done(&["trust", "add", "alice", &url]);
    for part in [
        "usable_keys    1",
        "left_out       2",
        "left out: kid \"encrypting\", OKP Ed25519: ",
        "left out: kid \"private\", OKP Ed25519: ",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let [listed] = &deployment.list(&["trust", "list"])[..] else { panic!("one trust") };
    let id = listed["id"].to_string();
    let left_out = listed["left_out"].clone();
    assert_eq!(
        (&listed["usable_keys"], &left_out[0]["kid"], &left_out[1]["kid"]),
        (&json!(1), &json!("encrypting"), &json!("private"))
    );
    let said = deployment.done(&["trust", "refresh", &id]);
    assert!(said.contains("1 usable keys") && said.contains("left out: kid \"private\""), "{said}");
    let refreshed: Value =
        serde_json::from_str(&deployment.done(&["trust", "refresh", &id, "--output", "json"]))
            .unwrap();
    assert_eq!((&refreshed["id"], &refreshed["left_out"]), (&listed["id"], &left_out));

    let countersign = deployment.serve();
    let admin = Admin::of(&countersign);
    let shown = admin.get(&format!("/jwks-trusts/{id}")).await.json();
    assert_eq!((&shown["usable_keys"], &shown["left_out"]), (&json!(1), &left_out));
    let refreshed = admin.post(&format!("/jwks-trusts/{id}/refresh"), &json!({})).await.json();
    assert_eq!((&refreshed["usable_keys"], &refreshed["left_out"]), (&json!(1), &left_out));
    let lines = eventually_async("the log tells of it", PATIENCE, async || {
        let log = countersign.log();
        let lines: Vec<Value> =
            log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of_the_set: Vec<Value> =
            lines.into_iter().filter(|line| line.to_string().contains(&url)).collect();
        (of_the_set.len() >= 3).then_some(of_the_set)
    })
    .await;
    let has = |parts: &[&str]| {
        lines.iter().any(|line| parts.iter().all(|part| line.to_string().contains(part)))
    };
    assert!(has(&["\"usable_keys\":1", "\"left_out\":2"]), "{lines:#?}");
    assert!(
        has(&["\"kid\":\"encrypting\"", "OKP Ed25519", "INFO"])
            && has(&["\"kid\":\"private\"", "WARN"]),
        "{lines:#?}"
    );
    assert!(!countersign.log().contains(&private.key.jwk_d()), "a private key in the log");
}

#[tokio::test]
async fn a_trust_is_added_even_if_its_set_cannot_be_fetched() {
    let server = JwksServer::https();
    let deployment = Deployment::new().trusting(&server);
    deployment.done(&["principal", "add", "alice"]);
    server.put("/keys", Behaviour::text("").with_status(503));

    let ran = deployment.run(&["trust", "add", "alice", &server.url("/keys"), "--output", "json"]);

    assert!(
        ran.code == 0 && ran.stderr.starts_with("warning: ") && ran.stderr.contains("503"),
        "{ran:?}"
    );
    let added = ran.json();
    assert!(
        added["last_error"].as_str().unwrap().contains("503") && added["usable_keys"].is_null(),
        "{added}"
    );
    assert_eq!(deployment.list(&["trust", "list"]), [added]);
    deployment.done(&["trust", "add", "alice", &server.url("/other"), "--no-fetch"]);
    assert_eq!(server.requests("/other").len(), 0);
}

/// A server that changes the key but not its name.
#[tokio::test]
async fn a_new_key_of_an_old_name_is_fetched_once_the_cooldown_is_over() {
    let world = World::start(&[("jwks.cooldown", "2s")]);
    let (old, new) = (Signer::named("signing"), Signer::named("signing"));
    world.server.put("/keys", Behaviour::set([old.jwk()]));
    world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &old, PATIENCE).await;

    world.server.put("/keys", Behaviour::set([new.jwk()]));
    world.becomes("allowed", "alice", &new, Duration::from_secs(2) + MARGIN).await;
    assert_eq!(world.outcome("alice", &old).await, "invalid_token");
    // The same for keys without a name.
    let (old, new) = (nameless(), nameless());
    world.server.put("/nameless", Behaviour::set([old.1]));
    world.deployment.done(&["principal", "add", "bob"]);
    world.trust("bob", "/nameless");
    let becomes_allowed = async |key: &Key| {
        eventually_async("bob passes", PATIENCE, async || {
            world.ask(Claims::of("bob").authorization(key)).await.allowed().then_some(())
        })
        .await;
    };
    becomes_allowed(&old.0).await;
    world.server.put("/nameless", Behaviour::set([new.1]));
    becomes_allowed(&new.0).await;
}

/// A key, and its JWK without a `kid`.
fn nameless() -> (Key, Value) {
    let key = Key::ed25519();
    let mut jwk = key.jwk("");
    jwk.as_object_mut().unwrap().remove("kid");
    (key, jwk)
}

/// Some servers compress whatever was asked for, and some send a byte order mark.
#[tokio::test]
async fn a_set_is_read_however_it_is_sent() {
    let world = World::start(&[]);
    let signer = Signer::named("one");
    let set = json!({"keys": [signer.jwk()]}).to_string().into_bytes();
    for (name, behaviour) in [
        ("gzip", Behaviour::encoded("gzip", gzip(&set))),
        ("br", Behaviour::encoded("br", brotli(&set))),
        ("identity", Behaviour::encoded("identity", set.clone())),
        ("bom", Behaviour::text([b"\xef\xbb\xbf", &set[..]].concat())),
    ] {
        world.server.put(&format!("/{name}"), behaviour);
        world.deployment.done(&["principal", "add", name]);
        let trust = world.trust(name, &format!("/{name}"));
        eventually_async(&format!("{name} is read"), PATIENCE, async || {
            let error = &world.deployment.listed_trust(&trust)["last_error"];
            assert!(error.is_null(), "{name}: {error}");
            (world.outcome(name, &signer).await == "allowed").then_some(())
        })
        .await;
        assert!(
            world
                .server
                .last_head(&format!("/{name}"))
                .contains("\r\naccept-encoding: identity\r\n"),
            "{name}"
        );
    }
}

/// The size limit applies after decoding, and an unknown encoding is named.
#[tokio::test]
async fn an_encoding_hides_no_size() {
    let world = World::start(&[("jwks.max_bytes", "65536")]);
    let signer = Signer::named("evil");
    let set = json!({"keys": [signer.jwk()]}).to_string();
    let large = format!("{set}{}", " ".repeat(64 * 1024 * 1024)).into_bytes();
    let bombs = [gzip(&large), brotli(&large)];
    assert!(bombs[1].len() < 65_536, "small on its way");
    let [gzip_bomb, brotli_bomb] = bombs;
    for (name, behaviour, why) in [
        ("gzip", Behaviour::encoded("gzip", gzip_bomb), "larger than 65536"),
        ("br", Behaviour::encoded("br", brotli_bomb), "larger than 65536"),
        (
            "zstd",
            Behaviour::encoded("zstd", set.clone().into_bytes()),
            "Content-Encoding is \"zstd\"",
        ),
        ("lie", Behaviour::encoded("gzip", set.into_bytes()), "failed"),
    ] {
        world.server.put(&format!("/{name}"), behaviour);
        world.deployment.done(&["principal", "add", name]);
        let trust = world.trust(name, &format!("/{name}"));
        let error = world.shows_an_error(&trust).await;
        assert!(error.contains(why), "{name}: {error}");
        assert_eq!(world.outcome(name, &signer).await, "invalid_token", "{name}");
    }
    world.local_key_goes_on().await;
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let fast = brotli::enc::BrotliEncoderParams { quality: 2, ..Default::default() };
    brotli::BrotliCompress(&mut &*bytes, &mut encoded, &fast).unwrap();
    encoded
}
