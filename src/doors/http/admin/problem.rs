//! Errors as RFC 9457 problems.

use std::{error::Error, fmt};

use actix_web::{
    HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    domain::key::KeyError,
    doors::{
        http::throttle::TooManyFailures,
        response::{PROBLEM_JSON, RETRY_AFTER_SECONDS},
    },
    engine::{
        issue::{IssueError, MalformedTerms, TokenRefusal},
        ports::{FetchFailure, RegistryError},
        registry::{AddKeyError, ApiKeyError, TrustError},
    },
};

/// The challenge to clients without a token.
pub(super) const CHALLENGE: &str = "Bearer realm=\"countersign admin\"";

/// Why a request failed (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[schema(example = "about:blank")]
    r#type: &'static str,
    /// The status in words.
    #[schema(example = "Not Found")]
    title: &'static str,
    /// The HTTP status of the response.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong with this request, and what is expected.
    detail: String,
    /// The member of the body, the parameter or the header that is wrong, such as
    /// `keys[0].expires_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member: Option<String>,
    /// The existing record that is in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    conflict: Option<Box<Conflict>>,
    #[serde(skip)]
    allow: Option<&'static str>,
    /// For `Retry-After`, in seconds.
    #[serde(skip)]
    retry_after: Option<u32>,
}

/// The existing record that is in the way of adding one, by its natural key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Conflict {
    /// A principal with that username.
    Principal {
        /// Username of the existing principal.
        username: String,
    },
    /// The same key, revoked or not, at the same principal.
    Key {
        /// Username of the owning principal.
        username: String,
        /// Fingerprint of the key, in lowercase hexadecimal.
        fingerprint: String,
    },
    /// A trust in the same key set.
    JwksTrust {
        /// Username of the owning principal.
        username: String,
        /// The URL of the key set.
        jwks_url: String,
    },
    /// The same API key, for another identifier or revoked.
    ApiKey,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or_default();
        Self {
            r#type: "about:blank",
            title,
            status: status.as_u16(),
            detail: detail.into(),
            member: None,
            conflict: None,
            allow: None,
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_SECONDS),
        }
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "send the admin token as `Authorization: Bearer TOKEN`; it is set by `admin.token`",
        )
    }

    /// `Host` is not a name of this listener.
    pub(super) fn misdirected() -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "`Host` has to be an IP address, localhost, or a name that is listed in `admin.allowed_hosts`",
        )
    }

    /// A web page of another host made a browser send this.
    pub(super) fn foreign_origin() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "web pages of other hosts may not ask; those of the names in `admin.allowed_hosts` may",
        )
    }

    /// The body, or the request as a whole, is malformed.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The value of `member` is wrong.
    pub(super) fn bad_member(member: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { member: Some(member.into()), ..Self::malformed(detail) }
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        Self {
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("accepted are {allow}"))
        }
    }

    pub(super) fn changed() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "it is not, or no longer, what `If-Match` names; look at it again before changing it",
        )
    }

    pub(super) fn too_large(bytes_max: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a body may have at most {bytes_max} bytes"),
        )
    }

    pub(super) fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("send a body with Content-Type {}", accepted.join(" or ")),
        )
    }

    /// A requested fetch of a key set failed.
    pub(super) fn not_fetched(failure: &FetchFailure) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, failure.to_string())
    }

    /// The same problem, for a part of the body that is at `place`.
    #[must_use]
    pub(super) fn within(self, place: &str) -> Self {
        Self { member: self.member.map(|member| format!("{place}.{member}")), ..self }
    }

    /// The same problem, if the body calls the member `name` something else.
    #[must_use]
    pub(super) fn with_member_renamed(self, name: &str, here: &str) -> Self {
        Self {
            member: self.member.map(|member| if member == name { here.to_owned() } else { member }),
            ..self
        }
    }

    fn conflict(detail: String, conflict: Conflict) -> Self {
        Self { conflict: Some(Box::new(conflict)), ..Self::new(StatusCode::CONFLICT, detail) }
    }

    fn refused(refusal: TokenRefusal) -> Self {
        let detail = match refusal {
            TokenRefusal::DisabledPrincipal => {
                "the principal is disabled; enable it before giving it tokens"
            }
            TokenRefusal::UnknownApiKey
            | TokenRefusal::WrongIdentifier
            | TokenRefusal::ExpiredApiKey
            | TokenRefusal::RevokedApiKey
            | TokenRefusal::RevokedKey
            | TokenRefusal::UnknownPrincipal
            | TokenRefusal::UnknownRefreshToken
            | TokenRefusal::ExpiredRefreshToken
            | TokenRefusal::RevokedRefreshToken
            | TokenRefusal::ReusedRefreshToken
            | TokenRefusal::AnotherPrincipal => refusal.name(),
        };
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// Logs the cause, since the response says nothing about the database.
    fn unavailable(detail: &str, cause: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = cause, "the admin API cannot answer: {detail}");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

impl From<TooManyFailures> for Problem {
    fn from(too_many: TooManyFailures) -> Self {
        let detail =
            "wrong admin tokens were presented too often; wait as long as Retry-After says";
        Self {
            retry_after: Some(u32::try_from(too_many.seconds()).unwrap_or(u32::MAX)),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail)
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::PrincipalExists(username) => Self::conflict(
                format!("there is already a principal named {username:?}"),
                Conflict::Principal { username },
            ),
            RegistryError::KeyExists { username, fingerprint } => Self::conflict(
                format!(
                    "{username:?} already has the key {fingerprint}; a revoked key cannot be added again"
                ),
                Conflict::Key { username, fingerprint },
            ),
            RegistryError::TrustExists { username, jwks_url } => Self::conflict(
                format!("{username:?} already trusts {jwks_url}"),
                Conflict::JwksTrust { username, jwks_url },
            ),
            error @ RegistryError::ApiKeyExists => {
                Self::conflict(error.to_string(), Conflict::ApiKey)
            }
            RegistryError::NoSuchPrincipal(username) => {
                Self::not_found(format!("there is no principal named {username:?}"))
            }
            RegistryError::NoSuchKey(id) => {
                Self::not_found(format!("there is no key with the id {id}"))
            }
            RegistryError::NoSuchTrust(id) => {
                Self::not_found(format!("there is no trust with the id {id}"))
            }
            RegistryError::NoSuchApiKey(id) => {
                Self::not_found(format!("there is no API key with the id {id}"))
            }
            RegistryError::NoSuchGrant(id) => {
                Self::not_found(format!("there is no token with the id {id}"))
            }
            RegistryError::Changed => Self::changed(),
            error @ RegistryError::NeverUsable => Self::bad_member("expires_at", error.to_string()),
            RegistryError::BadText { what, .. } => Self::bad_member(what, error.to_string()),
            RegistryError::NotMigrated(source) => Self::unavailable(
                "the database is not migrated; run `countersign migrate up`",
                &*source,
            ),
            RegistryError::ReadOnly(source) => {
                Self::unavailable("the database is read-only; try again", &*source)
            }
            RegistryError::Store(source) => {
                Self::unavailable("the database failed or cannot be reached; try again", &*source)
            }
        }
    }
}

