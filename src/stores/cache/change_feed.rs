//! Follows the change feed, and reads the registry after the start.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{CachedDirectory, LOAD_TIMEOUT};
use crate::{
    config::registry::RegistrySettings,
    domain::principal::PrincipalId,
    engine::ports::{PrincipalSource, RegistryChange, RegistryError},
};

/// How many changes one query reads.
const CHANGES_PAGE: u64 = 10_000;
/// How long changes stay in the feed after a replica has read them, by its own monotonic clock. A
/// replica that was cut off for longer notices that some are missing, and starts over.
const FEED_LIFETIME: Duration = Duration::from_hours(1);
/// How often old changes are deleted from the feed.
const CLEARING_INTERVAL: Duration = Duration::from_mins(10);
/// Minimum time between polls that refusals ask for, so that a flood of forged tokens causes no
/// more polls than that.
const WANTED_POLLS_DISTANCE: Duration = Duration::from_millis(20);
/// How many rows are read at once after the start, between two polls.
const PRINCIPALS_PAGE: u64 = 200;
const NAMES_PAGE: u64 = 5000;
/// How long reading a page, or deleting from the feed, may take. A database that never answers must
/// not block polling once it answers again.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// A position in the change feed.
#[derive(Clone)]
pub(super) struct Position {
    /// All changes up to this number were seen.
    seen: i64,
    /// Changes without a number in the feed that are still in it.
    unnumbered: BTreeSet<i64>,
}

impl Position {
    /// The current end of the feed.
    pub(super) async fn newest(source: &dyn PrincipalSource) -> Result<Self, RegistryError> {
        // In sequence: if the schema is missing, no query is abandoned halfway, which its
        // connection would log.
        let seen = source.newest_change().await?;
        let unnumbered = source.unnumbered_changes().await?;
        Ok(Self { seen, unnumbered: numbers(&unnumbered) })
    }

    /// Whether `changes` continue from this position without a gap.
    fn is_continued_by(&self, changes: &[RegistryChange]) -> bool {
        !changes.is_empty()
            && changes
                .iter()
                .zip(self.seen + 1..)
                .all(|(change, expected)| change.number == expected)
    }
}

fn numbers(changes: &[RegistryChange]) -> BTreeSet<i64> {
    changes.iter().map(|change| change.number).collect()
}

fn principals<'a>(changes: impl IntoIterator<Item = &'a RegistryChange>) -> BTreeSet<PrincipalId> {
    changes.into_iter().map(|change| change.principal).collect()
}

/// Keeps a directory up to date by following the change feed.
pub struct Follower {
    directory: Arc<CachedDirectory>,
    position: Position,
    warming: Warming,
    /// Positions within the last [`FEED_LIFETIME`], oldest first.
    past: VecDeque<(Instant, Position)>,
    settings: RegistrySettings,
    is_down: bool,
}

/// How much of the registry was read after the start.
#[derive(Clone, Copy, Debug)]
enum Warming {
    /// The first `count` principals, up to the id `after`.
    Principals { after: Option<PrincipalId>, count: u64 },
    /// All principals that memory may hold, and usernames up to the id `after`.
    Names { after: Option<PrincipalId> },
    /// All of it.
    Done,
}

impl Warming {
    const BEGIN: Self = Self::Principals { after: None, count: 0 };
}

impl Follower {
    pub(super) fn new(
        directory: Arc<CachedDirectory>,
        position: Position,
        settings: &RegistrySettings,
    ) -> Self {
        let past = VecDeque::from([(Instant::now(), position.clone())]);
        Self {
            directory,
            position,
            warming: Warming::BEGIN,
            past,
            settings: settings.clone(),
            is_down: false,
        }
    }

