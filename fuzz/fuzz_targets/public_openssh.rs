//! An OpenSSH public key: a name, a line end, and the bytes that its line holds in base64.
#![no_main]

use base64::{Engine, prelude::BASE64_STANDARD};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (name, blob) = data.split_at(at);
    let Ok(name) = str::from_utf8(name) else { return };
    let blob = BASE64_STANDARD.encode(blob.get(1..).unwrap_or_default());
    countersign_fuzz::check_public(&format!("{name} {blob} alice@laptop"));
});
