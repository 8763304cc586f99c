//! The path and query of a question: the original request, if it is there, and the scopes that the
//! gateway's route requires.

use std::borrow::Cow;

use hyper::Uri;
use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use crate::domain::{auth_request::Misconfiguration, scope::is_scope_list};

/// For gateways that ask about every route alike, or name the scopes of a route in the query or a
/// header.
const VALIDATE: &str = "/validate_request";
/// For gateways that can name scopes only in the path. Scopes come first and the client's path
/// after them, so a client has no influence on them. Under [`VALIDATE`] it would.
const DECIDE: &str = "/decide";
/// The segment after [`DECIDE`] if scopes are required.
const SCOPE: &str = "scope";
/// The only query parameter that is accepted.
const SCOPE_NAME: &str = "scope";

/// Whether `target`, under `prefix`, is answered with a decision, even if that is a refusal.
pub(super) fn is_question(prefix: &str, target: &Uri) -> bool {
    let is_at_or_below = |rest: &str| rest.is_empty() || rest.starts_with('/');
    target.path().strip_prefix(prefix).is_some_and(|path| {
        [VALIDATE, DECIDE].iter().any(|root| path.strip_prefix(root).is_some_and(is_at_or_below))
    })
}

/// A question, parsed from its target.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route<'u> {
    /// The original path and query, if the gateway appends them to our path, as Envoy's HTTP mode
    /// does. Otherwise headers carry them.
    pub(super) tail: Option<&'u str>,
    /// Lists of scopes that the route requires.
    pub(super) scopes: Vec<Cow<'u, str>>,
    pub(super) misconfiguration: Option<Misconfiguration<'u>>,
}

impl<'u> Route<'u> {
    /// Parses the question at `target`, whose path begins with a prefix of `prefix_length` bytes.
    pub(super) fn of(prefix_length: usize, target: &'u Uri) -> Self {
        let target = target
            .path_and_query()
            .map_or("", |target| target.as_str())
            .get(prefix_length..)
            .unwrap_or_default();
        if let Some(rest) = target.strip_prefix(VALIDATE) {
            return Self::before(rest, Vec::new());
        }
        let (name, rest) = segment(target.strip_prefix(DECIDE).unwrap_or_default());
        if name != SCOPE {
            return Self::unknown(rest, Misconfiguration::UnknownRoute(name));
        }
        let (list, rest) = segment(rest);
        if list.is_empty() {
            return Self::unknown(rest, Misconfiguration::NoScopes);
        }
        let scopes: Option<Vec<_>> = list.split('+').map(scopes_in).collect();
        match scopes {
            Some(scopes) => Self::before(rest, scopes),
            None => Self::unknown(rest, Misconfiguration::MalformedScopes(list)),
        }
    }

    /// With `scopes`, followed by `rest`: the original request, or the gateway's query.
    fn before(rest: &'u str, mut scopes: Vec<Cow<'u, str>>) -> Self {
        let mut misconfiguration = None;
        if !rest.starts_with('/') && !rest.is_empty() {
            for (name, value) in form_urlencoded::parse(rest.trim_start_matches('?').as_bytes()) {
                if name == SCOPE_NAME {
                    scopes.push(value);
                } else {
                    misconfiguration =
                        misconfiguration.or(Some(Misconfiguration::UnknownQueryName(name)));
                }
            }
        }
        Self { tail: tail(rest), scopes, misconfiguration }
    }

    fn unknown(rest: &'u str, misconfiguration: Misconfiguration<'u>) -> Self {
        Self { tail: tail(rest), scopes: Vec::new(), misconfiguration: Some(misconfiguration) }
    }
}

fn tail(rest: &str) -> Option<&str> {
    rest.starts_with('/').then_some(rest)
}

/// The first segment of `path`, which begins with a slash or is empty, and the rest.
fn segment(path: &str) -> (&str, &str) {
    let Some(path) = path.strip_prefix('/') else { return ("", path) };
    path.split_at(path.find(['/', '?']).unwrap_or(path.len()))
}