    /// Follows the feed until `shutdown` completes.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut ticks = tokio::time::interval(self.settings.poll_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut shutdown = std::pin::pin!(shutdown);
        let mut next_clearing = Instant::now() + CLEARING_INTERVAL;
        let mut last_poll = Instant::now() - WANTED_POLLS_DISTANCE;
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
            last_poll = Instant::now();
            let next_poll = last_poll + self.settings.poll_interval;
            let result = tokio::time::timeout(LOAD_TIMEOUT, self.poll()).await;
            self.tell(result.ok());
            tokio::select! {
                () = &mut shutdown => return,
                () = self.warm_until(next_poll) => {}
            }
            if next_clearing <= Instant::now() {
                next_clearing = Instant::now() + CLEARING_INTERVAL;
                tokio::select! {
                    () = &mut shutdown => return,
                    () = self.clear(Instant::now()) => {}
                }
            }
        }
    }

    /// Deletes changes that this replica read more than [`FEED_LIFETIME`] ago. This depends neither
    /// on the numbers nor on the clocks of writers.
    pub(super) async fn clear(&mut self, now: Instant) {
        self.past.push_back((now, self.position.clone()));
        while self
            .past
            .get(1)
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= FEED_LIFETIME)
        {
            self.past.pop_front();
        }
        let Some((at, old)) = self.past.front() else { return };
        if now.saturating_duration_since(*at) < FEED_LIFETIME {
            return;
        }
        let unnumbered: Vec<i64> = old.unnumbered.iter().copied().collect();
        if let Err(error) =
            in_time(self.directory.source.forget_changes(old.seen, &unnumbered)).await
        {
            tracing::warn!(error = %error, "old entries of the change feed could not be deleted");
        }
    }

    /// Reads pages until `deadline`, until all is read or until a poll is wanted. Never runs at the
    /// same time as a poll: a page stays valid until the next poll reports a change.
    async fn warm_until(&mut self, deadline: Instant) {
        let directory = Arc::clone(&self.directory);
        let mut poll_wanted = std::pin::pin!(directory.poll_wanted.notified());
        while !matches!(self.warming, Warming::Done) && Instant::now() < deadline {
            if poll_wanted.as_mut().enable() {
                directory.poll_wanted.notify_one();
                return;
            }
            if let Err(error) = in_time(self.warm()).await {
                // The next poll reports the outage; reading continues afterwards.
                tracing::debug!(error = %error, "a page of the registry could not be read");
                return;
            }
        }
    }

    /// Reads the next page of principals or usernames, if any is left.
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
                    directory.most.note(&known);
                    directory.known.insert(known.username.clone(), Arc::new(known));
                }
                if length < limit {
                    Warming::Done
                } else {
                    Warming::Principals { after: last, count: count + length }
                }
            }
            Warming::Principals { after, .. } | Warming::Names { after } => {
                let page = directory.source.names_page(after, NAMES_PAGE).await?;
                for (_, username) in &page {
                    directory.names.add(username);
                }
                let last = page.last().map(|(id, _)| *id);
                if (page.len() as u64) < NAMES_PAGE {
                    Warming::Done
                } else {
                    Warming::Names { after: last }
                }
            }
            Warming::Done => return Ok(()),
        };
        if matches!(self.warming, Warming::Done) {
            directory.names.are_complete();
        }
        Ok(())
    }

    /// Polls once for changes, and reads the principals concerned again.
    pub async fn poll(&mut self) -> Result<(), RegistryError> {
        let poll = self.directory.polls_begun.fetch_add(1, Ordering::AcqRel) + 1;
        let result = self.look_for_changes().await;
        self.directory.polls_ended.send_replace(poll);
        result
    }

    async fn look_for_changes(&mut self) -> Result<(), RegistryError> {
        let (directory, began_at) = (Arc::clone(&self.directory), Instant::now());
        let (newest, unnumbered) = tokio::try_join!(
            directory.source.newest_change(),
            directory.source.unnumbered_changes()
        )?;
        let new = principals(
            unnumbered.iter().filter(|change| !self.position.unnumbered.contains(&change.number)),
        );
        if !new.is_empty() {
            directory.forget_principals(new).await?;
        }
        self.position.unnumbered = numbers(&unnumbered);
        if newest < self.position.seen {
            tracing::warn!(
                newest,
                seen = self.position.seen,
                "the database is another one than before: everything is read again"
            );
            self.start_over(newest);
        }
        while self.position.seen < newest {
            let changes = directory.source.changes(self.position.seen, CHANGES_PAGE).await?;
            if !self.position.is_continued_by(&changes) {
                tracing::warn!(
                    seen = self.position.seen,
                    "changes are missing from the feed: everything is read again"
                );
                self.start_over(newest);
                break;
            }
            directory.forget_principals(principals(&changes)).await?;
            self.position.seen = changes.last().map_or(newest, |last| last.number);
        }
        directory.synced(began_at);
        Ok(())
    }

    /// Discards everything in memory, and follows the feed from change `newest` on.
    fn start_over(&mut self, newest: i64) {
        self.directory.forget_all();
        self.position.seen = newest;
        self.past.clear();
        self.warming = Warming::BEGIN;
    }

    /// Logs when the database becomes unreachable or reachable again; `None` is a timeout.
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
                tracing::error!(
                    "the database does not answer; principals in memory go on deciding for a while"
                );
            }
            Some(_) | None => {}
        }
    }
}

async fn in_time<T>(
    work: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    let result = tokio::time::timeout(PAGE_TIMEOUT, work).await;
    result.unwrap_or_else(|_| {
        Err(RegistryError::Store(format!("no answer within {PAGE_TIMEOUT:?}").into()))
    })
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("seen", &self.position.seen).finish_non_exhaustive()
    }
}
