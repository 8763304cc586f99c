//! Used nonces in Redis, shared by any number of replicas.
//!
//! A claim is one `SET key value NX EX ttl`. The same round trip reads the epoch of the nonces,
//! which tells whether Redis still has all claims ever made ([`epoch`]). If it may have lost some,
//! tokens from before the loss are fenced. Only the reply `+OK` means fresh, and only nil means
//! already claimed; every other reply means *unavailable* ([`reply`]).
//!
//! Each thread keeps one connection to each server, and all claims of the thread share it:
//! concurrent claims go out in one write, and no claim wakes another thread ([`link`]). A claim
//! that times out leaves its connection open: the reply may still arrive, and is then dropped. This
//! store itself tracks which server has which nonces ([`servers`]), because a claim must not go to
//! a server that was replaced. Background work is in [`watch`].

mod claim;
pub(crate) mod epoch;
mod failure;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod info;
mod key;
mod link;
mod reply;
mod server;
mod servers;
mod watch;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use redis::{Cmd, Value, aio::ConnectionLike};
use thread_local::ThreadLocal;

use self::{
    epoch::Epoch,
    failure::ClaimError,
    key::NonceKey,
    link::{Connecting, Link, Thread},
    reply::{ReplyError, SetReply},
    server::Server,
    servers::{DiscoveryError, Servers},
};
pub use self::{failure::BadRedis, reply::FailureKind, watch::ACL_RULES};
use crate::{
    config::nonce::NonceSettings,
    domain::{
        fence::FenceMode,
        nonce::{Claimed, NonceClaim},
        time::{Tolerance, UnixMillis},
    },
    engine::ports::{Answer, Clock, Dependency, NonceStore, Unavailable},
    stores::redis::{CONNECT_TIMEOUT, RedisAccess},
};

/// After a claim timed out with nothing received on its connection, the connection is replaced if
/// it stays silent for another two claim timeouts, capped at this long.
const SILENCE_MAX: Duration = Duration::from_millis(250);
/// How long Redis keeps a trial claim, in milliseconds.
const TRIAL_LIFETIME_MS: u64 = 1000;

/// A store of used nonces in a Redis that all replicas share.
pub struct RedisNonceStore {
    me: Weak<Self>,
    servers: Servers,
    /// The epochs as last read, by partition.
    epochs: Box<[ArcSwapOption<KnownEpoch>]>,
    /// The command that reads the epoch, by partition.
    epoch_gets: Box<[Cmd]>,
    clock: Arc<dyn Clock>,
    rules: Rules,
    threads: ThreadLocal<Arc<Thread>>,
    /// Whether at least one server takes no claims.
    is_any_down: AtomicBool,
    /// Whether no server is known.
    is_lost: AtomicBool,
    /// Counts by [`FailureKind`].
    failures: [AtomicU64; FailureKind::ALL.len()],
    /// The last measured difference between the clocks of this process and of Redis.
    clock_skew: watch::ClockSkew,
    settling: watch::Settling,
}

/// The settings that claims need.
struct Rules {
    timeout: Duration,
    tolerance: Tolerance,
    fence: FenceMode,
    max_clock_skew: Duration,
    allow_eviction: bool,
    replicas_ack: u32,
}

/// An epoch, parsed and as the bytes stored in Redis.
struct KnownEpoch {
    epoch: Epoch,
    bytes: Vec<u8>,
}

