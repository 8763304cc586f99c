//! An EC private key as SEC1 has it, in DER, which is armoured here.
#![no_main]

libfuzzer_sys::fuzz_target!(|der: &[u8]| countersign_fuzz::check_private(&countersign_fuzz::pem("EC PRIVATE KEY", der)));
