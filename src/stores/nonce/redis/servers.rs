//! Finds the Redis server of each partition of the nonces: the server of the URL, the master that
//! the sentinels name, or the masters of a cluster.
//!
//! Claims go to servers directly and not through a library's cluster connection. That would hide
//! which server answered and when it was replaced, which must be known to tell whether claims were
//! lost.

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use futures_util::{StreamExt, future::join_all};
use redis::{RedisError, cluster_routing::Slot};
use tokio::sync::Notify;

use super::{key, server::Server};
use crate::{
    config::redis_url::{RedisAddress, RedisServers},
    stores::redis::{Held, Purpose, Question, RedisAccess, SLOTS, Told, ask_all},
};

/// How long other replicas may still claim at the old master after it was replaced: they check who
/// is master twice a second.
const TAKEOVER: Duration = Duration::from_millis(750);
/// How long to wait before subscribing to a sentinel again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Maps partitions to servers.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) servers: Vec<Arc<Server>>,
    /// Index into `servers`, by partition.
    places: Vec<Option<usize>>,
}

impl Layout {
    pub(super) fn server(&self, partition: usize) -> Option<&Arc<Server>> {
        self.servers.get((*self.places.get(partition)?)?)
    }

    /// The partitions of a server.
    pub(super) fn partitions(&self, server: u64) -> Vec<usize> {
        let has =
            |partition: &usize| self.server(*partition).is_some_and(|found| found.id == server);
        (0..self.places.len()).filter(has).collect()
    }
}

/// Finds the servers, and finds them again when they change.
pub(super) struct Servers {
    access: RedisAccess,
    layout: ArcSwap<Layout>,
    /// Held during a search, so that only one runs at a time; keeps the connections.
    searching: tokio::sync::Mutex<Held>,
    /// How many searches have started.
    searches: AtomicU64,
    /// Signals that a search is needed.
    pub(super) wanted: Notify,
    /// The number of the newest decision by the sentinels or the cluster about who is master.
    newest: AtomicU64,
}

/// The servers cannot be found.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiscoveryError {
    #[error("no sentinel knows a master of the name {0:?}")]
    NoMaster(String),
    #[error("no node of the cluster tells who has which slots")]
    NoNode,
}

impl Servers {
    /// Does not connect yet.
    pub(super) fn new(access: RedisAccess) -> Self {
        let layout = match access.servers() {
            RedisServers::Single(address) => Layout {
                servers: vec![Arc::new(Server::new(&access, address.clone()))],
                places: vec![Some(0)],
            },
            RedisServers::Cluster(_) | RedisServers::Sentinel { .. } => Layout::default(),
        };
        Self {
            access,
            layout: ArcSwap::from_pointee(layout),
            searching: tokio::sync::Mutex::default(),
            searches: AtomicU64::new(0),
            wanted: Notify::new(),
            newest: AtomicU64::new(0),
        }
    }

    pub(super) const fn access(&self) -> &RedisAccess {
        &self.access
    }

    pub(super) fn partitions(&self) -> usize {
        match self.access.servers() {
            RedisServers::Single(_) | RedisServers::Sentinel { .. } => 1,
            RedisServers::Cluster(_) => key::CLUSTER_PARTITIONS,
        }
    }

    /// How long other replicas may still claim at the previous server after a takeover.
    pub(super) fn takeover(&self) -> Duration {
        match self.access.servers() {
            RedisServers::Single(_) => Duration::ZERO,
            RedisServers::Sentinel { .. } | RedisServers::Cluster(_) => TAKEOVER,
        }
    }

    /// The current layout. Do not hold it across an `await`.
    pub(super) fn layout(&self) -> Guard<Arc<Layout>> {
        self.layout.load()
    }

    pub(super) fn layout_now(&self) -> Arc<Layout> {
        self.layout.load_full()
    }

