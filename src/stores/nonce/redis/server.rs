//! One Redis server: its connections, its clock, and whether it is fit for claims.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use deadpool_redis::{
    Manager, Pool,
    redis::{self, AsyncConnectionConfig, ConnectionInfo},
};

use crate::domain::time::UnixMillis;

/// How many connections a server may have: one a thread, and one for looking after it.
const CONNECTIONS_MAX: usize = 257;
/// How long connecting may take. Claims do not wait for it: they have their own time.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// One Redis server.
pub(super) struct Server {
    /// Unlike that of any other of this process.
    pub(super) id: u64,
    pub(super) address: String,
    pub(super) info: ConnectionInfo,
    pool: Pool,
    /// Why nothing may be claimed here, although it answers.
    problem: ArcSwapOption<Problem>,
    clock: ServerClock,
}

/// The clock of a server, as it was last read, and how long ago by a monotonic one: whatever is done to the clock of this
/// process, this one goes on.
struct ServerClock {
    began: Instant,
    /// Its time less the monotonic one, in milliseconds.
    offset: AtomicI64,
}

impl ServerClock {
    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// A server that answers, and is not fit for claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error(
        "the clock of this replica and that of Redis at {address} are {skew_ms} ms apart, more than `nonce.max_clock_skew` allows; \
         set them by NTP"
    )]
    ClockSkew { address: String, skew_ms: i64 },
    #[error(
        "Redis at {address} has `maxmemory-policy {policy}` and may forget nonces; set it to `noeviction`, or allow it by \
         `nonce.allow_eviction`"
    )]
    Evicts { address: String, policy: String },
}

impl Server {
    pub(super) fn new(info: ConnectionInfo) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let address = info.addr().to_string();
        let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
        // Claims have their own timeout.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(Some(CONNECT_TIMEOUT));
        let info = info.set_tcp_settings(tcp);
        let manager = Manager::new_with_config(info.clone(), config)?;
        let pool = Pool::builder(manager).max_size(CONNECTIONS_MAX).build()?;
        let id = NUMBER.fetch_add(1, Ordering::Relaxed);
        let clock = ServerClock { began: Instant::now(), offset: AtomicI64::new(0) };
        Ok(Self { id, address, info, pool, problem: ArcSwapOption::empty(), clock })
    }

    /// `time` was just received.
    pub(super) fn read_clock(&self, time: UnixMillis) {
        self.clock.offset.store(time.0 - self.clock.elapsed_ms(), Ordering::Relaxed);
    }

    /// The time by the server's clock, or a little earlier: by what the way of its last answer took. To be asked once it was read.
    pub(super) fn time(&self) -> UnixMillis {
        UnixMillis(self.clock.elapsed_ms() + self.clock.offset.load(Ordering::Relaxed))
    }

    /// A new connection, which belongs to the caller for as long as it is used.
    pub(super) async fn connect(&self) -> Result<deadpool_redis::Connection, deadpool_redis::PoolError> {
        self.pool.get().await
    }

    pub(super) fn problem(&self) -> Option<Arc<Problem>> {
        self.problem.load_full()
    }

    pub(super) fn has_problem(&self) -> bool {
        self.problem.load().is_some()
    }

    pub(super) fn set_problem(&self, problem: Option<Problem>) {
        let before = self.problem.load();
        if before.as_deref() == problem.as_ref() {
            return;
        }
        match (&*before, &problem) {
            (None, Some(problem)) => {
                tracing::error!(problem = %problem, "nothing is claimed at a Redis server until this is mended");
            }
            (Some(_), None) => tracing::info!(server = self.address, "the Redis server is fit for claims again"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        drop(before);
        self.problem.store(problem.map(Arc::new));
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}
