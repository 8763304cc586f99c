//! Nonces in Redis: for any number of replicas.
//!
//! A claim is one `SET key value NX EX ttl`. The pool owns the life of the connections: it makes them and checks them, and none
//! of that happens on the way of a decision. Each thread keeps one connection out of the pool and all its claims share it, so
//! that those made at the same time ride in one write, and no claim wakes another thread.
//!
//! Only the reply `+OK` is fresh, and only nil is held; every other reply is *unavailable* ([`reply`]).

mod reply;

pub use reply::FailureKind;

use std::{
    fmt::{self, Write as _},
    future::Future,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_redis::{
    PoolError,
    cluster::{self, ClusterConnection},
    redis::{
        self, AsyncConnectionConfig, Cmd, RedisError, Value,
        aio::{ConnectionLike, MultiplexedConnection},
    },
    sentinel::{self, SentinelServerType},
};
use thread_local::ThreadLocal;

use self::reply::{ReplyError, SetReply};
use crate::{
    config::nonce::{NonceSettings, NonceUrl},
    domain::{
        nonce::{Attempt, Claimed, NonceClaim},
        principal::PrincipalId,
        time::UnixMillis,
    },
    engine::ports::{Answer, Dependency, NonceStore, Unavailable},
};

/// One connection a thread; this many threads may have one.
const CONNECTIONS_MAX: usize = 256;
/// How long a claim on trial is remembered, in milliseconds.
const TRIAL_LIFETIME_MS: u64 = 1000;
/// Longest nonce that is a key as it stands; longer ones, and those with other bytes than visible ASCII, are hashed.
const PLAIN_NONCE_BYTES_MAX: usize = 64;

/// Used nonces in a Redis that all replicas share.
pub struct RedisNonceStore {
    pools: Pools,
    timeout: Duration,
    threads: ThreadLocal<Thread>,
    is_down: AtomicBool,
    /// By [`FailureKind`].
    failures: [AtomicU64; FailureKind::ALL.len()],
}

/// What belongs to one thread. Its connection is driven by the runtime of that thread. A claim keeps to the connection of the
/// thread that it began on.
#[derive(Default)]
struct Thread {
    held: Mutex<Option<Held>>,
    /// Held while a connection is made, so that many waiting claims make one.
    connecting: tokio::sync::Mutex<()>,
}

/// Why Redis did not answer a claim.
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
}

impl ClaimError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Timeout(_) => FailureKind::Timeout,
            Self::Connect(_) | Self::Redis(_) => FailureKind::Connection,
            Self::Reply(error) => error.kind(),
        }
    }
}

/// The settings do not make a Redis client.
#[derive(Debug, thiserror::Error)]
#[error("`nonce.url` is not usable: {reason}")]
pub struct BadRedisUrl {
    reason: String,
}

impl RedisNonceStore {
    /// A store on the Redis that `settings` names; `None` where they name none. Nothing is connected yet.
    pub fn new(settings: &NonceSettings) -> Option<Result<Self, BadRedisUrl>> {
        let pools = Pools::new(settings)?;
        Some(pools.map(|pools| Self {
            pools,
            timeout: settings.timeout,
            threads: ThreadLocal::new(),
            is_down: AtomicBool::new(false),
            failures: std::array::from_fn(|_| AtomicU64::new(0)),
        }))
    }

    /// How often something could not be asked or was not answered, by kind.
    pub fn failures(&self) -> impl Iterator<Item = (FailureKind, u64)> {
        FailureKind::ALL.iter().zip(&self.failures).map(|(kind, count)| (*kind, count.load(Ordering::Relaxed)))
    }

