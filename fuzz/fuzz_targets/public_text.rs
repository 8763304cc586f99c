//! A public key as text: any kind of PEM, an OpenSSH line, or a JWK.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| countersign_fuzz::check_public(text));
