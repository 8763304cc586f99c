use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::{
    algorithm::KeyFamily,
    key::PrivateKey,
    time::{TokenTime, UnixSeconds},
};

fn part(json: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json.to_string())
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}.AAAA", part(header), part(claims))
}

fn claims_of(claims: &Value) -> Result<Claims, TokenFault> {
    UntrustedToken::parse(&unsigned(&json!({"alg": "EdDSA"}), claims))
        .map(|token| token.unverified_claims)
}

#[test]
fn both_profiles_say_the_same() {
    let own =
        claims_of(&json!({"username": "alice", "time": 1_700_000_000, "nonce": "n-1"})).unwrap();
    let registered =
        claims_of(&json!({"iss": "alice", "iat": 1_700_000_000, "jti": "n-1"})).unwrap();
    let by_subject =
        claims_of(&json!({"sub": "alice", "iat": 1_700_000_000.0, "jti": "n-1"})).unwrap();
    let both = claims_of(&json!({
        "username": "alice", "time": 1_700_000_000, "nonce": "n-1", "sub": "alice", "iss": "alice", "iat": 1_700_000_000, "jti": "n-1",
    }))
    .unwrap();
    assert_eq!(own.username.as_str(), "alice");
    assert_eq!(own.time, UnixSeconds(1_700_000_000).into());
    assert_eq!(&*own.nonce, "n-1");
    assert_eq!(own, registered);
    assert_eq!(own, by_subject);
    assert_eq!(own, both);
}

#[test]
fn integer_nonces_are_taken_in_decimal() {
    assert_eq!(&*claims_of(&json!({"username": "a", "time": 1, "nonce": 5})).unwrap().nonce, "5");
    assert_eq!(&*claims_of(&json!({"username": "a", "time": 1, "nonce": -5})).unwrap().nonce, "-5");
    assert_eq!(
        &*claims_of(&json!({"username": "a", "time": 1, "nonce": u64::MAX})).unwrap().nonce,
        "18446744073709551615"
    );
}

fn claims_in(payload: &str) -> Result<Claims, TokenFault> {
    let token = format!(
        "{}.{}.AAAA",
        part(&json!({"alg": "EdDSA"})),
        BASE64_URL_SAFE_NO_PAD.encode(payload)
    );
    UntrustedToken::parse(&token).map(|token| token.unverified_claims)
}

