//! What the engine needs from outside. Adapters live in `stores`; tests bring their own.
//!
//! Absence is an answer (`Ok(None)`); an outage is an error. No adapter may turn one into the
//! other.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use uuid::Uuid;

pub use super::records::*;
use crate::domain::{
    algorithm::KeyFamily,
    decision::Used,
    issuer_keys::IssuerKeys,
    key_set::{KeySet, KeySetContents, MostTrials},
    nonce::{Claimed, NonceClaim},
    principal::{
        ApiKeyId, GrantId, KeyId, KnownPrincipal, KnownTrust, PrincipalId, TrustId, Username,
    },
    secret_token::SecretHash,
    time::UnixMillis,
};

/// Reads the time. Only the edge of the engine calls it; everything below takes `now` as an
/// argument.
pub trait Clock: Send + Sync {
    /// The time now. Never goes back.
    fn now(&self) -> UnixMillis;

    /// Tokens minted until this moment may have been used and forgotten, because the clock was set
    /// back; the first moment that there is if it never was.
    fn set_back_from(&self) -> UnixMillis {
        UnixMillis(i64::MIN)
    }
}

/// Finds principals with their usable keys, from memory in the common case.
pub trait KeyDirectory: Send + Sync {
    /// The principal of that name, or `None` where there is none. What is answered was true within
    /// the freshness that the adapter promises; where it can no longer promise it, it answers
    /// [`Unavailable`].
    fn lookup<'a>(
        &'a self,
        username: &'a Username,
        now: UnixMillis,
    ) -> Answer<'a, Result<Option<Arc<KnownPrincipal>>, Unavailable>>;

    /// A number that is another one as soon as anything that was answered may be different now.
    fn version(&self) -> u64;

    /// Looks for changes made until now, and says whether there were any since `version`. Many who
    /// ask at once cause one look, looks keep a distance, and nobody waits for long: where the
    /// registry cannot be asked, there were none.
    fn catch_up(&self, version: u64) -> Answer<'_, bool>;

    /// The most keys of that kind that one principal has, of those read so far. Never less than
    /// before.
    fn most_keys(&self, family: KeyFamily) -> usize;

    /// The most trusts that one principal has, likewise.
    fn most_trusts(&self) -> usize;

    /// Looks for changes soon: somebody says that there are some.
    fn look(&self);

    /// Whether what is known may still be used.
    fn check(&self, now: UnixMillis) -> Result<(), Unavailable>;
}

/// Remembers which nonces were used.
pub trait NonceStore: Send + Sync {
    /// Claims a nonce, in one atomic operation: of any number of claims of the same nonce of the
    /// same principal, at any time and from anywhere, exactly one attempt finds it
    /// [`Claimed::Fresh`], for as long as [`NonceClaim::remember_for`] says.
    /// The same [`Attempt::Named`](crate::domain::nonce::Attempt::Named) may ask again and is told
    /// the same.
    ///
    /// A live claim is never forgotten to make room; a full store is [`Unavailable`]. A token that
    /// may have been claimed before the store lost its memory is [`Claimed::Fenced`], for as
    /// long as it could pass.
    fn claim<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>>;

    /// What a claim would find, without making it: between this answer and a claim, another may be
    /// made.
    fn look<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>>;

    /// Whether claims can be made, told by one on trial.
    fn check(&self, now: UnixMillis) -> Answer<'_, Result<(), Unavailable>>;
}

/// Finds the key sets that principals trust, in memory in the common case.
pub trait KeySetSource: Send + Sync {
    /// The set of `trust`; `None` if it was never fetched, or too long ago to be trusted. Only the
    /// first answer ever about a URL may wait for a fetch, which begins with the call, and not
    /// for long after it.
    fn set<'a>(&'a self, trust: &'a KnownTrust, now: UnixMillis)
    -> Answer<'a, Option<Arc<KeySet>>>;

    /// A token of a principal with `trust` was not signed by a key of its set, as far as is known:
    /// the set may have changed since. Fetches it beside the decision, at most once in a
    /// cooldown, whatever is asked how often.
    fn missed(&self, trust: &KnownTrust, now: UnixMillis);

    /// How many keys of one set a token of that kind can be tried with at most, of the sets fetched
    /// so far. Never less than before.
    fn most_trials(&self, family: KeyFamily) -> MostTrials;

    /// Tells that decisions are going to ask about `trusts`: what was never fetched is fetched,
    /// beside the decisions. Where they are `changed`, sets that are known are fetched again,
    /// too.
    fn anticipate(&self, trusts: &[KnownTrust], changed: bool);

    /// Whether a set at `url` would be fetched at all, as far as the URL itself tells.
    fn check_url(&self, url: &str) -> Result<(), FetchFailure>;

