//! Following the change feed, and reading the registry after the start.

use std::{
    collections::BTreeSet,
    fmt,
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{CachedDirectory, LOAD_TIMEOUT};
use crate::{
    config::registry::{MAX_STALE_LONGEST, RegistrySettings},
    domain::{principal::PrincipalId, time::UnixMillis},
    engine::ports::{PrincipalSource, RegistryChange, RegistryError},
};

/// How far back each poll looks for changes that became visible after later ones: this many numbers, made this recently.
const OVERLAP: i64 = 1000;
const OVERLAP_AGE: Duration = Duration::from_mins(1);
/// How long changes stay in the feed: twice as long as any replica may be cut off and still trust what it knows.
const FEED_LIFETIME: Duration = MAX_STALE_LONGEST.saturating_mul(2);
/// How many polls pass between two clearings of the feed.
const POLLS_PER_CLEARING: u64 = 1200;
/// How far apart polls are that refusals ask for: a flood of forged tokens causes no more than these.
const WANTED_POLLS_DISTANCE: Duration = Duration::from_millis(20);
/// How much is read at once after the start, between two polls.
const PRINCIPALS_PAGE: u64 = 200;
const NAMES_PAGE: u64 = 5000;
/// How long a page, or clearing the feed, may take. A database that never answers must not keep the feed from being followed once
/// it does.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How far the change feed was followed.
pub(super) struct Position {
    seen: i64,
    /// Those of the last numbers up to `seen` that were there.
    recent: BTreeSet<i64>,
}

impl Position {
    /// At the end of the feed.
    pub(super) async fn newest(source: &dyn PrincipalSource, now: UnixMillis) -> Result<Self, RegistryError> {
        let seen = source.newest_change().await?;
        let recent = source.changes(seen, OVERLAP, now.saturating_sub(OVERLAP_AGE)).await?.iter().map(|change| change.id).collect();
        Ok(Self { seen, recent })
    }

    fn advance(&mut self, new: &[RegistryChange]) {
        self.recent.extend(new.iter().map(|change| change.id));
        self.seen = self.recent.last().copied().unwrap_or(self.seen).max(self.seen);
        let oldest = self.seen - OVERLAP;
        self.recent.retain(|id| *id > oldest);
    }
}

/// Follows the change feed on behalf of a directory.
pub struct Follower {
    directory: Arc<CachedDirectory>,
    position: Position,
    warming: Warming,
    settings: RegistrySettings,
    is_down: bool,
}

/// How much has been read after the start.
#[derive(Clone, Copy, Debug)]
enum Warming {
    /// Principals up to this one, so many of them.
    Principals { after: Option<PrincipalId>, count: u64 },
    /// All that memory may hold, and names up to this one.
    Names { after: Option<PrincipalId> },
    /// Everything.
    Done,
}

impl Warming {
    const BEGIN: Self = Self::Principals { after: None, count: 0 };
}

impl Follower {
    pub(super) fn new(directory: Arc<CachedDirectory>, position: Position, settings: &RegistrySettings) -> Self {
        Self { directory, position, warming: Warming::BEGIN, settings: settings.clone(), is_down: false }
    }

    /// Follows until `shutdown` is done.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut ticks = tokio::time::interval(self.settings.poll_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut shutdown = std::pin::pin!(shutdown);
        let mut polls: u64 = 0;
        let mut last_poll = tokio::time::Instant::now() - WANTED_POLLS_DISTANCE;
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                _ = ticks.tick() => {}
                () = self.directory.poll_wanted.notified() => {}
            }
            let distance = last_poll + WANTED_POLLS_DISTANCE;
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep_until(distance) => {}
            }
            last_poll = tokio::time::Instant::now();
            let next_poll = tokio::time::Instant::now() + self.settings.poll_interval;
            let result = tokio::time::timeout(LOAD_TIMEOUT, self.poll()).await;
            self.tell(result.ok());
            tokio::select! {
                () = &mut shutdown => return,
                () = self.warm_until(next_poll) => {}
            }
            polls += 1;
            if polls.is_multiple_of(POLLS_PER_CLEARING) {
                let before = self.directory.clock.now().saturating_sub(FEED_LIFETIME);
                let clearing = in_time(self.directory.source.forget_changes(before));
                let cleared = tokio::select! {
                    () = &mut shutdown => return,
                    cleared = clearing => cleared,
                };
                if let Err(error) = cleared {
                    tracing::warn!(error = %error, "old entries of the change feed could not be deleted");
                }
            }
        }
    }

    /// Reads page after page until `deadline`, the end, or a poll is wanted. Never at the same time as a poll: what a page holds
    /// is true until the next poll says otherwise.
    async fn warm_until(&mut self, deadline: tokio::time::Instant) {
        let directory = Arc::clone(&self.directory);
        let mut poll_wanted = std::pin::pin!(directory.poll_wanted.notified());
        while !matches!(self.warming, Warming::Done) && tokio::time::Instant::now() < deadline {
            if poll_wanted.as_mut().enable() {
                directory.poll_wanted.notify_one();
                return;
            }
            if let Err(error) = in_time(self.warm()).await {
                // The next poll tells of an outage; reading goes on after it.
                tracing::debug!(error = %error, "a page of the registry could not be read");
                return;
            }
        }
    }

    /// Reads one page.
    pub async fn warm(&mut self) -> Result<(), RegistryError> {
        let directory = &self.directory;
        self.warming = match self.warming {
            Warming::Principals { after, count } if count < self.settings.cache_entries => {
                let limit = PRINCIPALS_PAGE.min(self.settings.cache_entries - count);
                let page = directory.source.load_page(after, limit).await?;
                let (length, last) = (page.len() as u64, page.last().map(|known| known.id));
                for known in page {
                    directory.names.add(&known.username);
                    directory.key_sets.anticipate(&known.trusts, false);
                    directory.known.insert(known.username.clone(), Arc::new(known));
                }
                if length < limit { Warming::Done } else { Warming::Principals { after: last, count: count + length } }
            }
            Warming::Principals { after, .. } | Warming::Names { after } => {
                let page = directory.source.names_page(after, NAMES_PAGE).await?;
                for (_, username) in &page {
                    directory.names.add(username);
                }
                let last = page.last().map(|(id, _)| *id);
                if (page.len() as u64) < NAMES_PAGE { Warming::Done } else { Warming::Names { after: last } }
            }
            Warming::Done => return Ok(()),
        };
        if matches!(self.warming, Warming::Done) {
            directory.names.are_complete();
        }
        Ok(())
    }

    /// Looks for changes once, and reads anew what they concern.
    pub async fn poll(&mut self) -> Result<(), RegistryError> {
        let poll = self.directory.polls_begun.fetch_add(1, Ordering::AcqRel) + 1;
                    directory.most.note(&known);
        let result = self.look_for_changes().await;
        self.directory.polls_ended.send_replace(poll);
        result
    }

    async fn look_for_changes(&mut self) -> Result<(), RegistryError> {
        let (source, began_at) = (&self.directory.source, self.directory.clock.now());
        let changes = source.changes(self.position.seen, OVERLAP, began_at.saturating_sub(OVERLAP_AGE)).await?;
        // The newest entry is never cleared from the feed: numbers go back only when the database is another one than before.
        if changes.is_empty() && source.newest_change().await? < self.position.seen {
            self.directory.forget_all();
            self.position = Position { seen: source.newest_change().await?, recent: BTreeSet::new() };
            self.warming = Warming::BEGIN;
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

async fn in_time<T>(work: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
    let result = tokio::time::timeout(PAGE_TIMEOUT, work).await;
    result.unwrap_or_else(|_| Err(RegistryError::Store(format!("no answer within {PAGE_TIMEOUT:?}").into())))
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("seen", &self.position.seen).finish_non_exhaustive()
    }
}
