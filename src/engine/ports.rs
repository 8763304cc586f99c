//! What the engine needs from outside. Adapters are in `stores`; tests bring their own.
//!
//! Absence is an answer (`Ok(None)`); an outage is an error. Adapters must never turn one into the
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
    /// The current time. Never goes back.
    fn now(&self) -> UnixMillis;

    /// Tokens created up to this time may have been used and forgotten, because the clock was set
    /// back. The minimum value if the clock never was.
    fn set_back_from(&self) -> UnixMillis {
        UnixMillis(i64::MIN)
    }
}

/// Finds principals with their usable keys, usually in memory.
pub trait KeyDirectory: Send + Sync {
    /// The principal of that name; `None` if there is none. The answer is at most as old as the
    /// adapter promises; if it cannot keep that promise, it returns [`Unavailable`].
    fn lookup<'a>(
        &'a self,
        username: &'a Username,
        now: UnixMillis,
    ) -> Answer<'a, Result<Option<Arc<KnownPrincipal>>, Unavailable>>;

    /// A version number that changes as soon as any earlier answer may be outdated.
    fn version(&self) -> u64;

    /// Reads the changes made until now, and returns whether there were any since `version`.
    /// Concurrent calls share one read, reads are rate-limited, and no caller waits long. If the
    /// registry is unreachable, the answer is `false`.
    fn catch_up(&self, version: u64) -> Answer<'_, bool>;

    /// The maximum number of keys of this kind that any principal read so far has. Never decreases.
    fn most_keys(&self, family: KeyFamily) -> usize;

    /// The maximum number of trusts that any principal read so far has. Never decreases.
    fn most_trusts(&self) -> usize;

    /// Reads changes soon: somebody says that there are some.
    fn look(&self);

    /// Whether the cached principals are still fresh enough to use.
    fn check(&self, now: UnixMillis) -> Result<(), Unavailable>;
}

/// Remembers which nonces were used.
pub trait NonceStore: Send + Sync {
    /// Claims a nonce, in one atomic operation. Of any number of claims of the same nonce and
    /// principal, at any time and from anywhere, exactly one attempt gets [`Claimed::Fresh`], for
    /// as long as [`NonceClaim::remember_for`] says. The same
    /// [`Attempt::Named`](crate::domain::nonce::Attempt::Named) may ask again and gets the same
    /// answer.
    ///
    /// A live claim is never forgotten to make room; a full store returns [`Unavailable`]. A token
    /// that may have been claimed before the store lost its memory gets [`Claimed::Fenced`], for as
    /// long as it could pass.
    fn claim<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>>;

    /// What a claim would return, without making it. Another claim may be made in between.
    fn look<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>>;

    /// Makes a test claim to check whether claims work.
    fn check(&self, now: UnixMillis) -> Answer<'_, Result<(), Unavailable>>;
}

/// Finds the key sets that principals trust, usually in memory.
pub trait KeySetSource: Send + Sync {
    /// The key set of `trust`; `None` if it was never fetched, or too long ago to be trusted. Only
    /// the very first call for a URL may wait for a fetch, which starts with the call, and only for
    /// a short time.
    fn set<'a>(&'a self, trust: &'a KnownTrust, now: UnixMillis)
    -> Answer<'a, Option<Arc<KeySet>>>;

    /// Reports that no key of this trust's set verified a token of its principal, so the set may
    /// have changed. Fetches it in the background, at most once per cooldown, however often this is
    /// called.
    fn missed(&self, trust: &KnownTrust, now: UnixMillis);

    /// The maximum number of keys of one set that a token of this kind can be tried with, over all
    /// sets fetched so far. Never decreases.
    fn most_trials(&self, family: KeyFamily) -> MostTrials;

    /// Announces that decisions will need `trusts`: sets that were never fetched are fetched in the
    /// background. If `changed`, known sets are fetched again, too.
    fn anticipate(&self, trusts: &[KnownTrust], changed: bool);

    /// Whether a set at `url` may be fetched at all, judging by the URL alone.
    fn check_url(&self, url: &str) -> Result<(), FetchFailure>;

    /// Fetches the set at `url` now and returns its contents. The result of the fetch is recorded
    /// before this returns.
    fn refresh<'a>(&'a self, url: &'a str) -> Answer<'a, Result<KeySetContents, FetchFailure>>;
}

