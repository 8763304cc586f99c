//! Envoy's request over gRPC: the bytes of a `CheckRequest`.
#![no_main]

use std::sync::LazyLock;

use countersign::{
    domain::auth_request::{Credentials, Reported},
    doors::{grpc::fuzzing::check_request, http::ResponseConfig},
    engine::verify::fuzzing::credential,
};
use libfuzzer_sys::fuzz_target;

static RESPONSES: LazyLock<ResponseConfig> =
    LazyLock::new(|| ResponseConfig::new("authorization", None, "JWT", "countersign"));

fuzz_target!(|bytes: &[u8]| {
    check_request(bytes, &RESPONSES, |auth_request| {
        // Every value that is read is contained in the message.
        let is_there =
            |value: &str| bytes.windows(value.len()).any(|window| window == value.as_bytes());
        if let Credentials::One(value) = auth_request.credentials {
            assert!(value.is_empty() || is_there(value));
        }
        let request = &auth_request.request;
        for stated in [request.method, request.host, request.path] {
            assert!(!matches!(stated, Reported::Conflicting));
        }
        for stated in [request.method, request.scheme, request.host, request.path] {
            assert!(stated.value().is_none_or(is_there));
        }
        let _ = credential("JWT", auth_request);
    });
});
