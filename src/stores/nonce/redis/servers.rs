//! Which Redis server has which partition of the nonces: the one of the URL, the master that the sentinels name, or the masters
//! of a cluster.
//!
//! Claims are sent to servers and not to a library's cluster connection, which would hide which server answered and when it was
//! replaced by another: that has to be known to tell whether claims were lost.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use deadpool_redis::{
    Manager, Pool,
    redis::{
        self, AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError,
        Value, aio::MultiplexedConnection, cluster_routing::Slot,
    },
};
use futures_util::{StreamExt, future::join_all};
use tokio::sync::Notify;

use super::key;
use crate::{
    config::nonce::{NonceSettings, NonceUrl},
    domain::time::UnixMillis,
};

/// How many connections a server may have: one a thread, and one for looking after it.
const CONNECTIONS_MAX: usize = 257;
/// How long connecting may take. Claims do not wait for it: they have their own time.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long asking sentinels or cluster nodes for the servers may take.
const DISCOVERY_TIMEOUT: Duration = Duration::from_millis(500);
/// For how long after a master was replaced other replicas may still claim at the old one: they ask for it twice a second.
const TAKEOVER: Duration = Duration::from_millis(750);
/// How long to wait before a sentinel is listened to again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// How many slots a cluster has.
const SLOTS: u16 = 16_384;

/// One Redis server.
pub(super) struct Server {
    /// Unlike that of any other of this process.
    pub(super) id: u64,
    pub(super) address: String,
    info: ConnectionInfo,
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
    fn new(info: ConnectionInfo) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
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

/// Which server has which partition.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) servers: Vec<Arc<Server>>,
    /// The place in `servers`, by partition.
    places: Vec<Option<usize>>,
}

impl Layout {
    pub(super) fn server(&self, partition: usize) -> Option<&Arc<Server>> {
        self.servers.get((*self.places.get(partition)?)?)
    }

    /// The partitions of a server.
    pub(super) fn partitions(&self, server: u64) -> Vec<usize> {
        let has = |partition: &usize| self.server(*partition).is_some_and(|found| found.id == server);
        (0..self.places.len()).filter(has).collect()
    }
}

/// Finds the servers, and finds them again when they change.
pub(super) struct Servers {
    source: Source,
    layout: ArcSwap<Layout>,
    /// One search at a time, over connections that are kept, by address.
    searching: tokio::sync::Mutex<HashMap<String, MultiplexedConnection>>,
    /// Somebody has a reason to search.
    pub(super) wanted: Notify,
    /// The number of the newest decision about who is master, by the sentinels or the cluster.
    newest: AtomicU64,
}

enum Source {
    Single,
    Sentinel { sentinels: Vec<ConnectionInfo>, service: String, master: RedisConnectionInfo },
    Cluster { seeds: Vec<ConnectionInfo>, nodes: RedisConnectionInfo },
}

/// Where the masters are, as somebody says who should know.
struct Told {
    /// Of several answers, the one with the highest is the newest.
    number: u64,
    /// Without a cluster one, with a range of all slots.
    masters: Vec<Master>,
}

/// The address of a master, and the ranges of slots that it has.
type Master = (ConnectionAddr, Vec<(u16, u16)>);

/// The servers cannot be found.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiscoveryError {
    #[error("no sentinel knows a master of the name {0:?}")]
    NoMaster(String),
    #[error("no node of the cluster tells who has which slots")]
    NoNode,
    #[error("the master cannot be connected to: {0}")]
    Address(String),
}

impl Servers {
    /// `None` if the settings name no Redis. Nothing is connected yet.
    pub(super) fn new(settings: &NonceSettings) -> Option<Result<Self, Box<dyn std::error::Error + Send + Sync>>> {
        Some(match &settings.url {
            NonceUrl::Memory => return None,
            NonceUrl::Single(url) => url
                .expose()
                .into_connection_info()
                .map_err(Into::into)
                .and_then(Server::new)
                .map(|server| Self::with(Source::Single, Layout { servers: vec![Arc::new(server)], places: vec![Some(0)] })),
            NonceUrl::Sentinel { nodes, service } => infos(nodes).map(|infos| {
                // Credentials before the first host are Redis' own.
                let master = own_settings(&infos);
                let sentinels = infos.into_iter().map(|info| info.set_redis_settings(RedisConnectionInfo::default())).collect();
                Self::with(Source::Sentinel { sentinels, service: service.clone(), master }, Layout::default())
            }),
            NonceUrl::Cluster(nodes) => infos(nodes).map(|seeds| {
                let nodes = own_settings(&seeds);
                Self::with(Source::Cluster { seeds, nodes }, Layout::default())
            }),
        })
    }