/// A key set could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the key set cannot be fetched: {reason}")]
pub struct FetchFailure {
    /// Why, including causes, on one line.
    pub reason: String,
}

/// The signing keys of this service.
pub trait IssuerKeySource: Send + Sync {
    /// The keys that sign and verify access tokens now. As cheap as cloning an `Arc`.
    fn current(&self) -> Arc<IssuerKeys>;
}

/// Records when keys and trusts were used, without delaying the decision.
pub trait UsageLog: Send + Sync {
    /// Records that `used` proved an identity at `now`. It may be written later, and is dropped if
    /// too many records are waiting to be written.
    fn note(&self, used: Used, now: UnixMillis);
}

/// Stores when keys and trusts were last used.
#[async_trait]
pub trait UsageStore: Send + Sync {
    /// Sets the time of last use of each, unless a later one is stored. Rows that no longer exist
    /// are ignored.
    async fn write_usage(&self, used: &[(Used, UnixMillis)]) -> Result<(), RegistryError>;
}

/// Records the results of fetches, for operators to see.
#[async_trait]
pub trait FetchReports: Send + Sync {
    /// Records that the set at `url` was fetched at `at` with these contents, or why the fetch
    /// failed.
    async fn fetched(
        &self,
        url: &str,
        at: UnixMillis,
        outcome: Result<&KeySetContents, &FetchFailure>,
    ) -> Result<(), RegistryError>;
}

/// Tells the other replicas that the change feed has new entries, so that they read it at once.
/// Only a hint: if it is lost, they see the changes at their next poll.
#[async_trait]
pub trait ChangeHints: Send + Sync {
    /// Announces a change. Never fails and never takes long.
    async fn announce(&self);
}

/// An answer that is often available at once, and then costs no allocation and no task switch.
pub enum Answer<'a, T> {
    /// The answer; `None` after it was taken.
    Ready(Option<T>),
    /// The answer comes later.
    Pending(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
}

impl<'a, T> Answer<'a, T> {
    /// An answer that is available now.
    pub const fn ready(answer: T) -> Self {
        Self::Ready(Some(answer))
    }

    /// An answer that `future` computes.
    pub fn pending(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self::Pending(Box::pin(future))
    }
}

impl<T: Unpin> Future for Answer<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match self.get_mut() {
            // A future must not be polled after it has completed; if this one is, it never
            // completes, which allows nothing.
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

/// A service that decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dependency {
    /// The database that the key directory reads.
    KeyDirectory,
    /// The store of used nonces.
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

/// A dependency is unreachable, so nothing can be decided.
#[derive(Debug, thiserror::Error)]
#[error("the {} is out of reach", dependency.name())]
pub struct Unavailable {
    /// The unreachable dependency.
    pub dependency: Dependency,
    /// The underlying error.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl Unavailable {
    /// Creates the error from its cause.
    pub fn new(dependency: Dependency, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { dependency, source: source.into() }
    }
}

/// Whether the registry can be read and changed, as far as is known.
pub trait RegistryHealth: Send + Sync {
    /// Answers from memory, without asking the database.
    fn check(&self) -> Result<(), RegistryTrouble>;
}

/// What the registry cannot do. Principals in memory are still decided about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryTrouble {
    /// It accepts no changes, and therefore no logins.
    #[error("the database is read-only: {0}")]
    ReadOnly(String),
    /// It is unreachable.
    #[error("the database is out of reach: {0}")]
    Away(String),
}

