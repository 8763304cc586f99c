//! Checks that a token was made for this request: `htm` and `htu` as in RFC 9449 section 4.2,
//! `htq`, `content_digest` and `aud`.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use super::verify::Policy;
use crate::domain::{
    auth_request::{Body, OriginalRequest, Reported},
    decision::DenialReason,
    target::{Authority, HttpUri, Path, Scheme, query_of_target},
    token::Claims,
};

/// Checks each binding claim that is present against the request and `policy`.
pub(super) fn check(
    claims: &Claims,
    request: &OriginalRequest<'_>,
    policy: &Policy,
) -> Result<(), DenialReason> {
    if claims.method.as_deref().is_some_and(|method| request.method.value() != Some(method)) {
        return Err(DenialReason::MethodMismatch);
    }
    if claims.uri.as_deref().is_some_and(|uri| !names_target(uri, request, &policy.authorities)) {
        return Err(DenialReason::UriMismatch);
    }
    if claims.query.as_deref().is_some_and(|hash| !is_hash_of_query(hash, request)) {
        return Err(DenialReason::QueryMismatch);
    }
    if let Some(digest) = &claims.content_digest {
        match request.body {
            // An allow passes the digest on, for the back end to check.
            Body::Unseen => {}
            Body::Whole(body) if digest.matches(body) => {}
            Body::Whole(_) | Body::Partial => return Err(DenialReason::DigestMismatch),
        }
    }
    if claims
        .audience
        .as_ref()
        .is_some_and(|named| !policy.audiences.iter().any(|us| named.names(us)))
    {
        return Err(DenialReason::AudienceMismatch);
    }
    Ok(())
}

/// Whether `uri` is the request's URI, without query and fragment, and at one of `authorities`, if
/// there are any. What the gateway does not report cannot match, except for the scheme: some
/// gateways cannot report it, and it only says how the client connected, not what it asks for. The
/// two URIs are compared part by part and never joined: see [`crate::domain::target`].
fn names_target(uri: &str, request: &OriginalRequest<'_>, authorities: &[Authority<'_>]) -> bool {
    let Some(named) = HttpUri::parse(uri) else { return false };
    let scheme = match request.scheme {
        Reported::Value(scheme) => Scheme::parse(scheme),
        Reported::Missing => Some(named.scheme),
        Reported::Conflicting => None,
    };
    scheme == Some(named.scheme)
        && request
            .host
            .value()
            .and_then(Authority::parse)
            .is_some_and(|host| host.is_same_for(named.scheme, &named.authority))
        && request.path.value().and_then(Path::of_target).is_some_and(|path| path == named.path)
        && (authorities.is_empty()
            || authorities.iter().any(|ours| ours.is_same_for(named.scheme, &named.authority)))
}

/// Length of a SHA-256 in unpadded base64url.
const HASH_CHARACTERS: usize = 43;

