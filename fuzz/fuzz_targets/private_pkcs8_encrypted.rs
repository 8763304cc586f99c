//! An encrypted private key (PKCS#8) in DER; the target adds the armour. The passphrase is
//! `secret`.
#![no_main]

libfuzzer_sys::fuzz_target!(|der: &[u8]| countersign_fuzz::check_private(&countersign_fuzz::pem(
    "ENCRYPTED PRIVATE KEY",
    der
)));
