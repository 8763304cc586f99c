//! The key directory in this process, in front of the database.
//!
//! What it answers is kept true by the change feed: every change is looked for at each poll, and
//! what it concerns is read anew. While the database is out of reach, what is known goes on
//! deciding for `registry.max_stale`, and no longer.
//!
//! After the start it reads as many principals as it may hold, and the names of all. From then on a
//! name that nobody has is answered from memory, as one that somebody has is: neither costs a
//! query, and the time tells nothing.

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

/// How many names that nobody has are remembered, and for how long; made-up names must not push out
/// real ones.
const ABSENT_ENTRIES: u64 = 10_000;
const ABSENT_LIFETIME: Duration = Duration::from_secs(10);
/// How long a decision waits for a principal that is not in memory.
const LOAD_TIMEOUT: Duration = Duration::from_secs(2);
/// How many of the principals that changed at once are read anew at once; the rest when they are
/// asked for.
const READ_ANEW_MAX: usize = 256;

/// How long a refusal waits for a look at the change feed.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(60);

type Known = quick_cache::sync::Cache<Username, Arc<KnownPrincipal>>;

/// How many locks share the principals in memory.
const SHARDS: usize = 16;
/// A sixteenth more than asked for finds room: names fall unevenly on the shards, and as many as
/// may be held have to be held.
const SLACK: u64 = 16;

/// A lookup reads under the lock of its shard and marks the entry as used, and no more: nothing is
/// queued, and nobody has to clear up after it.
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
        // Only options that were left out are missing.
        Err(_) => Known::new(items),
    }
}

/// Principals in memory.
pub struct CachedDirectory {
    source: Arc<dyn PrincipalSource>,
    key_sets: Arc<dyn KeySetSource>,
    known: Known,
    /// Names that nobody had when they were asked for; until all names are known.
    absent: moka::sync::Cache<Username, ()>,
    names: Names,
    most: MostHeld,
    /// Loads under way. Many decisions that wait for one principal wait for one query.
    loads: Mutex<HashMap<Username, Load>>,
    /// Grows with each change seen, so that a load that began before a change is not kept after
    /// it.
    epoch: AtomicU64,
    /// Looks at the feed: how many began, how many of these ended, and that one is wanted.
    polls_begun: AtomicU64,
    polls_ended: watch::Sender<u64>,
    poll_wanted: Notify,
    /// Lookups that memory answered, and those that it could not; each thread counts its own.
    lookups: ThreadLocal<Lookups>,
    /// When the feed was last known to be followed to its end, in milliseconds after `started_at`.
    /// By a monotonic clock: how long a lost database is outlived must not depend on who sets
    /// the clock meanwhile.
    synced_at: AtomicI64,
    started_at: Instant,
    max_stale: Duration,
    /// Where loads run: not on the thread of a decision, which may be gone before the load is
    /// done.
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
    /// A directory of what `source` holds; it knows nobody yet. Fails where the source cannot be
    /// read.
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

    /// How often it was asked, how often it could answer from memory, and how many principals it
    /// holds.
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

    /// How long ago the change feed was last followed to its end.
    fn staleness(&self) -> Duration {
        let ago =
            self.running_for(Instant::now()).saturating_sub(self.synced_at.load(Ordering::Acquire));
        Duration::from_millis(u64::try_from(ago).unwrap_or_default())
    }

    /// The feed was followed to where it ended at `moment`.
    fn synced(&self, moment: Instant) {
        self.synced_at.store(self.running_for(moment), Ordering::Release);
    }

    /// In milliseconds.
    fn running_for(&self, moment: Instant) -> i64 {
        i64::try_from(moment.saturating_duration_since(self.started_at).as_millis())
            .unwrap_or(i64::MAX)
    }

    /// The load of `username` that is under way, if no change was seen since it began; otherwise a
    /// new one, because it `changed` or because it is asked for.
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
        // A change seen meanwhile may have been forgotten about before this was kept, so it is not
        // kept.
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
        // First the epoch, then the forgetting: a load that ends in between sees the one or is hit
        // by the other.
        self.epoch.fetch_add(1, Ordering::AcqRel);
        for (_, username) in &named {
            self.names.add(username);
            self.forget(username);
        }
        // Removed principals have no name any more; they are found by number, which takes a walk
        // but happens rarely.
        let removed: BTreeSet<PrincipalId> = concerned
            .into_iter()
            .filter(|id| !named.iter().any(|(named, _)| named == id))
            .collect();
        if !removed.is_empty() {
            self.known.retain(|_, known| !removed.contains(&known.id));
        }
        // So that the next decision does not wait. Each goes on by itself.
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

/// Lookups need to start loads that outlive them, so the port is implemented on the shared
/// directory.
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
        // One that began before now may have looked already; the next one has not.
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
