//! Exchanging credentials of clients for tokens: an API key, a refresh token, or an assertion.

use std::time::Duration;

use uuid::Uuid;

use super::{
    super::{
        ports::{Author, GrantName, HeldGrant, NewGrant, Rotation},
        registry::in_time,
    },
    IssueError, Issued, Issuer, TokenRefusal,
    error::{gone, refuse_if},
    random_uuid,
};
use crate::{
    domain::{
        auth_request::{AuthRequest, Credentials, Door},
        decision::{Decision, Identity, Used},
        principal::PrincipalId,
        scope::Scopes,
        secret_token::{NoRandomness, OpaqueKind, OpaqueToken, SecretHash},
        time::UnixMillis,
    },
    telemetry::tokens::GrantKind,
};

/// How long a refresh token that was exchanged may be sent again and yields the same successor: two
/// honest clients may share it, or the answer to one was lost. If it is sent later, it was stolen.
const ROTATION_GRACE: Duration = Duration::from_secs(2);
/// The author of changes that clients cause by exchanging tokens.
const ACTOR: &str = "token-api";

impl Issuer {
    /// Exchanges an API key for an access token and a refresh token.
    pub async fn authenticate(&self, key: &str, identifier: Uuid) -> Result<Issued, IssueError> {
        self.observed(GrantKind::ApiKey, self.exchange_api_key(key, identifier)).await
    }

    async fn exchange_api_key(&self, key: &str, identifier: Uuid) -> Result<Issued, IssueError> {
        let now = self.ports.clock.now();
        let held = in_time(self.ports.grants.api_key_by_hash(&SecretHash::of(key))).await?;
        let held = held.ok_or(IssueError::Refused(TokenRefusal::UnknownApiKey))?;
        refuse_if(held.key.identifier != identifier, TokenRefusal::WrongIdentifier)?;
        refuse_if(held.key.revoked_at.is_some(), TokenRefusal::RevokedApiKey)?;
        refuse_if(held.key.expires_at <= now, TokenRefusal::ExpiredApiKey)?;
        refuse_if(!held.holder.is_active, TokenRefusal::DisabledPrincipal)?;
        let refresh_token = OpaqueToken::generate(OpaqueKind::RefreshToken)?;
        let new = NewGrant {
            refresh: Some(self.new_refresh(
                &refresh_token,
                random_uuid()?,
                Some(held.key.expires_at),
                now,
            )?),
            proven_by: Some(Used::ApiKey(held.key.id)),
            ..self.new_grant(
                random_uuid()?,
                held.holder.scopes.clone(),
                Some(held.key.expires_at),
                now,
            )?
        };
        let grant = self
            .add(&held.holder, new, ACTOR, now)
            .await
            .map_err(gone(TokenRefusal::RevokedApiKey))?;
        self.ports.usage.note(Used::ApiKey(held.key.id), now);
        self.issued(&held.holder, grant, Some(identifier), Some(refresh_token), now)
    }

    /// Exchanges a refresh token for another access token; the refresh token stays valid
    /// (jwthenticator's `/refresh`).
    pub async fn refresh(
        &self,
        refresh_token: &str,
        identifier: Uuid,
    ) -> Result<Issued, IssueError> {
        self.observed(GrantKind::Refresh, self.refresh_in_place(refresh_token, identifier)).await
    }

    async fn refresh_in_place(
        &self,
        refresh_token: &str,
        identifier: Uuid,
    ) -> Result<Issued, IssueError> {
        let now = self.ports.clock.now();
        let held = self.held(refresh_token, now).await?;
        refuse_if(held.identifier != Some(identifier), TokenRefusal::WrongIdentifier)?;
        if let Some(rotated_at) = held.grant.refresh.as_ref().and_then(|refresh| refresh.rotated_at)
        {
            return Err(self.presented_again(&held, rotated_at, now).await);
        }
        let new = self.next_grant(&held, now)?;
        let grant = self
            .add(&held.holder, new, ACTOR, now)
            .await
            .map_err(gone(TokenRefusal::RevokedRefreshToken))?;
        self.issued(&held.holder, grant, held.identifier, None, now)
    }

    /// Refuses a refresh token that was already exchanged for its successor. After `ROTATION_GRACE`
    /// it counts as stolen, and its family is revoked.
    async fn presented_again(
        &self,
        held: &HeldGrant,
        rotated_at: UnixMillis,
        now: UnixMillis,
    ) -> IssueError {
        if rotated_at.saturating_add(ROTATION_GRACE) >= now {
            return IssueError::Refused(TokenRefusal::RevokedRefreshToken);
        }
        match self.revoke_family(held.grant.family, "token-api (refresh token reused)").await {
            Ok(()) => IssueError::Refused(TokenRefusal::ReusedRefreshToken),
            Err(error) => error.into(),
        }
    }

    /// Exchanges a refresh token for an access token and the next refresh token. If `only` is
    /// given, the token must belong to that principal.
    pub async fn rotate(
        &self,
        refresh_token: &str,
        only: Option<PrincipalId>,
    ) -> Result<Issued, IssueError> {
        self.observed(GrantKind::Rotation, self.exchange_refresh_token(refresh_token, only)).await
    }

