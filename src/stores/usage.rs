//! When keys, trusts and API keys were last used: collected in memory, and written in the
//! background.
//!
//! Each use is recorded at most once per [`NOTED_FOR`], or less often if so many are in use that
//! writing them would exceed [`ROWS_PER_SECOND`]. Records that could not be written are kept and
//! written later, up to a limit.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    future::Future,
    mem,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    domain::{decision::Used, time::UnixMillis},
    engine::ports::{RegistryError, UsageLog, UsageStore},
};

/// Minimum time between two records of use of the same key or trust.
const NOTED_FOR: Duration = Duration::from_secs(10);
/// Maximum rate at which records are written: a row takes the database a good part of the time of a
/// decision, and decisions have priority.
const ROWS_PER_SECOND: u64 = 500;
/// How often records are written.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);
/// How long one write may take, and how long the last one, for which stopping the service waits.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of records that wait to be written: as many as principals are in memory by
/// default.
const PENDING_MAX: usize = 100_000;
/// How many recent uses are remembered without a lock.
const RECENT_SLOTS: usize = 1 << 18;
/// How many slots are allocated at once, when the first of them is needed.
const SEGMENT_SLOTS: usize = 1 << 12;

/// Records of use that wait to be written.
pub struct BatchedUsage {
    recent: Recent,
    /// Time until a repeated use is recorded again, in seconds.
    noted_for: AtomicU64,
    pending: Mutex<HashMap<Used, UnixMillis>>,
}

impl BatchedUsage {
    /// Creates an empty log, and the writer that writes it to `store`.
    pub fn new(store: Arc<dyn UsageStore>) -> (Arc<Self>, UsageWriter) {
        let log = Arc::new(Self {
            recent: Recent::default(),
            noted_for: AtomicU64::new(NOTED_FOR.as_secs()),
            pending: Mutex::default(),
        });
        (Arc::clone(&log), UsageWriter { log, store, is_down: false })
    }

    fn take(&self) -> HashMap<Used, UnixMillis> {
        mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps the later of two times. Returns `false` if something did not fit.
    fn keep(&self, notes: impl IntoIterator<Item = (Used, UnixMillis)>) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = true;
        for (used, at) in notes {
            let has_room = pending.len() < PENDING_MAX;
            match pending.entry(used) {
                Entry::Occupied(mut known) => drop(known.insert(at.max(*known.get()))),
                Entry::Vacant(place) if has_room => drop(place.insert(at)),
                Entry::Vacant(_) => all = false,
            }
        }
        all
    }
}

impl UsageLog for BatchedUsage {
    fn note(&self, used: Used, now: UnixMillis) {
        let (tag, second) = (tag(used), seconds(now));
        let slot = self.recent.slot(used);
        let noted = slot.load(Ordering::Relaxed);
        let age = u64::from(second).wrapping_sub(noted & u64::from(u32::MAX));
        if noted >> 32 == u64::from(tag) && age < self.noted_for.load(Ordering::Relaxed) {
            return;
        }
        slot.store(u64::from(tag) << 32 | u64::from(second), Ordering::Relaxed);
        // If it does not fit, allow the next use to be recorded.
        if !self.keep([(used, now)]) {
            slot.store(0, Ordering::Relaxed);
        }
    }
}

/// The last recorded use in each slot: what it was, and when, in seconds. Most decisions read only
/// this.
struct Recent(Box<[OnceLock<Box<[AtomicU64]>>]>);

impl Default for Recent {
    fn default() -> Self {
        Self(std::iter::repeat_with(OnceLock::new).take(RECENT_SLOTS / SEGMENT_SLOTS).collect())
    }
}

impl Recent {
    /// Two of one kind share a slot only if their ids are far apart; each then causes more records
    /// of the other.
    fn slot(&self, used: Used) -> &AtomicU64 {
        let (number, kind) = number(used);
        let place =
            (number as usize).wrapping_add(kind as usize * (RECENT_SLOTS / 3)) % RECENT_SLOTS;
        let segment = self.0[place / SEGMENT_SLOTS].get_or_init(|| {
            std::iter::repeat_with(AtomicU64::default).take(SEGMENT_SLOTS).collect()
        });
        &segment[place % SEGMENT_SLOTS]
    }

