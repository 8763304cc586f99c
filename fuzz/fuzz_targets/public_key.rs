//! A public key in any format: PEM (SPKI, PKCS#1, X.509), OpenSSH, JWK; and the DER of each PEM block, by its label.
#![no_main]

use countersign::domain::key::{PublicKey, VerifyingKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        read(text);
    }
    if let Some((kind, der)) = data.split_first() {
        let label = ["PUBLIC KEY", "RSA PUBLIC KEY", "CERTIFICATE"][usize::from(kind % 3)];
        read(&pem::encode(&pem::Pem::new(label, der)));
    }
});

/// A key that is taken can be written and read again, and stays the same.
fn read(text: &str) {
    let Ok(parsed) = PublicKey::parse(text) else { return };
    let again = PublicKey::parse(&parsed.key.to_pem()).expect("what we write we read").key;
    assert_eq!(again, parsed.key);
    let jwk = serde_json::to_string(&parsed.key.to_jwk()).expect("a JWK is JSON");
    assert_eq!(PublicKey::parse(&jwk).expect("what we write we read").key, parsed.key);
    let key = VerifyingKey::new(&parsed.key);
    for algorithm in parsed.key.family().algorithms() {
        assert!(!key.verify(*algorithm, b"message", b"no signature"));
    }
}