#[test]
fn numbers_count_by_their_digits() {
    for nonce in
        ["0.9845574553073804", "123456789012345678901234567890", "1e3", "-0", "1.50", "0.1e-400"]
    {
        let claims =
            claims_in(&format!(r#"{{"username":"a","time":1764300000.337586,"nonce":{nonce}}}"#))
                .unwrap();
        assert_eq!(&*claims.nonce, nonce);
        assert_eq!(claims.time, TokenTime::new(UnixMillis(1_764_300_000_337), true));
    }
    for time in ["1764300000.0", "1.7643e9", "1764300000"] {
        let claims =
            claims_in(&format!(r#"{{"iss":"a", "iat" : {time} ,"jti":"n\u0041"}}"#)).unwrap();
        assert_eq!((claims.time, &*claims.nonce), (UnixSeconds(1_764_300_000).into(), "nA"));
    }
    for (payload, fault) in [
        (r#"{"username":"a","time":"1","nonce":"n"}"#, ClaimsFault::NotATime("time")),
        (r#"{"username":"a","time":[1],"nonce":"n"}"#, ClaimsFault::NotATime("time")),
        (r#"{"username":"a","time":1,"nonce":"n","exp":"2"}"#, ClaimsFault::NotATime("exp")),
        (r#"{"username":"a","time":1,"nonce":{"n":1}}"#, ClaimsFault::NotText("nonce")),
        (r#"{"username":"a","time":1,"nonce":"\ud800"}"#, ClaimsFault::NotText("nonce")),
        (r#"{"iss":"a","iat":1,"jti":5}"#, ClaimsFault::NotText("jti")),
    ] {
        assert_eq!(claims_in(payload), Err(TokenFault::Claims(fault)), "{payload}");
    }
    let mistyped = Err(TokenFault::Claims(ClaimsFault::Mistyped));
    for payload in [
        r#"{"username":"a","time":01,"nonce":"n"}"#,
        r#"{"username":"a","time":1.,"nonce":"n"}"#,
        r#"{"username":"a","time":NaN,"nonce":"n"}"#,
        "{\"username\":\"a\",\"time\":1,\"nonce\":\"\n\"}",
        r#"{"username":"a","time":1,"nonce":1,"nonce":1}"#,
        r#"{"username":"a","time":1,"nonce":1,"jti":1,"jti":1}"#,
        r#"{"username":"a","time":1,"nonce":1,"aud":null,"aud":"b"}"#,
        r#"{"username":"a","time":1,"nonce":1,"aud":[null]}"#,
    ] {
        assert_eq!(claims_in(payload), mistyped, "{payload}");
    }
}

#[test]
fn what_libraries_add_only_restricts() {
    let own = json!({"username": "a", "time": 100, "nonce": "n"});
    let with = |claim: &str, value: Value| {
        let mut claims = own.clone();
        claims[claim] = value;
        claims_of(&claims)
    };
    for (claim, value) in [
        ("iat", json!(98)),
        ("iat", json!(102)),
        ("iat", json!(100.9)),
        ("iss", json!("https://client.example")),
        ("iss", json!(null)),
        ("sub", json!("b")),
        ("sub", json!(7)),
        ("jti", json!("x")),
        ("jti", json!(["x"])),
        ("aud", json!(null)),
    ] {
        let claims =
            with(claim, value.clone()).unwrap_or_else(|fault| panic!("{claim} {value}: {fault}"));
        assert_eq!(claims, claims_of(&own).unwrap(), "{claim} {value}");
    }
    for (claim, value, fault) in [
        ("iat", json!(97), ClaimsFault::Contradictory),
        ("iat", json!(103), ClaimsFault::Contradictory),
        ("iat", json!("100"), ClaimsFault::NotATime("iat")),
        ("exp", json!("soon"), ClaimsFault::NotATime("exp")),
    ] {
        assert_eq!(with(claim, value.clone()), Err(TokenFault::Claims(fault)), "{claim} {value}");
    }
    assert_eq!(with("exp", json!(10)).unwrap().expires_at, Some(UnixSeconds(10)));
}

#[test]
fn faults_say_what_is_wrong() {
    let fault = |token: &str| UntrustedToken::parse(token).unwrap_err().to_string();
    let (header, payload) =
        (part(&json!({"alg": "EdDSA"})), part(&json!({"username": "a", "time": 1, "nonce": "n"})));
    assert!(fault(&format!("{header}==.{payload}.AAAA")).contains("its header ends with `=`"));
    assert!(fault(&format!("{header}.{payload}=.AAAA")).contains("its payload ends with `=`"));
    assert!(fault(&format!("{header}.{payload}.AAA=")).contains("its signature ends with `=`"));
    assert!(fault(&format!("{header}.{payload}.A+/A")).contains("base64url has `-` and `_`"));
    let marked = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(format!("\u{feff}{json}"));
    assert!(
        fault(&format!("{}.{payload}.AAAA", marked(r#"{"alg":"EdDSA"}"#)))
            .contains("byte order mark")
    );
    assert!(fault(&format!("{header}.{}.AAAA", marked("{}"))).contains("byte order mark"));
    assert!(fault(&unsigned(&json!({"alg": "HS256"}), &json!({}))).contains("Ed25519"));
}

#[test]
fn profiles_may_not_contradict_each_other() {
    for claims in [
        json!({"username": "a", "iss": "b", "iat": 1, "nonce": "n"}),
        json!({"username": "a", "sub": "b", "time": 1, "jti": "n"}),
        json!({"iss": "a", "sub": "b", "iat": 1, "jti": "n"}),
        json!({"username": "a", "time": 1, "iat": 4, "nonce": "n"}),
        json!({"iss": "a", "time": 1, "nonce": "n", "jti": "m"}),
    ] {
        assert_eq!(
            claims_of(&claims),
            Err(TokenFault::Claims(ClaimsFault::Contradictory)),
            "{claims}"
        );
    }
}

#[test]
fn missing_and_mistyped_claims_are_refused() {
    for (claims, fault) in [
        (json!({"time": 1, "nonce": "n"}), ClaimsFault::NoUsername),
        (json!({"username": "a", "nonce": "n"}), ClaimsFault::NoTime),
        (json!({"username": "a", "time": 1}), ClaimsFault::NoNonce),
        (json!({"username": "a", "time": 1, "nonce": ""}), ClaimsFault::NoNonce),
        (json!({"username": "", "time": 1, "nonce": "n"}), ClaimsFault::BadUsername),
        (json!({"username": "a\nb", "time": 1, "nonce": "n"}), ClaimsFault::BadUsername),
        (json!({"username": 1, "time": 1, "nonce": "n"}), ClaimsFault::Mistyped),
        (json!({"username": "a", "time": "1", "nonce": "n"}), ClaimsFault::NotATime("time")),
        (json!({"username": "a", "time": 1, "nonce": true}), ClaimsFault::NotText("nonce")),
        (json!({"username": "a", "time": null, "nonce": "n"}), ClaimsFault::NotATime("time")),
        (
            json!({"username": "a", "time": 1, "nonce": "n", "exp": "soon"}),
            ClaimsFault::NotATime("exp"),
        ),
        (json!({"username": "a", "time": 1, "nonce": "n", "aud": 7}), ClaimsFault::Mistyped),
        (json!({"username": "a", "time": 1, "nonce": "n", "htm": 7}), ClaimsFault::Mistyped),
        (json!(["a", 1, "n"]), ClaimsFault::Mistyped),
    ] {
        assert_eq!(claims_of(&claims), Err(TokenFault::Claims(fault)), "{claims}");
    }
}

#[test]
fn a_claim_or_header_that_comes_twice_is_refused() {
    let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#);
    let payload =
        BASE64_URL_SAFE_NO_PAD.encode(r#"{"username":"a","username":"a","time":1,"nonce":"n"}"#);
    assert_eq!(
        UntrustedToken::parse(&format!("{header}.{payload}.AAAA")).unwrap_err(),
        TokenFault::Claims(ClaimsFault::Mistyped)
    );
    let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","alg":"EdDSA"}"#);
    let payload = part(&json!({"username": "a", "time": 1, "nonce": "n"}));
    assert!(matches!(
        UntrustedToken::parse(&format!("{header}.{payload}.AAAA")),
        Err(TokenFault::NotAJws(_))
    ));
}

#[test]
fn an_encoded_payload_may_be_said_to_be_one() {
    let token = unsigned(
        &json!({"alg": "EdDSA", "b64": true}),
        &json!({"username": "a", "time": 1, "nonce": "n"}),
    );
    assert!(UntrustedToken::parse(&token).is_ok(), "RFC 7797 section 3: true is what is so anyway");
}

#[test]
fn claims_are_text_in_an_object() {
    let header = part(&json!({"alg": "EdDSA"}));
    let read = |payload: &[u8]| {
        let token = format!("{header}.{}.AAAA", BASE64_URL_SAFE_NO_PAD.encode(payload));
        (UntrustedToken::parse(&token).map(drop), UntrustedAccessToken::parse(&token).map(drop))
    };
    for payload in [
        &b"{\"username\":\"a\",\"time\":1,\"nonce\":\"n\",\"other\":\"\xff\"}"[..],
        b"{\"username\":\"a\xff\",\"time\":1,\"nonce\":\"n\"}",
        b"{\"username\":\"a\",\"time\":1,\"nonce\":\"n\",\"\xed\xa0\x80\":1}",
        br#"["https://iss",null,null,9999999999,"0190c3f0-0000-7000-8000-000000000000","T","a",1,""]"#,
    ] {
        let mistyped = || Err(TokenFault::Claims(ClaimsFault::Mistyped));
        assert_eq!(read(payload), (mistyped(), mistyped()), "{}", String::from_utf8_lossy(payload));
    }
}

#[test]
fn a_content_digest_is_one_that_can_be_checked() {
    let with = |digest: Value| {
        claims_of(&json!({"username": "a", "time": 1, "nonce": "n", "content_digest": digest}))
    };
    let digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    assert!(with(json!(digest)).unwrap().content_digest.unwrap().matches(b""));
    for other in [
        json!(""),
        json!("sha-256=:AAAA:"),
        json!("md5=:AAAA:"),
        json!([digest]),
        json!({"sha-256": "AAAA"}),
        json!(null),
    ] {
        assert_eq!(with(other.clone()), Err(TokenFault::Claims(ClaimsFault::Mistyped)), "{other}");
    }
}

#[test]
fn dates_are_rounded_against_the_token() {
    let claims =
        claims_of(&json!({"iss": "a", "iat": 1, "jti": "n", "exp": 10.9, "nbf": 5.1})).unwrap();
    assert_eq!(claims.expires_at, Some(UnixSeconds(10)));
    assert_eq!(claims.not_before, Some(UnixSeconds(6)));
}

#[test]
fn audiences_come_alone_or_in_a_list() {
    let named = |aud| {
        claims_of(&json!({"iss": "a", "iat": 1, "jti": "n", "aud": aud}))
            .unwrap()
            .audience
            .unwrap()
            .names("us")
    };
    assert!(named(json!("us")) && named(json!(["them", "us"])));
    assert!(!named(json!("them")) && !named(json!([])));
}

#[test]
fn what_is_not_a_jws_is_refused() {
    let claims = part(&json!({"username": "a", "time": 1, "nonce": "n"}));
    let header = part(&json!({"alg": "EdDSA"}));
    for token in [
        String::new(),
        "abc".to_owned(),
        "a.b".to_owned(),
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!("{header}.{claims}.A"),
        format!("{header}.{claims}.AAAA.AAAA"),
        format!("{header}=.{claims}.AAAA"),
        format!(".{claims}.AAAA"),
        format!("{}.{claims}.AAAA", part(&json!({"alg": 5}))),
        format!("{}.{claims}.AAAA", part(&json!({}))),
        format!("{}.{claims}.AAAA", part(&json!({"alg": "EdDSA", "kid": 5}))),
        format!("{}.{claims}.AAAA", part(&json!({"alg": "EdDSA", "crit": ["b64"], "b64": false}))),
        format!("{}.{claims}.AAAA", part(&json!({"alg": "EdDSA", "crit": ["b64"], "b64": true}))),
        format!("{}.{claims}.AAAA", part(&json!({"alg": "EdDSA", "crit": []}))),
        format!("{}.{claims}.AAAA", part(&json!({"alg": "EdDSA", "crit": null}))),
        format!("{}.{claims}.AAAA", part(&json!({"alg": "EdDSA", "b64": false}))),
        format!("{}.{claims}.AAAA", part(&json!({"alg": "EdDSA", "b64": null}))),
        format!("{}.{claims}.AAAA", part(&json!({"alg": "EdDSA", "b64": "true"}))),
        format!("{}.{claims}.AAAA", part(&json!(["EdDSA"]))),
        format!("{}.{claims}.AAAA", part(&json!(["EdDSA", null, null]))),
        format!("{}.{claims}.AAAA", part(&json!("EdDSA"))),
        format!(
            "{}.{claims}.AAAA",
            BASE64_URL_SAFE_NO_PAD.encode(b"{\"alg\":\"EdDSA\",\"typ\":\"\xff\"}")
        ),
        format!(
            "{}.{claims}.AAAA",
            BASE64_URL_SAFE_NO_PAD.encode(b"{\"alg\":\"EdDSA\",\"\xc3\x28\":1}")
        ),
    ] {
        assert!(matches!(UntrustedToken::parse(&token), Err(TokenFault::NotAJws(_))), "{token:?}");
    }
}

#[test]
fn only_listed_algorithms_are_read() {
    for alg in ["none", "HS256", "HS512", "ES512", "eddsa", "RSA1_5", ""] {
        let token =
            unsigned(&json!({"alg": alg}), &json!({"username": "a", "time": 1, "nonce": "n"}));
        assert_eq!(
            UntrustedToken::parse(&token).unwrap_err(),
            TokenFault::UnsupportedAlgorithm,
            "{alg}"
        );
    }
}

#[test]
fn size_is_capped_before_anything_is_decoded() {
    let at_cap = "a".repeat(MAX_TOKEN_BYTES);
    assert!(matches!(UntrustedToken::parse(&at_cap), Err(TokenFault::NotAJws(_))));
    assert_eq!(UntrustedToken::parse(&format!("{at_cap}a")).unwrap_err(), TokenFault::TooLarge);
}

#[test]
fn only_the_right_key_over_the_right_bytes_verifies() {
    let now = UnixMillis(0);
    for (family, algorithm) in KeyFamily::ALL
        .into_iter()
        .flat_map(|family| family.algorithms().iter().map(move |algorithm| (family, *algorithm)))
    {
        let (key, other) = (
            PrivateKey::generate(family, 2048).unwrap(),
            PrivateKey::generate(family, 2048).unwrap(),
        );
        let (ready, other) =
            (VerifyingKey::new(key.public_key()), VerifyingKey::new(other.public_key()));
        let input = format!(
            "{}.{}",
            part(&json!({"alg": algorithm.name()})),
            part(&json!({"username": "a", "time": 1, "nonce": "n"}))
        );
        let signature =
            BASE64_URL_SAFE_NO_PAD.encode(key.sign(algorithm, input.as_bytes()).unwrap());
        let token = format!("{input}.{signature}");
        let parsed = UntrustedToken::parse(&token).unwrap();
        assert!(parsed.fits(&ready), "{algorithm}");
        assert!(parsed.verify(&other, now).is_none(), "another key of the same kind");
        let verified = parsed.verify(&ready, now).expect("the right key");
        assert_eq!(verified.fingerprint(), key.public_key().fingerprint());

        let forged = format!(
            "{}.{}.{signature}",
            part(&json!({"alg": algorithm.name()})),
            part(&json!({"username": "b", "time": 1, "nonce": "n"}))
        );
        assert!(
            UntrustedToken::parse(&forged).unwrap().verify(&ready, now).is_none(),
            "{algorithm}: other claims"
        );
    }
}

#[test]
fn a_key_verifies_only_the_algorithms_of_its_kind() {
    let keys: Vec<VerifyingKey> = KeyFamily::ALL
        .into_iter()
        .map(|family| VerifyingKey::new(PrivateKey::generate(family, 2048).unwrap().public_key()))
        .collect();
    for algorithm in Algorithm::ALL {
        for key in keys.iter().filter(|key| key.family() != algorithm.family()) {
            assert!(!key.verify(algorithm, b"message", &[1; 64]));
            assert!(!key.fits(algorithm, &[1; 64]));
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(text in "\\PC*") {
        let _ = UntrustedToken::parse(&text);
    }

    #[test]
    fn no_decoded_parts_make_the_parser_panic(header: Vec<u8>, payload: Vec<u8>, signature: Vec<u8>) {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let _ = UntrustedToken::parse(&format!("{}.{}.{}", encode(&header), encode(&payload), encode(&signature)));
        let _ = Claims::parse(&payload);
    }

    #[test]
    fn no_claims_of_the_right_names_make_the_parser_panic(
        time in any::<f64>(), exp in any::<i64>(), nbf in any::<f64>(), nonce in "\\PC*", aud in proptest::collection::vec("\\PC*", 0..4),
    ) {
        let _ = claims_of(&json!({"username": "a", "time": time, "iat": time, "exp": exp, "nbf": nbf, "nonce": nonce, "aud": aud}));
    }
}
