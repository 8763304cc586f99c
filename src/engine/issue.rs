//! Our own access and refresh tokens: issuing, exchanging, introspecting and revoking them.

mod claims;
mod error;
mod exchange;
mod introspect;
mod mint;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use uuid::Uuid;

use self::error::{reason, refuse_if};
pub use self::{
    error::{IssueError, TokenRefusal},
    introspect::{Introspection, Revoked, TokenKind, TokenName},
    mint::{MalformedTerms, MintTerms},
};
use super::{
    ports::{
        Author, ChangeHints, Clock, GrantRecord, GrantStore, IssuerKeySource, NewGrant, NewRefresh,
        PrincipalRecord, RegistryError, RegistryStore, UsageLog,
    },
    registry::in_time,
    verify::{Verdict, Verifier},
};
use crate::{
    domain::{
        auth_request::{AuthRequest, Credentials, Door},
        principal::{GrantId, Username},
        profile::ProfileClaim,
        scope::Scopes,
        secret_token::{NoRandomness, OpaqueKind, OpaqueToken},
        time::UnixMillis,
    },
    telemetry::tokens::{GrantKind, TokenObserver},
};

/// How often expired grants are deleted, and how long they are kept after they expire.
const CLEARING_INTERVAL: Duration = Duration::from_mins(10);
const KEPT_AFTER_EXPIRY: Duration = Duration::from_hours(24);
/// The settings of issued tokens.
#[derive(Clone, Debug)]
pub struct IssuerTerms {
    /// The value of `iss`.
    pub issuer: Box<str>,
    /// The value of `aud` if the client asks for no other; left out if empty.
    pub audience: Vec<String>,
    /// How long an access token is valid.
    pub access_token_lifetime: Duration,
    /// How long a refresh token is valid.
    pub refresh_token_lifetime: Duration,
    /// Whether a principal may have several families of grants at the same time.
    pub multiple_tokens: bool,
    /// The parts of the principal's profile that go into access tokens.
    pub profile_claims: Vec<ProfileClaim>,
}

/// The ports of an issuer.
#[derive(Clone)]
pub struct IssuerPorts {
    /// Reads the time.
    pub clock: Arc<dyn Clock>,
    /// Stores issued tokens.
    pub grants: Arc<dyn GrantStore>,
    /// Stores principals and API keys.
    pub registry: Arc<dyn RegistryStore>,
    /// The keys that sign access tokens.
    pub keys: Arc<dyn IssuerKeySource>,
    /// Records when keys and trusts were used.
    pub usage: Arc<dyn UsageLog>,
    /// Tells other replicas about revocations at once.
    pub hints: Arc<dyn ChangeHints>,
}

/// Issues and revokes tokens.
#[derive(Clone)]
pub struct Issuer {
    terms: Arc<IssuerTerms>,
    ports: IssuerPorts,
    /// Decides about access tokens.
    verifier: Arc<Verifier>,
    /// Decides about client assertions (RFC 7523): self-signed tokens whose audience is this
    /// issuer.
    assertions: Arc<Verifier>,
    observer: Arc<TokenObserver>,
}

/// Issued tokens, as the client receives them.
#[derive(Debug)]
pub struct Issued {
    /// The access token, a JWT.
    pub access_token: String,
    /// The refresh token; `None` if none was issued.
    pub refresh_token: Option<OpaqueToken>,
    /// The stored grant.
    pub grant: GrantRecord,
    /// How long the access token is valid, from now.
    pub expires_in: Duration,
}

impl Issuer {
    /// An issuer that uses `verifier` for access tokens and `assertions` for client assertions.
    pub fn new(
        terms: IssuerTerms,
        ports: IssuerPorts,
        verifier: Arc<Verifier>,
        assertions: Arc<Verifier>,
        observer: Arc<TokenObserver>,
    ) -> Self {
        Self { terms: Arc::new(terms), ports, verifier, assertions, observer }
    }

    /// The settings of issued tokens.
    pub fn terms(&self) -> &IssuerTerms {
        &self.terms
    }

    /// The public keys of access tokens as a JWK Set (RFC 7517), in JSON.
    pub fn jwks(&self) -> String {
        self.ports.keys.current().jwks().to_owned()
    }

    /// The `alg` of access tokens, and whether their keys are public (`false` for HS256).
    pub fn algorithm(&self) -> (&'static str, bool) {
        let keys = self.ports.keys.current();
        (keys.algorithm(), keys.signing_key().is_some())
    }

    /// Issues tokens for a principal, at the request of a back end that knows who it is.
    pub async fn mint(
        &self,
        username: &Username,
        terms: MintTerms,
        actor: &str,
    ) -> Result<Issued, IssueError> {
        self.observed(GrantKind::Minted, async {
            let now = self.ports.clock.now();
            let holder = in_time(self.ports.registry.principal(username)).await?;
            refuse_if(!holder.is_active, TokenRefusal::DisabledPrincipal)?;
            let scopes = terms
                .scopes
                .map_or_else(|| holder.scopes.clone(), |asked| holder.scopes.narrowed_by(&asked));
            let refresh_token = OpaqueToken::generate(OpaqueKind::RefreshToken)?;
            let usual = self.new_grant(random_uuid()?, scopes, None, now)?;
            let new = NewGrant {
                refresh: Some(self.new_refresh(&refresh_token, random_uuid()?, None, now)?),
                audience: terms.audience.unwrap_or_else(|| usual.audience.clone()),
                sid: terms.sid,
                is_minted: true,
                ..usual
            };
            let grant = self.add(&holder, new, actor, now).await?;
            self.issued(&holder, grant, None, Some(refresh_token), now)
        })
        .await
    }