    /// Runs `work` within the time that a claim may take, and tells the log when Redis goes or comes back.
    async fn within_timeout<T>(
        &self,
        thread: &Thread,
        work: impl Future<Output = Result<T, ClaimError>>,
    ) -> Result<T, Unavailable> {
        let result = if let Ok(result) = tokio::time::timeout(self.timeout, work).await {
            result
        } else {
            thread.drop_connection(None);
            Err(ClaimError::Timeout(self.timeout))
        };
        match result {
            Ok(done) => {
                if self.is_down.load(Ordering::Relaxed) && self.is_down.swap(false, Ordering::Relaxed) {
                    tracing::info!("Redis claims nonces again");
                }
                Ok(done)
            }
            Err(error) => {
                self.failures[error.kind() as usize].fetch_add(1, Ordering::Relaxed);
                if !self.is_down.swap(true, Ordering::Relaxed) {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    let kind = error.kind().name();
                    tracing::error!(error = %error, cause, kind, "Redis cannot claim nonces: decisions are unavailable until it can");
                }
                Err(Unavailable::new(Dependency::NonceStore, error))
            }
        }
    }

    async fn claim_once(&self, thread: &Thread, claim: NonceClaim<'_>) -> Result<Claimed, ClaimError> {
        let key = key(claim.principal, claim.nonce);
        let value = claim.attempt.number().to_be_bytes();
        let mut set = Cmd::with_capacity(6, key.len() + 48);
        set.arg("SET").arg(&key).arg(&value).arg("NX").arg("EX").arg(claim.remember_for().as_secs());

        let (mut connection, serial) = self.connection(thread).await?;
        match connection.run(&set).await {
            Ok(reply) => self.read_claim(thread, (connection, serial), &key, claim.attempt, reply).await,
            Err(error) => {
                thread.drop_connection(Some(serial));
                if !is_connection_lost(&error) {
                    return Err(error.into());
                }
                Box::pin(self.resend(thread, &set, &key, claim.attempt)).await
            }
        }
    }

    /// Sends a claim again whose connection broke. It may have been carried out, and only its answer lost: then it finds its own
    /// value. Boxed where it is called, so that the claims to which this does not happen stay small.
    async fn resend(&self, thread: &Thread, set: &Cmd, key: &str, attempt: Attempt) -> Result<Claimed, ClaimError> {
        let (mut connection, serial) = self.connection(thread).await?;
        let reply = connection.run(set).await.inspect_err(|_| thread.drop_connection(Some(serial)))?;
        let attempt = Attempt::Named(attempt.number());
        self.read_claim(thread, (connection, serial), key, attempt, reply).await
    }

    /// What the reply to a claim says. One that came second and may be the same attempt looks at who came first.
    async fn read_claim(
        &self,
        thread: &Thread,
        (mut connection, serial): (Shared, u64),
        key: &str,
        attempt: Attempt,
        reply: Value,
    ) -> Result<Claimed, ClaimError> {
        match self.read(thread, serial, reply::set(reply))? {
            SetReply::Stored => Ok(Claimed::Fresh),
            SetReply::Held => match attempt {
                Attempt::Unique(_) => Ok(Claimed::Replayed),
                Attempt::Named(number) => {
                    let get = redis::cmd("GET").arg(key).to_owned();
                    let reply = Box::pin(connection.run(&get)).await.inspect_err(|_| thread.drop_connection(Some(serial)))?;
                    let holder = self.read(thread, serial, reply::get(reply))?;
                    let is_same = holder.is_some_and(|holder| holder == number.to_be_bytes());
                    Ok(if is_same { Claimed::Fresh } else { Claimed::Replayed })
                }
            },
        }
    }

    /// Gives the connection up if its reply shows that it leads nowhere.
    fn read<T>(&self, thread: &Thread, serial: u64, reply: Result<T, ReplyError>) -> Result<T, ClaimError> {
        Ok(reply.inspect_err(|error| {
            if error.ends_connection() {
                thread.drop_connection(Some(serial));
            }
        })?)
    }

    /// The connection of `thread`, made if there is none. Making one is boxed, so that the claims that need none stay small.
    async fn connection(&self, thread: &Thread) -> Result<(Shared, u64), ClaimError> {
        match thread.held() {
            Some(held) => Ok(held),
            None => Box::pin(self.connect(thread)).await,
        }
    }

