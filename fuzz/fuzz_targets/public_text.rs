//! A public key as text: PEM of every kind, the line of OpenSSH, JWK.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| countersign_fuzz::check_public(text));
