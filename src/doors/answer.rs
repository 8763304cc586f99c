//! What both doors say alike: header names, and the words of a denial.

use serde::Serialize;

use crate::{
    domain::{
        decision::{AuthMethod, Decision, DecisionId, DenialCode, Identity},
        scope::Scopes,
    },
    engine::verify::Verdict,
};

/// Header names, in lowercase as HTTP/2 and actix want them.
pub(super) mod name {
    pub(in crate::doors) const USERNAME: &str = IDENTITY[0];
    /// The identity headers, in the order of [`identity_headers`](super::identity_headers).
    pub(in crate::doors) const IDENTITY: [&str; 6] =
        ["x-auth-username", "x-auth-principal-id", "x-auth-method", "x-auth-key-id", "x-auth-scopes", DECISION_ID];
    pub(in crate::doors) const DECISION_ID: &str = "x-auth-decision-id";
    pub(in crate::doors) const ERROR: &str = "x-auth-error";
    pub(in crate::doors) const REQUIRED_SCOPE: &str = "x-required-scope";
}

pub(super) const AUTHORIZATION: &str = "authorization";
pub(super) const PROBLEM_JSON: &str = "application/problem+json";
pub(super) const NO_STORE: &str = "no-store";
/// Seconds after which a client may try again when nothing could be decided.
pub(super) const RETRY_AFTER_SECONDS: u32 = 1;
/// The same as a header value.
const RETRY_AFTER: &str = "1";

/// How the doors speak, from the settings.
#[derive(Clone, Debug)]
pub struct Language {
    /// The header that carries self-signed tokens, in lowercase.
    pub credentials_header: Box<str>,
    /// The header in which an HTTP gateway names the original request, in lowercase.
    pub attempt_header: Option<Box<str>>,
    /// The scheme in challenges.
    pub scheme: Box<str>,
    /// The realm in challenges.
    pub realm: Box<str>,
}

impl Language {
    /// The header that the back end should not see: that of a self-signed token, which is spent. An access token may be meant for
    /// the back end, too.
    pub(super) fn header_to_remove(&self, identity: &Identity) -> Option<&str> {
        match identity.method() {
            AuthMethod::SelfSigned => Some(&self.credentials_header),
            AuthMethod::AccessToken => None,
        }
    }

    /// Whether credentials come in `Authorization`.
    pub(super) fn uses_authorization(&self) -> bool {
        *self.credentials_header == *AUTHORIZATION
    }
}

/// The identity headers of an allow: every one of them, whatever its value, so that a proxy always overwrites what a client sent.
pub(super) fn identity_headers<'a>(identity: &'a Identity, decision_id: &'a str) -> [(&'static str, &'a str); 6] {
    let (principal, method) = (&identity.principal().encoded, identity.method().name());
    let values = [&*principal.username, &principal.id, method, identity.encoded_key_id(), identity.encoded_scopes(), decision_id];
    std::array::from_fn(|index| (name::IDENTITY[index], values[index]))
}

/// The three kinds of refusal, with everything that is said on the wire.
pub(super) struct Refusal<'a> {
    pub(super) kind: RefusalKind,
    /// `X-Auth-Error`.
    pub(super) code: &'static str,
    /// Scopes that were asked for and are not held, where they are known.
    pub(super) missing_scopes: Option<&'a Scopes>,
    /// `WWW-Authenticate`.
    pub(super) challenge: String,
    /// The problem+json body.
    pub(super) body: String,
}

impl Refusal<'_> {
    /// The headers of the answer to the client, but for `Date`, which some servers add by themselves.
    pub(super) fn headers<'h>(&'h self, decision_id: &'h str) -> impl Iterator<Item = (&'static str, &'h str)> {
        let retry_after = match self.kind {
            RefusalKind::Unauthenticated | RefusalKind::Forbidden => None,
            RefusalKind::Unavailable => Some(("retry-after", RETRY_AFTER)),
        };
        let always = [
            (name::ERROR, self.code),
            ("www-authenticate", &self.challenge),
            ("cache-control", NO_STORE),
            ("content-type", PROBLEM_JSON),
            (name::DECISION_ID, decision_id),
        ];
        always.into_iter().chain(retry_after)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalKind {
    /// 401: who are you?
    Unauthenticated,
    /// 403: not you.
    Forbidden,
    /// 503: cannot tell.
    Unavailable,
}

impl RefusalKind {
    pub(super) const fn status(self) -> u16 {
        match self {
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::Unavailable => 503,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Unauthenticated => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::Unavailable => "Service Unavailable",
        }
    }
}

const UNAVAILABLE: &str = "unavailable";

/// What to say to a verdict: the identity to pass on, or the refusal.
pub(super) fn spoken<'a>(verdict: &'a Verdict, language: &Language) -> Result<&'a Identity, Refusal<'a>> {
    let denial = match &verdict.result {
        Ok(Decision::Allow(identity)) => return Ok(identity),
        Ok(Decision::Deny(denial)) => denial,
        Err(_) => {
            let explanation = "It cannot be decided now whether the request may pass; try again.";
            return Err(refusal(RefusalKind::Unavailable, UNAVAILABLE, explanation, None, verdict.id, language));
        }
    };
    let code: DenialCode = denial.reason.code();
    let kind = if code.is_forbidden() { RefusalKind::Forbidden } else { RefusalKind::Unauthenticated };
    let missing = denial.missing_scopes.as_ref().filter(|scopes| !scopes.is_empty());
    Err(refusal(kind, code.name(), code.explanation(), missing, verdict.id, language))
}

/// RFC 9457, with the code, the decision and the scopes that are missing as extension members.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'static str,
    instance: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_scopes: Option<&'a str>,
}

fn refusal<'a>(
    kind: RefusalKind,
    code: &'static str,
    detail: &'static str,
    missing: Option<&'a Scopes>,
    id: DecisionId,
    language: &Language,
) -> Refusal<'a> {
    let Language { scheme, realm, .. } = language;
    let missing_scopes = missing.map(Scopes::as_str);
    let scope = missing_scopes.map(|scopes| format!(", scope=\"{scopes}\"")).unwrap_or_default();
    let instance = format!("urn:uuid:{id}");
    let problem =
        Problem { r#type: "about:blank", title: kind.title(), status: kind.status(), detail, instance, code, missing_scopes };
    Refusal {
        kind,
        code,
        missing_scopes: missing,
        challenge: format!("{scheme} realm=\"{realm}\", error=\"{code}\"{scope}"),
        // A struct of texts and numbers always has a JSON form; an empty body would still be a refusal.
        body: serde_json::to_string(&problem).unwrap_or_default(),
    }
}
