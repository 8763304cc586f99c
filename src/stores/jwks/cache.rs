//! Key sets in memory.
//!
//! A decision waits for a fetch only if its URL was never fetched before, and then not for long.
//! Everything else happens in the background: sets are fetched again before they are old; a token
//! that no key matches triggers one fetch; a failed fetch keeps the last good set and is retried at
//! growing intervals.

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
};

use super::fetch::{FetchError, Fetcher, FetcherError};
use crate::{
    config::jwks::JwksSettings,
    domain::{
        algorithm::KeyFamily,
        key_set::{KeySet, KeySetContents, LeftOutKey, MostTrials},
        principal::KnownTrust,
        time::UnixMillis,
    },
    engine::ports::{Answer, Clock, FetchFailure, FetchReports, KeySetSource},
    telemetry::metrics::KeySetUse,
};

/// How long the first decision for a URL waits for the first fetch.
const FIRST_FETCH_WAIT: Duration = Duration::from_millis(150);
/// Pause after the first failed fetch; each further failure doubles it, up to the refresh interval.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// How long a refresh waits until its result is written to the database.
const NOTE_WAIT: Duration = Duration::from_secs(5);
/// A set is fetched again after a random time between this share of the refresh interval and all of
/// it, so that replicas do not all fetch at once, and a removed key is gone within the interval.
const REFRESH_SHARE_MIN: f64 = 0.75;
/// Maximum interval between checks for due fetches.
const TICK_MAX: Duration = Duration::from_secs(1);
/// A URL that no decision needed for this many times `max_age` is no longer fetched.
const UNWATCH_AFTER_MAX_AGES: u32 = 24;
/// Maximum number of concurrent fetches that no decision waits for.
const BACKGROUND_FETCHES_MAX: usize = 32;
/// Minimum time between fetches of one URL that are triggered by changes of the registry.
const CHANGE_DISTANCE: Duration = Duration::from_secs(1);

/// The key sets of all URLs that decisions need.
pub struct JwksCache {
    fetcher: Fetcher,
    settings: JwksSettings,
    clock: Arc<dyn Clock>,
    reports: Arc<dyn FetchReports>,
    sets: RwLock<HashMap<Arc<str>, Arc<Watched>>>,
    background: Semaphore,
    /// The maximum of [`KeySetSource::most_trials`] over all sets, by kind of key.
    most_trials: RwLock<[MostTrials; KeyFamily::ALL.len()]>,
    /// Numbers of successful and failed fetches.
    fetched: AtomicU64,
    failed: AtomicU64,
    /// Runs the fetches: not on the thread of a decision, which may be gone before the fetch is
    /// done.
    runtime: Handle,
}

/// The state of one URL.
struct Watched {
    url: Arc<str>,
    current: ArcSwapOption<Held>,
    last_asked: AtomicI64,
    state: Mutex<State>,
    /// The number of fetches that have ended.
    fetches: watch::Sender<u64>,
    /// The number of fetches whose result was written to the database.
    noted: watch::Sender<u64>,
}

struct Held {
    keys: Arc<KeySet>,
    fetched_at: UnixMillis,
}

struct State {
    is_fetching: bool,
    last_began: Option<UnixMillis>,
    failures: u32,
    last_failure: Option<FetchFailure>,
    /// When the next scheduled fetch is due.
    due_at: UnixMillis,
    /// The waiting fetch, if one is queued.
    queued: Option<Queued>,
    /// Set if something changed during a fetch whose response may be from before the change:
    /// another fetch is due at this time.
    follow_up_at: Option<UnixMillis>,
}

#[derive(Clone, Copy)]
struct Queued {
    /// A fetch that began after this moment serves this request as well.
    asked_at: UnixMillis,
    /// Whether something changed, so that a fetch in progress is not enough.
    changed: bool,
}

impl JwksCache {
    /// Creates an empty cache, and the task that refreshes it.
    pub fn new(
        settings: &JwksSettings,
        clock: Arc<dyn Clock>,
        reports: Arc<dyn FetchReports>,
    ) -> Result<(Arc<Self>, Refresher), FetcherError> {
        let cache = Arc::new(Self {
            fetcher: Fetcher::new(settings)?,
            settings: settings.clone(),
            clock,
            reports,
            sets: RwLock::default(),
            background: Semaphore::new(BACKGROUND_FETCHES_MAX),
            most_trials: RwLock::default(),
            fetched: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            runtime: Handle::current(),
        });
        Ok((Arc::clone(&cache), Refresher(cache)))
    }

