//! A private key: PKCS#8, also encrypted, PKCS#1, SEC1 and OpenSSH.
#![no_main]

use countersign::domain::key::PrivateKey;
use libfuzzer_sys::fuzz_target;
use pkcs8::{
    EncryptedPrivateKeyInfo,
    pkcs5::{EncryptionScheme, pbes2::Kdf},
};
use secrecy::SecretString;

/// Deriving a key is slow on purpose: the targets try what takes little of it.
const ITERATIONS_MAX: u32 = 64;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = PrivateKey::parse(text, passphrase(text).as_ref());
    }
    if let Some((kind, der)) = data.split_first() {
        let labels = ["PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"];
        let text = pem::encode(&pem::Pem::new(labels[usize::from(*kind) % labels.len()], der));
        let _ = PrivateKey::parse(&text, passphrase(&text).as_ref());
    }
});

/// A passphrase, if trying it is cheap. OpenSSH's own format is read up to the passphrase and not decrypted.
fn passphrase(text: &str) -> Option<SecretString> {
    let block = pem::parse(text).ok()?;
    let info = EncryptedPrivateKeyInfo::try_from(block.contents()).ok()?;
    let EncryptionScheme::Pbes2(parameters) = info.encryption_algorithm else { return None };
    match parameters.kdf {
        Kdf::Pbkdf2(kdf) if kdf.iteration_count <= ITERATIONS_MAX => Some("passphrase".into()),
        _ => None,
    }
}
