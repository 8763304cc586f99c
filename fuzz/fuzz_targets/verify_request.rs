//! A plugin's request over gRPC: the bytes of a `VerifyRequest`.
#![no_main]

use countersign::{doors::grpc::fuzzing::verify_request, engine::verify::fuzzing::credential};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    verify_request(bytes, |auth_request| {
        if let Ok((_, token)) = credential("JWT", auth_request) {
            assert!(
                token.is_empty()
                    || bytes.windows(token.len()).any(|window| window == token.as_bytes())
            );
        }
    });
});
