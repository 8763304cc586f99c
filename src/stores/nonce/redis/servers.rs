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
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use deadpool_redis::redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError, aio::MultiplexedConnection,
    cluster_routing::Slot,
};
use futures_util::{StreamExt, future::join_all};
use tokio::sync::Notify;

use super::{
    discovery::{Question, SLOTS, Told, ask_all},
    key,
    server::Server,
};
use crate::config::nonce::{NonceSettings, NonceUrl};

/// For how long after a master was replaced other replicas may still claim at the old one: they ask for it twice a second.
const TAKEOVER: Duration = Duration::from_millis(750);
/// How long to wait before a sentinel is listened to again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

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

/// The slot of each partition.
static PARTITION_SLOTS: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let slot = |partition| {
        let wanted = Slot::for_key(key::epoch(partition));
        (0..SLOTS).find(|slot| Slot::new(*slot) == Some(wanted)).unwrap_or(0)
    };
    (0..key::CLUSTER_PARTITIONS).map(slot).collect()
});
