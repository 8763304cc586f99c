//! Hints over Redis that the change feed has something new, so that replicas need not wait for their next poll.
//!
//! Every process that changes the registry publishes an empty message; every replica subscribes. A message may be lost, and Redis
//! may be away: the feed in the database is what counts, and it is polled in any case.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use deadpool_redis::redis::{
    self, Client, ErrorKind, IntoConnectionInfo, RedisError,
    aio::MultiplexedConnection,
    sentinel::{SentinelClient, SentinelServerType},
};
use futures_util::StreamExt;
use tokio::sync::Mutex;

use crate::{
    config::nonce::NonceUrl,
    engine::ports::{ChangeHints, KeyDirectory},
};

/// The channel; what is said on it has no meaning.
const CHANNEL: &str = "countersign:registry-changes";
/// How long an announcement may take, connecting included. Whoever made the change waits for it.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_millis(250);
/// How long connecting may take, and how long to wait before it is tried again; doubled each time, up to the last.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_LAST: Duration = Duration::from_secs(5);

/// Where there is no Redis, nobody is told.
#[derive(Clone, Copy, Debug)]
pub struct NoHints;

#[async_trait]
impl ChangeHints for NoHints {
    async fn announce(&self) {}
}

/// Lets the directory of this process look at once, and tells the others.
pub struct LocalHints {
    directory: Arc<dyn KeyDirectory>,
    others: Arc<dyn ChangeHints>,
}

impl LocalHints {
    /// Hints to `directory`, and then by way of `others`.
    pub fn new(directory: Arc<dyn KeyDirectory>, others: Arc<dyn ChangeHints>) -> Self {
        Self { directory, others }
    }
}

#[async_trait]
impl ChangeHints for LocalHints {
    async fn announce(&self) {
        self.directory.look();
        self.others.announce().await;
    }
}

/// Publishes hints.
pub struct RedisHints {
    url: NonceUrl,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl RedisHints {
    /// Hints over the Redis of the nonces. Nothing is connected yet.
    pub fn new(url: &NonceUrl) -> Self {
        Self { url: url.clone(), connection: Mutex::default() }
    }

    async fn publish(&self) -> Result<(), RedisError> {
        let mut held = self.connection.lock().await;
        // A connection that broke since the last change is replaced once.
        for connection in [held.take(), None] {
            let mut connection = match connection {
                Some(connection) => connection,
                None => client(&self.url).await?.get_multiplexed_async_connection().await?,
            };
            match redis::cmd("PUBLISH").arg(CHANNEL).arg("").query_async::<()>(&mut connection).await {
                Ok(()) => {
                    *held = Some(connection);
                    return Ok(());
                }
                Err(error) if error.is_io_error() || error.is_connection_dropped() => {}
                Err(error) => return Err(error),
            }
        }
        Err(lost("two connections in a row broke"))
    }
}

#[async_trait]
impl ChangeHints for RedisHints {
    async fn announce(&self) {
        let published = tokio::time::timeout(ANNOUNCE_TIMEOUT, self.publish()).await;
        let error = match published {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ANNOUNCE_TIMEOUT:?}"),
        };
        tracing::warn!(error, "replicas could not be told of a change; they find it at their next poll");
    }
}

/// Listens for hints on behalf of a directory.
pub struct HintListener {
    url: NonceUrl,
    directory: Arc<dyn KeyDirectory>,
}

impl HintListener {
    /// Lets `directory` look for changes whenever the Redis of `url` says so.
    pub fn new(url: &NonceUrl, directory: Arc<dyn KeyDirectory>) -> Self {
        Self { url: url.clone(), directory }
    }

    /// Listens until `shutdown` is done.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut pause = RECONNECT_FIRST;
        loop {
            let heard = tokio::select! {
                () = &mut shutdown => return,
                heard = self.listen() => heard,
            };
            match heard {
                // It was connected: the next attempt need not wait long.
                Ok(()) => pause = RECONNECT_FIRST,
                Err(error) => tracing::debug!(error = %error, "hints of changes cannot be heard; the feed is polled all the same"),
            }
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RECONNECT_LAST);
        }
    }

    /// Ends when a connection does.
    async fn listen(&self) -> Result<(), RedisError> {
        let connect = async {
            let mut subscriber = client(&self.url).await?.get_async_pubsub().await?;
            subscriber.subscribe(CHANNEL).await?;
            Ok::<_, RedisError>(subscriber)
        };
        let subscriber = tokio::time::timeout(CONNECT_TIMEOUT, connect).await.unwrap_or_else(|_| Err(lost("no answer in time")))?;
        // What was said before this connection was made was not heard.
        self.directory.look();
        let mut messages = subscriber.into_on_message();
        while messages.next().await.is_some() {
            self.directory.look();
        }
        Ok(())
    }
}

/// Whether hints can be published and heard.
pub async fn check(url: &NonceUrl) -> Result<(), RedisError> {
    let check = async {
        let client = client(url).await?;
        client.get_async_pubsub().await?.subscribe(CHANNEL).await?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PUBLISH").arg(CHANNEL).arg("").query_async::<()>(&mut connection).await
    };
    tokio::time::timeout(CONNECT_TIMEOUT, check).await.unwrap_or_else(|_| Err(lost("no answer in time")))
}

/// A node that publishes to all others: the server itself, the master that the sentinels name, or any node of a cluster.
async fn client(url: &NonceUrl) -> Result<Client, RedisError> {
    match url {
        NonceUrl::Memory => Err(lost("there is no Redis")),
        NonceUrl::Single(url) => Client::open(url.expose()),
        NonceUrl::Cluster(nodes) => {
            let mut last = lost("the cluster has no nodes");
            for node in nodes {
                let client = Client::open(node.expose())?;
                match client.get_multiplexed_async_connection().await {
                    Ok(_) => return Ok(client),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        NonceUrl::Sentinel { nodes, service } => {
            let nodes = nodes.iter().map(|node| node.expose().into_connection_info()).collect::<Result<Vec<_>, _>>()?;
            SentinelClient::build(nodes, service.clone(), None, SentinelServerType::Master)?.async_get_client().await
        }
    }
}

fn lost(what: &'static str) -> RedisError {
    (ErrorKind::Io, what).into()
}

impl fmt::Debug for LocalHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalHints").finish_non_exhaustive()
    }
}

impl fmt::Debug for RedisHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisHints").finish_non_exhaustive()
    }
}

impl fmt::Debug for HintListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HintListener").finish_non_exhaustive()
    }
}