    fn with(source: Source, layout: Layout) -> Self {
        Self {
            source,
            layout: ArcSwap::from_pointee(layout),
            searching: tokio::sync::Mutex::default(),
            wanted: Notify::new(),
            newest: AtomicU64::new(0),
        }
    }

    pub(super) const fn partitions(&self) -> usize {
        match self.source {
            Source::Single | Source::Sentinel { .. } => 1,
            Source::Cluster { .. } => key::CLUSTER_PARTITIONS,
        }
    }

    /// For how long after a server took over others may still claim at the one before.
    pub(super) const fn takeover(&self) -> Duration {
        match self.source {
            Source::Single => Duration::ZERO,
            Source::Sentinel { .. } | Source::Cluster { .. } => TAKEOVER,
        }
    }

    /// Not to be held while something is awaited.
    pub(super) fn layout(&self) -> Guard<Arc<Layout>> {
        self.layout.load()
    }

    pub(super) fn layout_now(&self) -> Arc<Layout> {
        self.layout.load_full()
    }

    /// Searches, and says whether something changed. Servers that stay keep their connections.
    pub(super) async fn search(&self) -> Result<bool, DiscoveryError> {
        if matches!(self.source, Source::Single) {
            return Ok(false);
        }
        let before = self.layout_now();
        let mut held = self.searching.lock().await;
        let now = self.layout_now();
        if !Arc::ptr_eq(&before, &now) {
            // Somebody else has just found them.
            return Ok(true);
        }
        let told = match &self.source {
            Source::Single => return Ok(false),
            Source::Sentinel { sentinels, service, .. } => {
                let told = ask_all(&mut held, sentinels.clone(), Question::Sentinel { service }).await;
                told.ok_or_else(|| DiscoveryError::NoMaster(service.clone()))?
            }
            Source::Cluster { seeds, nodes } => {
                let servers = now.servers.iter().map(|server| server.info.clone());
                let infos = seeds.iter().cloned().chain(servers).map(|info| info.set_redis_settings(nodes.clone()));
                ask_all(&mut held, infos.collect(), Question::ClusterNode).await.ok_or(DiscoveryError::NoNode)?
            }
        };
        // Whoever answers late must not bring back what was replaced.
        if told.number < self.newest.load(Ordering::Acquire) {
            return Ok(false);
        }
        self.newest.store(told.number, Ordering::Release);
        self.replace(&now, told)
    }

