//! The key directory in this process, in front of the database.
//!
//! What it answers is kept true by the change feed: every change is looked for at each poll, and what it concerns is forgotten.
//! While the database is out of reach, what is known goes on deciding for `registry.max_stale`, and no longer.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture, future::Shared};
use moka::sync::Cache;
use tokio::runtime::Handle;

use crate::{
    config::registry::RegistrySettings,
    domain::{
        principal::{KnownPrincipal, PrincipalId, Username},
        time::UnixMillis,
    },
    engine::ports::{Answer, Clock, Dependency, KeyDirectory, PrincipalSource, RegistryChange, RegistryError, Unavailable},
};

/// How many names that nobody has are remembered, and for how long; made-up names must not push out real ones.
const ABSENT_ENTRIES: u64 = 10_000;
const ABSENT_LIFETIME: Duration = Duration::from_secs(10);
/// How long a decision waits for a principal that is not in memory.
const LOAD_TIMEOUT: Duration = Duration::from_secs(2);
/// How far back each poll looks for changes that became visible after later ones: this many numbers, made this recently.
const OVERLAP: i64 = 1000;
const OVERLAP_AGE: Duration = Duration::from_mins(1);
/// How long changes stay in the feed. Longer than any replica may be cut off and still trust what it knows.
const FEED_LIFETIME: Duration = Duration::from_hours(24);
/// How many polls pass between two clearings of the feed.
const POLLS_PER_CLEARING: u64 = 1200;

/// Principals in memory.
pub struct CachedDirectory {
    source: Arc<dyn PrincipalSource>,
    clock: Arc<dyn Clock>,
    known: Cache<Username, Arc<KnownPrincipal>>,
    absent: Cache<Username, ()>,
    /// Loads under way. Many decisions that wait for one principal wait for one query.
    loads: Mutex<HashMap<Username, Load>>,
    /// Grows with each change seen, so that a load that began before a change is not kept after it.
    epoch: AtomicU64,
    /// When the feed was last known to be followed to its end.
    synced_at: AtomicI64,
    max_stale: Duration,
    /// Where loads run: not on the thread of a decision, which may be gone before the load is done.
    runtime: Handle,
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

/// How far the change feed was followed.
struct Position {
    seen: i64,
    /// Those of the last numbers up to `seen` that were there.
    recent: BTreeSet<i64>,
}

impl Position {
    fn advance(&mut self, new: &[RegistryChange]) {
        self.recent.extend(new.iter().map(|change| change.id));
        self.seen = self.recent.last().copied().unwrap_or(self.seen).max(self.seen);
        let oldest = self.seen - OVERLAP;
        self.recent.retain(|id| *id > oldest);
    }
}

impl CachedDirectory {
    /// A directory of what `source` holds; it knows nobody yet. Fails where the source cannot be read.
    pub async fn start(
        source: Arc<dyn PrincipalSource>,
        clock: Arc<dyn Clock>,
        settings: &RegistrySettings,
    ) -> Result<(Arc<Self>, Follower), RegistryError> {
        let started_at = clock.now();
        let seen = source.newest_change().await?;
        let recent = source.changes(seen, OVERLAP, back(started_at, OVERLAP_AGE)).await?.iter().map(|change| change.id).collect();
        let directory = Arc::new(Self {
            source,
            clock,
            known: Cache::builder().max_capacity(settings.cache_entries).support_invalidation_closures().build(),
            absent: Cache::builder().max_capacity(ABSENT_ENTRIES).time_to_live(ABSENT_LIFETIME).build(),
            loads: Mutex::default(),
            epoch: AtomicU64::new(0),
            synced_at: AtomicI64::new(started_at.0),
            max_stale: settings.max_stale,
            runtime: Handle::current(),
        });
        let follower = Follower {
            directory: Arc::clone(&directory),
            position: Position { seen, recent },
            poll_interval: settings.poll_interval,
            is_down: false,
        };
        Ok((directory, follower))
    }

    fn is_trusted(&self, now: UnixMillis) -> bool {
        self.staleness(now) <= self.max_stale
    }

    /// How long ago the change feed was last followed to its end.
    fn staleness(&self, now: UnixMillis) -> Duration {
        now.since(UnixMillis(self.synced_at.load(Ordering::Acquire)))
    }

    /// The load of `username` that is under way, if no change was seen since it began; otherwise a new one.
    fn load(self: &Arc<Self>, username: &Username) -> Load {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch.load(Ordering::Acquire);
        if let Some(load) = loads.get(username).filter(|load| load.epoch == epoch) {
            return load.clone();
        }
        let (directory, name) = (Arc::clone(self), username.clone());
        let task = self.runtime.spawn(async move { directory.load_and_keep(name, epoch).await });
        let answer = task.map(|done| done.unwrap_or(Err(Arc::new(LoadError::Abandoned)))).boxed().shared();
        let load = Load { epoch, answer };
        loads.insert(username.clone(), load.clone());
        load
    }

    async fn load_and_keep(&self, username: Username, epoch: u64) -> Loaded {
        let loaded = match tokio::time::timeout(LOAD_TIMEOUT, self.source.load(&username)).await {
            Ok(Ok(principal)) => Ok(principal.map(Arc::new)),
            Ok(Err(error)) => Err(Arc::new(LoadError::Source(error))),
            Err(_) => Err(Arc::new(LoadError::Timeout)),
        };
        match &loaded {
            Ok(Some(principal)) => self.known.insert(username.clone(), Arc::clone(principal)),
            Ok(None) => self.absent.insert(username.clone(), ()),
            Err(_) => {}
        }
        // A change seen meanwhile may have been forgotten about before this was kept, so it is not kept.
        if self.epoch.load(Ordering::Acquire) != epoch {
            self.forget(&username);
        }
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        if loads.get(&username).is_some_and(|load| load.epoch == epoch) {
            loads.remove(&username);
        }
        loaded
    }