impl RedisNonceStore {
    /// Creates a store on the Redis named by `settings`, for tokens of `tolerance`; `None` if
    /// `settings` name no Redis. Does not connect yet.
    pub fn new(
        settings: &NonceSettings,
        tolerance: Tolerance,
        clock: Arc<dyn Clock>,
    ) -> Option<Result<Arc<Self>, BadRedis>> {
        let access = match RedisAccess::new(settings).transpose()? {
            Ok(access) => access,
            Err(error) => return Some(Err(error.into())),
        };
        let servers = Servers::new(access);
        let epochs = (0..servers.partitions()).map(|_| ArcSwapOption::empty()).collect();
        let epoch_gets =
            (0..servers.partitions()).map(|partition| get(&key::epoch(partition))).collect();
        let rules = Rules {
            timeout: settings.timeout,
            tolerance,
            fence: settings.fence,
            max_clock_skew: settings.max_clock_skew,
            allow_eviction: settings.allow_eviction,
            replicas_ack: settings.replicas_ack,
        };
        Some(Ok(Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            servers,
            epochs,
            epoch_gets,
            clock,
            rules,
            threads: ThreadLocal::new(),
            is_any_down: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
            failures: std::array::from_fn(|_| AtomicU64::new(0)),
            clock_skew: watch::ClockSkew::default(),
            settling: watch::Settling::default(),
        })))
    }

    /// Access to this store's Redis, for other users of the same Redis.
    pub fn access(&self) -> &RedisAccess {
        self.servers.access()
    }

    /// The number of failures since the start, by kind.
    pub fn failures(&self) -> impl Iterator<Item = (FailureKind, u64)> {
        FailureKind::ALL
            .iter()
            .zip(&self.failures)
            .map(|(kind, count)| (*kind, count.load(Ordering::Relaxed)))
    }

    fn thread(&self) -> &Arc<Thread> {
        self.threads.get_or_default()
    }

    /// Runs `work` on a partition within the claim timeout, and logs when Redis becomes unavailable
    /// or available again.
    async fn within_timeout<T>(
        &self,
        thread: &Arc<Thread>,
        partition: usize,
        work: impl Future<Output = Result<T, ClaimError>>,
    ) -> Result<T, Unavailable> {
        let timeout = self.rules.timeout;
        let error = match tokio::time::timeout(timeout, work).await {
            Ok(Ok(done)) => {
                if self.is_any_down.load(Ordering::Relaxed) {
                    self.works_again(partition);
                }
                return Ok(done);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                self.look_for_life(thread, partition);
                let address =
                    self.servers.layout().server(partition).map(|server| server.address.clone());
                ClaimError::Timeout { address, timeout }
            }
        };
        Err(self.unavailable(partition, error))
    }

    /// Counts a failure, and logs the first one of a server.
    fn unavailable(&self, partition: usize, error: ClaimError) -> Unavailable {
        self.failures[error.kind() as usize].fetch_add(1, Ordering::Relaxed);
        self.is_any_down.store(true, Ordering::Relaxed);
        let server = self.servers.layout().server(partition).cloned();
        let is_news = server.as_ref().map_or_else(
            || !self.is_lost.swap(true, Ordering::Relaxed),
            |server| server.is_news(true),
        );
        if is_news {
            let server = server.map(|server| server.address.to_string());
            let (cause, kind) =
                (std::error::Error::source(&error).map(ToString::to_string), error.kind().name());
            tracing::error!(
                error = %error, cause, kind, server, "Redis cannot claim nonces: decisions are unavailable until it can"
            );
        }
        Unavailable::new(Dependency::NonceStore, error)
    }

    fn works_again(&self, partition: usize) {
        let layout = self.servers.layout_now();
        let was_lost = self.is_lost.swap(false, Ordering::Relaxed);
        let Some(server) = layout.server(partition) else { return };
        if server.is_news(false) || was_lost {
            tracing::info!(server = %server.address, "Redis claims nonces again");
        }
        if !layout.servers.iter().any(|server| server.is_down()) {
            self.is_any_down.store(false, Ordering::Relaxed);
        }
    }

    /// Handles a claim that timed out. If nothing at all came over its connection since the claim
    /// was sent, and nothing comes for a while longer, then the connection is dead or the server
    /// hangs: a new connection is made, and replaces the old one if that is still silent. Otherwise
    /// the server is slow, and a new connection would be no faster.
    fn look_for_life(&self, thread: &Arc<Thread>, partition: usize) {
        let Some(server) = self.servers.layout().server(partition).cloned() else { return };
        let (Some(link), Some(sent)) =
            (thread.held(server.id), Instant::now().checked_sub(self.rules.timeout))
        else {
            return;
        };
        if link.connection.heard_since(sent) {
            return;
        }
        let silence = (self.rules.timeout * 2).min(SILENCE_MAX);
        // The runtime of this thread drives it.
        drop(self.connecting(thread, server, Some(Suspect { link, sent, silence })));
    }

    /// Drops the connection of `link`, on whichever thread it was made.
    fn drop_link(&self, link: &Link) {
        for thread in &self.threads {
            thread.drop_link(link);
        }
    }

    /// Sends one command over a connection, and drops the connection if it broke.
    async fn ask(&self, link: &Link, command: &Cmd) -> Result<Value, ClaimError> {
        let mut connection = link.connection.clone();
        Ok(connection.req_packed_command(command).await.inspect_err(|_| self.drop_link(link))?)
    }

    /// Drops the connection if its reply shows that it leads to the wrong server.
    fn read<T>(&self, link: &Link, reply: Result<T, ReplyError>) -> Result<T, ClaimError> {
        Ok(reply.inspect_err(|error| {
            if error.ends_connection() {
                self.drop_link(link);
            }
            if error.leads_elsewhere() {
                self.servers.wanted.notify_one();
            }
        })?)
    }

    /// Returns a connection to the server of a partition: the one of `thread`, or, while that is
    /// being made, one of another thread. Connecting is boxed, so that the futures of claims that
    /// need no new connection stay small.
    async fn link(&self, thread: &Arc<Thread>, partition: usize) -> Result<Link, ClaimError> {
        match self.held(thread, partition)? {
            Some(link) => Ok(link),
            None => Box::pin(self.connect(thread, partition, true)).await,
        }
    }

    /// Like [`Self::link`], but never uses a connection of another thread.
    async fn own_link(&self, thread: &Arc<Thread>, partition: usize) -> Result<Link, ClaimError> {
        match self.held(thread, partition)? {
            Some(link) => Ok(link),
            None => Box::pin(self.connect(thread, partition, false)).await,
        }
    }

    fn held(&self, thread: &Thread, partition: usize) -> Result<Option<Link>, ClaimError> {
        let layout = self.servers.layout();
        let Some(server) = layout.server(partition) else { return Ok(None) };
        match server.has_problem().then(|| server.problem()).flatten() {
            Some(problem) => Err(ClaimError::Unfit(problem)),
            None => Ok(thread.held(server.id)),
        }
    }

    async fn connect(
        &self,
        thread: &Arc<Thread>,
        partition: usize,
        may_borrow: bool,
    ) -> Result<Link, ClaimError> {
        let server = || self.servers.layout_now().server(partition).cloned();
        let server = if let Some(server) = server() {
            server
        } else {
            self.search().await.map_err(|error| ClaimError::NoServer(Some(error)))?;
            server().ok_or(ClaimError::NoServer(None))?
        };
        let connecting = self.connecting(thread, Arc::clone(&server), None);
        let borrowed = || self.threads.iter().find_map(|other| other.held(server.id));
        if let Some(link) = Some(()).filter(|()| may_borrow).and_then(|()| borrowed()) {
            return Ok(link);
        }
        connecting.await.map_err(ClaimError::Shared)?;
        self.held(thread, partition)?.ok_or(ClaimError::Replaced)
    }

    /// Starts connecting `thread` to `server`, unless it is already connecting.
    fn connecting(
        &self,
        thread: &Arc<Thread>,
        server: Arc<Server>,
        suspect: Option<Suspect>,
    ) -> Connecting {
        let (store, own_thread) = (Weak::clone(&self.me), Arc::clone(thread));
        thread.connecting(server.id, async move {
            if let Some(Suspect { link, silence, sent }) = &suspect {
                tokio::time::sleep(*silence).await;
                if link.connection.heard_since(*sent) && own_thread.held(server.id).is_some() {
                    return Ok(());
                }
            }
            let connect = async {
                let connected = server.connect().await;
                let address = || server.address.clone();
                let mut connection =
                    connected.map_err(|error| ClaimError::Connect { address: address(), error })?;
                store
                    .upgrade()
                    .ok_or(ClaimError::Stopping)?
                    .settle(&server, &mut connection)
                    .await?;
                let link = Link::new(server.id, connection);
                match &suspect {
                    Some(suspect) => own_thread.keep_instead(&suspect.link, suspect.sent, link),
                    None => own_thread.keep(link),
                }
                Ok(())
            };
            let late = ClaimError::Timeout {
                address: Some(server.address.clone()),
                timeout: CONNECT_TIMEOUT,
            };
            tokio::time::timeout(CONNECT_TIMEOUT, connect).await.unwrap_or(Err(late))
        })
    }

    /// Searches for the servers; the search completes even if the caller is cancelled.
    async fn search(&self) -> Result<bool, DiscoveryError> {
        let Some(store) = self.me.upgrade() else { return Ok(false) };
        let searching = tokio::spawn(async move { store.find_servers().await });
        searching.await.unwrap_or(Ok(false))
    }

    /// Makes a trial claim at the server of a partition, since a Redis that answers a PING may
    /// still refuse writes.
    async fn try_claim(&self, thread: &Arc<Thread>, partition: usize) -> Result<(), ClaimError> {
        let link = self.link(thread, partition).await?;
        let mut set = Cmd::new();
        set.arg("SET")
            .arg(key::trial(partition))
            .arg("")
            .arg("NX")
            .arg("PX")
            .arg(TRIAL_LIFETIME_MS);
        let reply = self.ask(&link, &set).await?;
        match self.read(&link, reply::set(reply))? {
            SetReply::Stored => Ok(()),
            SetReply::Held => Err(ReplyError::Unexpected("nil").into()),
        }
    }

    fn key(&self, claim: &NonceClaim<'_>) -> NonceKey {
        NonceKey::new(claim.principal, claim.nonce, self.servers.partitions())
    }
}

