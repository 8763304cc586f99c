//! Access and refresh tokens of our own: giving them out, exchanging, looking at and revoking them.

mod claims;
mod found;
mod mint;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use uuid::Uuid;

pub use self::{
    found::{Introspection, Revoked, TokenKind, TokenName},
    mint::{MalformedTerms, MintTerms},
};
use super::{
    ports::{
        Author, ChangeHints, Clock, GrantName, GrantRecord, GrantStore, HeldGrant, IssuerKeySource, NewGrant, NewRefresh,
        PrincipalRecord, RegistryError, RegistryStore, Rotation, Unavailable, UsageLog,
    },
    registry::in_time,
    verify::{Verdict, Verifier},
};
use crate::{
    domain::{
        decision::{Decision, DenialReason, Identity, Used},
        issuer_keys::NotSigned,
        opaque::{NoRandomness, OpaqueKind, OpaqueToken, SecretHash},
        presented::{Credentials, Door, OriginalRequest, Presented},
        principal::{GrantId, Username},
        profile::ProfileClaim,
        scope::Scopes,
        time::UnixMillis,
    },
    telemetry::tokens::{GrantKind, TokenObserver},
};

/// How long after a refresh token was exchanged it may be presented again and gives the same successor: two honest clients that
/// share one, or one whose answer was lost. Whoever comes later has stolen it, or was stolen from.
pub const ROTATION_GRACE: Duration = Duration::from_secs(2);
/// How often grants that have expired are cleared away, and how long they are kept after that.
const CLEARING_INTERVAL: Duration = Duration::from_mins(10);
const KEPT_AFTER_EXPIRY: Duration = Duration::from_hours(24);
/// Who is named as the author where clients exchange tokens.
const ACTOR: &str = "token-api";

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
    /// Decides about client assertions (RFC 7523): self-signed tokens whose audience is this issuer.
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

