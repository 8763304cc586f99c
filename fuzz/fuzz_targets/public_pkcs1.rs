//! An RSA public key as PKCS#1 in DER; the target adds the armour.
#![no_main]

libfuzzer_sys::fuzz_target!(|der: &[u8]| countersign_fuzz::check_public(&countersign_fuzz::pem(
    "RSA PUBLIC KEY",
    der
)));