    /// How many were used at `second` or later.
    fn count_since(&self, second: u64) -> u64 {
        let slots = self.0.iter().filter_map(OnceLock::get).flat_map(|segment| segment.iter());
        slots
            .map(|slot| slot.load(Ordering::Relaxed))
            .filter(|noted| *noted != 0 && noted & u64::from(u32::MAX) >= second)
            .count() as u64
    }
}

/// The low bits of the id, and the kind.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the low bits are what is wanted"
)]
const fn number(used: Used) -> (u32, u32) {
    match used {
        Used::Key(id) => (id.0 as u32, 0),
        Used::Trust(id) => (id.0 as u32, 1),
        Used::ApiKey(id) => (id.0 as u32, 2),
    }
}

/// Tells keys, trusts and API keys apart well enough: two with the same tag occasionally suppress a
/// record of each other.
const fn tag(used: Used) -> u32 {
    let (number, kind) = number(used);
    number << 2 | kind
}

fn seconds(now: UnixMillis) -> u32 {
    u32::try_from(now.seconds()).unwrap_or(u32::MAX)
}

/// Writes records of use in the background.
pub struct UsageWriter {
    log: Arc<BatchedUsage>,
    store: Arc<dyn UsageStore>,
    is_down: bool,
}

impl UsageWriter {
    /// Writes until `shutdown` completes, and then once more.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let start = tokio::time::Instant::now() + WRITE_INTERVAL;
        let mut ticks = tokio::time::interval_at(start, WRITE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                _ = ticks.tick() => self.write(WRITE_TIMEOUT).await,
            }
        }
        self.write(LAST_WRITE_TIMEOUT).await;
    }

    /// Adjusts how long a repeated use is not recorded: longer the more are in use.
    fn pace(&self, notes: &[(Used, UnixMillis)]) {
        let Some(latest) = notes.iter().map(|(_, at)| seconds(*at)).max() else { return };
        let noted_for = self.log.noted_for.load(Ordering::Relaxed);
        let in_use = self.log.recent.count_since(u64::from(latest).saturating_sub(noted_for));
        self.log
            .noted_for
            .store((in_use / ROWS_PER_SECOND).max(NOTED_FOR.as_secs()), Ordering::Relaxed);
    }

    /// Writes the waiting records. Those that cannot be written in time keep waiting.
    async fn write(&mut self, timeout: Duration) {
        let notes: Vec<(Used, UnixMillis)> = self.log.take().into_iter().collect();
        self.pace(&notes);
        if notes.is_empty() {
            return;
        }
        let written = tokio::time::timeout(timeout, self.store.write_usage(&notes)).await;
        let result = written.unwrap_or_else(|_| {
            Err(RegistryError::Store(format!("no answer within {timeout:?}").into()))
        });
        match result {
            Ok(()) => self.is_down = false,
            Err(error) => {
                let has_room = self.log.keep(notes);
                if !mem::replace(&mut self.is_down, true) {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(error = %error, cause, has_room, "when keys were used cannot be written; it is kept until it can");
                }
            }
        }
    }
}

impl fmt::Debug for BatchedUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchedUsage").finish_non_exhaustive()
    }
}

