//! Nonces in Redis: for any number of replicas.
//!
//! A claim is one `SET key value NX EX ttl`. In the same round trip the epoch of the nonces is
//! read, which tells whether Redis still has all claims that were made ([`epoch`]); if it may have
//! lost some, tokens from before the loss are fenced. Only the reply `+OK` is fresh, and only nil
//! is held; every other reply is *unavailable* ([`reply`]).
//!
//! Each thread keeps one connection to each server and all its claims share it, so that those made
//! at the same time ride in one write, and no claim wakes another thread ([`link`]). A claim that
//! is late leaves its connection as it is: the reply may still come, and is dropped then. Which
//! server has which nonces is known here ([`servers`]), since a claim must not go to one that was
//! replaced. What has to be looked after beside the claims is in [`watch`].

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

/// For how much longer than a claim a connection on which nothing came back may be silent before
/// another is made in its place: twice as long as a claim may take, and no longer than this.
const SILENCE_MAX: Duration = Duration::from_millis(250);
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
    /// Whether any server may not take claims.
    is_any_down: AtomicBool,
    /// Whether there is no server to ask.
    is_lost: AtomicBool,
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
    /// A store on the Redis that `settings` name, for tokens of `tolerance`; `None` if they name
    /// none. Nothing is connected yet.
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

    /// How its Redis is reached, for others who use the same.
    pub fn access(&self) -> &RedisAccess {
        self.servers.access()
    }

    /// How often something could not be asked or was not answered, by kind.
    pub fn failures(&self) -> impl Iterator<Item = (FailureKind, u64)> {
        FailureKind::ALL
            .iter()
            .zip(&self.failures)
            .map(|(kind, count)| (*kind, count.load(Ordering::Relaxed)))
    }

    fn thread(&self) -> &Arc<Thread> {
        self.threads.get_or_default()
    }

    /// Runs `work` on a partition within the time that a claim may take, and tells the log when
    /// Redis goes or comes back.
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

    /// Counts a failure, and tells the log of the first at a server.
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

    /// A claim was late. If nothing at all came over its connection since it was sent, and nothing
    /// does for a while, the connection leads nowhere, or the server hangs: another is made,
    /// and takes its place if it is still silent then. Otherwise the server is slow, and a new
    /// connection would be no faster.
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
        // It is driven by this thread's runtime.
        drop(self.connecting(thread, server, Some(Suspect { link, sent, silence })));
    }

    /// Gives up the connection that `link` is, whichever thread made it.
    fn drop_link(&self, link: &Link) {
        for thread in &self.threads {
            thread.drop_link(link);
        }
    }

    /// Asks one thing over a connection, which is given up if it broke.
    async fn ask(&self, link: &Link, command: &Cmd) -> Result<Value, ClaimError> {
        let mut connection = link.connection.clone();
        Ok(connection.req_packed_command(command).await.inspect_err(|_| self.drop_link(link))?)
    }

    /// Gives the connection up if its reply shows that it leads nowhere.
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

    /// A connection to the server of a partition: that of `thread`, or while it is being made one
    /// of another thread. Making one is boxed, so that the claims that need none stay small.
    async fn link(&self, thread: &Arc<Thread>, partition: usize) -> Result<Link, ClaimError> {
        match self.held(thread, partition)? {
            Some(link) => Ok(link),
            None => Box::pin(self.connect(thread, partition, true)).await,
        }
    }

    /// The same, but for those of other threads.
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

    /// The connection of `thread` to `server` that is being made from now on, if it is not already.
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

    /// Searches for the servers, also if whoever asks for it gives up.
    async fn search(&self) -> Result<bool, DiscoveryError> {
        let Some(store) = self.me.upgrade() else { return Ok(false) };
        let searching = tokio::spawn(async move { store.find_servers().await });
        searching.await.unwrap_or(Ok(false))
    }

    /// A claim on trial at the server of a partition, since a Redis that answers a PING may still
    /// refuse to write.
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

    /// Every server takes a claim on trial.
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

/// A connection over which nothing comes.
struct Suspect {
    link: Link,
    /// When the claim was sent that got no answer.
    sent: Instant,
    /// How long to wait for a sign of life before another is made.
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