    /// Numbers of fetches, and the age of the sets.
    pub fn usage(&self) -> KeySetUse {
        let now = self.clock.now();
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        let oldest_age = sets
            .values()
            .filter_map(|watched| Some(now.since(watched.current.load().as_ref()?.fetched_at)))
            .max();
        KeySetUse {
            fetched: self.fetched.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            oldest_age,
        }
    }

    /// The state of `url`, created if missing.
    fn watched(&self, url: &str, now: UnixMillis) -> Arc<Watched> {
        let known =
            self.sets.read().unwrap_or_else(PoisonError::into_inner).get(url).map(Arc::clone);
        let watched = known.unwrap_or_else(|| {
            let url: Arc<str> = url.into();
            let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(
                sets.entry(Arc::clone(&url)).or_insert_with(|| Arc::new(Watched::new(url, now))),
            )
        });
        watched.last_asked.store(now.0, Ordering::Relaxed);
        watched
    }

    /// Begins a fetch; an error if one is in progress. Both return how many have ended, so the
    /// current one ends with the next count.
    fn begin_fetch(self: &Arc<Self>, watched: &Arc<Watched>) -> Result<u64, u64> {
        let begun = watched.begin(self.clock.now());
        if begun.is_ok() {
            let (cache, watched) = (Arc::clone(self), Arc::clone(watched));
            self.runtime.spawn(async move { cache.fetch(&watched).await });
        }
        begun
    }

    /// Begins a fetch when a slot is free, unless one has begun in the meantime.
    fn queue_fetch(self: &Arc<Self>, watched: Arc<Watched>, asked_at: UnixMillis, changed: bool) {
        if !watched.queue(Queued { asked_at, changed }) {
            return;
        }
        let cache = Arc::clone(self);
        self.runtime.spawn(async move {
            let turn = cache.background.acquire().await;
            let begins = watched.begin_queued(cache.clock.now());
            if turn.is_ok() && begins {
                cache.fetch(&watched).await;
            }
        });
    }

    async fn fetch(&self, watched: &Watched) {
        let result = self.fetcher.fetch(&watched.url).await;
        let now = self.clock.now();
        let outcome = match result {
            Ok(keys) => {
                self.expect_trials(&keys);
                let keys = Arc::new(keys);
                let before = watched
                    .current
                    .swap(Some(Arc::new(Held { keys: Arc::clone(&keys), fetched_at: now })));
                self.fetched.fetch_add(1, Ordering::Relaxed);
                if before.is_none_or(|before| before.keys.contents() != keys.contents()) {
                    log_contents(&watched.url, keys.contents());
                }
                Ok(keys)
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let failure = described(&error);
                let (url, error) = (&*watched.url, &failure.reason);
                tracing::warn!(
                    url,
                    error,
                    "a key set could not be fetched; the last good one stays until it is too old"
                );
                Err(failure)
            }
        };
        watched.end(outcome.as_ref().err().cloned(), now, self.settings.refresh_interval);
        let outcome = outcome.as_deref().map(KeySet::contents);
        if let Err(error) = self.reports.fetched(&watched.url, now, outcome).await {
            tracing::debug!(url = &*watched.url, error = %error, "the outcome of a fetch could not be noted");
        }
        watched.noted.send_modify(|count| *count += 1);
    }

    /// Must be called before the set is used.
    fn expect_trials(&self, keys: &KeySet) {
        let mut most = self.most_trials.write().unwrap_or_else(PoisonError::into_inner);
        for family in KeyFamily::ALL {
            most[family as usize] = most[family as usize].max(keys.most_trials(family));
        }
    }

    fn remembered(&self, watched: &Watched, now: UnixMillis) -> Option<Arc<KeySet>> {
        let held = watched.current.load();
        let held =
            held.as_ref().filter(|held| now.since(held.fetched_at) <= self.settings.max_age)?;
        Some(Arc::clone(&held.keys))
    }

    /// Called when a decision found no key: starts a background fetch, at most once per cooldown.
    fn ask_for_fetch(self: &Arc<Self>, watched: &Arc<Watched>, now: UnixMillis) {
        if watched.began_before(now.saturating_sub(self.settings.cooldown)) {
            let _already = self.begin_fetch(watched);
        }
    }
}

