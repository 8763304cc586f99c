//! Nonces in Redis: for any number of replicas.
//!
//! A claim is one `SET key value NX EX ttl`. In the same round trip the epoch of the nonces is read, which tells whether Redis
//! still has all claims that were made ([`epoch`]); if it may have lost some, tokens from before the loss are fenced. Only the
//! reply `+OK` is fresh, and only nil is held; every other reply is *unavailable* ([`reply`]).
//!
//! A pool for each server owns the life of the connections. Each thread keeps one connection to each server and all its claims
//! share it, so that those made at the same time ride in one write, and no claim wakes another thread ([`link`]). Which server
//! has which nonces is known here ([`servers`]), since a claim must not go to one that was replaced. What has to be looked after
//! beside the claims is in [`watch`].

mod claim;
mod discovery;
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
    time::Duration,
};

use arc_swap::ArcSwapOption;
use deadpool_redis::redis::{
    Cmd, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use thread_local::ThreadLocal;

use self::{
    epoch::Epoch,
    failure::ClaimError,
    key::NonceKey,
    link::{Link, Thread},
    reply::{ReplyError, SetReply},
    server::CONNECT_TIMEOUT,
    servers::Servers,
};
pub use self::{failure::BadRedis, reply::FailureKind, watch::ACL_RULES};
use crate::{
    config::nonce::NonceSettings,
    domain::{
        fence::FenceMode,
        nonce::{Claimed, NonceClaim},
        time::Tolerance,
    },
    engine::ports::{Answer, Clock, Dependency, NonceStore, Unavailable},
};

/// How long a claim on trial is remembered, in milliseconds.
const TRIAL_LIFETIME_MS: u64 = 1000;

/// Used nonces in a Redis that all replicas share.
pub struct RedisNonceStore {
    me: Weak<Self>,
    servers: Servers,
    /// By partition, as they were last read.
    epochs: Box<[ArcSwapOption<KnownEpoch>]>,
    /// By partition, the command that reads it.
    epoch_gets: Box<[Cmd]>,
    clock: Arc<dyn Clock>,
    rules: Rules,
    threads: ThreadLocal<Arc<Thread>>,
    is_down: AtomicBool,
    /// By [`FailureKind`].
    failures: [AtomicU64; FailureKind::ALL.len()],
    /// How far the clocks of this process and of Redis are apart, as last measured.
    clock_skew: watch::ClockSkew,
    settling: watch::Settling,
}

/// What the settings say.
struct Rules {
    timeout: Duration,
    tolerance: Tolerance,
    fence: FenceMode,
    max_clock_skew: Duration,
    allow_eviction: bool,
    replicas_ack: u32,
}

/// An epoch, and how it stands in Redis.
struct KnownEpoch {
    epoch: Epoch,
    bytes: Vec<u8>,
}

impl RedisNonceStore {
    /// A store on the Redis that `settings` name, for tokens of `tolerance`; `None` if they name none. Nothing is connected yet.
    pub fn new(settings: &NonceSettings, tolerance: Tolerance, clock: Arc<dyn Clock>) -> Option<Result<Arc<Self>, BadRedis>> {
        let servers = Servers::new(settings)?;
        Some(servers.map_err(|error| BadRedis::Url(error.to_string())).map(|servers| {
            let epochs = (0..servers.partitions()).map(|_| ArcSwapOption::empty()).collect();
            let epoch_gets = (0..servers.partitions()).map(|partition| get(&key::epoch(partition))).collect();
            let rules = Rules {
                timeout: settings.timeout,
                tolerance,
                fence: settings.fence,
                max_clock_skew: settings.max_clock_skew,
                allow_eviction: settings.allow_eviction,
                replicas_ack: settings.replicas_ack,
            };
            Arc::new_cyclic(|me| Self {
                me: Weak::clone(me),
                servers,
                epochs,
                epoch_gets,
                clock,
                rules,
                threads: ThreadLocal::new(),
                is_down: AtomicBool::new(false),
                failures: std::array::from_fn(|_| AtomicU64::new(0)),
                clock_skew: watch::ClockSkew::default(),
                settling: watch::Settling::default(),
            })
        }))
    }

    /// How often something could not be asked or was not answered, by kind.
    pub fn failures(&self) -> impl Iterator<Item = (FailureKind, u64)> {
        FailureKind::ALL.iter().zip(&self.failures).map(|(kind, count)| (*kind, count.load(Ordering::Relaxed)))
    }

    fn thread(&self) -> &Arc<Thread> {
        self.threads.get_or_default()
    }

    /// Runs `work` on a partition within the time that a claim may take, and tells the log when Redis goes or comes back.
    async fn within_timeout<T>(
        &self,
        thread: &Thread,
        partition: usize,
        work: impl Future<Output = Result<T, ClaimError>>,
    ) -> Result<T, Unavailable> {
        let result = if let Ok(result) = tokio::time::timeout(self.rules.timeout, work).await {
            result
        } else {
            let server = self.servers.layout().server(partition).map(|server| server.id);
            thread.drop_if(|link| server == Some(link.server));
            Err(ClaimError::Timeout(self.rules.timeout))
        };
        match result {
            Ok(done) => {
                if self.is_down.load(Ordering::Relaxed) && self.is_down.swap(false, Ordering::Relaxed) {
                    tracing::info!("Redis claims nonces again");
                }
                Ok(done)
            }
            Err(error) => Err(self.unavailable(error)),
        }
    }

    /// Counts a failure, and tells the log of the first.
    fn unavailable(&self, error: ClaimError) -> Unavailable {
        self.failures[error.kind() as usize].fetch_add(1, Ordering::Relaxed);
        if !self.is_down.swap(true, Ordering::Relaxed) {
            let (cause, kind) = (std::error::Error::source(&error).map(ToString::to_string), error.kind().name());
            tracing::error!(error = %error, cause, kind, "Redis cannot claim nonces: decisions are unavailable until it can");
        }
        Unavailable::new(Dependency::NonceStore, error)
    }

    /// Asks one thing over a connection, which is given up if it broke.
    async fn ask(&self, thread: &Thread, link: &Link, command: &Cmd) -> Result<Value, ClaimError> {
        let mut connection = link.connection.clone();
        Ok(connection.req_packed_command(command).await.inspect_err(|_| thread.drop_link(link))?)
    }

    /// Gives the connection up if its reply shows that it leads nowhere.
    fn read<T>(&self, thread: &Thread, link: &Link, reply: Result<T, ReplyError>) -> Result<T, ClaimError> {
        Ok(reply.inspect_err(|error| {
            if error.ends_connection() {
                thread.drop_link(link);
            }
            if error.leads_elsewhere() {
                self.servers.wanted.notify_one();
            }
        })?)
    }

    /// The connection of `thread` to the server of a partition, made if there is none. Making one is boxed, so that the claims
    /// that need none stay small.
    async fn link(&self, thread: &Arc<Thread>, partition: usize) -> Result<Link, ClaimError> {
        match self.held(thread, partition)? {
            Some(link) => Ok(link),
            None => Box::pin(self.connect(thread, partition)).await,
        }
    }

    fn held(&self, thread: &Thread, partition: usize) -> Result<Option<Link>, ClaimError> {
        let layout = self.servers.layout();
        let Some(server) = layout.server(partition) else { return Ok(None) };
        match server.has_problem().then(|| server.problem()).flatten() {
            Some(problem) => Err(ClaimError::Problem(problem)),
            None => Ok(thread.held(server.id)),
        }
    }

    async fn connect(&self, thread: &Arc<Thread>, partition: usize) -> Result<Link, ClaimError> {
        let server = || self.servers.layout_now().server(partition).cloned();
        let server = if let Some(server) = server() {
            server
        } else {
            self.servers.search().await.map_err(|error| ClaimError::NoServer(Some(error)))?;
            server().ok_or(ClaimError::NoServer(None))?
        };
        let id = server.id;
        let (Some(store), own_thread) = (self.me.upgrade(), Arc::clone(thread)) else { return Err(ClaimError::Stopping) };
        let connecting = thread.connecting(id, async move {
            let connect = async {
                let pooled = server.connect().await.map_err(ClaimError::Connect)?;
                store.settle(&server, &mut MultiplexedConnection::clone(&pooled)).await?;
                own_thread.keep(server.id, pooled);
                Ok(())
            };
            tokio::time::timeout(CONNECT_TIMEOUT, connect).await.unwrap_or(Err(ClaimError::Timeout(CONNECT_TIMEOUT)))
        });
        connecting.await.map_err(ClaimError::Shared)?;
        self.held(thread, partition)?.ok_or(ClaimError::Replaced)
    }

    /// A claim on trial at the server of a partition, since a Redis that answers a PING may still refuse to write.
    async fn try_claim(&self, thread: &Arc<Thread>, partition: usize) -> Result<(), ClaimError> {
        let link = self.link(thread, partition).await?;
        let mut set = Cmd::new();
        set.arg("SET").arg(key::trial(partition)).arg("").arg("NX").arg("PX").arg(TRIAL_LIFETIME_MS);
        let reply = self.ask(thread, &link, &set).await?;
        match self.read(thread, &link, reply::set(reply))? {
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
        Answer::pending(self.within_timeout(thread, key.partition, self.claim_once(thread, key, claim)))
    }

    fn look<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        let (thread, key) = (self.thread(), self.key(&claim));
        Answer::pending(self.within_timeout(thread, key.partition, self.look_once(thread, key, claim)))
    }

    /// Every server takes a claim on trial.
    fn check(&self) -> Answer<'_, Result<(), Unavailable>> {
        Answer::pending(async {
            let thread = self.thread();
            for partition in self.first_partitions().await {
                self.within_timeout(thread, partition, self.try_claim(thread, partition)).await?;
            }
            Ok(())
        })
    }
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