    /// Decides about an access token, as the doors do.
    pub async fn validate(&self, access_token: &str) -> Verdict {
        self.caller(Credentials::One(&format!("Bearer {access_token}"))).await
    }

    /// Decides about a caller of the token API, by its `Authorization` header.
    pub async fn caller(&self, authorization: Credentials<'_>) -> Verdict {
        self.verifier
            .decide(&AuthRequest {
                authorization,
                ..AuthRequest::alone(Door::TokenApi, Credentials::None)
            })
            .await
    }

    /// Up to `limit` grants, of one principal or of all, in the order of their ids, starting after
    /// `after`.
    pub async fn grants_page(
        &self,
        of: Option<&Username>,
        after: Option<GrantId>,
        limit: u64,
    ) -> Result<Vec<GrantRecord>, RegistryError> {
        in_time(self.ports.grants.grants(of, after, limit)).await
    }

    /// The grant with that id.
    pub async fn grant(&self, id: GrantId) -> Result<GrantRecord, RegistryError> {
        in_time(self.ports.grants.grant(id)).await
    }

    /// Deletes expired grants from time to time, until `shutdown` completes.
    pub async fn clear_expired(self, shutdown: impl Future<Output = ()>) {
        let mut ticks = tokio::time::interval(CLEARING_INTERVAL);
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                _ = ticks.tick() => {}
            }
            let before = self.ports.clock.now().saturating_sub(KEPT_AFTER_EXPIRY);
            let cleared = tokio::select! {
                () = &mut shutdown => return,
                cleared = in_time(self.ports.grants.forget_grants(before)) => cleared,
            };
            if let Err(error) = cleared {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "expired grants could not be deleted"
                );
            }
        }
    }

    async fn add(
        &self,
        holder: &PrincipalRecord,
        new: NewGrant,
        actor: &str,
        now: UnixMillis,
    ) -> Result<GrantRecord, RegistryError> {
        let ends_others = !self.terms.multiple_tokens;
        let grant = in_time(self.ports.grants.add_grant(
            holder.id,
            new,
            ends_others,
            Author { actor, now },
        ))
        .await?;
        if ends_others {
            self.ports.hints.announce().await;
        }
        Ok(grant)
    }

    /// A grant whose access token has the usual lifetime, but does not outlive `until`, the end of
    /// what it was issued for.
    fn new_grant(
        &self,
        family: Uuid,
        scopes: Scopes,
        until: Option<UnixMillis>,
        now: UnixMillis,
    ) -> Result<NewGrant, NoRandomness> {
        Ok(NewGrant {
            family,
            access_jti: random_uuid()?,
            refresh: None,
            audience: self.terms.audience.clone(),
            sid: None,
            scopes,
            proven_by: None,
            is_minted: false,
            issued_at: now,
            access_expires_at: ends_at(self.terms.access_token_lifetime, until, now),
        })
    }

    fn new_refresh(
        &self,
        token: &OpaqueToken,
        seed: Uuid,
        until: Option<UnixMillis>,
        now: UnixMillis,
    ) -> Result<NewRefresh, NoRandomness> {
        let expires_at = ends_at(self.terms.refresh_token_lifetime, until, now);
        Ok(NewRefresh { jti: random_uuid()?, hash: token.hash(), seed, expires_at })
    }

    fn issued(
        &self,
        holder: &PrincipalRecord,
        grant: GrantRecord,
        identifier: Option<Uuid>,
        refresh_token: Option<OpaqueToken>,
        now: UnixMillis,
    ) -> Result<Issued, IssueError> {
        let claims = claims::access_token(&self.terms, holder, &grant, identifier)?;
        let access_token = self.ports.keys.current().sign(&claims)?;
        Ok(Issued {
            access_token,
            refresh_token,
            expires_in: grant.access_expires_at.since(now),
            grant,
        })
    }

    async fn observed(
        &self,
        kind: GrantKind,
        work: impl Future<Output = Result<Issued, IssueError>>,
    ) -> Result<Issued, IssueError> {
        let result = work.await;
        match &result {
            Ok(issued) => {
                self.observer.granted(kind, &issued.grant.username, issued.grant.access_jti);
            }
            Err(error) => self.observer.not_granted(kind, reason(error), error),
        }
        result
    }
}

fn ends_at(lifetime: Duration, until: Option<UnixMillis>, now: UnixMillis) -> UnixMillis {
    let usual = now.saturating_add(lifetime);
    until.map_or(usual, |until| usual.min(until))
}

/// A UUID version 4.
pub(super) fn random_uuid() -> Result<Uuid, NoRandomness> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("terms", &self.terms).finish_non_exhaustive()
    }
}
