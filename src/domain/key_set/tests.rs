use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::{
    algorithm::Algorithm,
    key::{PrivateKey, broken_modulus},
};

fn jwk(family: KeyFamily, kid: &str) -> (PrivateKey, Value) {
    let key = PrivateKey::generate(family, 2048).unwrap();
    let mut jwk = serde_json::to_value(key.public_key().to_jwk()).unwrap();
    jwk["kid"] = kid.into();
    (key, jwk)
}

fn with(mut jwk: Value, member: &str, value: Value) -> Value {
    jwk[member] = value;
    jwk
}

fn without(mut jwk: Value, member: &str) -> Value {
    jwk.as_object_mut().unwrap().remove(member);
    jwk
}

fn set_of(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

/// The names in the set, each as often as there are keys with it.
fn kids(set: &KeySet) -> Vec<&str> {
    set.names.iter().map(|(kid, _)| &**kid).collect()
}

fn left_out(set: &KeySet) -> Vec<String> {
    set.contents().left_out.iter().map(ToString::to_string).collect()
}

#[test]
fn good_keys_are_kept_and_bad_ones_left_out_with_the_reason() {
    let good: Vec<Value> =
        KeyFamily::ALL.into_iter().map(|family| jwk(family, family.name()).1).collect();
    let ed25519 = |kid: &str| jwk(KeyFamily::Ed25519, kid).1;
    let bad = [
        (
            with(ed25519("encrypts"), "use", json!("enc")),
            r#"kid "encrypts", OKP Ed25519: the JWK is not for verifying signatures: its "use" is "enc""#,
        ),
        (
            with(ed25519("signs"), "key_ops", json!(["sign"])),
            r#"kid "signs", OKP Ed25519: the JWK is not for verifying signatures: its "key_ops" is ["sign"]"#,
        ),
        (
            with(ed25519("mistyped"), "key_ops", json!("verify")),
            r#"kid "mistyped", OKP Ed25519: not a JWK: invalid type: string "verify", expected a sequence"#,
        ),
        (
            json!({"kty": "RSA", "kid": "broken", "n": BASE64_URL_SAFE_NO_PAD.encode(broken_modulus(2048)), "e": "AQAB"}),
            r#"kid "broken", RSA: RSA key of a broken generator refused"#,
        ),
        (
            with(ed25519("private"), "d", json!("AAAA")),
            r#"kid "private", OKP Ed25519: this is a private key"#,
        ),
        (
            with(ed25519("short"), "x", json!("AAAA")),
            r#"kid "short", OKP Ed25519: the ed25519 key is not valid"#,
        ),
        (
            with(ed25519("other"), "alg", json!("RS256")),
            r#"kid "other", OKP Ed25519: the JWK is for the algorithm "RS256" alone"#,
        ),
        (
            with(ed25519("none"), "alg", json!("none")),
            r#"kid "none", OKP Ed25519: the JWK is for the algorithm "none" alone"#,
        ),
        (
            with(ed25519(""), "kid", json!(7)),
            r#"kid "7", OKP Ed25519: not a JWK: invalid type: integer `7`, expected a string"#,
        ),
        (
            with(ed25519("typeless"), "kty", json!(7)),
            r#"kid "typeless", 7 Ed25519: not a JWK: invalid type"#,
        ),
        (
            json!({"kty": "oct", "kid": "symmetric", "k": "AAAA"}),
            r#"kid "symmetric", oct: unsupported kind of key (JWK of type "oct", curve "")"#,
        ),
        (
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}),
            r#"no kid, AKP: unsupported kind of key (JWK of type "AKP", curve "")"#,
        ),
        (
            json!("not an object"),
            r#"no kid: not a JWK: invalid type: string "not an object", expected a JSON object"#,
        ),
        (array_form(&good[1]), "no kid: not a JWK: invalid type: sequence, expected a JSON object"),
    ];
    let set =
        set_of(&[good.clone(), bad.iter().map(|(entry, _)| entry.clone()).collect()].concat());
    assert_eq!(kids(&set), ["ed25519", "p256", "p384", "rsa"]);
    assert_eq!(set.contents().usable_keys, 4);
    let told = left_out(&set);
    assert_eq!(told.len(), bad.len(), "{told:#?}");
    for (told, (entry, expected)) in told.iter().zip(&bad) {
        assert!(told.starts_with(expected), "{entry}: {told}");
    }
    let alarming = set.contents().left_out.iter().filter(|left_out| left_out.is_alarming);
    assert_eq!(
        alarming.map(|left_out| left_out.kid.as_deref().unwrap()).collect::<Vec<_>>(),
        ["broken", "private"]
    );
}