    fn replace(&self, now: &Layout, told: Told) -> Result<bool, DiscoveryError> {
        let mut servers: Vec<Arc<Server>> = Vec::with_capacity(told.masters.len());
        let mut places = vec![None; self.partitions()];
        for (address, slots) in told.masters {
            let name = address.to_string();
            let server = match now.servers.iter().find(|known| known.address == name) {
                Some(known) => Arc::clone(known),
                None => Arc::new(self.server(address).map_err(|error| DiscoveryError::Address(error.to_string()))?),
            };
            for (place, slot) in places.iter_mut().zip(&*PARTITION_SLOTS) {
                if slots.iter().any(|(first, last)| (*first..=*last).contains(slot)) {
                    *place = Some(servers.len());
                }
            }
            servers.push(server);
        }
        let same = |one: &Arc<Server>, other: &Arc<Server>| Arc::ptr_eq(one, other);
        let is_same = |partition| match (now.server(partition), places[partition].map(|place: usize| &servers[place])) {
            (Some(one), Some(other)) => same(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        if (0..places.len()).all(is_same) {
            return Ok(false);
        }
        let addresses: Vec<&str> = servers.iter().map(|server| server.address.as_str()).collect();
        tracing::info!(servers = addresses.join(", "), "nonces are claimed at these Redis servers from now on");
        self.layout.store(Arc::new(Layout { servers, places }));
        Ok(true)
    }

    fn server(&self, address: ConnectionAddr) -> Result<Server, Box<dyn std::error::Error + Send + Sync>> {
        let settings = match &self.source {
            Source::Single => RedisConnectionInfo::default(),
            Source::Sentinel { master, .. } => master.clone(),
            Source::Cluster { nodes, .. } => nodes.clone(),
        };
        Server::new(address.into_connection_info()?.set_redis_settings(settings))
    }

    /// Listens to the sentinels, for ever: each says at once when another master was chosen.
    pub(super) async fn listen(&self) {
        let Source::Sentinel { sentinels, .. } = &self.source else { return std::future::pending().await };
        let listening = sentinels.iter().map(|sentinel| async move {
            loop {
                if let Err(error) = self.listen_to(sentinel.clone()).await {
                    tracing::debug!(error = %error, "a sentinel cannot be listened to; it is asked all the same");
                }
                tokio::time::sleep(LISTEN_AGAIN).await;
            }
        });
        join_all(listening).await;
    }

    async fn listen_to(&self, sentinel: ConnectionInfo) -> Result<(), RedisError> {
        let mut subscriber = Client::open(sentinel)?.get_async_pubsub().await?;
        subscriber.subscribe("+switch-master").await?;
        let mut messages = subscriber.into_on_message();
        while messages.next().await.is_some() {
            self.wanted.notify_one();
        }
        Ok(())
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").field("layout", &self.layout_now()).finish_non_exhaustive()
    }
}

fn infos(nodes: &[crate::config::Secret]) -> Result<Vec<ConnectionInfo>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(nodes.iter().map(|node| node.expose().into_connection_info()).collect::<Result<_, _>>()?)
}

/// The credentials that stand before the first host count for all servers.
fn own_settings(infos: &[ConnectionInfo]) -> RedisConnectionInfo {
    infos.first().map(|info| info.redis_settings().clone()).unwrap_or_default()
}

/// Asks all at once, and takes the answer of the one that knows of the newest election.
async fn ask_all(
    held: &mut HashMap<String, MultiplexedConnection>,
    infos: Vec<ConnectionInfo>,
    question: Question<'_>,
) -> Option<Told> {
    let answers = infos.into_iter().map(|info| {
        let address = info.addr().to_string();
        let kept = held.get(&address).cloned();
        async move {
            let asked = tokio::time::timeout(DISCOVERY_TIMEOUT, question.ask(info, kept)).await;
            let answer = match asked {
                Ok(Ok(answer)) => Some(answer),
                Ok(Err(error)) => {
                    tracing::debug!(error = %error, address, "a sentinel or cluster node does not tell who is master");
                    None
                }
                Err(_) => None,
            };
            (address, answer)
        }
    });
    let answers = join_all(answers).await;
    let mut newest: Option<Told> = None;
    for (address, answer) in answers {
        let Some((told, connection)) = answer else {
            held.remove(&address);
            continue;
        };
        held.insert(address, connection);
        newest = newest.into_iter().chain(told).max_by_key(|told| told.number);
    }
    newest
}

/// Who is asked for the masters.
#[derive(Clone, Copy)]
enum Question<'a> {
    Sentinel { service: &'a str },
    ClusterNode,
}

impl Question<'_> {
    async fn ask(
        self,
        info: ConnectionInfo,
        kept: Option<MultiplexedConnection>,
    ) -> Result<(Option<Told>, MultiplexedConnection), RedisError> {
        let mut connection = match kept {
            Some(connection) => connection,
            None => Client::open(info.clone())?.get_multiplexed_async_connection().await?,
        };
        let told = match self {
            Self::Sentinel { service } => {
                told_by_sentinel(redis::cmd("SENTINEL").arg("MASTER").arg(service).query_async(&mut connection).await?)
            }
            Self::ClusterNode => ask_node(&mut connection, host(info.addr())).await?,
        };
        Ok((told, connection))
    }
}

