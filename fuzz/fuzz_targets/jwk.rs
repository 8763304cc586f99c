//! A JSON Web Key as `key add` and a key set read it, and each member of `keys` of a set.
#![no_main]

use countersign::domain::key::{Jwk, ParsedPublic};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(jwk) = serde_json::from_slice::<Jwk>(data) {
        read(&jwk);
    }
    let Ok(set) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    for key in set["keys"].as_array().into_iter().flatten() {
        if let Ok(jwk) = serde_json::from_value::<Jwk>(key.clone()) {
            read(&jwk);
        }
    }
});

fn read(jwk: &Jwk) {
    let Ok(parsed) = ParsedPublic::from_jwk(jwk) else { return };
    assert!(jwk.d.is_none(), "a private key is never taken");
    assert_eq!(parsed.verifying_key().fingerprint(), parsed.key.fingerprint());
}
