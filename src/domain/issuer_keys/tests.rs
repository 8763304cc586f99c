use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const CLAIMS: &[u8] = br#"{"sub":"alice","exp":4102444800}"#;

#[test]
fn each_kind_of_key_has_its_algorithm() {
    for (family, preferred, expected) in [
        (KeyFamily::Rsa, None, Algorithm::Rs256),
        (KeyFamily::Rsa, Some(Algorithm::Ps256), Algorithm::Ps256),
        (KeyFamily::Rsa, Some(Algorithm::Rs512), Algorithm::Rs256),
        (KeyFamily::Rsa, Some(Algorithm::EdDsa), Algorithm::Rs256),
        (KeyFamily::P256, Some(Algorithm::Ps256), Algorithm::Es256),
        (KeyFamily::P384, None, Algorithm::Es384),
        (KeyFamily::Ed25519, None, Algorithm::EdDsa),
    ] {
        assert_eq!(key_with(family, preferred).algorithm(), expected, "{family} {preferred:?}");
    }
}

#[test]
fn what_is_signed_verifies_here_and_elsewhere() {
    let ps256 = key_with(KeyFamily::Rsa, Some(Algorithm::Ps256));
    for key in [
        key(KeyFamily::Rsa),
        ps256,
        key(KeyFamily::Ed25519),
        key(KeyFamily::P256),
        key(KeyFamily::P384),
    ] {
        let keys = IssuerKeys::asymmetric(Arc::clone(&key), vec![Arc::clone(&key)]);
        let token = keys.sign(CLAIMS).unwrap();
        let (header, message, signature) = parts(&token);
        assert_eq!(header, json!({"alg": key.algorithm().name(), "typ": "JWT", "kid": key.kid()}));
        assert_eq!(key.kid(), key.public_key().fingerprint().to_string());
        assert_eq!(keys.algorithm(), key.algorithm().name());
        for kid in [Some(key.kid()), None] {
            assert_eq!(
                keys.verify(keys.algorithm(), kid, message, &signature),
                Ok(key.kid().into())
            );
        }

        let jwk: jsonwebtoken::jwk::JwkSet = serde_json::from_str(keys.jwks()).unwrap();
        let jwk = jwk.find(key.kid()).unwrap();
        let validation = jsonwebtoken::Validation::new(keys.algorithm().parse().unwrap());
        let decoding = jsonwebtoken::DecodingKey::from_jwk(jwk).unwrap();
        let decoded = jsonwebtoken::decode::<Value>(&token, &decoding, &validation).unwrap();
        assert_eq!(decoded.claims["sub"], "alice");
    }
}

#[test]
fn the_key_set_has_what_verifying_needs_and_no_more() {
    for (family, expected) in [
        (KeyFamily::Rsa, json!({"kty": "RSA", "alg": "RS256", "e": "AQAB"})),
        (KeyFamily::Ed25519, json!({"kty": "OKP", "alg": "EdDSA", "crv": "Ed25519"})),
        (KeyFamily::P256, json!({"kty": "EC", "alg": "ES256", "crv": "P-256"})),
        (KeyFamily::P384, json!({"kty": "EC", "alg": "ES384", "crv": "P-384"})),
    ] {
        let key = key(family);
        let set: Value =
            serde_json::from_str(IssuerKeys::asymmetric(Arc::clone(&key), Vec::new()).jwks())
                .unwrap();
        let [jwk] = set["keys"].as_array().unwrap().as_slice() else { panic!("{set}") };
        let mut expected = expected;
        expected["use"] = "sig".into();
        expected["kid"] = key.kid().into();
        let numbers: &[(&str, usize)] = match family {
            KeyFamily::Rsa => &[("n", 256)],
            KeyFamily::Ed25519 => &[("x", 32)],
            KeyFamily::P256 => &[("x", 32), ("y", 32)],
            KeyFamily::P384 => &[("x", 48), ("y", 48)],
        };
        for (name, length) in numbers {
            let number = BASE64_URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
            assert_eq!(number.len(), *length, "{family} {name}");
            assert!(family != KeyFamily::Rsa || number[0] != 0, "a leading zero");
            expected[name] = jwk[name].clone();
        }
        assert_eq!(jwk, &expected);
        assert_eq!(&PublicKey::parse(&jwk.to_string()).unwrap().key, key.public_key());
    }
}

