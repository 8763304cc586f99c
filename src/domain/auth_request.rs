//! What a gateway presents for a decision, whatever it speaks.

use std::{borrow::Cow, fmt, net::IpAddr};

/// One question of a gateway: these credentials, for this request.
#[derive(Clone, Debug)]
pub struct AuthRequest<'a> {
    /// How the gateway asks.
    pub door: Door,
    /// The values of the header that carries credentials, one for each time it is there.
    pub credentials: Credentials<'a>,
    /// The values of `Authorization`, where credentials come in another header: access tokens are
    /// taken from it, too.
    pub authorization: Credentials<'a>,
    /// The request that the credentials came with.
    pub request: OriginalRequest<'a>,
    /// Lists of scopes that the route asks for; all of them must be held.
    pub required_scopes: Vec<&'a str>,
    /// The gateway's own name for the request: the same whenever it asks again about the same
    /// request, and nothing that a client could choose.
    pub attempt: Option<&'a str>,
    /// Where the request came from, as the gateway tells.
    pub peer: Option<IpAddr>,
    /// The trace that the question is part of.
    pub trace: TraceHeaders<'a>,
    /// Why it is not known what the route asks for. Such a question is refused, whatever the
    /// credentials are.
    pub misconfiguration: Option<Misconfiguration<'a>>,
}

impl<'a> AuthRequest<'a> {
    /// These credentials, of which nothing else is known.
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

/// Something in a question that only the gateway's configuration can have put there, and that is
/// unknown here. Ignoring it would leave out what it was meant to ask for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misconfiguration<'a> {
    /// The query has another name than `scope`.
    #[error(
        "the query names {}, expected `scope`; if it is the client's query, have the gateway leave it out (Caddy: `uri /validate_request?`)",
        Word(.0)
    )]
    UnknownQueryName(Cow<'a, str>),
    /// `context_extensions` have a name that is meant to be `scope`.
    #[error("context_extensions name {}, expected `scope`", Word(.0))]
    UnknownExtension(&'a str),
    /// `/decide/scope/` without scopes.
    #[error("no scopes in the path, expected /decide/scope/a+b")]
    NoScopes,
    /// `/decide/scope/` with something that is no scopes.
    #[error("malformed scopes in the path: {}, expected /decide/scope/a+b, percent-encoded", Word(.0))]
    MalformedScopes(&'a str),
    /// `/decide/` with anything else.
    #[error("nothing is decided at /decide/ followed by {}, expected /decide/scope/a+b", Word(.0))]
    UnknownRoute(&'a str),
}

/// A name as the log may have it. What is not a short word may be a secret of the client's, if the
/// gateway appends its query.
struct Word<'a>(&'a str);

/// Bytes of the longest name that is repeated in the log.
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

/// A trace context as headers carry it (W3C Trace Context), not yet looked into: most decisions
/// have no need to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceHeaders<'a> {
    /// Which span asks, and whether its trace is sampled.
    pub traceparent: Option<&'a str>,
    /// What tracing systems add to it.
    pub tracestate: Option<&'a str>,
}

/// The transport that a gateway asks over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    /// HTTP: nginx's `auth_request`, Envoy's HTTP mode, forward-auth of others.
    Http,
    /// gRPC: `ext_authz`, or our own `Verification`.
    Grpc,
    /// The token API, about its own callers and about tokens that it is asked to validate.
    TokenApi,
}

impl Door {
    /// Every door, each at the index `door as usize`.
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

/// How often the header with the credentials was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// Not at all.
    #[default]
    None,
    /// Once, with this value.
    One(&'a str),
    /// More than once, or once with bytes that are no text. Which one the back end would believe is
    /// anyone's guess.
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

    /// Puts together what two forms of the same headers say: the same value in both is one
    /// credential.
    #[must_use]
    pub fn or_same(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, known) | (known, Self::None) => known,
            (Self::One(first), Self::One(second)) if first == second => self,
            (Self::One(_) | Self::Unusable, Self::One(_) | Self::Unusable) => Self::Unusable,
        }
    }
}

/// What the gateway tells of the original request.
#[derive(Clone, Copy, Debug, Default)]
pub struct OriginalRequest<'a> {
    /// Its method.
    pub method: Reported<'a>,
    /// `http` or `https`.
    pub scheme: Reported<'a>,
    /// Its authority: host, and port where it is not the scheme's.
    pub host: Reported<'a>,
    /// Its path and query as they were received, not normalised.
    pub path: Reported<'a>,
    /// Its body.
    pub body: Body<'a>,
}

/// What a gateway hands over of a request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body<'a> {
    /// Nothing, and there may be one.
    #[default]
    Unseen,
    /// Its beginning, or nothing although what comes is no body that ends.
    Partial,
    /// All of it; empty if the request has none.
    Whole(&'a [u8]),
}

/// A fact about the request that a gateway may state in several ways, some of which a client can
/// forge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reported<'a> {
    /// Nobody says.
    #[default]
    Missing,
    /// Everybody who says, says this.
    Value(&'a str),
    /// Two sources differ, so one of them is forged.
    Conflicting,
}

impl<'a> Reported<'a> {
    /// Adds what one more source says.
    #[must_use]
    pub fn and(self, source: Option<&'a str>) -> Self {
        match (self, source.filter(|value| !value.is_empty())) {
            (known, None) => known,
            (Self::Missing, Some(value)) => Self::Value(value),
            (Self::Value(known), Some(value)) if known == value => self,
            (Self::Value(_) | Self::Conflicting, Some(_)) => Self::Conflicting,
        }
    }

    /// The value, where there is exactly one.
    pub const fn value(self) -> Option<&'a str> {
        match self {
            Self::Value(value) => Some(value),
            Self::Missing | Self::Conflicting => None,
        }
    }

    /// This, or `fallback` where nobody says anything.
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
