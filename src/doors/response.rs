//! What both doors share in their responses: header names, and the wording of denials.

use std::ops::Deref;

use bytestring::ByteString;
use serde::Serialize;

use crate::{
    domain::{
        decision::{AuthMethod, Decision, DenialCode, Identity},
        scope::Scopes,
    },
    engine::verify::Verdict,
};

/// Header names, in lowercase as HTTP/2 and actix want them.
pub(super) mod name {
    pub(in crate::doors) const USERNAME: &str = IDENTITY[0];
    /// The identity headers, in the order of [`identity_values`](super::identity_values).
    pub(in crate::doors) const IDENTITY: [&str; 7] = [
        "x-auth-username",
        "x-auth-principal-id",
        "x-auth-method",
        "x-auth-key-id",
        "x-auth-scopes",
        "x-auth-content-digest",
        DECISION_ID,
    ];
    pub(in crate::doors) const DECISION_ID: &str = "x-auth-decision-id";
    pub(in crate::doors) const ERROR: &str = "x-auth-error";
    /// The headers of every refusal, in the order of [`Refusal::values`](super::Refusal::values).
    pub(in crate::doors) const REFUSAL: [&str; 5] =
        [ERROR, "www-authenticate", "cache-control", "content-type", DECISION_ID];
    pub(in crate::doors) const RETRY_AFTER: &str = "retry-after";
    pub(in crate::doors) const REQUIRED_SCOPE: &str = "x-required-scope";
    pub(in crate::doors) const FORWARDED_PROTO: &str = "x-forwarded-proto";
    pub(in crate::doors) const TRACEPARENT: &str = "traceparent";
    pub(in crate::doors) const TRACESTATE: &str = "tracestate";
}

pub(super) const AUTHORIZATION: &str = "authorization";
pub(super) const PROBLEM_JSON: &str = "application/problem+json";
pub(super) const NO_STORE: &str = "no-store";
/// Seconds until a client may try again after a decision could not be made.
pub(super) const RETRY_AFTER_SECONDS: u32 = 1;
/// [`RETRY_AFTER_SECONDS`] as a header value.
pub(super) const RETRY_AFTER: &str = "1";

/// How the doors respond, from the settings.
#[derive(Clone, Debug)]
pub struct ResponseConfig {
    /// The header that carries self-signed tokens, in lowercase.
    pub(super) credentials_header: Box<str>,
    /// The header in which an HTTP gateway sends its id of the original request, in lowercase.
    pub(super) attempt_header: Option<Box<str>>,
    scheme: Box<str>,
    realm: Box<str>,
    /// The prepared refusal for each of [`DenialCode::ALL`], in that order.
    denials: Box<[Template]>,
}

impl ResponseConfig {
    /// Self-signed tokens come in `credentials_header`; HTTP gateways send their id of the original
    /// request in `attempt_header`; challenges ask for credentials of `scheme` in `realm`. The
    /// refusals are prepared here, once.
    pub fn new(
        credentials_header: &str,
        attempt_header: Option<&str>,
        scheme: &str,
        realm: &str,
    ) -> Self {
        let template = |code: DenialCode| Template::about(code, scheme, realm, None);
        Self {
            credentials_header: credentials_header.to_ascii_lowercase().into(),
            attempt_header: attempt_header.map(|name| name.to_ascii_lowercase().into()),
            scheme: scheme.into(),
            realm: realm.into(),
            denials: DenialCode::ALL.map(template).into(),
        }
    }

    /// The authentication scheme in challenges.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The header to hide from the back end: the one with a self-signed token, which is used up. An
    /// access token is kept, since it may be meant for the back end, too.
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

/// The values of the identity headers of an allow, in the order of [`name::IDENTITY`]. All of them
/// are always set, so that a proxy overwrites whatever the client sent. Only the decision id is
/// copied.
pub(super) fn identity_values(identity: &Identity, decision_id: &str) -> [ByteString; 7] {
    let principal = identity.principal();
    [
        principal.encoded_username(),
        principal.encoded_id(),
        ByteString::from_static(identity.method().name()),
        identity.encoded_key_id(),
        identity.encoded_scopes(),
        identity.content_digest(),
        ByteString::from(decision_id),
    ]
}

/// A refusal, with everything that is sent.
pub(super) struct Refusal<'a> {
    template: DenialTemplate<'a>,
    /// Required scopes that the principal does not hold, if known.
    pub(super) missing_scopes: Option<&'a Scopes>,
}

