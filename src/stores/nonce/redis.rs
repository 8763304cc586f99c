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

pub(crate) mod epoch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod info;
mod key;
mod link;
mod reply;
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
use deadpool_redis::{
    PoolError,
    redis::{
        Cmd, Pipeline, RedisError, Value,
        aio::{ConnectionLike, MultiplexedConnection},
    },
};
use thread_local::ThreadLocal;

use self::{
    epoch::Epoch,
    key::NonceKey,
    link::{Link, Thread},
    reply::{ReplyError, SetReply},
    servers::{CONNECT_TIMEOUT, DiscoveryError, Problem, Servers},
};
pub use self::{reply::FailureKind, watch::ACL_RULES};
use crate::{
    config::nonce::NonceSettings,
    domain::{
        fence::FenceMode,
        nonce::{Attempt, Claimed, NonceClaim},
        time::{Tolerance, remember_for},
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

/// Why Redis did not decide a claim.
#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error("Redis did not answer within {0:?}")]
    Timeout(Duration),
    #[error("no connection to Redis")]
    Connect(#[source] PoolError),
    #[error("the connection to Redis failed")]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Reply(#[from] ReplyError),
    #[error("only {acknowledged} of {wanted} replicas of Redis have the claim (`nonce.replicas_ack`)")]
    TooFewReplicas { acknowledged: i64, wanted: u32 },
    #[error("the Redis server was replaced by another while it answered")]
    Replaced,
    #[error("Redis lost its memory while it answered")]
    EpochChanged,
    #[error("the epochs in Redis change faster than they can be written")]
    EpochsUnsettled,
    #[error("Redis is a replica and takes no claims (READONLY)")]
    NotMaster,
    #[error("no Redis server has the nonces")]
    NoServer(#[source] Option<DiscoveryError>),
    #[error(transparent)]
    Problem(Arc<Problem>),
    #[error(transparent)]
    Shared(Arc<ClaimError>),
    #[error("the service is stopping")]
    Stopping,
}

impl ClaimError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Timeout(_) => FailureKind::Timeout,
            Self::Connect(_) | Self::Redis(_) | Self::NoServer(_) | Self::Stopping => FailureKind::Connection,
            Self::Reply(error) => error.kind(),
            Self::TooFewReplicas { .. } => FailureKind::TooFewAcknowledged,
            Self::Replaced => FailureKind::Replaced,
            Self::NotMaster => FailureKind::ReadOnly,
            Self::EpochChanged | Self::EpochsUnsettled => FailureKind::MemoryLost,
            Self::Problem(problem) => match **problem {
                Problem::ClockSkew { .. } => FailureKind::ClockSkew,
                Problem::Evicts { .. } => FailureKind::Evicts,
            },
            Self::Shared(error) => error.kind(),
        }
    }

    /// Whether another server may have the nonces now.
    fn leads_elsewhere(&self) -> bool {
        matches!(self, Self::Reply(error) if error.leads_elsewhere())
    }
}

/// The settings do not make a Redis client, or the Redis must not be used.
#[derive(Debug, thiserror::Error)]
pub enum BadRedis {
    /// The URL cannot be read.
    #[error("`nonce.url` is not usable: {0}")]
    Url(String),
    /// It evicts keys.
    #[error("{0}")]
    Evicts(String),
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

    async fn claim_once(&self, thread: &Arc<Thread>, key: NonceKey, claim: NonceClaim<'_>) -> Result<Claimed, ClaimError> {
        let mut link = self.link(thread, key.partition).await?;
        let (commands, tolerance) = self.claim_commands(&key, &claim);
        match link.connection.req_packed_commands(&commands, 0, commands.len()).await {
            Ok(replies) => match self.read_claim(thread, &link, &key, &claim, tolerance, replies).await {
                Err(error) if error.leads_elsewhere() => Box::pin(self.claim_elsewhere(thread, link, &key, &claim, error)).await,
                result => result,
            },
            Err(error) => {
                thread.drop_link(&link);
                if !is_connection_lost(&error) {
                    return Err(error.into());
                }
                // It may have been carried out, and only its answer lost: then it finds its own value.
                let again = NonceClaim { attempt: Attempt::Named(claim.attempt.number()), ..claim };
                Box::pin(self.claim_again(thread, &key, &again)).await
            }
        }
    }

