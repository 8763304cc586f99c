//! A gateway's request for a decision, the same for every transport.

use std::{borrow::Cow, fmt, net::IpAddr};

/// One request for a decision: these credentials, for this request.
#[derive(Clone, Debug)]
pub struct AuthRequest<'a> {
    /// The transport that the gateway uses.
    pub door: Door,
    /// The header with the credentials.
    pub credentials: Credentials<'a>,
    /// The `Authorization` header, if credentials come in another header: access tokens are
    /// accepted in it, too.
    pub authorization: Credentials<'a>,
    /// The original request that the credentials came with.
    pub request: OriginalRequest<'a>,
    /// Lists of scopes that the route requires; all of them must be held.
    pub required_scopes: Vec<&'a str>,
    /// The gateway's id of the request: the same whenever it asks again about the same request, and
    /// never chosen by a client.
    pub attempt: Option<&'a str>,
    /// The client's address, as the gateway reports it.
    pub peer: Option<IpAddr>,
    /// The trace that this request belongs to.
    pub trace: TraceHeaders<'a>,
    /// Why it is unknown which scopes the route requires. Such a request is refused, whatever the
    /// credentials are.
    pub misconfiguration: Option<Misconfiguration<'a>>,
}

impl<'a> AuthRequest<'a> {
    /// A request with these credentials and nothing else.
    pub fn alone(door: Door, credentials: Credentials<'a>) -> Self {
        Self {
            door,
            credentials,
            authorization: Credentials::None,
            request: OriginalRequest::default(),
            required_scopes: Vec::new(),
            attempt: None,
            peer: None,
            trace: TraceHeaders::default(),
            misconfiguration: None,
        }
    }
}

/// Something unknown in the gateway's request that only its configuration can have put there.
/// Ignoring it could skip a check that it was meant to require.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misconfiguration<'a> {
    /// The query has a parameter other than `scope`.
    #[error(
        "the query names {}, expected `scope`; if it is the client's query, have the gateway leave it out (Caddy: `uri /validate_request?`)",
        Word(.0)
    )]
    UnknownQueryName(Cow<'a, str>),
    /// `context_extensions` have a name that is probably meant to be `scope`.
    #[error("context_extensions name {}, expected `scope`", Word(.0))]
    UnknownExtension(&'a str),
    /// `/decide/scope/` without scopes.
    #[error("no scopes in the path, expected /decide/scope/a+b")]
    NoScopes,
    /// `/decide/scope/` with something other than scopes.
    #[error("malformed scopes in the path: {}, expected /decide/scope/a+b, percent-encoded", Word(.0))]
    MalformedScopes(&'a str),
    /// `/decide/` with anything else.
    #[error("nothing is decided at /decide/ followed by {}, expected /decide/scope/a+b", Word(.0))]
    UnknownRoute(&'a str),
}

/// A name as it appears in the log. Anything that is not a short word is hidden: it may be a
/// client's secret, if the gateway appends the client's query.
struct Word<'a>(&'a str);

/// Maximum length of a name that is repeated in the log, in bytes.
const WORD_MAX: usize = 40;

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name) = self;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:+%".contains(&byte);
        match name.len() {
            0 => f.write_str("nothing"),
            1..=WORD_MAX if name.bytes().all(is_word) => write!(f, "`{name}`"),
            length => write!(f, "something else ({length} bytes)"),
        }
    }
}

/// Trace context headers (W3C Trace Context), not parsed: most decisions do not need them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceHeaders<'a> {
    /// The calling span, and whether its trace is sampled.
    pub traceparent: Option<&'a str>,
    /// Additional data of tracing systems.
    pub tracestate: Option<&'a str>,
}

/// The transport of a gateway's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    /// HTTP: nginx's `auth_request`, Envoy's HTTP mode, forward-auth of other gateways.
    Http,
    /// gRPC: `ext_authz`, or our own `Verification`.
    Grpc,
    /// The token API, for its own callers and for tokens that it validates.
    TokenApi,
}

impl Door {
    /// All doors; each is at index `door as usize`.
    pub const ALL: [Self; 3] = [Self::Http, Self::Grpc, Self::TokenApi];

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::TokenApi => "token_api",
        }
    }
}

/// The occurrences of the header with the credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// The header is missing.
    #[default]
    None,
    /// The header occurs once, with this value.
    One(&'a str),
    /// The header occurs more than once, or its value is not text. Which value the back end would
    /// believe is unknown.
    Unusable,
}