/// The values of a key without their names: a derived parser accepts such an array as the key.
fn array_form(jwk: &Value) -> Value {
    assert_eq!(jwk["kty"], "OKP", "a key with a short form");
    json!([jwk["kty"], "sig", jwk["alg"], "array", jwk["crv"], null, null, jwk["x"], null, null])
}

#[test]
fn what_says_that_it_signs_is_kept_however_it_says_so() {
    let key = jwk(KeyFamily::Rsa, "rsa").1;
    let bare = without(without(key.clone(), "use"), "alg");
    let nulls = ["d", "use", "alg", "key_ops", "x5c", "crv"]
        .into_iter()
        .fold(key.clone(), |jwk, name| with(jwk, name, Value::Null));
    let padded = with(key.clone(), "n", format!("{}==", key["n"].as_str().unwrap()).into());
    for (case, entry) in [
        ("neither `use` nor `alg`", bare.clone()),
        ("both operations", with(bare.clone(), "key_ops", json!(["verify", "sign"]))),
        ("a SPIFFE bundle", with(bare.clone(), "use", json!("jwt-svid"))),
        ("nulls", nulls),
        ("padding", padded),
    ] {
        let set = set_of(&[entry]);
        assert_eq!((kids(&set), left_out(&set)), (vec!["rsa"], Vec::<String>::new()), "{case}");
    }
    let named = set_of(&[with(jwk(KeyFamily::Ed25519, "RFC 9864").1, "alg", json!("Ed25519"))]);
    assert_eq!(kids(&named), ["RFC 9864"]);
}

#[test]
fn members_that_nobody_reads_may_hold_anything() {
    let key = jwk(KeyFamily::Ed25519, "good").1.to_string();
    let key = key.strip_suffix('}').unwrap();
    let body = format!(
        "{{\"note\": 1e400, \"keys\": [{key}, \"x_note\": -1e999999, \"y\": null}}, 1e400, {{\"kid\": 1e400}}]}}"
    );
    let set = KeySet::parse(body.as_bytes()).unwrap();
    assert_eq!(kids(&set), ["good"]);
    let told = left_out(&set);
    assert!(
        told.len() == 2
            && told[0].starts_with("no kid: ")
            && told[1].starts_with("kid \"1e400\": "),
        "{told:#?}"
    );
}

#[test]
fn a_set_is_an_object_in_utf8() {
    let key = jwk(KeyFamily::Ed25519, "good").1;
    let body = json!({ "keys": [key] }).to_string();
    assert!(KeySet::parse(body.as_bytes()).is_ok());
    let marked = KeySet::parse(&[BYTE_ORDER_MARK, body.as_bytes()].concat()).unwrap();
    assert_eq!(kids(&marked), ["good"]);
    assert!(matches!(
        KeySet::parse(json!([[key]]).to_string().as_bytes()),
        Err(KeySetError::NotAKeySet(_))
    ));
    let with_bytes = [format!("{{\"keys\":[{key}],\"x\":\"").as_bytes(), b"\xff\"}"].concat();
    assert!(matches!(KeySet::parse(&with_bytes), Err(KeySetError::NotAKeySet(_))));
    let marked_twice = [BYTE_ORDER_MARK, BYTE_ORDER_MARK, body.as_bytes()].concat();
    assert!(matches!(KeySet::parse(&marked_twice), Err(KeySetError::NotAKeySet(_))));
}

#[test]
fn keys_may_share_a_name_and_equal_ones_are_one() {
    let [(_, one), (_, other)] = [jwk(KeyFamily::Ed25519, "same"), jwk(KeyFamily::Ed25519, "same")];
    let (_, rsa) = jwk(KeyFamily::Rsa, "same");
    let unmarked = without(rsa.clone(), "alg");
    let encrypting = with(with(rsa.clone(), "use", json!("enc")), "alg", json!("RSA-OAEP-256"));
    let (rs256, ps256) =
        (with(rsa.clone(), "alg", json!("RS256")), with(rsa, "alg", json!("PS256")));
    let nameless = without(one.clone(), "kid");
    for (case, entries, named, unnamed, usable) in [
        ("twice", vec![one.clone(), one.clone()], 1, 1, 1),
        ("two", vec![one.clone(), other.clone()], 2, 2, 2),
        ("two kinds", vec![unmarked.clone(), one.clone()], 2, 2, 2),
        ("sig and enc of one", vec![encrypting, unmarked.clone()], 1, 1, 1),
        ("two algorithms of one", vec![rs256.clone(), ps256.clone()], 2, 2, 2),
        ("any algorithm, and one", vec![rs256, unmarked, ps256], 1, 1, 1),
        ("with and without a name", vec![nameless.clone(), one.clone()], 1, 1, 2),
        ("under two names", vec![one.clone(), with(one.clone(), "kid", json!("else"))], 1, 1, 2),
    ] {
        for entries in [entries.clone(), entries.into_iter().rev().collect()] {
            let set = set_of(&entries);
            assert_eq!((set.named("same").count(), set.keys().count()), (named, unnamed), "{case}");
            assert_eq!(set.contents().usable_keys, usable, "{case}");
        }
    }
    let set = set_of(&[nameless, with(other, "kid", json!(""))]);
    assert_eq!(
        (set.nameless().count(), set.named("").count(), set.keys().count()),
        (2, 0, 2),
        "an empty name is none"
    );
}