    /// Searches, and returns whether anything changed. Servers that stay keep their connections.
    /// All callers during a search share the next one.
    pub(super) async fn search(&self) -> Result<bool, DiscoveryError> {
        let before = self.layout_now();
        let begun = self.searches.load(Ordering::Acquire);
        let mut held = self.searching.lock().await;
        let now = self.layout_now();
        if !Arc::ptr_eq(&before, &now) || self.searches.load(Ordering::Acquire) > begun {
            // Another caller has just searched.
            return Ok(!Arc::ptr_eq(&before, &now));
        }
        self.searches.fetch_add(1, Ordering::AcqRel);
        let told = match self.access.servers() {
            RedisServers::Single(_) => return Ok(false),
            RedisServers::Sentinel { sentinels, service, .. } => {
                let told = ask_all(
                    &self.access,
                    &mut held,
                    sentinels.clone(),
                    Question::Sentinel { service },
                )
                .await;
                told.ok_or_else(|| DiscoveryError::NoMaster(service.clone()))?
            }
            RedisServers::Cluster(seeds) => {
                let servers = now.servers.iter().map(|server| &server.address);
                let nodes = seeds.iter().chain(servers).cloned().collect();
                ask_all(&self.access, &mut held, nodes, Question::ClusterNode)
                    .await
                    .ok_or(DiscoveryError::NoNode)?
            }
        };
        // A late answer must not bring back a server that was replaced.
        if told.number < self.newest.load(Ordering::Acquire) {
            return Ok(false);
        }
        self.newest.store(told.number, Ordering::Release);
        Ok(self.replace(&now, told))
    }

    fn replace(&self, now: &Layout, told: Told) -> bool {
        let mut servers: Vec<Arc<Server>> = Vec::with_capacity(told.masters.len());
        let mut places = vec![None; self.partitions()];
        for (address, slots) in told.masters {
            let server = match now.servers.iter().find(|known| known.address == address) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Server::new(&self.access, address)),
            };
            for (place, slot) in places.iter_mut().zip(&*PARTITION_SLOTS) {
                if slots.iter().any(|(first, last)| (*first..=*last).contains(slot)) {
                    *place = Some(servers.len());
                }
            }
            servers.push(server);
        }
        let same = |one: &Arc<Server>, other: &Arc<Server>| Arc::ptr_eq(one, other);
        let is_same = |partition| match (
            now.server(partition),
            places[partition].map(|place: usize| &servers[place]),
        ) {
            (Some(one), Some(other)) => same(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        if (0..places.len()).all(is_same) {
            return false;
        }
        let addresses: Vec<String> =
            servers.iter().map(|server| server.address.to_string()).collect();
        tracing::info!(
            servers = addresses.join(", "),
            "nonces are claimed at these Redis servers from now on"
        );
        self.layout.store(Arc::new(Layout { servers, places }));
        true
    }

    /// Listens to the sentinels indefinitely; each announces at once when another master is
    /// elected.
    pub(super) async fn listen(&self) {
        let RedisServers::Sentinel { sentinels, .. } = self.access.servers() else {
            return std::future::pending().await;
        };
        let listening = sentinels.iter().map(|sentinel| async move {
            loop {
                if let Err(error) = self.listen_to(sentinel).await {
                    tracing::debug!(error = %error, "a sentinel cannot be listened to; it is asked all the same");
                }
                tokio::time::sleep(LISTEN_AGAIN).await;
            }
        });
        join_all(listening).await;
    }

    async fn listen_to(&self, sentinel: &RedisAddress) -> Result<(), RedisError> {
        let subscriber =
            self.access.subscribe(sentinel, Purpose::Sentinel, "+switch-master").await?;
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

/// The slot of each partition.
static PARTITION_SLOTS: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let slot = |partition| {
        let wanted = Slot::for_key(key::epoch(partition));
        (0..SLOTS).find(|slot| Slot::new(*slot) == Some(wanted)).unwrap_or(0)
    };
    (0..key::CLUSTER_PARTITIONS).map(slot).collect()
});