    /// Fetches the set at `url` now, and says what it has. How that went is noted when this
    /// returns.
    fn refresh<'a>(&'a self, url: &'a str) -> Answer<'a, Result<KeySetContents, FetchFailure>>;
}

/// A key set could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the key set cannot be fetched: {reason}")]
pub struct FetchFailure {
    /// Why, with its causes, on one line.
    pub reason: String,
}

/// The keys of this service's own.
pub trait IssuerKeySource: Send + Sync {
    /// What access tokens are signed and verified with now. Costs as little as a copy of an `Arc`.
    fn current(&self) -> Arc<IssuerKeys>;
}

/// Notes when keys and trusts were used, without the decision waiting for it.
pub trait UsageLog: Send + Sync {
    /// `used` proved an identity at `now`. What is noted may be written later, and where too much
    /// waits to be written, lost.
    fn note(&self, used: Used, now: UnixMillis);
}

/// Where notes of use are written.
#[async_trait]
pub trait UsageStore: Send + Sync {
    /// Sets when each was last used, unless a later time is known. Those that no longer exist are
    /// passed over.
    async fn write_usage(&self, used: &[(Used, UnixMillis)]) -> Result<(), RegistryError>;
}

/// Where the outcomes of fetches are noted, for operators to see.
#[async_trait]
pub trait FetchReports: Send + Sync {
    /// The set at `url` was fetched at `at` and has these contents, or could not be fetched, for
    /// the reason given.
    async fn fetched(
        &self,
        url: &str,
        at: UnixMillis,
        outcome: Result<&KeySetContents, &FetchFailure>,
    ) -> Result<(), RegistryError>;
}

/// Tells the other replicas that the change feed has something new, so that they look at once. Only
/// a hint: where it is lost, they look at their next poll.
#[async_trait]
pub trait ChangeHints: Send + Sync {
    /// Something changed. Never fails and never takes long.
    async fn announce(&self);
}

/// An answer that is often there at once: then it costs no allocation and no task switch.
pub enum Answer<'a, T> {
    /// It is there.
    Ready(Option<T>),
    /// It takes a while.
    Pending(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

impl<'a, T> Answer<'a, T> {
    /// An answer that is there.
    pub const fn ready(answer: T) -> Self {
        Self::Ready(Some(answer))
    }

    /// An answer that `future` will give.
    pub fn pending(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self::Pending(Box::pin(future))
    }
}

impl<T: Unpin> Future for Answer<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match self.get_mut() {
            // A future is not polled again after it gave its answer; if it is, it never answers,
            // which allows nothing.
            Self::Ready(answer) => answer.take().map_or(Poll::Pending, Poll::Ready),
            Self::Pending(future) => future.as_mut().poll(context),
        }
    }
}

impl<T> fmt::Debug for Answer<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Answer::Ready",
            Self::Pending(_) => "Answer::Pending",
        })
    }
}

/// Something that a decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dependency {
    /// The database that the key directory reads.
    KeyDirectory,
    /// The nonce store.
    NonceStore,
}

impl Dependency {
    /// The name in logs, metrics and readiness.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeyDirectory => "key_directory",
            Self::NonceStore => "nonce_store",
        }
    }
}

/// A dependency is out of reach, so nothing can be decided.
#[derive(Debug, thiserror::Error)]
#[error("the {} is out of reach", dependency.name())]
pub struct Unavailable {
    /// What is out of reach.
    pub dependency: Dependency,
    /// Why.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl Unavailable {
    /// `dependency` failed with `source`.
    pub fn new(dependency: Dependency, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { dependency, source: source.into() }
    }
}

/// Whether the registry can be read and changed, as far as is known.
pub trait RegistryHealth: Send + Sync {
    /// Answers from memory.
    fn check(&self) -> Result<(), RegistryTrouble>;
}

/// What the registry cannot do. Principals in memory are decided about all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryTrouble {
    /// It takes no changes, and so no logins.
    #[error("the database is read-only: {0}")]
    ReadOnly(String),
    /// It is out of reach.
    #[error("the database is out of reach: {0}")]
    Away(String),
}