impl<'a> Credentials<'a> {
    /// Adds one more occurrence of the header.
    #[must_use]
    pub const fn and_another(self, value: &'a str) -> Self {
        match self {
            Self::None => Self::One(value),
            Self::One(_) | Self::Unusable => Self::Unusable,
        }
    }

    /// Merges two representations of the same headers: the same value in both is one credential.
    #[must_use]
    pub fn or_same(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, known) | (known, Self::None) => known,
            (Self::One(first), Self::One(second)) if first == second => self,
            (Self::One(_) | Self::Unusable, Self::One(_) | Self::Unusable) => Self::Unusable,
        }
    }
}

/// What the gateway reports about the original request.
#[derive(Clone, Copy, Debug, Default)]
pub struct OriginalRequest<'a> {
    /// The HTTP method.
    pub method: Reported<'a>,
    /// `http` or `https`.
    pub scheme: Reported<'a>,
    /// The authority: the host, and the port if it is not the scheme's default.
    pub host: Reported<'a>,
    /// Path and query as the gateway received them, not normalised.
    pub path: Reported<'a>,
    /// The body, as far as the gateway sends it.
    pub body: Body<'a>,
}

/// The part of the body that a gateway sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body<'a> {
    /// Nothing; the request may have a body.
    #[default]
    Unseen,
    /// Only the beginning, or nothing because the body does not end.
    Partial,
    /// The whole body; empty if the request has none.
    Whole(&'a [u8]),
}

/// A value that a gateway may report in several ways, some of which a client can forge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reported<'a> {
    /// No source reports it.
    #[default]
    Missing,
    /// All sources that report it agree on this value.
    Value(&'a str),
    /// Two sources differ, so one of them is forged.
    Conflicting,
}

impl<'a> Reported<'a> {
    /// Adds the value of one more source.
    #[must_use]
    pub fn and(self, source: Option<&'a str>) -> Self {
        match (self, source.filter(|value| !value.is_empty())) {
            (known, None) => known,
            (Self::Missing, Some(value)) => Self::Value(value),
            (Self::Value(known), Some(value)) if known == value => self,
            (Self::Value(_) | Self::Conflicting, Some(_)) => Self::Conflicting,
        }
    }

    /// The value, if there is exactly one.
    pub const fn value(self) -> Option<&'a str> {
        match self {
            Self::Value(value) => Some(value),
            Self::Missing | Self::Conflicting => None,
        }
    }

    /// This, or `fallback` if no source reports a value.
    #[must_use]
    pub const fn or(self, fallback: Self) -> Self {
        match self {
            Self::Missing => fallback,
            Self::Value(_) | Self::Conflicting => self,
        }
    }
}

impl<'a> From<Option<&'a str>> for Reported<'a> {
    fn from(source: Option<&'a str>) -> Self {
        Self::Missing.and(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_differ_are_believed_by_none() {
        assert_eq!(Reported::from(Some("/a")).and(None), Reported::Value("/a"));
        assert_eq!(Reported::from(Some("/a")).and(Some("")), Reported::Value("/a"));
        assert_eq!(Reported::from(Some("/a")).and(Some("/a")), Reported::Value("/a"));
        assert_eq!(
            Reported::from(Some("/a")).and(Some("/b")).and(Some("/a")),
            Reported::Conflicting
        );
        assert_eq!(Reported::Conflicting.or(Reported::Value("/a")), Reported::Conflicting);
    }

    #[test]
    fn only_short_words_are_repeated() {
        let told = |name: &str| Misconfiguration::UnknownQueryName(name.into()).to_string();
        assert!(told("scopes").starts_with("the query names `scopes`, expected `scope`;"));
        assert!(told("").starts_with("the query names nothing,"));
        for name in ["a b", "a`b", "a\nb", "\u{e9}", "a=b", &"a".repeat(WORD_MAX + 1)] {
            let told = told(name);
            assert!(
                told.starts_with("the query names something else (") && !told.contains(name),
                "{told}"
            );
        }
    }

    #[test]
    fn a_second_credential_spoils_both() {
        let (a, b) = (Credentials::One("JWT a"), Credentials::One("JWT b"));
        assert_eq!(Credentials::None.and_another("JWT a"), a);
        assert_eq!(a.and_another("JWT a"), Credentials::Unusable);
        assert_eq!(a.or_same(a), a);
        assert_eq!(a.or_same(Credentials::None), a);
        assert_eq!(Credentials::None.or_same(a), a);
        assert_eq!(a.or_same(b), Credentials::Unusable);
        assert_eq!(Credentials::Unusable.or_same(a), Credentials::Unusable);
    }
}