impl fmt::Debug for UsageWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageWriter").field("is_down", &self.is_down).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::domain::principal::{ApiKeyId, KeyId, TrustId};

    #[derive(Default)]
    struct Written {
        is_down: AtomicBool,
        writes: Mutex<Vec<Vec<(Used, UnixMillis)>>>,
    }

    #[async_trait::async_trait]
    impl UsageStore for Written {
        async fn write_usage(&self, used: &[(Used, UnixMillis)]) -> Result<(), RegistryError> {
            if self.is_down.load(Ordering::Relaxed) {
                return Err(RegistryError::Store("down".into()));
            }
            let mut used = used.to_vec();
            used.sort_by_key(|(_, at)| *at);
            self.writes.lock().unwrap().push(used);
            Ok(())
        }
    }

    fn log() -> (Arc<BatchedUsage>, UsageWriter, Arc<Written>) {
        let written = Arc::new(Written::default());
        let (log, writer) = BatchedUsage::new(Arc::clone(&written) as Arc<dyn UsageStore>);
        (log, writer, written)
    }

    const KEY: Used = Used::Key(KeyId(7));
    const TRUST: Used = Used::Trust(TrustId(7));
    const API_KEY: Used = Used::ApiKey(ApiKeyId(7));

    fn at(seconds: i64) -> UnixMillis {
        UnixMillis((1_800_000_000 + seconds) * 1000)
    }

    #[tokio::test]
    async fn each_is_noted_once_in_ten_seconds() {
        let (log, mut writer, written) = log();
        for second in 0..25 {
            log.note(KEY, at(second));
            log.note(TRUST, at(second));
            log.note(API_KEY, at(second));
            writer.write(WRITE_TIMEOUT).await;
        }
        let batches = written.writes.lock().unwrap();
        let times: Vec<UnixMillis> =
            batches.iter().flatten().filter(|(used, _)| *used == KEY).map(|(_, at)| *at).collect();
        assert_eq!(times, [at(0), at(10), at(20)]);
        for other in [TRUST, API_KEY] {
            assert_eq!(
                batches.iter().flatten().filter(|(used, _)| *used == other).count(),
                3,
                "{other:?} is not the key of its number"
            );
        }
    }

    #[tokio::test]
    async fn many_in_use_are_written_less_often() {
        const IN_USE: i64 = 30_000;
        let (log, mut writer, written) = log();
        for second in (0..300).step_by(10) {
            for number in 0..IN_USE {
                log.note(Used::Key(KeyId(number)), at(second));
            }
            writer.write(WRITE_TIMEOUT).await;
        }
        let rows: usize = written.writes.lock().unwrap().iter().map(Vec::len).sum();
        let rows_a_minute = i64::try_from(rows).unwrap() / 5;
        let expected = IN_USE * 6 / 7..=IN_USE * 6 / 5;
        assert!(
            expected.contains(&rows_a_minute),
            "{rows_a_minute} rows a minute, where each of {IN_USE} has one"
        );
    }

    #[tokio::test]
    async fn an_outage_loses_nothing() {
        let (log, mut writer, written) = log();
        written.is_down.store(true, Ordering::Relaxed);
        log.note(KEY, at(0));
        writer.write(WRITE_TIMEOUT).await;
        log.note(KEY, at(15));
        log.note(TRUST, at(16));
        writer.write(WRITE_TIMEOUT).await;
        assert!(written.writes.lock().unwrap().is_empty());
        written.is_down.store(false, Ordering::Relaxed);
        writer.write(WRITE_TIMEOUT).await;
        assert_eq!(*written.writes.lock().unwrap(), [[(KEY, at(15)), (TRUST, at(16))]]);
    }

    #[tokio::test]
    async fn what_waits_is_written_at_the_end() {
        let (log, writer, written) = log();
        log.note(KEY, at(0));
        writer.run(std::future::ready(())).await;
        assert_eq!(*written.writes.lock().unwrap(), [[(KEY, at(0))]]);
    }

    #[tokio::test]
    async fn memory_is_bounded_and_what_found_no_room_is_noted_later() {
        let (log, mut writer, written) = log();
        written.is_down.store(true, Ordering::Relaxed);
        for number in 0..i64::try_from(PENDING_MAX).unwrap() + 5 {
            log.note(Used::Key(KeyId(1000 + number)), at(0));
        }
        writer.write(WRITE_TIMEOUT).await;
        assert_eq!(log.pending.lock().unwrap().len(), PENDING_MAX);
        written.is_down.store(false, Ordering::Relaxed);
        writer.write(WRITE_TIMEOUT).await;
        log.note(Used::Key(KeyId(1000 + i64::try_from(PENDING_MAX).unwrap())), at(1));
        assert_eq!(log.pending.lock().unwrap().len(), 1);
    }
}