#[test]
fn a_key_that_names_its_algorithm_verifies_no_other() {
    let (key, mut jwk) = jwk(KeyFamily::Rsa, "rsa");
    jwk["alg"] = json!("PS256");
    let set = set_of(&[jwk]);
    let rsa = set.named("rsa").next().unwrap();
    let sign = |algorithm| key.sign(algorithm, b"message").unwrap();
    assert!(rsa.verify(Algorithm::Ps256, b"message", &sign(Algorithm::Ps256)));
    assert!(!rsa.verify(Algorithm::Rs256, b"message", &sign(Algorithm::Rs256)));
    assert!(!rsa.fits(Algorithm::Rs256, &sign(Algorithm::Rs256)));
}

#[test]
fn how_many_keys_a_token_may_cost_is_known_before_it_comes() {
    let ed25519 = |kid: &str| jwk(KeyFamily::Ed25519, kid).1;
    let entries = [
        ed25519("a"),
        ed25519("b"),
        ed25519("b"),
        jwk(KeyFamily::P256, "b").1,
        without(ed25519(""), "kid"),
        without(jwk(KeyFamily::P256, "").1, "kid"),
    ];
    let set = set_of(&entries);
    assert_eq!(set.most_trials(KeyFamily::Ed25519), MostTrials { named: 3, unnamed: 4 });
    assert_eq!(set.most_trials(KeyFamily::P256), MostTrials { named: 2, unnamed: 2 });
    assert_eq!(set.most_trials(KeyFamily::Rsa), MostTrials::default());
}

#[test]
fn what_is_no_key_set_is_refused() {
    let many: Vec<Value> =
        (0..=ENTRIES_MAX).map(|number| json!({"kid": number.to_string()})).collect();
    assert!(matches!(
        KeySet::parse(json!({ "keys": many }).to_string().as_bytes()),
        Err(KeySetError::TooManyKeys)
    ));
    for body in ["", "[]", "{}", "{\"keys\": {}}", "<html>", "{\"keys\": [}", "{\"keys\": null}"] {
        assert!(
            matches!(KeySet::parse(body.as_bytes()), Err(KeySetError::NotAKeySet(_))),
            "{body}"
        );
    }
    let deep = format!("{{\"keys\": {}{}}}", "[".repeat(20), "]".repeat(20));
    assert!(matches!(KeySet::parse(deep.as_bytes()), Err(KeySetError::TooDeep)));
    let in_a_string = KeySet::parse(br#"{"keys": [], "note": "[[[[[[[[[[[[[[\"[[[["}"#).unwrap();
    assert_eq!(in_a_string.contents().usable_keys, 0, "brackets in strings do not nest");
}

#[test]
fn what_is_shown_of_a_set_is_short_and_on_one_line() {
    let long = json!({"kty": "x".repeat(100_000), "kid": format!("a\n{}", "b".repeat(100_000)), "crv": "\u{85}"});
    let set = set_of(&[long]);
    let [told] = &set.contents().left_out[..] else { panic!("{set:?}") };
    let length = |text: &str| text.chars().count();
    assert!(
        told.kid.as_deref().is_some_and(
            |kid| kid.starts_with("a\u{fffd}b") && length(kid) == KID_CHARACTERS_MAX + 1
        )
    );
    assert!(
        length(&told.kind) <= 2 * (KIND_CHARACTERS_MAX + 1) + 1
            && length(&told.reason) <= REASON_CHARACTERS_MAX + 1,
        "{told:?}"
    );
    assert!(!format!("{told}").contains(char::is_control));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(body: Vec<u8>, text in "\\PC*") {
        let _ = KeySet::parse(&body);
        let _ = KeySet::parse(format!("{{\"keys\": [{text}]}}").as_bytes());
    }
}
