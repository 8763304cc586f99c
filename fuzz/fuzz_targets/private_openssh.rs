//! An OpenSSH private key, without its armour. If it has a passphrase, that is `secret`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| countersign_fuzz::check_private(
    &countersign_fuzz::openssh_private(bytes)
));
