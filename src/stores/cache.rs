//! The key directory: principals in the memory of this process, in front of the database.
//!
//! The change feed keeps it up to date: each poll looks for changes and reads the principals
//! concerned again. While the database is unreachable, cached principals are used for up to
//! `registry.max_stale`, and no longer.
//!
//! After the start it reads as many principals as it may hold, and all usernames. From then on an
//! unknown username is answered from memory, like a known one: neither costs a query, so the
//! response time reveals nothing.

mod change_feed;
mod most;
mod names;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use change_feed::Follower;
use change_feed::Position;
use futures_util::{FutureExt, future::BoxFuture, future::Shared};
use most::MostHeld;
use names::Names;
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter, sync::DefaultLifecycle};
use thread_local::ThreadLocal;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    config::registry::RegistrySettings,
    domain::{
        algorithm::KeyFamily,
        principal::{KnownPrincipal, PrincipalId, Username},
        time::UnixMillis,
    },
    engine::ports::{
        Answer, Dependency, KeyDirectory, KeySetSource, PrincipalSource, RegistryError, Unavailable,
    },
    telemetry::metrics::CacheUse,
};

/// Maximum number of unknown usernames that are remembered, and for how long; made-up names must
/// not evict real ones.
const ABSENT_ENTRIES: u64 = 10_000;
const ABSENT_LIFETIME: Duration = Duration::from_secs(10);
/// How long a decision waits for a principal that is not in memory.
const LOAD_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of changed principals that one poll reads again at once; the others are read when
/// they are next needed.
const READ_ANEW_MAX: usize = 256;

/// How long a refusal waits for a poll of the change feed.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(60);

type Known = quick_cache::sync::Cache<Username, Arc<KnownPrincipal>>;

/// Number of shards, each with its own lock, for the principals in memory.
const SHARDS: usize = 16;
/// The cache gets a sixteenth more room than configured: usernames spread unevenly over the shards,
/// and the configured number has to fit.
const SLACK: u64 = 16;

/// A lookup reads under the lock of its shard and marks the entry as used, nothing more: it queues
/// no work that someone has to do later.
fn known(entries: u64) -> Known {
    let items = usize::try_from(entries).unwrap_or(usize::MAX);
    let capacity = entries.saturating_add(entries.div_ceil(SLACK));
    let mut options = OptionsBuilder::new();
    match options.shards(SHARDS).estimated_items_capacity(items).weight_capacity(capacity).build() {
        Ok(options) => Known::with_options(
            options,
            UnitWeighter,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        ),
        // The builder fails only on missing options, and all are set.
        Err(_) => Known::new(items),
    }
}

/// A key directory that holds principals in memory.
pub struct CachedDirectory {
    source: Arc<dyn PrincipalSource>,
    key_sets: Arc<dyn KeySetSource>,
    known: Known,
    /// Usernames that did not exist when they were looked up; used until all usernames are known.
    absent: moka::sync::Cache<Username, ()>,
    names: Names,
    most: MostHeld,
    /// Loads in progress, so that many decisions that wait for one principal wait for one query.
    loads: Mutex<HashMap<Username, Load>>,
    /// Incremented with each change seen, so that a load that began before a change is not stored
    /// after it.
    epoch: AtomicU64,
    /// Polls of the feed: the number begun, the number of the last one that ended, and a signal to
    /// poll now.
    polls_begun: AtomicU64,
    polls_ended: watch::Sender<u64>,
    poll_wanted: Notify,
    /// Lookups that memory could answer, and those that it could not, counted per thread.
    lookups: ThreadLocal<Lookups>,
    /// When the feed was last known to be read to its end, in milliseconds after `started_at`. By a
    /// monotonic clock: how long cached principals are used must not depend on changes to the wall
    /// clock.
    synced_at: AtomicI64,
    started_at: Instant,
    max_stale: Duration,
    /// Runs the loads: not on the thread of a decision, which may be gone before the load is done.
    runtime: Handle,
}

#[derive(Debug, Default)]
struct Lookups {
    hits: AtomicU64,
    misses: AtomicU64,
}

type Loaded = Result<Option<Arc<KnownPrincipal>>, Arc<LoadError>>;