fn told_by_sentinel(reply: Value) -> Option<Told> {
    let fields: Vec<String> = match reply {
        Value::Map(pairs) => pairs.into_iter().flat_map(|(name, value)| [text(name), text(value)]).collect::<Option<_>>()?,
        Value::Array(values) => values.into_iter().map(text).collect::<Option<_>>()?,
        _ => return None,
    };
    let field = |name: &str| fields.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
    let address = ConnectionAddr::Tcp(field("ip")?.to_owned(), field("port")?.parse().ok()?);
    Some(Told { number: field("config-epoch")?.parse().ok()?, masters: vec![(address, vec![(0, SLOTS - 1)])] })
}

fn host(address: &ConnectionAddr) -> &str {
    match address {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        _ => "",
    }
}

async fn ask_node(connection: &mut MultiplexedConnection, asked: &str) -> Result<Option<Told>, RedisError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let (info, slots): (String, Value) = pipeline.query_async(connection).await?;
    let number = info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:")?.trim().parse().ok());
    Ok(number.and_then(|number| Some(Told { number, masters: masters(slots, asked)? })))
}

/// What `CLUSTER SLOTS` says: `[first, last, [host, port, ...], replicas...]` for each range. A node that does not know its own
/// host leaves it empty: then it is the one that was `asked`.
fn masters(slots: Value, asked: &str) -> Option<Vec<Master>> {
    let Value::Array(ranges) = slots else { return None };
    let mut masters: Vec<Master> = Vec::new();
    for range in ranges {
        let Value::Array(range) = range else { return None };
        let [first, last, Value::Array(master), ..] = &*range else { return None };
        let (host, port) = (master.first()?, master.get(1)?);
        let number = |value: &Value| if let Value::Int(number) = value { u16::try_from(*number).ok() } else { None };
        let host = text(host.clone()).filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| asked.to_owned());
        let address = ConnectionAddr::Tcp(host, number(port)?);
        let slots = (number(first)?, number(last)?);
        match masters.iter_mut().find(|(known, _)| *known == address) {
            Some((_, ranges)) => ranges.push(slots),
            None => masters.push((address, vec![slots])),
        }
    }
    Some(masters)
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// The slot of each partition.
static PARTITION_SLOTS: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let slot = |partition| {
        let wanted = Slot::for_key(key::epoch(partition));
        (0..SLOTS).find(|slot| Slot::new(*slot) == Some(wanted)).unwrap_or(0)
    };
    (0..key::CLUSTER_PARTITIONS).map(slot).collect()
});

#[cfg(test)]
mod tests {
    use deadpool_redis::redis::parse_redis_value;

    use super::*;

    #[test]
    fn a_sentinel_names_the_master_and_how_new_that_is() {
        let wire = "*6\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$4\r\nport\r\n$4\r\n7001\r\n$12\r\nconfig-epoch\r\n$1\r\n3\r\n";
        let told = told_by_sentinel(parse_redis_value(wire.as_bytes()).unwrap()).unwrap();
        assert_eq!((told.number, &told.masters[0].0), (3, &ConnectionAddr::Tcp("127.0.0.1".to_owned(), 7001)));
        for wire in ["*0\r\n", "$-1\r\n", "-ERR No such master with that name\r\n", "*2\r\n$2\r\nip\r\n$1\r\nx\r\n"] {
            assert!(told_by_sentinel(parse_redis_value(wire.as_bytes()).unwrap()).is_none(), "{wire:?}");
        }
    }

    #[test]
    fn the_masters_of_a_cluster_have_their_ranges() {
        let range = |first: i64, last: i64, host: &str, port: i64| {
            let node = vec![Value::BulkString(host.into()), Value::Int(port), Value::BulkString(b"id".to_vec())];
            Value::Array(vec![Value::Int(first), Value::Int(last), Value::Array(node.clone()), Value::Array(node)])
        };
        let slots = Value::Array(vec![range(0, 99, "10.0.0.1", 1), range(100, 199, "", 2), range(200, 299, "10.0.0.1", 1)]);
        let found = masters(slots, "10.0.0.9").unwrap();
        let named = |host: &str, port| ConnectionAddr::Tcp(host.to_owned(), port);
        assert_eq!(found, [(named("10.0.0.1", 1), vec![(0, 99), (200, 299)]), (named("10.0.0.9", 2), vec![(100, 199)])]);
        assert!(masters(Value::Array(vec![range(0, 70_000, "10.0.0.1", 1)]), "").is_none());
        assert!(masters(Value::Nil, "").is_none());
    }
}
