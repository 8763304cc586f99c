//! An access token of our own: as it comes, and with the bytes as its header and claims.
#![no_main]

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use countersign::domain::token::UntrustedAccessToken;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = UntrustedAccessToken::parse(text);
    }
    let split = data.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (header, claims) = (&data[..split], data.get(split + 1..).unwrap_or_default());
    let text = [header, claims, b"signature"].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
    let _ = UntrustedAccessToken::parse(&text).map(|token| (token.algorithm().len(), token.key_id().map(str::len)));
});