    async fn forget_principals(&self, concerned: BTreeSet<PrincipalId>) -> Result<(), RegistryError> {
        let named = self.source.usernames(&concerned.iter().copied().collect::<Vec<_>>()).await?;
        // First the epoch, then the forgetting: a load that ends in between sees the one or is hit by the other.
        self.epoch.fetch_add(1, Ordering::AcqRel);
        for (_, username) in &named {
            self.forget(username);
        }
        // Removed principals have no name any more; they are found by number, which takes a walk but happens rarely.
        let removed: BTreeSet<PrincipalId> =
            concerned.into_iter().filter(|id| !named.iter().any(|(named, _)| named == id)).collect();
        if !removed.is_empty() && self.known.invalidate_entries_if(move |_, known| removed.contains(&known.id)).is_err() {
            self.forget_all();
        }
        Ok(())
    }

    fn forget(&self, username: &Username) {
        self.known.invalidate(username);
        self.absent.invalidate(username);
    }

    fn forget_all(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.known.invalidate_all();
        self.absent.invalidate_all();
    }
}

/// Lookups need to start loads that outlive them, so the port is implemented on the shared directory.
impl KeyDirectory for Arc<CachedDirectory> {
    fn lookup<'a>(
        &'a self,
        username: &'a Username,
        now: UnixMillis,
    ) -> Answer<'a, Result<Option<Arc<KnownPrincipal>>, Unavailable>> {
        if self.is_trusted(now) {
            if let Some(principal) = self.known.get(username) {
                return Answer::ready(Ok(Some(principal)));
            }
            if self.absent.contains_key(username) {
                return Answer::ready(Ok(None));
            }
        }
        let load = self.load(username);
        Answer::pending(async move {
            load.answer.await.map_err(|error| Unavailable::new(Dependency::KeyDirectory, SharedLoadError(error)))
        })
    }

    fn check(&self, now: UnixMillis) -> Result<(), Unavailable> {
        if self.is_trusted(now) {
            return Ok(());
        }
        Err(Unavailable::new(Dependency::KeyDirectory, TooStale(self.staleness(now))))
    }
}

impl fmt::Debug for CachedDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedDirectory").field("known", &self.known.entry_count()).finish_non_exhaustive()
    }
}

/// Follows the change feed on behalf of a directory.
pub struct Follower {
    directory: Arc<CachedDirectory>,
    position: Position,
    poll_interval: Duration,
    is_down: bool,
}

impl Follower {
    /// Follows until `shutdown` is done.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut ticks = tokio::time::interval(self.poll_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut shutdown = std::pin::pin!(shutdown);
        let mut polls: u64 = 0;
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                _ = ticks.tick() => {}
            }
            let result = tokio::time::timeout(LOAD_TIMEOUT, self.poll()).await;
            self.tell(result.ok());
            polls += 1;
            if polls.is_multiple_of(POLLS_PER_CLEARING) {
                let before = back(self.directory.clock.now(), FEED_LIFETIME);
                if let Err(error) = self.directory.source.forget_changes(before).await {
                    tracing::warn!(error = %error, "old entries of the change feed could not be deleted");
                }
            }
        }
    }

    /// Looks for changes once, and forgets what they concern.
    pub async fn poll(&mut self) -> Result<(), RegistryError> {
        let (source, began_at) = (&self.directory.source, self.directory.clock.now());
        let changes = source.changes(self.position.seen, OVERLAP, back(began_at, OVERLAP_AGE)).await?;
        // The newest entry is never cleared from the feed: numbers go back only when the database is another one than before.
        if changes.is_empty() && source.newest_change().await? < self.position.seen {
            self.directory.forget_all();
            self.position = Position { seen: source.newest_change().await?, recent: BTreeSet::new() };
        }
        let new: Vec<RegistryChange> = changes.into_iter().filter(|change| !self.position.recent.contains(&change.id)).collect();
        if !new.is_empty() {
            let concerned: BTreeSet<PrincipalId> = new.iter().map(|change| change.principal).collect();
            self.directory.forget_principals(concerned).await?;
            self.position.advance(&new);
        }
        self.directory.synced_at.store(began_at.0, Ordering::Release);
        Ok(())
    }

    /// Tells the log when the database goes or comes back; `None` is a timeout.
    fn tell(&mut self, result: Option<Result<(), RegistryError>>) {
        match result {
            Some(Ok(())) if self.is_down => {
                self.is_down = false;
                tracing::info!("the database is back");
            }
            Some(Err(error)) if !self.is_down => {
                self.is_down = true;
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(error = %error, cause, "the change feed cannot be followed; principals in memory go on deciding for a while");
            }
            None if !self.is_down => {
                self.is_down = true;
                tracing::error!("the database does not answer; principals in memory go on deciding for a while");
            }
            Some(_) | None => {}
        }
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("seen", &self.position.seen).finish_non_exhaustive()
    }
}

fn back(now: UnixMillis, age: Duration) -> UnixMillis {
    UnixMillis(now.0.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests;