#[derive(Clone)]
struct Load {
    epoch: u64,
    answer: Shared<BoxFuture<'static, Loaded>>,
}

/// A principal could not be loaded.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("the principal could not be read from the database")]
    Source(#[source] RegistryError),
    #[error("the database did not answer within {LOAD_TIMEOUT:?}")]
    Timeout,
    #[error("the load was abandoned: the service is stopping")]
    Abandoned,
}

#[derive(Debug, thiserror::Error)]
#[error("the change feed was last followed {0:?} ago")]
struct TooStale(Duration);

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct SharedLoadError(Arc<LoadError>);

impl CachedDirectory {
    /// Creates an empty directory in front of `source`. Fails if the source cannot be read.
    pub async fn start(
        source: Arc<dyn PrincipalSource>,
        key_sets: Arc<dyn KeySetSource>,
        settings: &RegistrySettings,
    ) -> Result<(Arc<Self>, Follower), RegistryError> {
        let started_at = Instant::now();
        let position = Position::newest(&*source).await?;
        let directory = Arc::new(Self {
            source,
            key_sets,
            known: known(settings.cache_entries),
            absent: moka::sync::Cache::builder()
                .max_capacity(ABSENT_ENTRIES)
                .time_to_live(ABSENT_LIFETIME)
                .build(),
            names: Names::default(),
            most: MostHeld::default(),
            loads: Mutex::default(),
            epoch: AtomicU64::new(0),
            lookups: ThreadLocal::new(),
            polls_begun: AtomicU64::new(0),
            polls_ended: watch::Sender::new(0),
            poll_wanted: Notify::new(),
            synced_at: AtomicI64::new(0),
            started_at,
            max_stale: settings.max_stale,
            runtime: Handle::current(),
        });
        let follower = Follower::new(Arc::clone(&directory), position, settings);
        Ok((directory, follower))
    }

    /// Lookups, hits, and the number of principals in memory.
    pub fn usage(&self) -> CacheUse {
        let sum = |count: fn(&Lookups) -> &AtomicU64| {
            self.lookups.iter().map(|own| count(own).load(Ordering::Relaxed)).sum()
        };
        let entries = u64::try_from(self.known.len()).unwrap_or(u64::MAX);
        CacheUse { hits: sum(|own| &own.hits), misses: sum(|own| &own.misses), entries }
    }

    fn is_trusted(&self) -> bool {
        self.staleness() <= self.max_stale
    }

    /// How long ago the change feed was last read to its end.
    fn staleness(&self) -> Duration {
        let ago =
            self.running_for(Instant::now()).saturating_sub(self.synced_at.load(Ordering::Acquire));
        Duration::from_millis(u64::try_from(ago).unwrap_or_default())
    }

    /// Records that the feed was read to its end as of `moment`.
    fn synced(&self, moment: Instant) {
        self.synced_at.store(self.running_for(moment), Ordering::Release);
    }

    /// Milliseconds from the start to `moment`.
    fn running_for(&self, moment: Instant) -> i64 {
        i64::try_from(moment.saturating_duration_since(self.started_at).as_millis())
            .unwrap_or(i64::MAX)
    }

    /// Returns the load of `username` in progress if no change was seen since it began. Otherwise
    /// starts a new one, because it `changed` or because it is needed.
    fn load(self: &Arc<Self>, username: &Username, changed: bool) -> Load {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.load(Ordering::Acquire);
        if let Some(load) = loads.get(username).filter(|load| load.epoch == epoch) {
            return load.clone();
        }
        let (directory, name) = (Arc::clone(self), username.clone());
        let task =
            self.runtime.spawn(async move { directory.load_and_keep(name, epoch, changed).await });
        let answer =
            task.map(|done| done.unwrap_or(Err(Arc::new(LoadError::Abandoned)))).boxed().shared();
        let load = Load { epoch, answer };
        loads.insert(username.clone(), load.clone());
        load
    }

