//! A request over HTTP: a method and a target, then one header per line. The target `binding`
//! covers the claims that bind it.
#![no_main]

use countersign::{
    domain::auth_request::{Credentials, Reported},
    doors::http::fuzzing::decision_request,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Some(Ok((method, target))) = lines
        .next()
        .map(|line| str::from_utf8(line).map(|line| line.split_once(' ').unwrap_or(("GET", line))))
    else {
        return;
    };
    let headers: Vec<(&[u8], &[u8])> = lines
        .filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..at], line[at + 1..].trim_ascii()))
        })
        .collect();
    let values = |name: &str| -> Vec<&[u8]> {
        headers
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| *value)
            .collect()
    };
    decision_request(method, target, &headers, |auth_request| {
        let authorization = values("authorization");
        match auth_request.credentials {
            Credentials::None => assert!(authorization.is_empty()),
            Credentials::One(value) => assert_eq!(authorization, [value.as_bytes()]),
            Credentials::Unusable => assert!(!authorization.is_empty()),
        }
        let request = &auth_request.request;
        // The HTTP library removes fragments.
        let target = target.split('#').next().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        if let Some(scopes) =
            path.strip_prefix("/decide/scope/").filter(|_| auth_request.misconfiguration.is_none())
        {
            // The scopes that the route requires are never lost, and the client's request follows
            // them.
            let (scopes, tail) =
                scopes.split_once('/').map_or((scopes, None), |(scopes, _)| (scopes, Some(())));
            assert!(auth_request.required_scopes.len() >= scopes.split('+').count());
            assert!(auth_request.required_scopes.iter().take(1).all(|scope| !scope.is_empty()));
            if tail.is_some() {
                assert_eq!(
                    request.path.value(),
                    Some(&target["/decide/scope/".len() + scopes.len()..])
                );
            }
            return;
        }
        if target.starts_with("/validate_request/") {
            assert!(auth_request.misconfiguration.is_none());
            assert_eq!(request.method, Reported::Value(method));
            let told = &target["/validate_request".len()..];
            assert_eq!(request.path.value(), Some(told));
            return;
        }
        if path != "/validate_request" {
            return;
        }
        // A known value is what every header that gives one agrees on.
        for (stated, names) in [
            (request.method, ["x-original-method", "x-forwarded-method"]),
            (request.path, ["x-original-uri", "x-forwarded-uri"]),
            (request.scheme, ["x-forwarded-proto", "x-forwarded-proto"]),
        ] {
            let said: Vec<&[u8]> = names
                .iter()
                .flat_map(|name| values(name))
                .filter(|value| !value.is_empty())
                .collect();
            match stated {
                Reported::Missing => assert!(said.is_empty()),
                Reported::Value(value) => {
                    assert!(!said.is_empty() && said.iter().all(|said| *said == value.as_bytes()))
                }
                Reported::Conflicting => assert!(!said.is_empty()),
            }
        }
    });
});
