//! One Redis server: its connections, its clock, and whether it may be used for claims.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwapOption;
use redis::RedisError;

use crate::{
    config::redis_url::RedisAddress,
    domain::time::UnixMillis,
    stores::redis::{Connection, Purpose, RedisAccess},
};

pub(super) struct Server {
    /// Unique within this process.
    pub(super) id: u64,
    pub(super) address: RedisAddress,
    access: RedisAccess,
    /// Why this server must not be used for claims although it answers.
    problem: ArcSwapOption<Unfit>,
    clock: ServerClock,
    is_down: AtomicBool,
}

/// The clock of a server: its last reading, carried forward by a monotonic clock, so that changes
/// to the wall clock of this process do not matter.
struct ServerClock {
    began: Instant,
    /// The server's time minus the monotonic time, in milliseconds.
    offset: AtomicI64,
}

impl ServerClock {
    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// Why a server that answers must not be used for claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error(
        "the clock of this replica and that of Redis at {address} are {skew_ms} ms apart, more than `nonce.max_clock_skew` allows; \
         set them by NTP"
    )]
    ClockSkew { address: RedisAddress, skew_ms: i64 },
    #[error(
        "Redis at {address} has `maxmemory-policy {policy}` and may forget nonces; set it to `noeviction`, or allow it by \
         `nonce.allow_eviction`"
    )]
    Evicts { address: RedisAddress, policy: String },
}

impl Server {
    pub(super) fn new(access: &RedisAccess, address: RedisAddress) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NUMBER.fetch_add(1, Ordering::Relaxed),
            address,
            access: access.clone(),
            problem: ArcSwapOption::empty(),
            clock: ServerClock { began: Instant::now(), offset: AtomicI64::new(0) },
            is_down: AtomicBool::new(false),
        }
    }

    /// Stores `time`, which was just received.
    pub(super) fn read_clock(&self, time: UnixMillis) {
        self.clock.offset.store(time.0 - self.clock.elapsed_ms(), Ordering::Relaxed);
    }

    /// The current time by the server's clock, or slightly earlier: by the travel time of its last
    /// reply. Call it only after the clock was read.
    pub(super) fn time(&self) -> UnixMillis {
        UnixMillis(self.clock.elapsed_ms() + self.clock.offset.load(Ordering::Relaxed))
    }

    pub(super) async fn connect(&self) -> Result<Connection, RedisError> {
        self.access.connect(&self.address, Purpose::Data).await
    }

    pub(super) fn problem(&self) -> Option<Arc<Unfit>> {
        self.problem.load_full()
    }

    pub(super) fn has_problem(&self) -> bool {
        self.problem.load().is_some()
    }

    pub(super) fn set_problem(&self, problem: Option<Unfit>) {
        let before = self.problem.load();
        if before.as_deref() == problem.as_ref() {
            return;
        }
        match (&*before, &problem) {
            (None, Some(problem)) => {
                tracing::error!(problem = %problem, "nothing is claimed at a Redis server until this is mended");
            }
            (Some(_), None) => {
                tracing::info!(server = %self.address, "the Redis server is fit for claims again");
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        drop(before);
        self.problem.store(problem.map(Arc::new));
    }

    /// Whether the server took no claim when last checked.
    pub(super) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// Stores whether the server is down, and returns whether that changed.
    pub(super) fn is_news(&self, is_down: bool) -> bool {
        self.is_down.load(Ordering::Relaxed) != is_down
            && self.is_down.swap(is_down, Ordering::Relaxed) != is_down
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}
