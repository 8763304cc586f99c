//! An RSA private key as PKCS#1, in DER, which is armoured here.
#![no_main]

libfuzzer_sys::fuzz_target!(|der: &[u8]| countersign_fuzz::check_private(&countersign_fuzz::pem("RSA PRIVATE KEY", der)));
