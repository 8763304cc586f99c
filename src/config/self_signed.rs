//! Self-signed, single-use tokens: where requests carry them, and what they must contain.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Contradiction, values};
use crate::domain::{target::Authority, time::Tolerance, token::UntrustedAccessToken};

/// `self_signed.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SelfSignedSettings {
    /// The header that carries the token; choose another one if the application uses
    /// `Authorization` itself. A token that was used is removed from the header. Default
    /// `Authorization`.
    pub header: String,
    /// The scheme before the token in that header, compared without case. Default `JWT`.
    pub scheme: String,
    /// How far the token's time may differ from now, in either direction. From `1s` to `1h`.
    /// Default `20s`.
    #[serde(with = "values::duration")]
    pub tolerance: Duration,
    /// Binding claims that every token must have, out of `htm` (method), `htu` (URI), `htq`
    /// (query), `digest` (the body, by the claim `content_digest`) and `aud` (`issuer.audience`).
    /// Claims that are not required are checked if they are present. Default none.
    #[serde(deserialize_with = "values::list")]
    pub require: Vec<String>,
    /// The hosts that this service makes decisions for, each as `host` or `host:port`; without a
    /// port, the default port of the scheme is meant. `htu` must name one of them, and the request
    /// must have been sent to it. If none is listed, `htu` may name any host. Then anyone who
    /// receives a token can present it to another service that knows the client, if the gateway
    /// there accepts the host that the request names. Default none.
    #[serde(deserialize_with = "values::list")]
    pub authorities: Vec<String>,
    /// The realm in `WWW-Authenticate`. Default `countersign`.
    pub realm: String,
    /// A header in which an HTTP gateway names the original request, with the same value each time
    /// it asks about that request, such as `X-Request-Id`. A token that is presented again under
    /// the same name, for the same method, host and path, is a retry and not a replay. The gateway
    /// must overwrite the value that a client sends. Envoy over gRPC needs no header: its checks
    /// carry their own number. Without a header, each check counts as a new presentation. Default
    /// none.
    #[serde(deserialize_with = "values::optional")]
    pub attempt_header: Option<String>,
}

/// A header value with `token`: unchanged if it already has a scheme, after `Bearer` if it is an
/// access token of this service, and otherwise after `scheme`.
pub fn credentials(scheme: &str, token: &str) -> String {
    let token = token.trim();
    if token.contains(' ') {
        token.to_owned()
    } else if UntrustedAccessToken::parse(token).is_ok() {
        format!("Bearer {token}")
    } else {
        format!("{scheme} {token}")
    }
}

impl Default for SelfSignedSettings {
    fn default() -> Self {
        Self {
            header: "Authorization".to_owned(),
            scheme: "JWT".to_owned(),
            tolerance: Tolerance::DEFAULT.duration(),
            require: Vec::new(),
            authorities: Vec::new(),
            realm: "countersign".to_owned(),
            attempt_header: None,
        }
    }
}

/// The claims that can be required.
pub const BINDING_CLAIMS: [&str; 5] = ["htm", "htu", "htq", "digest", "aud"];

impl SelfSignedSettings {
    /// Whether every token must have the claim.
    pub fn requires(&self, claim: &str) -> bool {
        self.require.iter().any(|required| required == claim)
    }

    /// The hosts that `htu` may name; if empty, any host.
    pub fn parsed_authorities(&self) -> impl Iterator<Item = Authority<'static>> {
        self.authorities
            .iter()
            .filter_map(|authority| Authority::parse(authority))
            .map(Authority::into_owned)
    }

    pub(super) fn warnings(&self) -> Vec<Contradiction> {
        let names_no_host = self.requires("htu") && self.authorities.is_empty();
        let reason = "`self_signed.require` asks for `htu`, which may then name any host: a token can be relayed to another service that \
                      knows the client. Name the hosts of this service, such as `api.example`";
        let warning = Contradiction { key: "self_signed.authorities", reason: reason.to_owned() };
        names_no_host.then_some(warning).into_iter().collect()
    }

    pub(super) fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        let mut add =
            |key, reason: &str| found.push(Contradiction { key, reason: reason.to_owned() });
        let is_token = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        };
        if !is_token(&self.header) {
            add(
                "self_signed.header",
                "not a header name; accepted is one such as `Authorization` or `X-Client-Token`",
            );
        }
        if !is_token(&self.scheme) {
            add(
                "self_signed.scheme",
                "not an authentication scheme; accepted is one word such as `JWT`",
            );
        }
        if self.scheme.eq_ignore_ascii_case("bearer")
            && self.header.eq_ignore_ascii_case("authorization")
        {
            add(
                "self_signed.scheme",
                "`Bearer` in `Authorization` is for access tokens; choose another scheme or another header",
            );
        }
        if self.attempt_header.as_deref().is_some_and(|header| !is_token(header)) {
            add(
                "self_signed.attempt_header",
                "not a header name; accepted is one such as `X-Request-Id`",
            );
        }
        if Tolerance::new(self.tolerance).is_none() {
            add("self_signed.tolerance", "accepted is a duration from 1s to 1h");
        }
        if self.require.iter().any(|claim| !BINDING_CLAIMS.contains(&claim.as_str())) {
            add("self_signed.require", "accepted are `htm`, `htu`, `htq`, `digest` and `aud`");
        }
        if self.authorities.iter().any(|authority| Authority::parse(authority).is_none()) {
            add(
                "self_signed.authorities",
                "not all are hosts; accepted are those such as `api.example` and `api.example:8443`",
            );
        }
        if self
            .realm
            .bytes()
            .any(|byte| !(0x20..0x7f).contains(&byte) || byte == b'"' || byte == b'\\')
        {
            add(
                "self_signed.realm",
                "accepted are visible ASCII characters and spaces, without quotes and backslashes",
            );
        }
        found
    }
}
