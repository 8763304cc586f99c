//! A public key as a JWK.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if text.trim_start().starts_with('{') {
        countersign_fuzz::check_public(text);
    }
});