impl Refusal<'_> {
    pub(super) fn kind(&self) -> RefusalKind {
        self.template.kind
    }

    pub(super) fn status(&self) -> u16 {
        self.template.status
    }

    /// `X-Auth-Error`.
    pub(super) fn code(&self) -> &'static str {
        self.template.code
    }

    /// `WWW-Authenticate`.
    pub(super) fn challenge(&self) -> &ByteString {
        &self.template.challenge
    }

    /// The problem+json body.
    pub(super) fn body(&self, decision_id: &str) -> String {
        let [before, after] = &self.template.body;
        [before, decision_id, after].concat()
    }

    /// The values of the response headers to the client, in the order of [`name::REFUSAL`].
    /// [`Refusal::retry_after`] is not among them, nor is `Date`, which some servers add
    /// themselves.
    pub(super) fn values(&self, decision_id: &str) -> [ByteString; 5] {
        [
            ByteString::from_static(self.template.code),
            self.template.challenge.clone(),
            ByteString::from_static(NO_STORE),
            ByteString::from_static(PROBLEM_JSON),
            ByteString::from(decision_id),
        ]
    }

    /// The value of `Retry-After`; only an unavailable service has one.
    pub(super) fn retry_after(&self) -> Option<&'static str> {
        match self.template.kind {
            RefusalKind::Unauthenticated | RefusalKind::Forbidden | RefusalKind::Misconfigured => {
                None
            }
            RefusalKind::Unavailable => Some(RETRY_AFTER),
        }
    }

    /// The names and values of all headers, including `Retry-After`.
    pub(super) fn headers(
        &self,
        decision_id: &str,
    ) -> impl Iterator<Item = (&'static str, ByteString)> {
        let retry_after =
            self.retry_after().map(|value| (name::RETRY_AFTER, ByteString::from_static(value)));
        name::REFUSAL.into_iter().zip(self.values(decision_id)).chain(retry_after)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalKind {
    /// 401: the client has not proven who it is.
    Unauthenticated,
    /// 403: the client is known, but lacks a scope.
    Forbidden,
    /// 503: no decision could be made.
    Unavailable,
    /// 500: the gateway requires something that is not valid.
    Misconfigured,
}

impl RefusalKind {
    const fn of(code: DenialCode) -> Self {
        match code {
            DenialCode::InsufficientScope => Self::Forbidden,
            DenialCode::Unavailable => Self::Unavailable,
            DenialCode::Misconfigured => Self::Misconfigured,
            DenialCode::MissingCredentials
            | DenialCode::MalformedCredentials
            | DenialCode::UnsupportedAlgorithm
            | DenialCode::InvalidToken
            | DenialCode::TimestampOutsideTolerance
            | DenialCode::Expired
            | DenialCode::Replayed
            | DenialCode::RequestMismatch => Self::Unauthenticated,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Unauthenticated => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::Unavailable => "Service Unavailable",
            Self::Misconfigured => "Internal Server Error",
        }
    }
}

/// Turns a verdict into the identity to pass on, or the refusal.
pub(super) fn to_response<'a>(
    verdict: &'a Verdict,
    responses: &'a ResponseConfig,
) -> Result<&'a Identity, Refusal<'a>> {
    let (code, missing_scopes) = match &verdict.result {
        Ok(Decision::Allow(identity)) => return Ok(identity),
        Ok(Decision::Deny(denial)) => (denial.reason.code(), denial.missing_scopes.as_ref()),
        Err(_) => (DenialCode::Unavailable, None),
    };
    let missing_scopes = missing_scopes.filter(|scopes| !scopes.is_empty());
    let template = match responses.denials.get(code as usize) {
        Some(template) if missing_scopes.is_none() => DenialTemplate::Prepared(template),
        Some(_) | None => DenialTemplate::WithScopes(Box::new(Template::about(
            code,
            &responses.scheme,
            &responses.realm,
            missing_scopes,
        ))),
    };
    Err(Refusal { template, missing_scopes })
}

/// A refusal that was prepared at startup, or one made for this denial.
enum DenialTemplate<'a> {
    Prepared(&'a Template),
    /// Made for this denial, since it names scopes.
    WithScopes(Box<Template>),
}

impl Deref for DenialTemplate<'_> {
    type Target = Template;

    fn deref(&self) -> &Template {
        match self {
            Self::Prepared(template) => template,
            Self::WithScopes(template) => template,
        }
    }
}

/// A refusal, without the decision id.
#[derive(Clone, Debug)]
struct Template {
    kind: RefusalKind,
    status: u16,
    code: &'static str,
    challenge: ByteString,
    /// The problem+json body, before and after the decision id.
    body: [ByteString; 2],
}

/// RFC 9457, with the code and the missing scopes as extension members; the decision id is in
/// `instance`.
#[derive(Serialize)]
struct DenialProblem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'static str,
    instance: &'static str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_scopes: Option<&'a str>,
}

/// Prefix of `instance`, in front of the decision id.
const INSTANCE: &str = "urn:uuid:";

impl Template {
    fn about(code: DenialCode, scheme: &str, realm: &str, missing: Option<&Scopes>) -> Self {
        let (kind, status, code, detail) =
            (RefusalKind::of(code), code.status(), code.name(), code.explanation());
        let missing_scopes = missing.map(Scopes::as_str);
        let scope =
            missing_scopes.map(|scopes| format!(", scope=\"{scopes}\"")).unwrap_or_default();
        let problem = DenialProblem {
            r#type: "about:blank",
            title: kind.title(),
            status,
            detail,
            instance: INSTANCE,
            code,
            missing_scopes,
        };
        // A struct of strings and numbers always serializes; an empty body would still be a
        // refusal.
        let body = serde_json::to_string(&problem).unwrap_or_default();
        let name_at = body.find(INSTANCE).map_or(body.len(), |start| start + INSTANCE.len());
        Self {
            kind,
            status,
            code,
            challenge: format!("{scheme} realm=\"{realm}\", error=\"{code}\"{scope}").into(),
            body: [&body[..name_at], &body[name_at..]].map(ByteString::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_at_their_code() {
        let responses = ResponseConfig::new("Authorization", None, "JWT", "countersign");
        for code in DenialCode::ALL {
            assert_eq!(responses.denials[code as usize].code, code.name());
        }
    }

    #[test]
    fn a_problem_names_its_decision() {
        let template = Template::about(DenialCode::Replayed, "JWT", "here", None);
        let body = Refusal { template: DenialTemplate::Prepared(&template), missing_scopes: None }
            .body("0190");
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&problem["instance"], &problem["code"]),
            (&"urn:uuid:0190".into(), &"replayed".into())
        );
    }
}
