//! The claims that bind a token and the request that carries it, each on its own line: method,
//! scheme, host, path, and claims.
#![no_main]

use countersign::{
    domain::auth_request::{OriginalRequest, Reported},
    engine::verify::fuzzing::check_binding,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(5, '\n');
    let [method, scheme, host, path, json] =
        std::array::from_fn(|_| lines.next().unwrap_or_default());
    let Some(claims) = countersign_fuzz::claims(json.as_bytes()) else { return };
    let [method, scheme, host, path] =
        [method, scheme, host, path].map(|value| Reported::from(Some(value)));
    let request = OriginalRequest { method, scheme, host, path, ..OriginalRequest::default() };
    let anywhere = check_binding(&claims, &request, "orders", &[]);
    let here = check_binding(&claims, &request, "orders", &["api.example"]);
    if here.is_ok() {
        assert_eq!(anywhere, Ok(()), "a setting may only narrow");
    }
    if anywhere.is_err() {
        return;
    }
    if let Some(named) = &claims.method {
        assert_eq!(request.method.value(), Some(&**named));
    }
    if let Some(uri) = &claims.uri {
        let (host, path) = (request.host.value().unwrap(), request.path.value().unwrap());
        let path = path.split('?').next().unwrap();
        assert!(
            host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte)),
            "{host}"
        );
        assert!(
            path.starts_with('/')
                && !path.contains("//")
                && path.bytes().all(|byte| byte.is_ascii_graphic()),
            "{path}"
        );
        assert!(
            !path.contains(['\\', '#', ';'])
                && !path.split('/').any(|segment| matches!(segment, "." | "..")),
            "{path}"
        );
        assert!(
            !uri.contains(['\\', '@']) || uri.contains(['?', '#']) || uri.matches('/').count() > 2,
            "{uri}"
        );
        if let Ok(()) = here {
            let host = host.to_ascii_lowercase();
            assert!(host == "api.example" || host.starts_with("api.example:"), "{host}");
        }
    }
});
