//! A self-signed token: as it comes, and with the bytes as its header and claims, so that the fuzzer need not learn base64url.
#![no_main]

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use countersign::domain::token::UntrustedToken;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        read(text);
    }
    let split = data.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (header, claims) = (&data[..split], data.get(split + 1..).unwrap_or_default());
    read(&[header, claims, b"signature"].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join("."));
});

fn read(text: &str) {
    let Ok(token) = UntrustedToken::parse(text) else { return };
    let claims = token.unverified_claims();
    assert!(!claims.nonce.is_empty() && !claims.username.as_str().is_empty());
    assert!(token.signature_length() > 0);
}
