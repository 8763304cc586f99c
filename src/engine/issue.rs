//! Access and refresh tokens of our own: giving them out, exchanging, looking at and revoking them.

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

/// How often grants that have expired are cleared away, and how long they are kept after that.
const CLEARING_INTERVAL: Duration = Duration::from_mins(10);
const KEPT_AFTER_EXPIRY: Duration = Duration::from_hours(24);
/// What tokens look like, from the settings.
#[derive(Clone, Debug)]
pub struct IssuerTerms {
    /// `iss`.
    pub issuer: Box<str>,
    /// `aud` where nothing else is asked for; none where it is empty.
    pub audience: Vec<String>,
    /// How long an access token may be used.
    pub access_token_lifetime: Duration,
    /// How long a refresh token may be used.
    pub refresh_token_lifetime: Duration,
    /// Whether a principal may have several families of grants at a time.
    pub multiple_tokens: bool,
    /// What of the principal's profile goes into access tokens.
    pub profile_claims: Vec<ProfileClaim>,
}

/// What an issuer reaches the world through.
#[derive(Clone)]
pub struct IssuerPorts {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What was given out.
    pub grants: Arc<dyn GrantStore>,
    /// Principals.
    pub registry: Arc<dyn RegistryStore>,
    /// The keys that sign.
    pub keys: Arc<dyn IssuerKeySource>,
    /// Notes of use.
    pub usage: Arc<dyn UsageLog>,
    /// How replicas learn of revocations soon.
    pub hints: Arc<dyn ChangeHints>,
}

/// Gives out tokens, and takes them back.
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

/// Tokens as they are given to a client.
#[derive(Debug)]
pub struct Issued {
    /// The access token, a JWT.
    pub access_token: String,
    /// The refresh token, where one goes with it.
    pub refresh_token: Option<OpaqueToken>,
    /// What is kept of them.
    pub grant: GrantRecord,
    /// How long the access token may be used from now on.
    pub expires_in: Duration,
}

impl Issuer {
    /// An issuer whose access tokens `verifier` decides about, and whose clients' assertions
    /// `assertions` does.
    pub fn new(
        terms: IssuerTerms,
        ports: IssuerPorts,
        verifier: Arc<Verifier>,
        assertions: Arc<Verifier>,
        observer: Arc<TokenObserver>,
    ) -> Self {
        Self { terms: Arc::new(terms), ports, verifier, assertions, observer }
    }

    /// What its tokens look like.
    pub fn terms(&self) -> &IssuerTerms {
        &self.terms
    }

    /// The public keys of its access tokens as a JWK Set (RFC 7517), in JSON.
    pub fn jwks(&self) -> String {
        self.ports.keys.current().jwks().to_owned()
    }

    /// The `alg` of its access tokens, and whether their keys are public.
    pub fn algorithm(&self) -> (&'static str, bool) {
        let keys = self.ports.keys.current();
        (keys.algorithm(), keys.signing_key().is_some())
    }

    /// Gives tokens to a principal on behalf of a back end that knows who it is.
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

    /// Decides about who calls the token API, by its `Authorization` header.
    pub async fn caller(&self, authorization: Credentials<'_>) -> Verdict {
        self.verifier
            .decide(&AuthRequest {
                authorization,
                ..AuthRequest::alone(Door::TokenApi, Credentials::None)
            })
            .await
    }

    /// Up to `limit` grants, of one principal or of all, from the one after `after` on.
    pub async fn grants_page(
        &self,
        of: Option<&Username>,
        after: Option<GrantId>,
        limit: u64,
    ) -> Result<Vec<GrantRecord>, RegistryError> {
        in_time(self.ports.grants.grants(of, after, limit)).await
    }

    /// The grant of that number.
    pub async fn grant(&self, id: GrantId) -> Result<GrantRecord, RegistryError> {
        in_time(self.ports.grants.grant(id)).await
    }

    /// Clears expired grants away now and then, until `shutdown` is done.
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

    /// A grant whose access token may be used for as long as usual, and not after `until`, when
    /// what earned it ends.
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