    /// A second try, on another connection. Boxed where it is called, so that the claims to which this does not happen stay
    /// small.
    async fn claim_again(&self, thread: &Arc<Thread>, key: &NonceKey, claim: &NonceClaim<'_>) -> Result<Claimed, ClaimError> {
        let mut link = self.link(thread, key.partition).await?;
        let (commands, tolerance) = self.claim_commands(key, claim);
        let replies = link.connection.req_packed_commands(&commands, 0, commands.len()).await;
        let replies = replies.inspect_err(|_| thread.drop_link(&link))?;
        self.read_claim(thread, &link, key, claim, tolerance, replies).await
    }

    /// After a refusal that may mean that another server has the nonces now.
    async fn claim_elsewhere(
        &self,
        thread: &Arc<Thread>,
        link: Link,
        key: &NonceKey,
        claim: &NonceClaim<'_>,
        refusal: ClaimError,
    ) -> Result<Claimed, ClaimError> {
        if !self.find_servers().await || self.has(link.server, key.partition) {
            return Err(refusal);
        }
        self.claim_again(thread, key, claim).await
    }

    /// The commands of a claim, and for which tolerance it is remembered.
    fn claim_commands(&self, key: &NonceKey, claim: &NonceClaim<'_>) -> (Pipeline, Tolerance) {
        let tolerance = self.tolerance_in_use(key.partition);
        let mut set = Cmd::with_capacity(6, key.text.len() + 48);
        let value = claim.attempt.number().to_be_bytes();
        let seconds = self.remember_for(key.partition, claim, tolerance);
        set.arg("SET").arg(&key.text).arg(&value).arg("NX").arg("EX").arg(seconds);
        let mut commands = Pipeline::with_capacity(3);
        commands.add_command(set);
        if self.rules.replicas_ack > 0 {
            let wait_ms = u64::try_from(self.rules.timeout.as_millis()).unwrap_or(u64::MAX).max(1);
            commands.cmd("WAIT").arg(self.rules.replicas_ack).arg(wait_ms);
        }
        commands.add_command(self.epoch_gets[key.partition].clone());
        (commands, tolerance)
    }

    /// The seconds that a claim is remembered if replicas accept its token for `tolerance`: counted from the time of the server,
    /// which forgets it by its own clock.
    fn remember_for(&self, partition: usize, claim: &NonceClaim<'_>, tolerance: Tolerance) -> u64 {
        let longer = tolerance.duration().saturating_sub(self.rules.tolerance.duration());
        let now = self.servers.layout().server(partition).map_or(claim.now, |server| server.time());
        remember_for(claim.valid_until.saturating_add(longer), now).as_secs()
    }

    /// The largest tolerance in use, of this replica and of others.
    fn tolerance_in_use(&self, partition: usize) -> Tolerance {
        let own = self.rules.tolerance;
        let known = self.epochs[partition].load();
        known.as_ref().map(|known| known.epoch.fence.tolerance).filter(|known| known.duration() > own.duration()).unwrap_or(own)
    }

