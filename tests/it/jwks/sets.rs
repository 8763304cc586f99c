//! The contents of a key set: which keys are used, and that bad ones do not affect the good.

use serde_json::{Value, json};

use crate::harness::{Behaviour, Claims, Key, Signer, eventually_async, member};
use crate::jwks::{PATIENCE, World, outcome};

/// One set with a good key at either end, and every possible fault of a key in between.
#[tokio::test]
async fn unusable_keys_do_not_spoil_the_others() {
    let world = World::start(&[]);
    let (first, last) = (Signer::named("first"), Signer::new("last", Key::p256()));
    let encryption = Signer::named("for encryption");
    let private = Signer::named("private");
    let unnamed = Key::ed25519();
    let numbered = Signer::named("7");
    let listed = Signer::named("listed");
    let mut keys = vec![first.jwk()];
    keys.extend([
        member(encryption.jwk(), "use", "enc"),
        member(private.jwk(), "d", private.key.jwk_d()),
        without(unnamed.jwk(""), "kid"),
        member(numbered.jwk(), "kid", 7),
        // The members of a key without their names.
        json!([
            "OKP",
            "sig",
            "EdDSA",
            "listed",
            "Ed25519",
            null,
            null,
            listed.jwk()["x"],
            null,
            null
        ]),
    ]);
    keys.extend(nonsense());
    keys.push(member(last.jwk(), "use", "sig"));
    world.server.put("/keys", Behaviour::set(keys));
    world.trust("alice", "/keys");

    world.becomes("allowed", "alice", &first, PATIENCE).await;
    assert_eq!(world.outcome("alice", &last).await, "allowed");
    for refused in [&encryption, &private, &numbered, &listed] {
        assert_eq!(world.outcome("alice", refused).await, "invalid_token", "{}", refused.kid);
    }
    for claims in [Claims::of("alice"), Claims::of("alice").with_header("kid", "any name")] {
        let verdict = world.ask(claims.authorization(&unnamed)).await;
        assert!(verdict.allowed(), "a key without a name: {verdict:?}");
        assert_eq!(verdict.header("x-auth-key-id"), Some(unnamed.fingerprint().as_str()));
    }
    world.local_key_goes_on().await;
}

/// Of keys with the same name, each that fits is tried.
#[tokio::test]
async fn keys_may_share_a_kid() {
    let world = World::start(&[]);
    let (one, other) = (Signer::named("twice"), Signer::named("twice"));
    let (ed25519, rsa) = (Signer::named("of two kinds"), Signer::new("of two kinds", Key::rsa()));
    let repeated = Signer::named("repeated");
    let good = Signer::named("good");
    let keys = [&one, &ed25519, &repeated, &good, &repeated, &rsa, &other];
    world.server.put("/keys", Behaviour::set(keys.map(Signer::jwk)));
    world.trust("alice", "/keys");

    world.becomes("allowed", "alice", &good, PATIENCE).await;
    for any in [&one, &other, &ed25519, &rsa, &repeated] {
        assert_eq!(world.outcome("alice", any).await, "allowed", "{}", any.kid);
    }
    assert_eq!(world.outcome("alice", &Signer::named("twice")).await, "invalid_token");
}

/// At most eight verifications for one token.
#[tokio::test]
async fn at_most_eight_keys_of_a_kid_are_tried() {
    let world = World::start(&[]);
    let signers: Vec<Signer> = (0..10).map(|_| Signer::named("same")).collect();
    world.server.put("/keys", Behaviour::set(signers.iter().map(Signer::jwk)));
    world.trust("alice", "/keys");
    world.becomes("allowed", "alice", &signers[0], PATIENCE).await;

    let mut outcomes = Vec::new();
    for signer in &signers {
        outcomes.push(world.outcome("alice", signer).await);
    }
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "allowed").count(), 8, "{outcomes:?}");
    world.local_key_goes_on().await;
}