    async fn exchange_refresh_token(
        &self,
        refresh_token: &str,
        only: Option<PrincipalId>,
    ) -> Result<Issued, IssueError> {
        let now = self.ports.clock.now();
        let held = self.held(refresh_token, now).await?;
        refuse_if(only.is_some_and(|only| only != held.holder.id), TokenRefusal::AnotherPrincipal)?;
        let seed = random_uuid()?;
        let successor = OpaqueToken::successor(refresh_token, seed.as_bytes());
        let refresh = self.new_refresh(&successor, seed, ends_at_the_latest(&held, now), now)?;
        let new = NewGrant { refresh: Some(refresh), ..self.next_grant(&held, now)? };
        let author = Author { actor: ACTOR, now };
        let ends_others = !self.terms.multiple_tokens;
        let rotation = in_time(self.ports.grants.rotate(
            held.grant.id,
            new,
            ROTATION_GRACE,
            ends_others,
            author,
        ))
        .await?;
        let (grant, successor) = match rotation {
            Rotation::Rotated(grant) => {
                if ends_others {
                    self.ports.hints.announce().await;
                }
                (grant, successor)
            }
            Rotation::RotatedBefore(grant) => {
                let seed = grant.refresh.as_ref().map(|refresh| refresh.seed).unwrap_or_default();
                (grant, OpaqueToken::successor(refresh_token, seed.as_bytes()))
            }
            Rotation::Reused => {
                self.ports.hints.announce().await;
                return Err(IssueError::Refused(TokenRefusal::ReusedRefreshToken));
            }
            Rotation::Ended => return Err(IssueError::Refused(TokenRefusal::RevokedRefreshToken)),
        };
        self.issued(&held.holder, grant, held.identifier, Some(successor), now)
    }

    /// Issues an access token to the client that signed this assertion (RFC 7523 section 2.2). The
    /// assertion is a self-signed token: it passes only once.
    pub async fn client_credentials(
        &self,
        assertion: &str,
        asked: Option<&Scopes>,
    ) -> Result<Issued, IssueError> {
        self.observed(GrantKind::ClientCredentials, async {
            let identity = self.client(assertion).await?;
            let scopes = match asked {
                None => identity.scopes().clone(),
                Some(asked) => {
                    let missing: Vec<&str> =
                        asked.iter().filter(|scope| !identity.scopes().contains(scope)).collect();
                    if !missing.is_empty() {
                        return Err(IssueError::ScopeNotHeld(
                            Scopes::parse(&missing.join(" ")).unwrap_or_default(),
                        ));
                    }
                    asked.clone()
                }
            };
            let now = self.ports.clock.now();
            let name = &identity.principal().username;
            let holder = in_time(self.ports.registry.principal(name))
                .await
                .map_err(gone(TokenRefusal::UnknownPrincipal))?;
            // The name may belong to another principal since the assertion was verified.
            refuse_if(holder.id != identity.principal().id, TokenRefusal::UnknownPrincipal)?;
            refuse_if(!holder.is_active, TokenRefusal::DisabledPrincipal)?;
            let new = NewGrant {
                proven_by: identity.used(),
                ..self.new_grant(random_uuid()?, scopes, identity.proof_expires_at(), now)?
            };
            let grant = self
                .add(&holder, new, ACTOR, now)
                .await
                .map_err(gone(TokenRefusal::UnknownPrincipal))?;
            self.issued(&holder, grant, None, None, now)
        })
        .await
    }

    /// The identity of the client that signed this assertion.
    pub async fn client(&self, assertion: &str) -> Result<Identity, IssueError> {
        let credentials = format!("{} {assertion}", self.assertions.scheme());
        let verdict = self
            .assertions
            .decide(&AuthRequest::alone(Door::TokenApi, Credentials::One(&credentials)))
            .await;
        match verdict.result? {
            Decision::Allow(identity) => Ok(identity),
            Decision::Deny(denial) => Err(IssueError::Assertion(denial.reason)),
        }
    }

    /// The next grant of the same family: the same terms, with the scopes that the principal still
    /// has.
    fn next_grant(&self, held: &HeldGrant, now: UnixMillis) -> Result<NewGrant, NoRandomness> {
        let HeldGrant { grant, holder, .. } = held;
        Ok(NewGrant {
            proven_by: grant.proven_by,
            audience: grant.audience.clone(),
            sid: grant.sid.clone(),
            ..self.new_grant(
                grant.family,
                grant.scopes.narrowed_by(&holder.scopes),
                ends_at_the_latest(held, now),
                now,
            )?
        })
    }

    /// The grant of a refresh token, after all checks except the one for rotation.
    async fn held(&self, refresh_token: &str, now: UnixMillis) -> Result<HeldGrant, IssueError> {
        let hash = SecretHash::of(refresh_token);
        let held = in_time(self.ports.grants.find_grant(GrantName::Refresh(&hash))).await?;
        let held = held.ok_or(IssueError::Refused(TokenRefusal::UnknownRefreshToken))?;
        let is_over = held.grant.refresh.as_ref().is_none_or(|refresh| refresh.expires_at <= now);
        refuse_if(is_over, TokenRefusal::ExpiredRefreshToken)?;
        refuse_if(!held.holder.is_active, TokenRefusal::DisabledPrincipal)?;
        let was_rotated =
            held.grant.refresh.as_ref().is_some_and(|refresh| refresh.rotated_at.is_some());
        refuse_if(
            held.grant.revoked_at.is_some() && !was_rotated,
            TokenRefusal::RevokedRefreshToken,
        )?;
        Ok(held)
    }
}

/// When the successors of a grant end: with its API key. If an API key was imported from another
/// system and had already expired, its refresh tokens keep their own expiry, and no successor
/// outlives it.
fn ends_at_the_latest(held: &HeldGrant, now: UnixMillis) -> Option<UnixMillis> {
    let key_expires_at = held.api_key_expires_at?;
    if now < key_expires_at {
        Some(key_expires_at)
    } else {
        held.grant.refresh.as_ref().map(|refresh| refresh.expires_at)
    }
}
