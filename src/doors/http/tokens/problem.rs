//! Errors as RFC 9457 problems, with the members that RFC 6749 section 5.2 requires.

use std::{borrow::Cow, error::Error, fmt};

use actix_web::{
    HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{ALLOW, CACHE_CONTROL, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use serde::Serialize;

use super::super::{reading::Unread, throttle::TooManyFailures};
use crate::{
    doors::response::{NO_STORE, PROBLEM_JSON, RETRY_AFTER_SECONDS},
    engine::{issue::IssueError, ports::RegistryError},
};

/// Why a request to the token API failed. It never repeats anything from the request.
#[derive(Debug)]
pub(super) struct TokenProblem {
    status: StatusCode,
    /// Error code of RFC 6749 section 5.2 or RFC 6750 section 3.1.
    error: &'static str,
    detail: Cow<'static, str>,
    header: Option<(HeaderName, String)>,
    media_type: &'static str,
}

#[derive(Serialize)]
struct Written<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    error: &'static str,
    error_description: &'a str,
}

impl TokenProblem {
    fn new(status: StatusCode, error: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, error, detail: detail.into(), header: None, media_type: PROBLEM_JSON }
    }

    fn with(self, name: HeaderName, value: impl Into<String>) -> Self {
        Self { header: Some((name, value.into())), ..self }
    }

    /// The same with the content type of RFC 6749 section 5.2: some clients read only
    /// `application/json`.
    #[must_use]
    pub(super) fn in_plain_json(self) -> Self {
        Self { media_type: "application/json", ..self }
    }

    /// The request is malformed.
    pub(super) fn invalid_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// Another error of a token endpoint.
    pub(super) fn token_endpoint(error: &'static str, detail: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, detail)
    }

    /// The credentials were not accepted.
    pub(super) fn unauthorized(error: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let challenge = format!("{CHALLENGE}, error=\"{error}\"");
        Self::new(StatusCode::UNAUTHORIZED, error, detail).with(WWW_AUTHENTICATE, challenge)
    }

    /// The request has no credentials.
    pub(super) fn no_credentials(detail: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_token", detail)
            .with(WWW_AUTHENTICATE, CHALLENGE)
    }

    /// The caller is not allowed to do this.
    pub(super) fn forbidden(error: &'static str, detail: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, error, detail)
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request",
            format!("accepted are {allow}"),
        )
        .with(ALLOW, allow)
    }

    pub(super) fn unsupported_media_type(accepted: &'static str) -> Self {
        let detail = format!("send a body with Content-Type {accepted}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request", detail)
    }

    pub(super) fn unread(unread: &Unread, bytes_max: usize) -> Self {
        match unread {
            Unread::Broken(_) => Self::invalid_request("the body did not arrive as a whole"),
            Unread::TooLarge => {
                let detail = format!("a body may have at most {bytes_max} bytes");
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", detail)
            }
        }
    }

    /// No answer is possible now. The cause was logged where it occurred.
    pub(super) fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "temporarily_unavailable",
            "the service cannot reach what it needs to answer; try again",
        )
        .with(RETRY_AFTER, RETRY_AFTER_SECONDS.to_string())
    }

    /// The same, but logs the cause.
    pub(super) fn failed(error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error, "the token API cannot answer");
        Self::unavailable()
    }

    /// There are too many requests.
    pub(super) fn overloaded() -> Self {
        let detail = "too much is asked at once; try again";
        Self { detail: detail.into(), ..Self::unavailable() }
    }
}

/// The challenge to callers without an access token (RFC 6750 section 3).
const CHALLENGE: &str = "Bearer realm=\"countersign\"";

/// Why a client gets no token, as far as it may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Its credentials were not accepted.
    Refused,
    /// It asked for a scope that it does not hold.
    ScopeNotHeld,
    /// No answer is possible now.
    Unavailable,
}

impl From<&IssueError> for Failure {
    fn from(error: &IssueError) -> Self {
        match error {
            IssueError::Refused(_) | IssueError::Assertion(_) => Self::Refused,
            IssueError::ScopeNotHeld(_) => Self::ScopeNotHeld,
            IssueError::Registry(error) => error.into(),
            IssueError::Unavailable(_)
            | IssueError::NotSigned(_)
            | IssueError::Claims(_)
            | IssueError::NoRandomness(_) => Self::Unavailable,
        }
    }
}

impl From<&RegistryError> for Failure {
    fn from(error: &RegistryError) -> Self {
        match error {
            // The principal, API key or grant was removed after it was checked.
            RegistryError::NoSuchPrincipal(_)
            | RegistryError::NoSuchApiKey(_)
            | RegistryError::NoSuchGrant(_) => Self::Refused,
            RegistryError::PrincipalExists(_)
            | RegistryError::KeyExists { .. }
            | RegistryError::TrustExists { .. }
            | RegistryError::ApiKeyExists
            | RegistryError::NoSuchKey(_)
            | RegistryError::NoSuchTrust(_)
            | RegistryError::Changed
            | RegistryError::NeverUsable
            | RegistryError::BadText { .. }
            | RegistryError::NotMigrated(_)
            | RegistryError::ReadOnly(_)
            | RegistryError::Store(_) => Self::Unavailable,
        }
    }
}

impl From<TooManyFailures> for TokenProblem {
    fn from(too_many: TooManyFailures) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_failures",
            "wrong credentials were presented too often; wait as long as Retry-After says",
        )
        .with(RETRY_AFTER, too_many.seconds().to_string())
    }
}

impl fmt::Display for TokenProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for TokenProblem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.content_type(self.media_type).insert_header((CACHE_CONTROL, NO_STORE));
        if let Some((name, value)) = &self.header {
            response.insert_header((name.clone(), value.as_str()));
        }
        let written = Written {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
            error: self.error,
            error_description: &self.detail,
        };
        // Strings and numbers always serialize.
        response.body(serde_json::to_string(&written).unwrap_or_default())
    }
}