    async fn connect(&self, thread: &Thread) -> Result<(Shared, u64), ClaimError> {
        let _connecting = thread.connecting.lock().await;
        if let Some(held) = thread.held() {
            return Ok(held);
        }
        let (shared, pooled) = self.pools.take().await.map_err(ClaimError::Connect)?;
        let serial = fastrand::u64(..);
        *thread.lock() = Some(Held { shared: shared.clone(), serial, pooled });
        Ok((shared, serial))
    }
}

impl NonceStore for RedisNonceStore {
    fn claim<'a>(&'a self, claim: NonceClaim<'a>) -> Answer<'a, Result<Claimed, Unavailable>> {
        let thread = self.threads.get_or_default();
        Answer::pending(self.within_timeout(thread, self.claim_once(thread, claim)))
    }

    fn is_claimed<'a>(&'a self, principal: PrincipalId, nonce: &'a str, _now: UnixMillis) -> Answer<'a, Result<bool, Unavailable>> {
        let thread = self.threads.get_or_default();
        Answer::pending(self.within_timeout(thread, async move {
            let (mut connection, serial) = self.connection(thread).await?;
            let reply = connection.run(redis::cmd("EXISTS").arg(key(principal, nonce))).await;
            let reply = reply.inspect_err(|_| thread.drop_connection(Some(serial)))?;
            self.read(thread, serial, reply::exists(reply))
        }))
    }

    /// A claim on trial, since a Redis that answers a PING may still refuse to write.
    fn check(&self) -> Answer<'_, Result<(), Unavailable>> {
        let thread = self.threads.get_or_default();
        Answer::pending(self.within_timeout(thread, async {
            let (mut connection, serial) = self.connection(thread).await?;
            let mut set = redis::cmd("SET");
            set.arg(format!("countersign:trial:{:032x}", fastrand::u128(..))).arg("").arg("NX").arg("PX").arg(TRIAL_LIFETIME_MS);
            let reply = connection.run(&set).await.inspect_err(|_| thread.drop_connection(Some(serial)))?;
            match self.read(thread, serial, reply::set(reply))? {
                SetReply::Stored => Ok(()),
                SetReply::Held => Err(ReplyError::Unexpected("nil").into()),
            }
        }))
    }
}

impl fmt::Debug for RedisNonceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisNonceStore").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Thread {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> Option<(Shared, u64)> {
        self.lock().as_ref().map(|held| (held.shared.clone(), held.serial))
    }

    /// Gives up the connection: the one of that number, or any.
    fn drop_connection(&self, serial: Option<u64>) {
        let mut held = self.lock();
        if held.as_ref().is_some_and(|held| serial.is_none_or(|serial| held.serial == serial))
            && let Some(broken) = held.take()
        {
            broken.pooled.forget();
        }
    }
}

struct Held {
    shared: Shared,
    serial: u64,
    pooled: Pooled,
}

/// A connection that many claims use at the same time.
#[derive(Clone)]
enum Shared {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Shared {
    /// The reply as it came: an error reply is a [`Value::ServerError`], and no error.
    async fn run(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command).await,
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        }
    }
}

/// The pool's own handle of a connection, kept for as long as the connection is used.
enum Pooled {
    Single(deadpool_redis::Connection),
    Cluster(cluster::Connection),
    Sentinel(sentinel::Connection),
}

impl Pooled {
    /// Takes a broken connection out of its pool, which then has room for a new one.
    fn forget(self) {
        match self {
            Self::Single(connection) => drop(deadpool_redis::Connection::take(connection)),
            Self::Cluster(connection) => drop(cluster::Connection::take(connection)),
            Self::Sentinel(connection) => drop(sentinel::Connection::take(connection)),
        }
    }
}

enum Pools {
    Single(deadpool_redis::Pool),
    Cluster(cluster::Pool),
    Sentinel(sentinel::Pool),
}

