//! What the engine needs from outside. Adapters live in `stores`; tests bring their own.
//!
//! Absence is an answer (`Ok(None)`); an outage is an error. No adapter may turn one into the other.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;

use crate::domain::{
    nonce::{Claimed, NonceClaim},
    principal::{KeyId, KnownPrincipal, PrincipalId, Username},
    scope::Scopes,
    time::UnixMillis,
};

/// Reads the time. Only the edge of the engine calls it; everything below takes `now` as an argument.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> UnixMillis;
}

/// Finds principals with their usable keys, from memory in the common case.
pub trait KeyDirectory: Send + Sync {
    /// The principal of that name, or `None` where there is none. What is answered was true within the freshness that the
    /// adapter promises; where it can no longer promise it, it answers [`Unavailable`].
    fn lookup<'a>(
        &'a self,
        username: &'a Username,
        now: UnixMillis,
    ) -> Answer<'a, Result<Option<Arc<KnownPrincipal>>, Unavailable>>;

    /// A number that is another one as soon as anything that was answered may be different now.
    fn version(&self) -> u64;

    /// Looks for changes made until now, and says whether there were any since `version`. Many who ask at once cause one look,
    /// looks keep a distance, and nobody waits for long: where the registry cannot be asked, there were none.
    fn catch_up(&self, version: u64) -> Answer<'_, bool>;

    /// Whether what is known may still be used.
    fn check(&self, now: UnixMillis) -> Result<(), Unavailable>;
}

/// Remembers which nonces were used.
pub trait NonceStore: Send + Sync {
    /// Claims a nonce, in one atomic operation: of any number of claims of the same nonce of the same principal, at any time
    /// and from anywhere, exactly one attempt finds it [`Claimed::Fresh`], for as long as [`NonceClaim::remember_for`] says.
    /// The same [`Attempt::Named`](crate::domain::nonce::Attempt::Named) may ask again and is told the same.
    ///
    /// A live claim is never forgotten to make room; a full store is [`Unavailable`].
    fn claim<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>>;

    /// Whether the store can be reached.
    fn check(&self) -> Answer<'_, Result<(), Unavailable>>;
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
            // A future is not polled again after it gave its answer; if it is, it never answers, which allows nothing.
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

/// The registry of principals and keys. Every change is one transaction together with its entry in the change feed.
#[async_trait]
pub trait RegistryStore: Send + Sync {
    /// Adds a principal.
    async fn add_principal(&self, new: NewPrincipal, now: UnixMillis) -> Result<PrincipalRecord, RegistryError>;
    /// The principal of that name.
    async fn principal(&self, username: &Username) -> Result<PrincipalRecord, RegistryError>;
    /// Up to `limit` principals in the order of their numbers, from the one after `after` on.
    async fn principals(&self, after: Option<PrincipalId>, limit: u64) -> Result<Vec<PrincipalRecord>, RegistryError>;
    /// Enables or disables a principal. Doing so twice is no error.
    async fn set_active(&self, username: &Username, is_active: bool, now: UnixMillis) -> Result<PrincipalRecord, RegistryError>;
    /// Removes a principal with all that belongs to it.
    async fn remove_principal(&self, username: &Username, now: UnixMillis) -> Result<(), RegistryError>;
    /// Adds a key to a principal.
    async fn add_key(&self, username: &Username, new: NewKey, now: UnixMillis) -> Result<KeyRecord, RegistryError>;
    /// Up to `limit` keys, of one principal or of all, in the order of their numbers, from the one after `after` on.
    async fn keys(&self, of: Option<&Username>, after: Option<KeyId>, limit: u64) -> Result<Vec<KeyRecord>, RegistryError>;
    /// Revokes a key. One that is revoked already keeps its first date.
    async fn revoke_key(&self, id: KeyId, now: UnixMillis) -> Result<KeyRecord, RegistryError>;
}

/// Where the key directory reads principals from, and learns what changed.
#[async_trait]
pub trait PrincipalSource: Send + Sync {
    /// The principal of that name with its unrevoked keys, or `None` where there is none.
    async fn load(&self, username: &Username) -> Result<Option<KnownPrincipal>, RegistryError>;
    /// Up to `limit` principals in the order of their numbers, from the one after `after` on, each as [`PrincipalSource::load`]
    /// gives it.
    async fn load_page(&self, after: Option<PrincipalId>, limit: u64) -> Result<Vec<KnownPrincipal>, RegistryError>;
    /// The names of up to `limit` principals in the order of their numbers, from the one after `after` on.
    async fn names_page(&self, after: Option<PrincipalId>, limit: u64) -> Result<Vec<(PrincipalId, Username)>, RegistryError>;
    /// The number of the newest change; 0 where there is none yet. Numbers grow, but a change may become visible after one of
    /// a higher number, whose transaction was shorter.
    async fn newest_change(&self) -> Result<i64, RegistryError>;
    /// The changes after number `seen`, and those up to `overlap` numbers before it that were made after `since`: among them
    /// may be some that became visible late. In the order of their numbers.
    async fn changes(&self, seen: i64, overlap: i64, since: UnixMillis) -> Result<Vec<RegistryChange>, RegistryError>;
    /// The names of those of `ids` that still exist.
    async fn usernames(&self, ids: &[PrincipalId]) -> Result<Vec<(PrincipalId, Username)>, RegistryError>;
    /// Forgets changes made before `before`, but for the newest of all.
    async fn forget_changes(&self, before: UnixMillis) -> Result<(), RegistryError>;
}

/// An entry of the change feed: something about this principal is different now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryChange {
    /// Its number.
    pub id: i64,
    /// Whom it concerns.
    pub principal: PrincipalId,
}