/// Whether `hash` is the SHA-256, in unpadded base64url, of the request's query: the bytes after
/// the first `?` of the target, as the gateway received them; empty without a query. Nothing is
/// decoded or sorted before.
fn is_hash_of_query(hash: &str, request: &OriginalRequest<'_>) -> bool {
    let Some(query) = request.path.value().and_then(query_of_target) else { return false };
    let mut expected = [0; HASH_CHARACTERS];
    let written =
        BASE64_URL_SAFE_NO_PAD.encode_slice(digest(&SHA256, query.as_bytes()), &mut expected);
    written == Ok(HASH_CHARACTERS) && hash.as_bytes() == expected
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request<'a>(scheme: Option<&'a str>, host: &'a str, path: &'a str) -> OriginalRequest<'a> {
        OriginalRequest {
            method: Some("GET").into(),
            scheme: scheme.into(),
            host: Some(host).into(),
            path: Some(path).into(),
            body: Body::Unseen,
        }
    }

    fn matches(uri: &str, scheme: Option<&str>, host: &str, path: &str) -> bool {
        names_target(uri, &request(scheme, host, path), &[])
    }

    #[test]
    fn the_same_target_matches_however_it_is_written() {
        for (uri, scheme, host, path) in [
            ("https://api.example/orders", Some("https"), "api.example", "/orders"),
            ("https://API.example:443/orders", Some("https"), "api.EXAMPLE", "/orders?page=2"),
            ("https://api.example/orders?page=1#top", Some("HTTPS"), "api.example:443", "/orders"),
            ("http://api.example:8080/", Some("http"), "api.example:8080", "/"),
            ("http://api.example", Some("http"), "api.example", "/"),
            ("https://api.example/orders", None, "api.example", "/orders"),
            ("https://api.example/orders", None, "api.example:443", "/orders"),
            ("http://[::1]:8080/a%20b", Some("http"), "[::1]:8080", "/a%20b"),
            ("https://api.example/~bob", Some("https"), "api.example", "/%7Ebob"),
            ("https://api.example/%7ebob", Some("https"), "api.example", "/~bob"),
            ("https://api.example/%c3%bc", Some("https"), "api.example", "/%C3%BC"),
            ("http://order_service:8080/", Some("http"), "order_service:8080", "/"),
        ] {
            assert!(matches(uri, scheme, host, path), "{uri} {host} {path}");
        }
    }

    #[test]
    fn another_target_does_not() {
        for (uri, scheme, host, path) in [
            ("https://api.example/orders", Some("http"), "api.example", "/orders"),
            ("https://api.example/orders", Some("https"), "other.example", "/orders"),
            ("https://api.example/orders", Some("https"), "api.example:8443", "/orders"),
            ("https://api.example/orders", None, "api.example:80", "/orders"),
            ("https://api.example/orders", Some("https"), "api.example", "/orders/"),
            ("https://api.example/orders", Some("https"), "api.example", "/Orders"),
            ("https://api.example/orders", Some("wss"), "api.example", "/orders"),
            ("https://api.example@evil.example/orders", Some("https"), "evil.example", "/orders"),
            ("https://evil.example/orders", Some("https"), "api.example@evil.example", "/orders"),
            ("https:/api.example/orders", Some("https"), "api.example", "/orders"),
            ("https:api.example/orders", Some("https"), "api.example", "/orders"),
            (" https://api.example/orders", Some("https"), "api.example", "/orders"),
            ("https://api.example/ord\ners", Some("https"), "api.example", "/orders"),
            ("https:\\\\api.example\\orders", Some("https"), "api.example", "/orders"),
            ("/orders", Some("https"), "api.example", "/orders"),
            ("ftp://api.example/orders", None, "api.example", "/orders"),
            ("", Some("https"), "api.example", "/orders"),
        ] {
            assert!(!matches(uri, scheme, host, path), "{uri} {host} {path}");
        }
        let unknown =
            OriginalRequest { host: Some("api.example").into(), ..OriginalRequest::default() };
        assert!(
            !names_target("https://api.example/orders", &unknown, &[]),
            "a gateway that does not tell the path"
        );
    }

    /// Each of these matched `http://api.example/orders` when the parts were joined and parsed
    /// again, the first four with any path.
    #[test]
    fn a_host_cannot_hide_the_path() {
        for host in [
            "api.example:80\\orders#",
            "api.example/orders#",
            "api.example/orders?",
            "api.example\\orders?",
            "@api.example",
            "%61pi.example",
            "ａｐｉ.example",
            "api.example:0080",
            "api.example:",
            "api.exa\tmple",
            "//api.example",
            "\\api.example",
        ] {
            for path in ["/things/1?delete=all", "/orders"] {
                assert!(
                    !matches("http://api.example/orders", Some("http"), host, path),
                    "{host} {path}"
                );
            }
        }
        assert!(!matches(
            "https://api.example/orders",
            Some("https"),
            "api.example:0443",
            "/orders"
        ));
        for target in ["/orders#/things", "/orders?a#b", "/orders#"] {
            assert!(
                !matches("http://api.example/orders", Some("http"), "api.example", target),
                "{target}"
            );
        }
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
            "/a%00b",
            "/a%zzb",
            "/a b",
            "a",
            "",
        ] {
            let uri = format!("https://api.example{path}");
            assert!(!matches(&uri, Some("https"), "api.example", path), "{path}");
        }
    }

    #[test]
    fn authorities_are_the_only_ones_to_be_named() {
        let ours = ["API.example", "api.example:8443", "[::1]"]
            .map(|text| Authority::parse(text).unwrap().into_owned());
        for (authority, is_ours) in [
            ("api.example", true),
            ("api.example:443", true),
            ("api.example:8443", true),
            ("[0::1]:443", true),
            ("api.example:80", false),
            ("other.example", false),
            ("xapi.example", false),
            ("api.example.evil.example", false),
        ] {
            let uri = format!("https://{authority}/orders");
            for scheme in [Some("https"), None] {
                assert_eq!(
                    names_target(&uri, &request(scheme, authority, "/orders"), &ours),
                    is_ours,
                    "{authority}"
                );
                assert!(
                    names_target(&uri, &request(scheme, authority, "/orders"), &[]),
                    "{authority}"
                );
            }
        }
        // The gateway of another service, to which a token for us was relayed.
        assert!(!names_target(
            "https://api.example/orders",
            &request(Some("https"), "other.example", "/orders"),
            &ours
        ));
        assert!(
            names_target("http://api.example/", &request(None, "api.example:80", "/"), &ours),
            "the default port is the scheme's"
        );
    }

    #[test]
    fn a_query_is_hashed_as_it_was_sent() {
        let is_for = |hash: &str, path| is_hash_of_query(hash, &request(None, "api.example", path));
        // `printf %s 'a=1&b=%7e' | openssl dgst -sha256 -binary | basenc --base64url`
        let hash = "miu3uyy3NvcJF602waCgBuelbdu9X2OSkukkgb57pm4";
        let of_nothing = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";
        assert!(is_for(hash, "/orders?a=1&b=%7e"));
        for path in [
            "/orders?b=%7e&a=1",
            "/orders?a=1&b=~",
            "/orders?a=1&b=%7E",
            "/orders",
            "/orders?",
            "/orders??a=1&b=%7e",
            "/orders?a=1&b=%7e#",
        ] {
            assert!(!is_for(hash, path), "{path}");
        }
        assert!(is_for(of_nothing, "/orders") && is_for(of_nothing, "/orders?"));
        assert!(!is_for(of_nothing, "/orders?a") && !is_for(of_nothing, "/orders#"));
        for other in [
            "",
            "=",
            &format!("{of_nothing}="),
            &of_nothing.replace('-', "+").replace('_', "/"),
            &of_nothing[1..],
        ] {
            assert!(!is_for(other, "/orders"), "{other}");
        }
        assert!(
            !is_hash_of_query(of_nothing, &OriginalRequest::default()),
            "a gateway that does not tell the target"
        );
        let contradictory =
            OriginalRequest { path: Reported::Conflicting, ..OriginalRequest::default() };
        assert!(!is_hash_of_query(of_nothing, &contradictory));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_comparison_panic(uri in "\\PC*", host in "\\PC*", path in "\\PC*") {
            let _ = matches(&uri, None, &host, &path);
            let _ = is_hash_of_query(&uri, &request(None, &host, &path));
        }

        /// Whatever a client writes into its `Host` header, a match means exactly this host and
        /// exactly this path.
        #[test]
        fn a_match_has_the_host_and_the_path_to_the_letter(
            host in "(api|API|[a-z%@.:\\\\/#?]{0,6})[.:@\\\\]?(example)?(:[0-9]{1,4})?[\\\\/#?@a-z]{0,8}",
            path in "/(orders|[a-z%./#?\\\\]{0,12})",
        ) {
            if matches("http://api.example/orders", Some("http"), &host, &path) {
                prop_assert!(["api.example", "api.example:80"].contains(&host.to_ascii_lowercase().as_str()), "{}", host);
                prop_assert_eq!(path.split('?').next(), Some("/orders"));
            }
        }

        #[test]
        fn a_match_has_the_same_path_to_the_letter(path in "/[a-z./]{0,12}", other in "/[a-z./]{0,12}") {
            if matches(&format!("https://api.example{path}"), Some("https"), "api.example", &other) {
                prop_assert_eq!(path, other);
            }
        }
    }
}