#[test]
fn only_the_published_verify_and_only_one_signs() {
    let [old, new, foreign] = [(); 3].map(|()| key(KeyFamily::Ed25519));
    let keys = IssuerKeys::asymmetric(Arc::clone(&old), vec![Arc::clone(&new), Arc::clone(&old)]);
    assert_eq!(keys.signing_key().map(SigningKey::kid), Some(old.kid()));
    let kids: Vec<&str> = keys.published().iter().map(|key| key.kid()).collect();
    assert_eq!(kids, [new.kid(), old.kid()]);
    for key in [&old, &new, &foreign] {
        let token = IssuerKeys::asymmetric(Arc::clone(key), Vec::new()).sign(CLAIMS).unwrap();
        let (_, message, signature) = parts(&token);
        let is_known = key.kid() != foreign.kid();
        let expected = |fault| if is_known { Ok(key.kid().into()) } else { Err(fault) };
        assert_eq!(
            keys.verify("EdDSA", Some(key.kid()), message, &signature),
            expected(KeyFault::UnknownKey)
        );
        assert_eq!(
            keys.verify("EdDSA", None, message, &signature),
            expected(KeyFault::BadSignature)
        );
        assert_eq!(keys.jwks().contains(key.kid()), is_known);
        assert_eq!(keys.verify("EdDSA", Some(""), message, &signature), Err(KeyFault::UnknownKey));
    }
}

/// While the setting changes, there are replicas and tokens with both algorithms.
#[test]
fn a_change_from_rs256_to_ps256_ends_no_token() {
    let private = PrivateKey::generate(KeyFamily::Rsa, 2048).unwrap();
    let pem = private.to_pem().unwrap();
    let again = PrivateKey::parse(secrecy::ExposeSecret::expose_secret(&pem), None).unwrap();
    let [before, after] =
        [SigningKey::new(private, None), SigningKey::new(again, Some(Algorithm::Ps256))]
            .map(|key| IssuerKeys::asymmetric(Arc::new(key), Vec::new()));
    for (signer, verifier) in [(&before, &after), (&after, &before)] {
        let token = signer.sign(CLAIMS).unwrap();
        let (header, message, signature) = parts(&token);
        assert!(
            verifier
                .verify(signer.algorithm(), header["kid"].as_str(), message, &signature)
                .is_ok()
        );
        assert!(verifier.verify(signer.algorithm(), None, message, &signature).is_ok());
    }
}

/// The classic algorithm confusion: a public key is not a secret, so using it as one proves
/// nothing.
#[test]
fn keys_decide_algorithms() {
    let rsa = key(KeyFamily::Rsa);
    let keys = IssuerKeys::asymmetric(Arc::clone(&rsa), Vec::new());
    let public = rsa.public_key().to_pem();
    for secret in [
        public.as_bytes(),
        public.trim_end().as_bytes(),
        rsa.public_key().spki(),
        keys.jwks().as_bytes(),
    ] {
        let forged = IssuerKeys::symmetric(secret).unwrap().sign(CLAIMS).unwrap();
        let (_, message, signature) = parts(&forged);
        for kid in [None, Some(rsa.kid())] {
            assert_eq!(
                keys.verify("HS256", kid, message, &signature),
                Err(KeyFault::UnsupportedAlgorithm)
            );
            assert!(keys.verify("RS256", kid, message, &signature).is_err());
        }
    }
    let token = keys.sign(CLAIMS).unwrap();
    let (_, message, signature) = parts(&token);
    for alg in [
        "none", "None", "", "HS256", "HS512", "rs256", "RS512", "RS384", "PS512", "ES256", "ES384",
        "EdDSA",
    ] {
        assert_eq!(
            keys.verify(alg, Some(rsa.kid()), message, &signature),
            Err(KeyFault::UnsupportedAlgorithm),
            "{alg}"
        );
        assert!(keys.verify(alg, None, message, &signature).is_err(), "{alg}");
        assert!(keys.verify(alg, None, message, b"").is_err(), "{alg}");
    }

    let symmetric = IssuerKeys::symmetric(SECRET).unwrap();
    for alg in ["RS256", "PS256", "ES256", "EdDSA", "none", "HS384", "HS512", "hs256"] {
        assert_eq!(
            symmetric.verify(alg, Some(rsa.kid()), message, &signature),
            Err(KeyFault::UnsupportedAlgorithm),
            "{alg}"
        );
    }
}