/// A key that declares its use is not used for anything else.
#[tokio::test]
async fn the_algorithm_of_a_key_is_the_only_one() {
    let world = World::start(&[]);
    let key = Key::rsa();
    let [p256, ed25519] = [Key::p256(), Key::ed25519()];
    let named = |kid: &str, algorithm: &str, key: &Key| member(key.jwk(kid), "alg", algorithm);
    world.server.put(
        "/keys",
        Behaviour::set([
            key.jwk("any"),
            named("RS256", "RS256", &key),
            named("PS384", "PS384", &key),
            named("of another kind", "ES256", &key),
            named("for encryption", "RSA-OAEP-256", &key),
            named("symmetric", "HS256", &key),
            named("none", "none", &key),
            named("ES256", "ES256", &p256),
            named("ES384", "ES384", &p256),
            named("EdDSA", "EdDSA", &ed25519),
            named("RS512", "RS512", &ed25519),
        ]),
    );
    world.trust("alice", "/keys");
    let ask = async |kid: &str, algorithm: &str, key: &Key| {
        let claims = Claims::of("alice").with_header("kid", kid).with_header("alg", algorithm);
        outcome(&world.ask(claims.authorization(key)).await)
    };
    eventually_async("the set is known", PATIENCE, async || {
        (ask("any", "RS256", &key).await == "allowed").then_some(())
    })
    .await;

    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        assert_eq!(ask("any", algorithm, &key).await, "allowed", "{algorithm}");
        for kid in ["RS256", "PS384"] {
            let expected = if kid == algorithm { "allowed" } else { "invalid_token" };
            assert_eq!(ask(kid, algorithm, &key).await, expected, "{algorithm} by a key for {kid}");
        }
        for kid in ["of another kind", "for encryption", "symmetric", "none"] {
            assert_eq!(
                ask(kid, algorithm, &key).await,
                "invalid_token",
                "{algorithm} by a key that is {kid}"
            );
        }
    }
    assert_eq!(ask("ES256", "ES256", &p256).await, "allowed");
    assert_eq!(ask("EdDSA", "EdDSA", &ed25519).await, "allowed");
    for (kid, algorithm, key) in
        [("ES384", "ES256", &p256), ("RS512", "EdDSA", &ed25519), ("any", "EdDSA", &ed25519)]
    {
        assert_eq!(
            ask(kid, algorithm, key).await,
            "invalid_token",
            "{algorithm} by a key for {kid}"
        );
    }
}

#[tokio::test]
async fn a_set_may_have_100_keys() {
    let world = World::start(&[]);
    let last = Signer::named("the last of 100");
    let mut keys: Vec<Value> = (1..100).map(|number| last.key.jwk(&number.to_string())).collect();
    keys.push(last.jwk());
    world.server.put("/keys", Behaviour::set(keys));
    world.trust("alice", "/keys");

    world.becomes("allowed", "alice", &last, PATIENCE).await;
}

/// Entries that are not keys, or that cannot be used.
fn nonsense() -> Vec<Value> {
    let bytes = |length: usize| "q".repeat(length);
    vec![
        Value::Null,
        json!("a key"),
        json!([]),
        json!({}),
        json!({"kid": "no type"}),
        json!({"kid": "unknown type", "kty": "AKP", "alg": "ML-DSA-44", "pub": bytes(64)}),
        json!({"kid": "symmetric", "kty": "oct", "alg": "HS256", "k": bytes(43)}),
        json!({"kid": "unknown curve", "kty": "EC", "crv": "secp256k1", "x": bytes(43), "y": bytes(43)}),
        json!({"kid": "not on the curve", "kty": "EC", "crv": "P-256", "x": bytes(43), "y": bytes(43)}),
        json!({"kid": "half a point", "kty": "EC", "crv": "P-256", "x": bytes(43)}),
        json!({"kid": "for agreement", "kty": "OKP", "crv": "X25519", "x": bytes(43)}),
        json!({"kid": "short", "kty": "OKP", "crv": "Ed25519", "x": bytes(10)}),
        json!({"kid": "long", "kty": "OKP", "crv": "Ed25519", "x": bytes(64)}),
        json!({"kid": "no base64url", "kty": "OKP", "crv": "Ed25519", "x": "!".repeat(43)}),
        json!({"kid": "a number", "kty": "OKP", "crv": "Ed25519", "x": 1}),
        json!({"kid": "1024 bit", "kty": "RSA", "n": bytes(171), "e": "AQAB"}),
        json!({"kid": "a huge modulus", "kty": "RSA", "n": bytes(8_000), "e": "AQAB"}),
        json!({"kid": "no exponent", "kty": "RSA", "n": bytes(342)}),
        json!({"kid": "an exponent of 1", "kty": "RSA", "n": bytes(342), "e": "AQ"}),
        json!({"kid": "no modulus", "kty": "RSA", "n": "", "e": ""}),
    ]
}

fn without(mut jwk: Value, name: &str) -> Value {
    jwk.as_object_mut().unwrap().remove(name);
    jwk
}