    async fn load_and_keep(&self, username: Username, epoch: u64, changed: bool) -> Loaded {
        let loaded = match tokio::time::timeout(LOAD_TIMEOUT, self.source.load(&username)).await {
            Ok(Ok(principal)) => Ok(principal.map(Arc::new)),
            Ok(Err(error)) => Err(Arc::new(LoadError::Source(error))),
            Err(_) => Err(Arc::new(LoadError::Timeout)),
        };
        match &loaded {
            Ok(Some(principal)) => {
                self.key_sets.anticipate(&principal.trusts, changed);
                self.most.note(principal);
                self.known.insert(username.clone(), Arc::clone(principal));
            }
            Ok(None) => self.absent.insert(username.clone(), ()),
            Err(_) => {}
        }
        // A change seen during the load may have evicted the entry before it was stored above, so
        // it must not stay.
        if self.epoch.load(Ordering::Acquire) != epoch {
            self.forget(&username);
        }
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        if loads.get(&username).is_some_and(|load| load.epoch == epoch) {
            loads.remove(&username);
        }
        loaded
    }

    async fn forget_principals(
        self: &Arc<Self>,
        concerned: BTreeSet<PrincipalId>,
    ) -> Result<(), RegistryError> {
        let named = self.source.usernames(&concerned.iter().copied().collect::<Vec<_>>()).await?;
        // Increment the epoch before evicting: a load that ends in between either sees the new
        // epoch or has its entry evicted.
        self.epoch.fetch_add(1, Ordering::AcqRel);
        for (_, username) in &named {
            self.names.add(username);
            self.forget(username);
        }
        // Removed principals no longer have a username, so they are found by id. That scans the
        // cache, but is rare.
        let removed: BTreeSet<PrincipalId> = concerned
            .into_iter()
            .filter(|id| !named.iter().any(|(named, _)| named == id))
            .collect();
        if !removed.is_empty() {
            self.known.retain(|_, known| !removed.contains(&known.id));
        }
        // Load them now, so that the next decision does not wait. The loads run in the background.
        for (_, username) in named.iter().take(READ_ANEW_MAX) {
            drop(self.load(username, true));
        }
        Ok(())
    }

    fn forget(&self, username: &Username) {
        self.known.remove(username);
        self.absent.invalidate(username);
    }

    fn forget_all(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.names.forget();
        self.known.clear();
        self.absent.invalidate_all();
    }
}

/// Lookups start loads that outlive them, so the port is implemented for the shared `Arc`.
impl KeyDirectory for Arc<CachedDirectory> {
    fn lookup<'a>(
        &'a self,
        username: &'a Username,
        _: UnixMillis,
    ) -> Answer<'a, Result<Option<Arc<KnownPrincipal>>, Unavailable>> {
        if self.is_trusted() {
            let known = self.known.get(username);
            if known.is_some() || self.names.lack(username) || self.absent.contains_key(username) {
                self.lookups.get_or_default().hits.fetch_add(1, Ordering::Relaxed);
                return Answer::ready(Ok(known));
            }
        }
        self.lookups.get_or_default().misses.fetch_add(1, Ordering::Relaxed);
        let load = self.load(username, false);
        Answer::pending(async move {
            load.answer
                .await
                .map_err(|error| Unavailable::new(Dependency::KeyDirectory, SharedLoadError(error)))
        })
    }

    fn version(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn catch_up(&self, version: u64) -> Answer<'_, bool> {
        // A poll that has already begun may have missed the change; the next one will not.
        let next = self.polls_begun.load(Ordering::Acquire) + 1;
        let mut ended = self.polls_ended.subscribe();
        self.look();
        Answer::pending(async move {
            drop(
                tokio::time::timeout(CATCH_UP_TIMEOUT, ended.wait_for(|ended| *ended >= next))
                    .await,
            );
            self.version() != version
        })
    }

    fn most_keys(&self, family: KeyFamily) -> usize {
        self.most.keys(family)
    }

    fn most_trusts(&self) -> usize {
        self.most.trusts()
    }

    fn look(&self) {
        self.poll_wanted.notify_one();
    }

    fn check(&self, _: UnixMillis) -> Result<(), Unavailable> {
        if self.is_trusted() {
            return Ok(());
        }
        Err(Unavailable::new(Dependency::KeyDirectory, TooStale(self.staleness())))
    }
}

impl fmt::Debug for CachedDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedDirectory").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
