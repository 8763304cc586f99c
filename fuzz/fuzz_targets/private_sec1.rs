//! An EC private key as SEC1 in DER; the target adds the armour.
#![no_main]

libfuzzer_sys::fuzz_target!(|der: &[u8]| countersign_fuzz::check_private(&countersign_fuzz::pem(
    "EC PRIVATE KEY",
    der
)));
