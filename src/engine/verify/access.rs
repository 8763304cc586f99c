//! Access tokens issued by this service: valid for a while, used any number of times.

use std::sync::Arc;

use super::{Stopped, Verifier, check_scopes, malformed, reason_of};
use crate::{
    domain::{
        auth_request::AuthRequest,
        decision::{Denial, DenialReason, Identity},
        principal::KnownPrincipal,
        time::UnixMillis,
        token::{AccessClaims, TokenFault, UntrustedAccessToken},
    },
    telemetry::decisions::Observation,
};

impl Verifier {
    /// One linear sequence for access tokens: each step can only refuse. The owner is looked up
    /// only after the signature is known to be ours, so that nobody learns which users exist.
    pub(super) async fn judge_access_token(
        &self,
        auth_request: &AuthRequest<'_>,
        text: &str,
        now: UnixMillis,
        observation: &Observation<'_>,
    ) -> Result<Identity, Stopped> {
        let token = Self::parse_access_token(text).map_err(malformed)?;
        let unverified_claims = token.unverified_claims();
        let deny = |reason| Denial {
            unverified_username: Some(unverified_claims.username.clone()),
            ..Denial::from(reason)
        };

        check_lifetime(unverified_claims, now).map_err(deny)?;
        self.check_origin(unverified_claims).map_err(deny)?;
        let keys = self.ports.issuer_keys.current();
        let step = observation.verification();
        let verified = token.verify(&keys).map_err(|fault| deny(fault.into()))?;
        drop(step);
        let claims = verified.claims();
        let step = observation.key_lookup();
        let principal = self.ports.directory.lookup(&claims.username, now).await?;
        drop(step);
        let principal = check_principal(claims, principal).map_err(deny)?;
        let identity = Identity::by_access_token(principal, verified.key_id(), &claims.scopes);
        check_scopes(&auth_request.required_scopes, identity.scopes()).map_err(|missing| {
            Denial { missing_scopes: Some(missing), ..deny(DenialReason::InsufficientScope) }
        })?;
        Ok(identity)
    }

    pub(super) fn parse_access_token(
        text: &str,
    ) -> Result<UntrustedAccessToken<'_>, (DenialReason, TokenFault)> {
        UntrustedAccessToken::parse(text).map_err(|fault| (reason_of(text, &fault), fault))
    }

    /// Checks that this service issued the token, for this service, as an access token.
    pub(super) fn check_origin(&self, claims: &AccessClaims) -> Result<(), DenialReason> {
        if claims.issuer != self.policy.issuer {
            return Err(DenialReason::ForeignIssuer);
        }
        if !claims.is_access_token {
            return Err(DenialReason::NotAnAccessToken);
        }
        let is_meant_for_us = match &claims.audience {
            Some(audience) => self.policy.audiences.iter().any(|ours| audience.names(ours)),
            None => self.policy.audiences.is_empty(),
        };
        if is_meant_for_us { Ok(()) } else { Err(DenialReason::AudienceMismatch) }
    }
}

pub(super) fn check_lifetime(claims: &AccessClaims, now: UnixMillis) -> Result<(), DenialReason> {
    if claims.has_expired(now) {
        Err(DenialReason::Expired)
    } else if claims.is_early(now) {
        Err(DenialReason::NotYetValid)
    } else {
        Ok(())
    }
}

/// Checks that the principal still exists, has the id that the token was issued for and is enabled,
/// and that the token is not revoked.
pub(super) fn check_principal(
    claims: &AccessClaims,
    principal: Option<Arc<KnownPrincipal>>,
) -> Result<Arc<KnownPrincipal>, DenialReason> {
    let principal = principal
        .filter(|found| found.id == claims.principal)
        .ok_or(DenialReason::UnknownPrincipal)?;
    if !principal.is_active {
        return Err(DenialReason::DisabledPrincipal);
    }
    if principal.has_revoked(claims.jti) {
        return Err(DenialReason::Revoked);
    }
    Ok(principal)
}
