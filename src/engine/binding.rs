//! Whether a token was made for this request: `htm` and `htu` as in RFC 9449 section 4.2, and `aud`.

use url::Url;

use crate::domain::{
    decision::DenialReason,
    presented::{OriginalRequest, Stated},
    token::Claims,
};

/// Checks each binding claim that is there against the request and this service's `audiences`.
pub(super) fn check(claims: &Claims, request: &OriginalRequest<'_>, audiences: &[Box<str>]) -> Result<(), DenialReason> {
    if claims.method.as_deref().is_some_and(|method| request.method.value() != Some(method)) {
        return Err(DenialReason::MethodMismatch);
    }
    if claims.uri.as_deref().is_some_and(|uri| !names_target(uri, request)) {
        return Err(DenialReason::UriMismatch);
    }
    if claims.audience.as_ref().is_some_and(|named| !audiences.iter().any(|us| named.names(us))) {
        return Err(DenialReason::AudienceMismatch);
    }
    Ok(())
}

/// Whether `uri` is the request's, query and fragment aside. What the gateway does not say cannot match, but for the scheme:
/// some gateways have no way to tell it, and it says where the client connected, not what it asks for.
fn names_target(uri: &str, request: &OriginalRequest<'_>) -> bool {
    let Some((host, path)) = request.host.value().zip(request.path.value()) else { return false };
    let Ok(named) = Url::parse(uri) else { return false };
    let scheme = match request.scheme {
        Stated::As(scheme) => scheme,
        Stated::Nowhere => named.scheme(),
        Stated::Contradictory => return false,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if !matches!(named.scheme(), "http" | "https") || is_ambiguous(path) || has_ambiguous_path(uri) {
        return false;
    }
    let Ok(target) = Url::parse(&format!("{scheme}://{host}{path}")) else { return false };
    let has_no_user = |url: &Url| url.username().is_empty() && url.password().is_none();
    has_no_user(&named)
        && has_no_user(&target)
        && named.scheme() == target.scheme()
        && named.host_str() == target.host_str()
        && named.port_or_known_default() == target.port_or_known_default()
        && named.path() == target.path()
}

/// A path that gateways and back ends normalise in different ways, so that the one checked need not be the one served:
/// dot segments, empty segments, encoded slashes, backslashes or dots, path parameters. Such a path matches nothing.
fn is_ambiguous(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    !path.starts_with('/')
        || path.contains("//")
        || path.contains(['\\', ';'])
        || ["%2f", "%5c", "%2e", "%00", "%25", "%3b"].iter().any(|encoded| lower.contains(encoded))
        || path.split('/').any(|segment| segment == "." || segment == "..")
        || path.bytes().any(|byte| !byte.is_ascii_graphic())
}

/// The same of a whole URI, before parsing has normalised it.
fn has_ambiguous_path(uri: &str) -> bool {
    let Some((_, rest)) = uri.split_once("://") else { return true };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    rest.find('/').is_some_and(|start| is_ambiguous(&rest[start..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request<'a>(scheme: Option<&'a str>, host: &'a str, path: &'a str) -> OriginalRequest<'a> {
        OriginalRequest { method: Some("GET").into(), scheme: scheme.into(), host: Some(host).into(), path: Some(path).into() }
    }

    #[test]
    fn the_same_target_matches_however_it_is_written() {
        for (uri, scheme, host, path) in [
            ("https://api.example/orders", Some("https"), "api.example", "/orders"),
            ("https://API.example:443/orders", Some("https"), "api.EXAMPLE", "/orders?page=2"),
            ("https://api.example/orders?page=1#top", Some("https"), "api.example:443", "/orders"),
            ("http://api.example:8080/", Some("http"), "api.example:8080", "/"),
            ("http://api.example", Some("http"), "api.example", "/"),
            ("https://api.example/orders", None, "api.example", "/orders"),
            ("http://[::1]:8080/a%20b", Some("http"), "[::1]:8080", "/a%20b"),
        ] {
            assert!(names_target(uri, &request(scheme, host, path)), "{uri} {host} {path}");
        }
    }

    #[test]
    fn another_target_does_not() {
        for (uri, scheme, host, path) in [
            ("https://api.example/orders", Some("http"), "api.example", "/orders"),
            ("https://api.example/orders", Some("https"), "other.example", "/orders"),
            ("https://api.example/orders", Some("https"), "api.example:8443", "/orders"),
            ("https://api.example/orders", Some("https"), "api.example", "/orders/"),
            ("https://api.example/orders", Some("https"), "api.example", "/Orders"),
            ("https://api.example@evil.example/orders", Some("https"), "evil.example", "/orders"),
            ("https://evil.example/orders", Some("https"), "api.example@evil.example", "/orders"),
            ("/orders", Some("https"), "api.example", "/orders"),
            ("ftp://api.example/orders", None, "api.example", "/orders"),
            ("", Some("https"), "api.example", "/orders"),
        ] {
            assert!(!names_target(uri, &request(scheme, host, path)), "{uri} {host} {path}");
        }
        let unknown = OriginalRequest { host: Some("api.example").into(), ..OriginalRequest::default() };
        assert!(!names_target("https://api.example/orders", &unknown), "a gateway that does not tell the path");
    }

    #[test]
    fn paths_that_gateways_read_differently_match_nothing() {
        for path in [
            "/t/ok/..%2f/admin//x",
            "/a/../b",
            "/a/./b",
            "/a//b",
            "/a%2Fb",
            "/a%2e%2e/b",
            "/a\\b",
            "/a%5cb",
            "/a;v=1/b",
            "/a%252fb",
            "/a b",
            "a",
            "",
        ] {
            let uri = format!("https://api.example{path}");
            assert!(!names_target(&uri, &request(Some("https"), "api.example", path)), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_comparison_panic(uri in "\\PC*", host in "\\PC*", path in "\\PC*") {
            let _ = names_target(&uri, &request(None, &host, &path));
        }

        #[test]
        fn a_match_has_the_same_path_to_the_letter(path in "/[a-z%./]{0,12}", other in "/[a-z%./]{0,12}") {
            if names_target(&format!("https://api.example{path}"), &request(Some("https"), "api.example", &other)) {
                prop_assert_eq!(path, other);
            }
        }
    }
}