impl NonceStore for RedisNonceStore {
    fn claim<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        let (thread, key) = (self.thread(), self.key(&claim));
        Answer::pending(self.within_timeout(
            thread,
            key.partition,
            self.claim_once(thread, key, claim),
        ))
    }

    fn look<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        let (thread, key) = (self.thread(), self.key(&claim));
        Answer::pending(self.within_timeout(
            thread,
            key.partition,
            self.look_once(thread, key, claim),
        ))
    }

    /// Makes a trial claim at every server.
    fn check(&self, _now: UnixMillis) -> Answer<'_, Result<(), Unavailable>> {
        Answer::pending(async {
            let thread = self.thread();
            let partitions = self.first_partitions().await;
            let trials = partitions.into_iter().map(|partition| {
                self.within_timeout(thread, partition, self.try_claim(thread, partition))
            });
            join_all(trials).await.into_iter().collect()
        })
    }
}

/// A connection that has been silent.
struct Suspect {
    link: Link,
    /// When the unanswered claim was sent.
    sent: Instant,
    /// How long to wait for any reply before the connection is replaced.
    silence: Duration,
}

impl fmt::Debug for RedisNonceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisNonceStore").field("servers", &self.servers).finish_non_exhaustive()
    }
}

fn get(key: &str) -> Cmd {
    let mut get = Cmd::with_capacity(2, key.len() + 16);
    get.arg("GET").arg(key);
    get
}