impl Issuer {
    /// An issuer whose access tokens `verifier` decides about, and whose clients' assertions `assertions` does.
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
            refresh: Some(self.new_refresh(&refresh_token, random_uuid()?, now)?),
            api_key: Some(held.key.id),
            ..self.new_grant(random_uuid()?, held.holder.scopes.clone(), now)?
        };
        let grant = self.add(&held.holder, new, ACTOR, now).await.map_err(gone(TokenRefusal::RevokedApiKey))?;
        self.ports.usage.note(Used::ApiKey(held.key.id), now);
        self.issued(&held.holder, grant, Some(identifier), Some(refresh_token), now)
    }

    /// Exchanges a refresh token for one more access token; the refresh token stays (jwthenticator's `/refresh`).
    pub async fn refresh(&self, refresh_token: &str, identifier: Uuid) -> Result<Issued, IssueError> {
        self.observed(GrantKind::Refresh, self.refresh_in_place(refresh_token, identifier)).await
    }

    async fn refresh_in_place(&self, refresh_token: &str, identifier: Uuid) -> Result<Issued, IssueError> {
        let now = self.ports.clock.now();
        let held = self.held(refresh_token, now).await?;
        refuse_if(held.identifier != Some(identifier), TokenRefusal::WrongIdentifier)?;
        if let Some(rotated_at) = held.grant.refresh.as_ref().and_then(|refresh| refresh.rotated_at) {
            return Err(self.presented_again(&held, rotated_at, now).await);
        }
        let new = NewGrant {
            api_key: held.grant.api_key,
            audience: held.grant.audience.clone(),
            sid: held.grant.sid.clone(),
            ..self.new_grant(held.grant.family, held.grant.scopes.narrowed_by(&held.holder.scopes), now)?
        };
        let grant = self.add(&held.holder, new, ACTOR, now).await.map_err(gone(TokenRefusal::RevokedRefreshToken))?;
        self.issued(&held.holder, grant, held.identifier, None, now)
    }

    /// A refresh token that was exchanged for the next one, where no next one is given.
    async fn presented_again(&self, held: &HeldGrant, rotated_at: UnixMillis, now: UnixMillis) -> IssueError {
        if rotated_at.saturating_add(ROTATION_GRACE) >= now {
            return IssueError::Refused(TokenRefusal::RevokedRefreshToken);
        }
        match self.revoke_family(held.grant.family, "token-api (refresh token reused)").await {
            Ok(()) => IssueError::Refused(TokenRefusal::ReusedRefreshToken),
            Err(error) => error.into(),
        }
    }

    /// Exchanges a refresh token for an access token and the next refresh token. Where `only` is given, the token has to be that
    /// principal's.
    pub async fn rotate(&self, refresh_token: &str, only: Option<&Username>) -> Result<Issued, IssueError> {
        self.observed(GrantKind::Rotation, self.exchange_refresh_token(refresh_token, only)).await
    }

    async fn exchange_refresh_token(&self, refresh_token: &str, only: Option<&Username>) -> Result<Issued, IssueError> {
        let now = self.ports.clock.now();
        let held = self.held(refresh_token, now).await?;
        refuse_if(only.is_some_and(|only| *only != held.holder.username), TokenRefusal::AnotherPrincipal)?;
        let seed = random_uuid()?;
        let successor = OpaqueToken::successor(refresh_token, seed.as_bytes());
        let new = NewGrant {
            refresh: Some(self.new_refresh(&successor, seed, now)?),
            api_key: held.grant.api_key,
            audience: held.grant.audience.clone(),
            sid: held.grant.sid.clone(),
            ..self.new_grant(held.grant.family, held.grant.scopes.narrowed_by(&held.holder.scopes), now)?
        };
        let author = Author { actor: ACTOR, now };
        let ends_others = !self.terms.multiple_tokens;
        let rotation = in_time(self.ports.grants.rotate(held.grant.id, new, ROTATION_GRACE, ends_others, author)).await?;
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

    /// Gives an access token to the client whose assertion this is (RFC 7523 section 2.2). The assertion is a self-signed token: it
    /// passes once.
    pub async fn client_credentials(&self, assertion: &str, asked: Option<&Scopes>) -> Result<Issued, IssueError> {
        self.observed(GrantKind::ClientCredentials, async {
            let identity = self.client(assertion).await?;
            let scopes = match asked {
                None => identity.scopes().clone(),
                Some(asked) => {
                    let missing: Vec<&str> = asked.iter().filter(|scope| !identity.scopes().contains(scope)).collect();
                    if !missing.is_empty() {
                        return Err(IssueError::ScopeNotHeld(Scopes::parse(&missing.join(" ")).unwrap_or_default()));
                    }
                    asked.clone()
                }
            };
            let now = self.ports.clock.now();
            let name = &identity.principal().username;
            let holder = in_time(self.ports.registry.principal(name)).await.map_err(gone(TokenRefusal::UnknownPrincipal))?;
            let new = self.new_grant(random_uuid()?, scopes, now)?;
            let grant = self.add(&holder, new, ACTOR, now).await.map_err(gone(TokenRefusal::UnknownPrincipal))?;
            self.issued(&holder, grant, None, None, now)
        })
        .await
    }

    /// Who signed this client assertion.
    pub async fn client(&self, assertion: &str) -> Result<Identity, IssueError> {
        let credentials = format!("{} {assertion}", self.assertions.scheme());
        let verdict = self.assertions.decide(&presented(Credentials::One(&credentials))).await;
        match verdict.result? {
            Decision::Allow(identity) => Ok(identity),
            Decision::Deny(denial) => Err(IssueError::Assertion(denial.reason)),
        }
    }

    /// Gives tokens to a principal on behalf of a back end that knows who it is.
    pub async fn mint(&self, username: &Username, terms: MintTerms, actor: &str) -> Result<Issued, IssueError> {
        self.observed(GrantKind::Minted, async {
            let now = self.ports.clock.now();
            let holder = in_time(self.ports.registry.principal(username)).await?;
            refuse_if(!holder.is_active, TokenRefusal::DisabledPrincipal)?;
            let scopes = terms.scopes.map_or_else(|| holder.scopes.clone(), |asked| holder.scopes.narrowed_by(&asked));
            let refresh_token = OpaqueToken::generate(OpaqueKind::RefreshToken)?;
            let usual = self.new_grant(random_uuid()?, scopes, now)?;
            let new = NewGrant {
                refresh: Some(self.new_refresh(&refresh_token, random_uuid()?, now)?),
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
        let credentials = Presented { credentials: Credentials::None, authorization, ..presented(Credentials::None) };
        self.verifier.decide(&credentials).await
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
                tracing::warn!(error = &error as &dyn std::error::Error, "expired grants could not be deleted");
            }
        }
    }

    /// The grant of a refresh token that may still be used, as far as anything but its rotation tells.
    async fn held(&self, refresh_token: &str, now: UnixMillis) -> Result<HeldGrant, IssueError> {
        let hash = SecretHash::of(refresh_token);
        let held = in_time(self.ports.grants.find_grant(GrantName::Refresh(&hash))).await?;
        let held = held.ok_or(IssueError::Refused(TokenRefusal::UnknownRefreshToken))?;
        let is_over = held.grant.refresh.as_ref().is_none_or(|refresh| refresh.expires_at <= now);
        refuse_if(is_over, TokenRefusal::ExpiredRefreshToken)?;
        refuse_if(!held.holder.is_active, TokenRefusal::DisabledPrincipal)?;
        let was_rotated = held.grant.refresh.as_ref().is_some_and(|refresh| refresh.rotated_at.is_some());
        refuse_if(held.grant.revoked_at.is_some() && !was_rotated, TokenRefusal::RevokedRefreshToken)?;
        Ok(held)
    }

    async fn add(
        &self,
        holder: &PrincipalRecord,
        new: NewGrant,
        actor: &str,
        now: UnixMillis,
    ) -> Result<GrantRecord, RegistryError> {
        let ends_others = !self.terms.multiple_tokens;
        let grant = in_time(self.ports.grants.add_grant(holder.id, new, ends_others, Author { actor, now })).await?;
        if ends_others {
            self.ports.hints.announce().await;
        }
        Ok(grant)
    }

    fn new_grant(&self, family: Uuid, scopes: Scopes, now: UnixMillis) -> Result<NewGrant, NoRandomness> {
        Ok(NewGrant {
            family,
            access_jti: random_uuid()?,
            refresh: None,
            audience: self.terms.audience.clone(),
            sid: None,
            scopes,
            api_key: None,
            is_minted: false,
            issued_at: now,
            access_expires_at: now.saturating_add(self.terms.access_token_lifetime),
        })
    }

    fn new_refresh(&self, token: &OpaqueToken, seed: Uuid, now: UnixMillis) -> Result<NewRefresh, NoRandomness> {
        let expires_at = now.saturating_add(self.terms.refresh_token_lifetime);
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
        Ok(Issued { access_token, refresh_token, expires_in: grant.access_expires_at.since(now), grant })
    }

    async fn observed(
        &self,
        kind: GrantKind,
        work: impl Future<Output = Result<Issued, IssueError>>,
    ) -> Result<Issued, IssueError> {
        let result = work.await;
        match &result {
            Ok(issued) => self.observer.granted(kind, &issued.grant.username, issued.grant.access_jti),
            Err(error) => self.observer.not_granted(kind, reason(error), error),
        }
        result
    }
}

/// What a token was refused for, or `unavailable` where nothing could be said.
fn reason(error: &IssueError) -> &'static str {
    match error {
        IssueError::Refused(refusal) => refusal.name(),
        IssueError::Assertion(reason) => reason.name(),
        IssueError::ScopeNotHeld(_) => "scope_not_held",
        IssueError::Registry(RegistryError::NoSuchPrincipal(_)) => "unknown_principal",
        // Revoked, or gone, since it was looked at.
        IssueError::Registry(RegistryError::NoSuchApiKey(_)) => TokenRefusal::RevokedApiKey.name(),
        IssueError::Registry(_)
        | IssueError::Unavailable(_)
        | IssueError::NotSigned(_)
        | IssueError::Claims(_)
        | IssueError::NoRandomness(_) => "unavailable",
    }
}

/// What was removed or revoked just now, while a token was about to be given for it, is a refusal and no outage.
fn gone(refusal: TokenRefusal) -> impl Fn(RegistryError) -> IssueError {
    move |error| match error {
        RegistryError::NoSuchApiKey(_) | RegistryError::NoSuchGrant(_) | RegistryError::NoSuchPrincipal(_) => {
            IssueError::Refused(refusal)
        }
        error => error.into(),
    }
}

fn refuse_if(is_so: bool, refusal: TokenRefusal) -> Result<(), IssueError> {
    if is_so { Err(IssueError::Refused(refusal)) } else { Ok(()) }
}

/// What the token API presents on its own: nothing but the credentials.
fn presented(credentials: Credentials<'_>) -> Presented<'_> {
    Presented {
        door: Door::TokenApi,
        credentials,
        authorization: Credentials::None,
        request: OriginalRequest::default(),
        required_scopes: Vec::new(),
        attempt: None,
        peer: None,
    }
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