#[test]
fn a_secret_signs_and_verifies_and_is_not_published() {
    let keys = IssuerKeys::symmetric(SECRET).unwrap();
    let token = keys.sign(CLAIMS).unwrap();
    let (header, message, signature) = parts(&token);
    assert_eq!(header, json!({"alg": "HS256", "typ": "JWT"}));
    for kid in [None, Some("anything")] {
        assert_eq!(keys.verify("HS256", kid, message, &signature), Ok("".into()));
    }
    assert_eq!(keys.jwks(), r#"{"keys":[]}"#);
    assert!(keys.published().is_empty() && keys.signing_key().is_none());
    let validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    assert!(
        jsonwebtoken::decode::<Value>(
            &token,
            &jsonwebtoken::DecodingKey::from_secret(SECRET),
            &validation
        )
        .is_ok()
    );

    let mut other = SECRET.to_vec();
    other[0] ^= 1;
    let other = IssuerKeys::symmetric(&other).unwrap();
    assert_eq!(other.verify("HS256", None, message, &signature), Err(KeyFault::BadSignature));
    assert_eq!(keys.verify("HS256", None, message, &signature[..31]), Err(KeyFault::BadSignature));
    assert_eq!(IssuerKeys::symmetric(&SECRET[..31]).err(), Some(ShortSecret));
}

#[test]
fn keys_do_not_show_themselves() {
    let key = key(KeyFamily::Ed25519);
    assert_eq!(format!("{key:?}"), format!("SigningKey(EdDSA {})", key.kid()));
    assert_eq!(format!("{:?}", IssuerKeys::symmetric(SECRET).unwrap()), "IssuerKeys(HS256)");
}

proptest! {
    #[test]
    fn nothing_else_verifies(claims: Vec<u8>, message: Vec<u8>, mut signature: Vec<u8>, flipped in 0_usize..64) {
        let keys = IssuerKeys::asymmetric(key(KeyFamily::Ed25519), Vec::new());
        prop_assert!(keys.verify("EdDSA", None, &message, &signature).is_err());
        let token = keys.sign(&claims).unwrap();
        let (_, message, good) = parts(&token);
        signature.clone_from(&good);
        signature[flipped] ^= 1;
        prop_assert!(keys.verify("EdDSA", None, message, &good).is_ok());
        prop_assert_eq!(keys.verify("EdDSA", None, message, &signature), Err(KeyFault::BadSignature));
        prop_assert_eq!(keys.verify("EdDSA", None, &message[1..], &good), Err(KeyFault::BadSignature));
    }
}

fn key(family: KeyFamily) -> Arc<SigningKey> {
    key_with(family, None)
}

fn key_with(family: KeyFamily, preferred: Option<Algorithm>) -> Arc<SigningKey> {
    Arc::new(SigningKey::new(PrivateKey::generate(family, 2048).unwrap(), preferred))
}

/// Header, signing input and signature of a token.
fn parts(token: &str) -> (Value, &[u8], Vec<u8>) {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let header = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    (header, message.as_bytes(), BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap())
}