impl Pools {
    fn new(settings: &NonceSettings) -> Option<Result<Self, BadRedisUrl>> {
        let bad = |error: &dyn fmt::Display| BadRedisUrl { reason: error.to_string() };
        let urls = |nodes: &[crate::config::Secret]| nodes.iter().map(|node| node.expose().to_owned()).collect::<Vec<_>>();
        Some(match &settings.url {
            NonceUrl::Memory => return None,
            NonceUrl::Single(url) => {
                // Claims have their own timeout, which covers everything.
                let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(Some(settings.timeout));
                deadpool_redis::Manager::new_with_config(url.expose(), config).map_err(|error| bad(&error)).and_then(|manager| {
                    let pool = deadpool_redis::Pool::builder(manager).max_size(CONNECTIONS_MAX).build();
                    pool.map(Self::Single).map_err(|error| bad(&error))
                })
            }
            NonceUrl::Cluster(nodes) => {
                cluster::Manager::new(urls(nodes), false).map_err(|error| bad(&error)).and_then(|manager| {
                    let pool = cluster::Pool::builder(manager).max_size(CONNECTIONS_MAX).build();
                    pool.map(Self::Cluster).map_err(|error| bad(&error))
                })
            }
            NonceUrl::Sentinel { nodes, service } => {
                let manager = sentinel::Manager::new(urls(nodes), service.clone(), None, SentinelServerType::Master);
                manager.map_err(|error| bad(&error)).and_then(|manager| {
                    let pool = sentinel::Pool::builder(manager).max_size(CONNECTIONS_MAX).build();
                    pool.map(Self::Sentinel).map_err(|error| bad(&error))
                })
            }
        })
    }

    async fn take(&self) -> Result<(Shared, Pooled), PoolError> {
        Ok(match self {
            Self::Single(pool) => {
                let pooled = pool.get().await?;
                (Shared::Single(MultiplexedConnection::clone(&pooled)), Pooled::Single(pooled))
            }
            Self::Cluster(pool) => {
                let pooled = pool.get().await?;
                (Shared::Cluster(ClusterConnection::clone(&pooled)), Pooled::Cluster(pooled))
            }
            Self::Sentinel(pool) => {
                let pooled = pool.get().await?;
                (Shared::Single(MultiplexedConnection::clone(&pooled)), Pooled::Sentinel(pooled))
            }
        })
    }
}

fn is_connection_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

/// `countersign:nonce:PRINCIPAL:` and then `n` and the nonce, or `h` and its SHA-256 in hexadecimal digits.
fn key(principal: PrincipalId, nonce: &str) -> String {
    let mut key = String::with_capacity(48 + PLAIN_NONCE_BYTES_MAX);
    // Writing to a String does not fail.
    let _ = write!(key, "countersign:nonce:{principal}:");
    if nonce.len() <= PLAIN_NONCE_BYTES_MAX && nonce.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}')) {
        key.push('n');
        key.push_str(nonce);
    } else {
        key.push('h');
        for byte in aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, nonce.as_bytes()).as_ref() {
            let _ = write!(key, "{byte:02x}");
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(nonce: &str) -> String {
        key(PrincipalId(7), nonce)
    }

    #[test]
    fn keys_are_short_printable_and_different() {
        assert_eq!(key_of("abc"), "countersign:nonce:7:nabc");
        let hashed = key_of("a b");
        assert!(hashed.starts_with("countersign:nonce:7:h") && hashed.len() == "countersign:nonce:7:h".len() + 64);
        let imitation = hashed.trim_start_matches("countersign:nonce:7:");
        assert_ne!(key_of(imitation), hashed, "a nonce that looks like a hashed one");
        assert_eq!(key_of(&"x".repeat(8000)).len(), hashed.len());
        assert_ne!(key_of("{a}"), "countersign:nonce:7:n{a}", "a hash tag would let clients choose the cluster slot");
    }
}