/// Fetches outlive the decisions that start them, so the port is implemented for the shared `Arc`.
impl KeySetSource for Arc<JwksCache> {
    fn set<'a>(
        &'a self,
        trust: &'a KnownTrust,
        now: UnixMillis,
    ) -> Answer<'a, Option<Arc<KeySet>>> {
        let watched = self.watched(&trust.url, now);
        match self.remembered(&watched, now) {
            None if !watched.was_fetched() => {
                let mut fetches = watched.fetches.subscribe();
                let _already = self.begin_fetch(&watched);
                let until = tokio::time::Instant::now() + FIRST_FETCH_WAIT;
                Answer::pending(async move {
                    drop(
                        tokio::time::timeout_at(until, fetches.wait_for(|count| *count > 0)).await,
                    );
                    self.remembered(&watched, self.clock.now())
                })
            }
            found => Answer::ready(found),
        }
    }

    fn missed(&self, trust: &KnownTrust, now: UnixMillis) {
        self.ask_for_fetch(&self.watched(&trust.url, now), now);
    }

    fn most_trials(&self, family: KeyFamily) -> MostTrials {
        self.most_trials.read().unwrap_or_else(PoisonError::into_inner)[family as usize]
    }

    fn anticipate(&self, trusts: &[KnownTrust], changed: bool) {
        let now = self.clock.now();
        for trust in trusts {
            let watched = self.watched(&trust.url, now);
            if !watched.was_fetched()
                || changed && watched.began_before(now.saturating_sub(CHANGE_DISTANCE))
            {
                self.queue_fetch(watched, now, changed);
            } else if changed {
                watched.bring_forward(now.saturating_add(CHANGE_DISTANCE));
            }
        }
    }

    fn check_url(&self, url: &str) -> Result<(), FetchFailure> {
        self.fetcher.check_url(url).map_err(|error| described(&error))
    }

    fn refresh<'a>(&'a self, url: &'a str) -> Answer<'a, Result<KeySetContents, FetchFailure>> {
        let watched = self.watched(url, self.clock.now());
        Answer::pending(async move {
            let (mut fetches, mut noted) = (watched.fetches.subscribe(), watched.noted.subscribe());
            // A fetch in progress may have been answered before this call; one that begins now is
            // not. The wait cannot fail or hang: the sender is in `watched`, and a fetch always
            // ends.
            let ended = match self.begin_fetch(&watched) {
                Ok(ended) => ended,
                Err(ended) => {
                    drop(fetches.wait_for(|count| *count > ended).await);
                    self.begin_fetch(&watched).unwrap_or_else(|ended| ended)
                }
            };
            drop(fetches.wait_for(|count| *count > ended).await);
            let failure = watched.state().last_failure.clone();
            let contents = watched.current.load().as_ref().map(|held| held.keys.contents().clone());
            // The process of a command exits after this, so wait for the write.
            drop(tokio::time::timeout(NOTE_WAIT, noted.wait_for(|count| *count > ended)).await);
            match failure {
                Some(failure) => Err(failure),
                None => Ok(contents.unwrap_or_default()),
            }
        })
    }
}