/// The registry of principals, keys and trusts. Every change is one transaction together with its
/// entry in the change feed and its audit event.
#[async_trait]
pub trait RegistryStore: Send + Sync {
    /// Adds a principal with the keys and trusts that come with it, all or nothing.
    async fn add_principal(
        &self,
        new: NewPrincipal,
        author: Author<'_>,
    ) -> Result<PrincipalRecord, RegistryError>;
    /// The principal of that name.
    async fn principal(&self, username: &Username) -> Result<PrincipalRecord, RegistryError>;
    /// Up to `limit` principals in the order of their numbers, from the one after `after` on.
    async fn principals(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<PrincipalRecord>, RegistryError>;
    /// Changes a principal, if it still is at `expected`. A change to what it already is leaves no
    /// trace.
    async fn change_principal(
        &self,
        username: &Username,
        change: PrincipalChange,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<PrincipalRecord, RegistryError>;
    /// Removes a principal with all that belongs to it, if it still is at `expected`.
    async fn remove_principal(
        &self,
        username: &Username,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<(), RegistryError>;

    /// Adds a key to a principal.
    async fn add_key(
        &self,
        username: &Username,
        new: NewKey,
        author: Author<'_>,
    ) -> Result<KeyRecord, RegistryError>;
    /// The key of that number.
    async fn key(&self, id: KeyId) -> Result<KeyRecord, RegistryError>;
    /// Up to `limit` keys, of one principal or of all, in the order of their numbers, from the one
    /// after `after` on.
    async fn keys(
        &self,
        of: Option<&Username>,
        after: Option<KeyId>,
        limit: u64,
    ) -> Result<Vec<KeyRecord>, RegistryError>;
    /// Changes a key, if it still is at `expected`. A change to what it already is leaves no trace.
    async fn change_key(
        &self,
        id: KeyId,
        change: KeyChange,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<KeyRecord, RegistryError>;

    /// Adds a trust to a principal.
    async fn add_trust(
        &self,
        username: &Username,
        url: &str,
        author: Author<'_>,
    ) -> Result<TrustRecord, RegistryError>;
    /// The trust of that number.
    async fn trust(&self, id: TrustId) -> Result<TrustRecord, RegistryError>;
    /// Up to `limit` trusts, of one principal or of all, in the order of their numbers, from the
    /// one after `after` on.
    async fn trusts(
        &self,
        of: Option<&Username>,
        after: Option<TrustId>,
        limit: u64,
    ) -> Result<Vec<TrustRecord>, RegistryError>;
    /// Puts an entry about a trust into the change feed, so that every replica fetches its key set
    /// again.
    async fn touch_trust(&self, id: TrustId, author: Author<'_>) -> Result<(), RegistryError>;
    /// Removes a trust, if it still is at `expected`.
    async fn remove_trust(
        &self,
        id: TrustId,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<(), RegistryError>;

    /// Adds an API key to a principal.
    async fn add_api_key(
        &self,
        username: &Username,
        new: NewApiKey,
        author: Author<'_>,
    ) -> Result<ApiKeyRecord, RegistryError>;
    /// Adds an API key to the principal that is named by the key's identifier, and that principal
    /// where there is none. A key that is there already, for the same identifier and not
    /// revoked, gets the new expiry.
    async fn register_api_key(
        &self,
        new: NewApiKey,
        author: Author<'_>,
    ) -> Result<ApiKeyRecord, RegistryError>;
    /// The API key of that number.
    async fn api_key(&self, id: ApiKeyId) -> Result<ApiKeyRecord, RegistryError>;
    /// Up to `limit` API keys, of one principal or of all, in the order of their numbers, from the
    /// one after `after` on.
    async fn api_keys(
        &self,
        of: Option<&Username>,
        after: Option<ApiKeyId>,
        limit: u64,
    ) -> Result<Vec<ApiKeyRecord>, RegistryError>;
    /// Revokes an API key, if it still is at `expected`, and every grant that it was exchanged for.
    /// One that is revoked already keeps its first date.
    async fn revoke_api_key(
        &self,
        id: ApiKeyId,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<ApiKeyRecord, RegistryError>;

    /// Up to `limit` audit events, of one principal or of all, the newest first, from the one
    /// before `before` on.
    async fn audit(
        &self,
        of: Option<&str>,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Vec<AuditEvent>, RegistryError>;
}

/// What was given out: grants of access and refresh tokens, of which names and hashes are kept. A
/// revocation is one transaction together with its entry in the change feed and its audit event;
/// giving out alone leaves no trail but the grant itself.
#[async_trait]
pub trait GrantStore: Send + Sync {
    /// The API key of that hash, whatever its state, with whose it is.
    async fn api_key_by_hash(&self, hash: &SecretHash)
    -> Result<Option<HeldApiKey>, RegistryError>;

    /// Adds a grant to a principal. Where `ends_others`, every other family of grants of the
    /// principal is revoked with it. An API key that was revoked since it was looked at is no
    /// such key, and a family of which nothing lives is no such grant: nothing outlives what it
    /// goes back to. One that an operator asked for leaves an audit event.
    async fn add_grant(
        &self,
        holder: PrincipalId,
        new: NewGrant,
        ends_others: bool,
        author: Author<'_>,
    ) -> Result<GrantRecord, RegistryError>;
    /// The grant of that name, whatever its state, with whose it is.
    async fn find_grant(&self, name: GrantName<'_>) -> Result<Option<HeldGrant>, RegistryError>;
    /// Exchanges the refresh token of grant `id` for that of `new`, atomically: of any number of
    /// exchanges at once, exactly one adds its `new`. The others are told of that one where
    /// they come within `grace` of it, and revoke the family where they come later. Where
    /// `ends_others`, every other grant of the principal is revoked with it, the one before `new`
    /// included.
    async fn rotate(
        &self,
        id: GrantId,
        new: NewGrant,
        grace: Duration,
        ends_others: bool,
        author: Author<'_>,
    ) -> Result<Rotation, RegistryError>;
    /// Revokes every grant of a family, and says how many that were. Those that are revoked already
    /// keep their first date.
    async fn revoke_family(&self, family: Uuid, author: Author<'_>) -> Result<u64, RegistryError>;
    /// The grant of that number.
    async fn grant(&self, id: GrantId) -> Result<GrantRecord, RegistryError>;
    /// Up to `limit` grants, of one principal or of all, in the order of their numbers, from the
    /// one after `after` on.
    async fn grants(
        &self,
        of: Option<&Username>,
        after: Option<GrantId>,
        limit: u64,
    ) -> Result<Vec<GrantRecord>, RegistryError>;
    /// Forgets grants whose tokens all expired before `before`.
    async fn forget_grants(&self, before: UnixMillis) -> Result<(), RegistryError>;
}

/// Where the key directory reads principals from, and learns what changed.
#[async_trait]
pub trait PrincipalSource: Send + Sync {
    /// The principal of that name with its unrevoked keys, its trusts, and the `jti` of those of
    /// its access tokens that were revoked and have not expired; or `None` where there is none.
    async fn load(&self, username: &Username) -> Result<Option<KnownPrincipal>, RegistryError>;
    /// Up to `limit` principals in the order of their numbers, from the one after `after` on, each
    /// as [`PrincipalSource::load`] gives it.
    async fn load_page(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<KnownPrincipal>, RegistryError>;
    /// The names of up to `limit` principals in the order of their numbers, from the one after
    /// `after` on.
    async fn names_page(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<(PrincipalId, Username)>, RegistryError>;
    /// The number of the newest change; 0 if there is none yet. Numbers have no gaps, and changes
    /// become visible in their order, whoever makes them at the same time: a reader who sees
    /// one sees all before it, but for those that were forgotten.
    async fn newest_change(&self) -> Result<i64, RegistryError>;
    /// Up to `limit` changes after number `seen`, in the order of their numbers.
    async fn changes(&self, seen: i64, limit: u64) -> Result<Vec<RegistryChange>, RegistryError>;
    /// The changes made by versions from before changes had such numbers, which may run beside this
    /// one for a while. Their numbers only tell them apart.
    async fn unnumbered_changes(&self) -> Result<Vec<RegistryChange>, RegistryError>;
    /// The names of those of `ids` that still exist.
    async fn usernames(
        &self,
        ids: &[PrincipalId],
    ) -> Result<Vec<(PrincipalId, Username)>, RegistryError>;
    /// Forgets the changes up to number `up_to`, and these of those without one. The number of the
    /// newest change stays.
    async fn forget_changes(&self, up_to: i64, unnumbered: &[i64]) -> Result<(), RegistryError>;
}

/// An entry of the change feed: something about this principal is different now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryChange {
    /// Its number in the feed.
    pub number: i64,
    /// Whom it concerns.
    pub principal: PrincipalId,
}

/// The database of a system that this one takes over from. What it answers is as of one moment,
/// throughout.
#[async_trait]
pub trait LegacySource: Send + Sync {
    /// How much there is.
    async fn totals(&self, now: UnixMillis) -> Result<LegacyTotals, LegacyError>;
    /// Up to `limit` accounts in the order of their cursors, from the one after `after` on, each
    /// with all that belongs to it and counts at `now`.
    async fn accounts(
        &self,
        after: Option<&str>,
        limit: u64,
        now: UnixMillis,
    ) -> Result<Vec<LegacyAccount>, LegacyError>;
}

/// Takes many accounts of another system into the registry.
#[async_trait]
pub trait ImportStore: Send + Sync {
    /// What of this there is.
    async fn standing(&self, sought: &ImportLookup) -> Result<ExistingRecords, RegistryError>;
    /// Adds accounts, all or nothing, with their entries in the change feed and audit events. What
    /// others added or took away since it was looked for is an error that says so.
    async fn add_accounts(
        &self,
        accounts: Vec<AddedAccount>,
        author: Author<'_>,
    ) -> Result<(), RegistryError>;
}
