//! A private key of OpenSSH, without its armour. The passphrase, where there is one, is `secret`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| countersign_fuzz::check_private(&countersign_fuzz::openssh_private(bytes)));
