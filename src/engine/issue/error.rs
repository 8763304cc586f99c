//! Why no token was issued.

use super::super::ports::{RegistryError, Unavailable};
use crate::domain::{
    decision::DenialReason, issuer_keys::NotSigned, scope::Scopes, secret_token::NoRandomness,
};

/// Why no token was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The credential was refused. Clients are told less than this.
    #[error("refused: {}", .0.name())]
    Refused(TokenRefusal),
    /// A decision denied the client assertion.
    #[error("the client assertion was refused: {}", .0.name())]
    Assertion(DenialReason),
    /// The client asked for scopes that it does not have.
    #[error("scopes that are not held: {0}")]
    ScopeNotHeld(Scopes),
    /// The registry failed, or has no such principal.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A dependency is unreachable, so nothing could be decided.
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

/// Why a client's credential was refused. Only for the log; all of them look the same to the
/// client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenRefusal {
    /// The API key is not registered.
    UnknownApiKey,
    /// The API key is registered for another identifier, or the grant was not issued for an API
    /// key.
    WrongIdentifier,
    /// The API key has expired.
    ExpiredApiKey,
    /// The API key was revoked.
    RevokedApiKey,
    /// The key that signed the assertion was revoked meanwhile, or its trust was removed.
    RevokedKey,
    /// The principal was removed.
    UnknownPrincipal,
    /// The principal is disabled.
    DisabledPrincipal,
    /// The refresh token is unknown.
    UnknownRefreshToken,
    /// The refresh token has expired.
    ExpiredRefreshToken,
    /// The refresh token was revoked.
    RevokedRefreshToken,
    /// The refresh token was exchanged before, so it was stolen; its family is revoked.
    ReusedRefreshToken,
    /// The refresh token belongs to another principal than the caller.
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

/// The name of the refusal or denial; `unavailable` if nothing could be decided.
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

/// If something was removed or revoked while a token was being issued for it, that is a refusal and
/// not an outage.
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