/// A principal to be added.
#[derive(Clone, Debug)]
pub struct NewPrincipal {
    /// Its name, not in use yet.
    pub username: Username,
    /// What it may do.
    pub scopes: Scopes,
}

/// A principal as it stands in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalRecord {
    /// Its number.
    pub id: PrincipalId,
    /// Its name.
    pub username: Username,
    /// Whether it may pass.
    pub is_active: bool,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was added.
    pub created_at: UnixMillis,
    /// When it was changed last.
    pub updated_at: UnixMillis,
}

/// A public key to be added.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The key as it was given, for display.
    pub as_given: String,
    /// The key as it was read.
    pub key: crate::domain::key::PublicKey,
    /// What the owner calls it.
    pub comment: Option<String>,
    /// What it may be used for, where that is less than what its principal may do.
    pub scopes: Option<Scopes>,
    /// From when on it may be used.
    pub not_before: Option<UnixMillis>,
    /// Until when it may be used.
    pub expires_at: Option<UnixMillis>,
}

/// A public key as it stands in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its number.
    pub id: KeyId,
    /// Whose it is.
    pub username: Username,
    /// The fingerprint, in hexadecimal digits.
    pub fingerprint: String,
    /// The kind of key, by its name.
    pub family: String,
    /// What the owner calls it.
    pub comment: Option<String>,
    /// What it may be used for, where that is less than what its principal may do.
    pub scopes: Option<Scopes>,
    /// From when on it may be used.
    pub not_before: Option<UnixMillis>,
    /// Until when it may be used.
    pub expires_at: Option<UnixMillis>,
    /// When it was revoked.
    pub revoked_at: Option<UnixMillis>,
    /// When it was used last.
    pub last_used_on: Option<UnixMillis>,
    /// When it was added.
    pub created_at: UnixMillis,
}

/// Why a change to the registry, or a look at it, failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The username is taken.
    #[error("there is already a principal named {0:?}")]
    PrincipalExists(String),
    /// The principal has that key.
    #[error("{username:?} already has the key {fingerprint}; a revoked key cannot be added again")]
    KeyExists {
        /// Whose key it is.
        username: String,
        /// Which one.
        fingerprint: String,
    },
    /// Nobody has that name.
    #[error("there is no principal named {0:?}; list them with `countersign principal list`")]
    NoSuchPrincipal(String),
    /// No key has that number.
    #[error("there is no key with the id {0}; list them with `countersign key list`")]
    NoSuchKey(KeyId),
    /// The tables are not there, or not those of this version.
    #[error("the database is not migrated; run `countersign migrate up`")]
    NotMigrated(#[source] Box<dyn Error + Send + Sync>),
    /// The database failed or cannot be reached.
    #[error("the database failed")]
    Store(#[source] Box<dyn Error + Send + Sync>),
}