    /// What the replies to a claim say.
    async fn read_claim(
        &self,
        thread: &Thread,
        link: &Link,
        key: &NonceKey,
        claim: &NonceClaim<'_>,
        tolerance: Tolerance,
        replies: Vec<Value>,
    ) -> Result<Claimed, ClaimError> {
        let mut replies = replies.into_iter();
        let set = self.read(thread, link, reply::set(reply::next(&mut replies)))?;
        if self.rules.replicas_ack > 0 {
            let acknowledged = self.read(thread, link, reply::integer(reply::next(&mut replies)))?;
            if acknowledged < self.rules.replicas_ack.into() {
                return Err(ClaimError::TooFewReplicas { acknowledged, wanted: self.rules.replicas_ack });
            }
        }
        let epoch = self.read(thread, link, reply::get(reply::next(&mut replies)))?;
        // A server that was replaced meanwhile may have taken a claim that nobody else knows of.
        if !self.has(link.server, key.partition) {
            return Err(ClaimError::Replaced);
        }
        if !self.knows(key.partition, epoch.as_deref()) {
            Box::pin(self.follow_epoch(thread, link, key, claim, tolerance, (set, epoch))).await?;
        }
        if self.is_fenced(key.partition, claim) {
            return Ok(Claimed::Fenced);
        }
        match (set, claim.attempt) {
            (SetReply::Stored, _) => Ok(Claimed::Fresh),
            (SetReply::Held, Attempt::Unique(_)) => Ok(Claimed::Replayed),
            (SetReply::Held, Attempt::Named(number)) => {
                let holder = Box::pin(self.ask(thread, link, &get(&key.text))).await?;
                let holder = self.read(thread, link, reply::get(holder))?;
                let is_same = holder.is_some_and(|holder| holder == number.to_be_bytes());
                Ok(if is_same { Claimed::Fresh } else { Claimed::Replayed })
            }
        }
    }

    /// A claim found another epoch than the one that is known: it counts only in an epoch that says what it covers, and is
    /// remembered for as long as that asks for.
    async fn follow_epoch(
        &self,
        thread: &Thread,
        link: &Link,
        key: &NonceKey,
        claim: &NonceClaim<'_>,
        tolerance: Tolerance,
        (set, found): (SetReply, Option<Vec<u8>>),
    ) -> Result<(), ClaimError> {
        self.settle_once(link).await?;
        if !self.knows(key.partition, found.as_deref()) {
            return Err(ClaimError::EpochChanged);
        }
        let in_use = self.tolerance_in_use(key.partition);
        if in_use.duration() <= tolerance.duration() || set == SetReply::Held {
            return Ok(());
        }
        let mut expire = Cmd::new();
        expire.arg("EXPIRE").arg(&key.text).arg(self.remember_for(key.partition, claim, in_use));
        let reply = self.ask(thread, link, &expire).await?;
        match self.read(thread, link, reply::integer(reply))? {
            1 => Ok(()),
            _ => Err(ClaimError::EpochChanged),
        }
    }

    /// Whether `server` has the partition.
    fn has(&self, server: u64, partition: usize) -> bool {
        self.servers.layout().server(partition).is_some_and(|found| found.id == server)
    }

    /// Whether `epoch` is the one that is known.
    fn knows(&self, partition: usize, epoch: Option<&[u8]>) -> bool {
        let known = self.epochs[partition].load();
        epoch.is_some() && known.as_ref().map(|known| &*known.bytes) == epoch
    }

    fn is_fenced(&self, partition: usize, claim: &NonceClaim<'_>) -> bool {
        let known = self.epochs[partition].load();
        let Some(fence) = known.as_ref().map(|known| known.epoch.fence) else { return true };
        // The time now matters to a raised tolerance alone.
        let now = if fence.raised.is_some() { self.clock.now() } else { claim.now };
        fence.excludes(claim.token_time, now, self.rules.fence)
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

    async fn look_once(&self, thread: &Arc<Thread>, key: NonceKey, claim: NonceClaim<'_>) -> Result<Claimed, ClaimError> {
        let link = self.link(thread, key.partition).await?;
        let mut exists = Cmd::new();
        exists.arg("EXISTS").arg(&key.text);
        let reply = self.ask(thread, &link, &exists).await?;
        let is_claimed = self.read(thread, &link, reply::exists(reply))?;
        let is_fenced = self.is_fenced(key.partition, &claim);
        Ok(if is_fenced {
            Claimed::Fenced
        } else if is_claimed {
            Claimed::Replayed
        } else {
            Claimed::Fresh
        })
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

fn is_connection_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
}