/// The registry of principals, keys and trusts. Each change is one transaction together with its
/// entry in the change feed and its audit event.
#[async_trait]
pub trait RegistryStore: Send + Sync {
    /// Adds a principal with its first keys and trusts, all or nothing.
    async fn add_principal(
        &self,
        new: NewPrincipal,
        author: Author<'_>,
    ) -> Result<PrincipalRecord, RegistryError>;
    /// The principal of that name; [`RegistryError::NoSuchPrincipal`] if there is none.
    async fn principal(&self, username: &Username) -> Result<PrincipalRecord, RegistryError>;
    /// Up to `limit` principals in the order of their ids, starting after `after`.
    async fn principals(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<PrincipalRecord>, RegistryError>;
    /// Changes a principal, if its version still is `expected`. A change without effect is not
    /// recorded.
    async fn change_principal(
        &self,
        username: &Username,
        change: PrincipalChange,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<PrincipalRecord, RegistryError>;
    /// Removes a principal and everything that belongs to it, if its version still is `expected`.
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
    /// The key with that id; [`RegistryError::NoSuchKey`] if there is none.
    async fn key(&self, id: KeyId) -> Result<KeyRecord, RegistryError>;
    /// Up to `limit` keys, of one principal or of all, in the order of their ids, starting after
    /// `after`.
    async fn keys(
        &self,
        of: Option<&Username>,
        after: Option<KeyId>,
        limit: u64,
    ) -> Result<Vec<KeyRecord>, RegistryError>;
    /// Changes a key, if its version still is `expected`. A change without effect is not recorded.
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
    /// The trust with that id; [`RegistryError::NoSuchTrust`] if there is none.
    async fn trust(&self, id: TrustId) -> Result<TrustRecord, RegistryError>;
    /// Up to `limit` trusts, of one principal or of all, in the order of their ids, starting after
    /// `after`.
    async fn trusts(
        &self,
        of: Option<&Username>,
        after: Option<TrustId>,
        limit: u64,
    ) -> Result<Vec<TrustRecord>, RegistryError>;
    /// Adds an entry about a trust to the change feed, so that every replica fetches its key set
    /// again.
    async fn touch_trust(&self, id: TrustId, author: Author<'_>) -> Result<(), RegistryError>;
    /// Removes a trust, if its version still is `expected`.
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
    /// Adds an API key to the principal that the key's identifier names, and adds that principal if
    /// there is none. If the key is already registered for the same identifier and not revoked, its
    /// expiry is updated.
    async fn register_api_key(
        &self,
        new: NewApiKey,
        author: Author<'_>,
    ) -> Result<ApiKeyRecord, RegistryError>;
    /// The API key with that id; [`RegistryError::NoSuchApiKey`] if there is none.
    async fn api_key(&self, id: ApiKeyId) -> Result<ApiKeyRecord, RegistryError>;
    /// Up to `limit` API keys, of one principal or of all, in the order of their ids, starting
    /// after `after`.
    async fn api_keys(
        &self,
        of: Option<&Username>,
        after: Option<ApiKeyId>,
        limit: u64,
    ) -> Result<Vec<ApiKeyRecord>, RegistryError>;
    /// Revokes an API key, if its version still is `expected`, and every grant that it was
    /// exchanged for. A key that is already revoked keeps its first date.
    async fn revoke_api_key(
        &self,
        id: ApiKeyId,
        expected: Option<Version>,
        author: Author<'_>,
    ) -> Result<ApiKeyRecord, RegistryError>;

    /// Up to `limit` audit events, of one principal or of all, newest first, starting before
    /// `before`.
    async fn audit(
        &self,
        of: Option<&str>,
        before: Option<i64>,
        limit: u64,
    ) -> Result<Vec<AuditEvent>, RegistryError>;
}

/// Issued tokens: grants of access and refresh tokens, stored as ids and hashes. A revocation is
/// one transaction together with its entry in the change feed and its audit event; issuing a token
/// records nothing but the grant itself.
#[async_trait]
pub trait GrantStore: Send + Sync {
    /// The API key with that hash and its owner, whatever the key's state.
    async fn api_key_by_hash(&self, hash: &SecretHash)
    -> Result<Option<HeldApiKey>, RegistryError>;

    /// Adds a grant to a principal. If `ends_others`, every other family of grants of the principal
    /// is revoked, too. Fails with "no such API key" if the API key was revoked meanwhile, and with
    /// "no such grant" if no grant of the family is still active: no token outlives what it was
    /// issued for. A grant that an operator asked for adds an audit event.
    async fn add_grant(
        &self,
        holder: PrincipalId,
        new: NewGrant,
        ends_others: bool,
        author: Author<'_>,
    ) -> Result<GrantRecord, RegistryError>;
    /// The grant with that name and its owner, whatever the grant's state.
    async fn find_grant(&self, name: GrantName<'_>) -> Result<Option<HeldGrant>, RegistryError>;
    /// Exchanges the refresh token of grant `id` for that of `new`, atomically: of any number of
    /// concurrent exchanges, exactly one adds its `new`. The others get that grant if they come
    /// within `grace` of it; later ones revoke the family. If `ends_others`, every other grant of
    /// the principal is revoked, including the one before `new`.
    async fn rotate(
        &self,
        id: GrantId,
        new: NewGrant,
        grace: Duration,
        ends_others: bool,
        author: Author<'_>,
    ) -> Result<Rotation, RegistryError>;
    /// Revokes every grant of a family, and returns how many were revoked. Grants that are already
    /// revoked keep their first date.
    async fn revoke_family(&self, family: Uuid, author: Author<'_>) -> Result<u64, RegistryError>;
    /// The grant with that id; [`RegistryError::NoSuchGrant`] if there is none.
    async fn grant(&self, id: GrantId) -> Result<GrantRecord, RegistryError>;
    /// Up to `limit` grants, of one principal or of all, in the order of their ids, starting after
    /// `after`.
    async fn grants(
        &self,
        of: Option<&Username>,
        after: Option<GrantId>,
        limit: u64,
    ) -> Result<Vec<GrantRecord>, RegistryError>;
    /// Deletes grants whose tokens all expired before `before`.
    async fn forget_grants(&self, before: UnixMillis) -> Result<(), RegistryError>;
}

/// The source from which the key directory reads principals and changes.
#[async_trait]
pub trait PrincipalSource: Send + Sync {
    /// The principal of that name with its unrevoked keys, its trusts, and the `jti` of its access
    /// tokens that are revoked and have not expired; `None` if there is no such principal.
    async fn load(&self, username: &Username) -> Result<Option<KnownPrincipal>, RegistryError>;
    /// Up to `limit` principals in the order of their ids, starting after `after`, each as
    /// [`PrincipalSource::load`] returns it.
    async fn load_page(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<KnownPrincipal>, RegistryError>;
    /// The names of up to `limit` principals in the order of their ids, starting after `after`.
    async fn names_page(
        &self,
        after: Option<PrincipalId>,
        limit: u64,
    ) -> Result<Vec<(PrincipalId, Username)>, RegistryError>;
    /// The number of the newest change; 0 if there is none yet. Numbers have no gaps, and changes
    /// become visible in order, even if made concurrently: a reader that sees a change also sees
    /// all earlier ones, except for deleted ones.
    async fn newest_change(&self) -> Result<i64, RegistryError>;
    /// Up to `limit` changes after number `seen`, in the order of their numbers.
    async fn changes(&self, seen: i64, limit: u64) -> Result<Vec<RegistryChange>, RegistryError>;
    /// The changes made by older versions, which did not number changes and may run beside this one
    /// for a while. The numbers returned here only tell them apart.
    async fn unnumbered_changes(&self) -> Result<Vec<RegistryChange>, RegistryError>;
    /// The usernames of those of `ids` that still exist.
    async fn usernames(
        &self,
        ids: &[PrincipalId],
    ) -> Result<Vec<(PrincipalId, Username)>, RegistryError>;
    /// Deletes the changes up to number `up_to`, and the given changes without a number. The number
    /// of the newest change is kept.
    async fn forget_changes(&self, up_to: i64, unnumbered: &[i64]) -> Result<(), RegistryError>;
}

/// An entry of the change feed: something about this principal changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryChange {
    /// The number in the feed.
    pub number: i64,
    /// The principal that changed.
    pub principal: PrincipalId,
}

/// The database of the system that this one replaces. All answers show its state at the same
/// moment.
#[async_trait]
pub trait LegacySource: Send + Sync {
    /// How many accounts and rows there are.
    async fn totals(&self, now: UnixMillis) -> Result<LegacyTotals, LegacyError>;
    /// Up to `limit` accounts in the order of their cursors, starting after `after`, each with
    /// everything that belongs to it and is valid at `now`.
    async fn accounts(
        &self,
        after: Option<&str>,
        limit: u64,
        now: UnixMillis,
    ) -> Result<Vec<LegacyAccount>, LegacyError>;
}

/// Adds many accounts of another system to the registry.
#[async_trait]
pub trait ImportStore: Send + Sync {
    /// The parts of `sought` that the registry already has.
    async fn standing(&self, sought: &ImportLookup) -> Result<ExistingRecords, RegistryError>;
    /// Adds accounts, all or nothing, with their entries in the change feed and audit events. Fails
    /// with a conflict if someone else added or removed one of them since the lookup.
    async fn add_accounts(
        &self,
        accounts: Vec<AddedAccount>,
        author: Author<'_>,
    ) -> Result<(), RegistryError>;
}