/// The scopes in a part of a segment; `None` if there are none, or malformed ones.
fn scopes_in(part: &str) -> Option<Cow<'_, str>> {
    let is_escaped_well = part
        .split('%')
        .skip(1)
        .all(|rest| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2);
    let scopes = percent_decode_str(part).decode_utf8().ok()?;
    // `.` and `..` are well-formed scopes, but a proxy on the way would resolve them as path
    // segments.
    (is_escaped_well && is_scope_list(&scopes) && part != "." && part != "..").then_some(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(target: &Uri) -> Route<'_> {
        Route::of(0, target)
    }

    fn uri(target: &str) -> Uri {
        target.parse().unwrap()
    }

    #[test]
    fn a_query_asks_only_without_a_tail() {
        for (target, tail, scopes) in [
            ("/validate_request", None, &[][..]),
            ("/validate_request?", None, &[]),
            ("/validate_request?&", None, &[]),
            ("/validate_request?scope=a+b&scope=%63", None, &["a b", "c"]),
            ("/validate_request?%73cope=", None, &[""]),
            ("http://auth:8080/validate_request?scope=a", None, &["a"]),
            ("/validate_request/", Some("/"), &[]),
            ("/validate_request/orders?scope=a&scopes=b", Some("/orders?scope=a&scopes=b"), &[]),
            ("/validate_request//orders?x", Some("//orders?x"), &[]),
            ("/validate_request/decide/scope/a/", Some("/decide/scope/a/"), &[]),
            ("/decide/scope/a", None, &["a"]),
            ("/decide/scope/a?scope=b", None, &["a", "b"]),
            ("/decide/scope/a+b/orders?scope=c&x", Some("/orders?scope=c&x"), &["a", "b"]),
            ("/decide/scope/a+b/", Some("/"), &["a", "b"]),
            ("/decide/scope/a//b", Some("//b"), &["a"]),
            ("/decide/scope/a/../b", Some("/../b"), &["a"]),
            (
                "/decide/scope/https:%2f%2Fapi%2Fread+a%2Bb/x",
                Some("/x"),
                &["https://api/read", "a+b"],
            ),
            ("/decide/scope/a%20b+c/x", Some("/x"), &["a b", "c"]),
        ] {
            let uri = uri(target);
            let Route { tail: found, scopes: asked, misconfiguration } = route(&uri);
            assert_eq!((found, misconfiguration), (tail, None), "{target}");
            assert_eq!(asked, scopes, "{target}");
            assert!(is_question("", &uri), "{target}");
        }
    }

    #[test]
    fn what_is_unknown_is_a_fault() {
        use Misconfiguration::*;
        for (target, tail, fault) in [
            ("/validate_request?scopes=a", None, UnknownQueryName("scopes".into())),
            ("/validate_request?SCOPE=a&b", None, UnknownQueryName("SCOPE".into())),
            ("/validate_request?scope=a&x=1", None, UnknownQueryName("x".into())),
            ("/validate_request?=a", None, UnknownQueryName("".into())),
            ("/validate_request?%53cope=a", None, UnknownQueryName("Scope".into())),
            ("/validate_request?scope%20=a", None, UnknownQueryName("scope ".into())),
            ("/decide/scope/a?x", None, UnknownQueryName("x".into())),
            ("/decide", None, UnknownRoute("")),
            ("/decide?scope=a", None, UnknownRoute("")),
            ("/decide/", None, UnknownRoute("")),
            ("/decide//scope/a/x", Some("/scope/a/x"), UnknownRoute("")),
            ("/decide/scopes/a/x", Some("/a/x"), UnknownRoute("scopes")),
            ("/decide/%73cope/a/x", Some("/a/x"), UnknownRoute("%73cope")),
            ("/decide/Scope", None, UnknownRoute("Scope")),
            ("/decide/scope", None, NoScopes),
            ("/decide/scope/", None, NoScopes),
            ("/decide/scope//orders", Some("/orders"), NoScopes),
            ("/decide/scope?scope=a", None, NoScopes),
            ("/decide/scope/a+/x", Some("/x"), MalformedScopes("a+")),
            ("/decide/scope/+/x", Some("/x"), MalformedScopes("+")),
            ("/decide/scope/a++b", None, MalformedScopes("a++b")),
            ("/decide/scope/%20/x", Some("/x"), MalformedScopes("%20")),
            ("/decide/scope/a%2/x", Some("/x"), MalformedScopes("a%2")),
            ("/decide/scope/%zz/x", Some("/x"), MalformedScopes("%zz")),
            ("/decide/scope/a%22/x", Some("/x"), MalformedScopes("a%22")),
            ("/decide/scope/%c3%a9/x", Some("/x"), MalformedScopes("%c3%a9")),
            ("/decide/scope/%ff/x", Some("/x"), MalformedScopes("%ff")),
            ("/decide/scope/../x", Some("/x"), MalformedScopes("..")),
            ("/decide/scope/./x", Some("/x"), MalformedScopes(".")),
        ] {
            let uri = uri(target);
            let found = route(&uri);
            assert_eq!((found.tail, found.misconfiguration), (tail, Some(fault)), "{target}");
            assert!(is_question("", &uri), "{target}");
        }
    }

    #[test]
    fn other_paths_are_no_questions() {
        for target in [
            "/",
            "/validate_requests",
            "/decided",
            "/decide%2fscope",
            "/Decide/scope/a",
            "//decide/scope/a",
            "/x/decide/scope/a",
        ] {
            assert!(!is_question("", &uri(target)), "{target}");
        }
        assert!(
            is_question("/auth", &uri("/auth/decide/scope/a"))
                && !is_question("/auth", &uri("/decide/scope/a"))
        );
        assert_eq!(Route::of("/auth".len(), &uri("/auth/decide/scope/a/x")).tail, Some("/x"));
    }
}
