//! Why no token is given.

use super::super::ports::{RegistryError, Unavailable};
use crate::domain::{
    decision::DenialReason, issuer_keys::NotSigned, scope::Scopes, secret_token::NoRandomness,
};

/// Why no token was given.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// What was presented earns none. Clients are told less than this.
    #[error("refused: {}", .0.name())]
    Refused(TokenRefusal),
    /// A client assertion was refused, as a decision.
    #[error("the client assertion was refused: {}", .0.name())]
    Assertion(DenialReason),
    /// A scope was asked for that the client does not hold.
    #[error("scopes that are not held: {0}")]
    ScopeNotHeld(Scopes),
    /// The registry failed, or has no such principal.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Nothing could be decided.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The token could not be signed.
    #[error(transparent)]
    NotSigned(#[from] NotSigned),
    /// The claims could not be written.
    #[error("the claims could not be written as JSON")]
    Claims(#[from] serde_json::Error),
    /// The system has no randomness.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Why what a client presented earns no token. For the log; a client is not told these apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenRefusal {
    /// Nobody has that API key.
    UnknownApiKey,
    /// It is registered for another identifier, or the grant was not given for one.
    WrongIdentifier,
    /// The API key has expired.
    ExpiredApiKey,
    /// The API key was revoked.
    RevokedApiKey,
    /// The key that signed the assertion was revoked meanwhile, or the trust that vouched for it
    /// removed.
    RevokedKey,
    /// The principal was removed.
    UnknownPrincipal,
    /// The principal is disabled.
    DisabledPrincipal,
    /// Nobody was given that refresh token.
    UnknownRefreshToken,
    /// It has expired.
    ExpiredRefreshToken,
    /// It was revoked.
    RevokedRefreshToken,
    /// It was exchanged before, so somebody has stolen it; its family is revoked.
    ReusedRefreshToken,
    /// It belongs to another principal than the one who presents it.
    AnotherPrincipal,
}

impl TokenRefusal {
    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownApiKey => "unknown_api_key",
            Self::WrongIdentifier => "wrong_identifier",
            Self::ExpiredApiKey => "expired_api_key",
            Self::RevokedApiKey => "revoked_api_key",
            Self::RevokedKey => "revoked_key",
            Self::UnknownPrincipal => "unknown_principal",
            Self::DisabledPrincipal => "disabled_principal",
            Self::UnknownRefreshToken => "unknown_refresh_token",
            Self::ExpiredRefreshToken => "expired_refresh_token",
            Self::RevokedRefreshToken => "revoked_refresh_token",
            Self::ReusedRefreshToken => "reused_refresh_token",
            Self::AnotherPrincipal => "another_principal",
        }
    }
}

/// What a token was refused for, or `unavailable` where nothing could be said.
pub(super) fn reason(error: &IssueError) -> &'static str {
    match error {
        IssueError::Refused(refusal) => refusal.name(),
        IssueError::Assertion(reason) => reason.name(),
        IssueError::ScopeNotHeld(_) => "scope_not_held",
        IssueError::Registry(RegistryError::NoSuchPrincipal(_)) => "unknown_principal",
        IssueError::Registry(_)
        | IssueError::Unavailable(_)
        | IssueError::NotSigned(_)
        | IssueError::Claims(_)
        | IssueError::NoRandomness(_) => "unavailable",
    }
}

/// What was removed or revoked just now, while a token was about to be given for it, is a refusal
/// and no outage.
pub(super) fn gone(refusal: TokenRefusal) -> impl Fn(RegistryError) -> IssueError {
    move |error| match error {
        RegistryError::NoSuchApiKey(_)
        | RegistryError::NoSuchGrant(_)
        | RegistryError::NoSuchPrincipal(_) => IssueError::Refused(refusal),
        RegistryError::NoSuchKey(_) | RegistryError::NoSuchTrust(_) => {
            IssueError::Refused(TokenRefusal::RevokedKey)
        }
        error => error.into(),
    }
}

pub(super) fn refuse_if(is_so: bool, refusal: TokenRefusal) -> Result<(), IssueError> {
    if is_so { Err(IssueError::Refused(refusal)) } else { Ok(()) }
}
