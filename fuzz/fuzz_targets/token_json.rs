//! The content of a token without base64, which a fuzzer cannot see through: a header, a line end,
//! claims.
#![no_main]

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use countersign::domain::token::{UntrustedAccessToken, UntrustedToken};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (header, payload) = data.split_at(at);
    let payload = payload.get(1..).unwrap_or_default();
    let [header_part, payload_part] =
        [header, payload].map(|json| BASE64_URL_SAFE_NO_PAD.encode(json));
    let token = format!("{header_part}.{payload_part}.AAAA");
    if UntrustedAccessToken::parse(&token).is_ok() | UntrustedToken::parse(&token).is_ok() {
        for json in [header, payload] {
            assert!(str::from_utf8(json).unwrap().trim_start().starts_with('{'));
        }
    }
});