impl Watched {
    fn new(url: Arc<str>, now: UnixMillis) -> Self {
        let due_at = now.saturating_add(BACKOFF_FIRST);
        let state = State {
            is_fetching: false,
            last_began: None,
            failures: 0,
            last_failure: None,
            due_at,
            queued: None,
            follow_up_at: None,
        };
        Self {
            url,
            current: ArcSwapOption::empty(),
            last_asked: AtomicI64::new(now.0),
            state: Mutex::new(state),
            fetches: watch::Sender::new(0),
            noted: watch::Sender::new(0),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any fetch has ended, successfully or not.
    fn was_fetched(&self) -> bool {
        *self.fetches.borrow() > 0
    }

    /// Whether the last fetch began at or before `moment`, or none has begun.
    fn began_before(&self, moment: UnixMillis) -> bool {
        self.state().last_began.is_none_or(|began| began <= moment)
    }

    /// Begins a fetch; an error if one is in progress. Both return how many have ended.
    fn begin(&self, now: UnixMillis) -> Result<u64, u64> {
        let mut state = self.state();
        let ended = *self.fetches.borrow();
        if state.begin(now) { Ok(ended) } else { Err(ended) }
    }

    /// Queues a fetch. `false` if one is queued already, which then also serves this request.
    fn queue(&self, asked: Queued) -> bool {
        let mut state = self.state();
        let waiting = state.queued;
        state.queued = Some(Queued {
            asked_at: waiting
                .map_or(asked.asked_at, |waiting| waiting.asked_at.max(asked.asked_at)),
            changed: asked.changed || waiting.is_some_and(|waiting| waiting.changed),
        });
        waiting.is_none()
    }

    /// Begins the queued fetch. `false` if it is no longer needed.
    fn begin_queued(&self, now: UnixMillis) -> bool {
        let mut state = self.state();
        let Some(Queued { asked_at, changed }) = state.queued.take() else { return false };
        if state.last_began.is_some_and(|began| asked_at < began) {
            return false;
        }
        if changed && state.is_fetching {
            state.follow_up(now);
        }
        state.begin(now)
    }

    fn end(&self, failure: Option<FetchFailure>, now: UnixMillis, refresh_interval: Duration) {
        {
            let mut state = self.state();
            state.is_fetching = false;
            let pause = if failure.is_none() {
                state.failures = 0;
                refresh_interval
                    .mul_f64(REFRESH_SHARE_MIN + (1.0 - REFRESH_SHARE_MIN) * fastrand::f64())
            } else {
                let pause =
                    BACKOFF_FIRST.saturating_mul(1 << state.failures.min(16)).min(refresh_interval);
                state.failures = state.failures.saturating_add(1);
                pause
            };
            state.due_at = state.follow_up_at.take().unwrap_or_else(|| now.saturating_add(pause));
            state.last_failure = failure;
            // Before another can begin: those who wait for an end count them.
            self.fetches.send_modify(|count| *count += 1);
        }
    }

    /// Makes the next fetch due at `moment` at the latest. A fetch in progress does not count as
    /// the next.
    fn bring_forward(&self, moment: UnixMillis) {
        let mut state = self.state();
        if state.is_fetching {
            state.follow_up(moment);
        } else {
            state.due_at = state.due_at.min(moment);
        }
    }

    fn is_due(&self, now: UnixMillis) -> bool {
        let state = self.state();
        !state.is_fetching && state.due_at <= now
    }
}

impl State {
    fn begin(&mut self, now: UnixMillis) -> bool {
        if self.is_fetching {
            return false;
        }
        self.is_fetching = true;
        self.last_began = Some(now);
        true
    }

    fn follow_up(&mut self, moment: UnixMillis) {
        self.follow_up_at = Some(self.follow_up_at.map_or(moment, |planned| planned.min(moment)));
    }
}

impl fmt::Debug for JwksCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksCache").finish_non_exhaustive()
    }
}

/// Fetches due key sets in the background.
#[derive(Debug)]
pub struct Refresher(Arc<JwksCache>);

impl Refresher {
    /// Runs until `shutdown` completes.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self(cache) = self;
        let tick =
            (cache.settings.refresh_interval / 20).clamp(Duration::from_millis(10), TICK_MAX);
        let mut ticks = tokio::time::interval(tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                _ = ticks.tick() => cache.fetch_due(),
            }
        }
    }
}

impl JwksCache {
    fn fetch_due(self: &Arc<Self>) {
        let now = self.clock.now();
        let asked_since =
            now.saturating_sub(self.settings.max_age.saturating_mul(UNWATCH_AFTER_MAX_AGES));
        let is_wanted =
            |watched: &Watched| watched.last_asked.load(Ordering::Relaxed) >= asked_since.0;
        let due: Vec<Arc<Watched>> = {
            let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
            sets.values()
                .filter(|watched| watched.is_due(now) || !is_wanted(watched))
                .map(Arc::clone)
                .collect()
        };
        for watched in due {
            if is_wanted(&watched) {
                self.queue_fetch(watched, now, false);
            } else {
                self.sets.write().unwrap_or_else(PoisonError::into_inner).remove(&watched.url);
            }
        }
    }
}

/// Logs the contents of a set; called only when they change.
fn log_contents(url: &str, contents: &KeySetContents) {
    let (usable_keys, left_out) = (contents.usable_keys, contents.left_out.len());
    if usable_keys == 0 {
        tracing::warn!(url, usable_keys, left_out, "a key set has no key that can be used");
    } else {
        tracing::info!(url, usable_keys, left_out, "a key set was fetched");
    }
    for LeftOutKey { kid, kind, reason, is_alarming } in &contents.left_out {
        let kid = kid.as_deref();
        if *is_alarming {
            tracing::warn!(url, kid, kind, reason, "a key of a key set is left out");
        } else {
            tracing::info!(url, kid, kind, reason, "a key of a key set is left out");
        }
    }
}

/// The error and its causes, on one line.
pub(super) fn described(error: &FetchError) -> FetchFailure {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        reason.push_str(": ");
        reason.push_str(&error.to_string());
        cause = error.source();
    }
    FetchFailure { reason }
}

#[cfg(test)]
mod tests;