impl From<AddKeyError> for Problem {
    fn from(error: AddKeyError) -> Self {
        match error {
            AddKeyError::Key(error) => error.into(),
            AddKeyError::Registry(error) => error.into(),
        }
    }
}

impl From<ApiKeyError> for Problem {
    fn from(error: ApiKeyError) -> Self {
        match error {
            ApiKeyError::NoRandomness(error) => {
                Self::unavailable("no key can be made; try again", &error)
            }
            ApiKeyError::Registry(error) => error.into(),
        }
    }
}

impl From<MalformedTerms> for Problem {
    fn from(error: MalformedTerms) -> Self {
        let member = match error {
            MalformedTerms::TooManyAudiences => "audience".to_owned(),
            MalformedTerms::Audience(place) => format!("audience[{place}]"),
            MalformedTerms::Sid => "sid".to_owned(),
        };
        Self::bad_member(member, error.to_string())
    }
}

/// No client authenticates to this API, so the exact reason may be shown.
impl From<IssueError> for Problem {
    fn from(error: IssueError) -> Self {
        let detail = "no token can be given out; try again";
        match error {
            IssueError::Refused(refusal) => Self::refused(refusal),
            IssueError::Assertion(_) => Self::new(StatusCode::CONFLICT, error.to_string()),
            IssueError::ScopeNotHeld(_) => Self::bad_member("scopes", error.to_string()),
            IssueError::Registry(error) => error.into(),
            IssueError::Unavailable(error) => Self::unavailable(detail, &error),
            IssueError::NotSigned(error) => Self::unavailable(detail, &error),
            IssueError::Claims(error) => Self::unavailable(detail, &error),
            IssueError::NoRandomness(error) => Self::unavailable(detail, &error),
        }
    }
}

impl From<TrustError> for Problem {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Fetch(failure) => Self::bad_member("jwks_url", failure.to_string()),
            TrustError::Registry(error) => error.into(),
        }
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match &error {
            KeyError::Malformed { source, .. } => {
                Self::bad_member("key", format!("{error}: {source}"))
            }
            KeyError::PrivateKeyGiven
            | KeyError::PublicKeyGiven
            | KeyError::UnknownFormat { .. }
            | KeyError::SeveralKeys { .. }
            | KeyError::AuthorityFirst { .. }
            | KeyError::OptionsBeforeKey { .. }
            | KeyError::Convert { .. }
            | KeyError::UnsupportedKind { .. }
            | KeyError::RsaTooSmall { .. }
            | KeyError::RsaTooLarge { .. }
            | KeyError::RsaOfBrokenGenerator
            | KeyError::NotForSignatures { .. }
            | KeyError::AlgorithmOfJwk { .. }
            | KeyError::TooCostly { .. }
            | KeyError::PassphraseMissing
            | KeyError::WrongPassphrase
            | KeyError::LegacyEncryption
            | KeyError::Invalid { .. }
            | KeyError::NotGenerated { .. } => Self::bad_member("key", error.to_string()),
        }
    }
}

#[cfg(test)]
impl Problem {
    pub(super) const fn status(&self) -> u16 {
        self.status
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let mut response = HttpResponse::build(status);
        response.content_type(PROBLEM_JSON);
        if status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, CHALLENGE));
        }
        if let Some(seconds) = self.retry_after {
            response.insert_header((RETRY_AFTER, seconds));
        }
        if let Some(allow) = self.allow {
            response.insert_header((ALLOW, allow));
        }
        // Strings and numbers always serialize.
        response.body(serde_json::to_string(self).unwrap_or_default())
    }
}
