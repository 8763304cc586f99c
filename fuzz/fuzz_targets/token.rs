//! A token: its form, its header, its claims.
#![no_main]

use countersign::domain::token::{MAX_TOKEN_BYTES, UntrustedAccessToken, UntrustedToken};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let access_token = UntrustedAccessToken::parse(text);
    let self_signed = UntrustedToken::parse(text);
    if access_token.is_ok() || self_signed.is_ok() {
        assert!(text.len() <= MAX_TOKEN_BYTES);
        assert_eq!(text.matches('.').count(), 2);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
    }
    if let Ok(token) = self_signed {
        let claims = token.unverified_claims();
        assert!(!claims.nonce.is_empty() && token.signature_length() > 0);
    }
});
