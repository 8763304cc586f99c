//! What several targets do: what has to hold for every input.

use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use countersign::domain::{
    key::{KeyError, PrivateKey, PublicKey, VerifyingKey},
    token::{Claims, UntrustedToken},
};

/// `der` as PEM, which is the only form in which keys are taken.
pub fn pem(label: &str, der: &[u8]) -> String {
    armoured(label, der, 64)
}

/// `bytes` as OpenSSH writes private keys.
pub fn openssh_private(bytes: &[u8]) -> String {
    armoured("OPENSSH PRIVATE KEY", bytes, 70)
}

fn armoured(label: &str, bytes: &[u8], columns: usize) -> String {
    let encoded = BASE64_STANDARD.encode(bytes);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(columns).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A text is refused with a reason that can be told, or is a key with one identity in every form that we write.
pub fn check_public(text: &str) {
    match PublicKey::parse(text) {
        Ok(parsed) => check_public_key(&parsed.key),
        Err(refused) => check_refusal(&refused),
    }
}

fn check_public_key(key: &PublicKey) {
    for form in [key.to_pem(), serde_json::to_string(&key.to_jwk()).unwrap()] {
        assert_eq!(PublicKey::parse(&form).unwrap().key, *key, "{form}");
    }
    assert_eq!(PublicKey::from_spki(key.spki()).unwrap(), *key);
    assert_eq!(VerifyingKey::new(key).fingerprint(), key.fingerprint());
}

/// A text is refused with a reason that can be told, or is a key that is the same in the form that we write.
pub fn check_private(text: &str) {
    match PrivateKey::parse_if_cheap(text, Some(&"secret".into())) {
        Ok(key) => {
            use secrecy::ExposeSecret;
            let written = key.to_pem().unwrap();
            assert_eq!(
                PrivateKey::parse(written.expose_secret(), None).unwrap().public_key(),
                key.public_key()
            );
            check_public_key(key.public_key());
        }
        Err(refused) => check_refusal(&refused),
    }
}

fn check_refusal(refused: &KeyError) {
    assert!(!refused.to_string().is_empty());
}

/// The claims in `json`, as a token brings them along.
pub fn claims(json: &[u8]) -> Option<Claims> {
    let payload = BASE64_URL_SAFE_NO_PAD.encode(json);
    let token = format!("{}.{payload}.AAAA", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#));
    UntrustedToken::parse(&token).ok().map(|token| token.unverified_claims().clone())
}
