//! Hints over Redis that the change feed has new changes, so that replicas need not wait for their
//! next poll.
//!
//! Every process that changes the registry publishes an empty message; every replica subscribes.
//! Messages may be lost, and Redis may be unavailable: the feed in the database is what counts, and
//! it is polled in any case.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt;
use redis::RedisError;
use tokio::sync::Mutex;

use crate::{
    engine::ports::{ChangeHints, KeyDirectory},
    stores::redis::{CONNECT_TIMEOUT, Connection, Purpose, RedisAccess, failed, within},
};

/// The channel; the content of messages is ignored.
const CHANNEL: &str = "countersign:registry-changes";
/// How long an announcement may take, including connecting. The caller that made the change waits
/// for it.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_millis(250);
/// How long to wait before connecting again; doubled each time, up to the maximum.
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_LAST: Duration = Duration::from_secs(5);

/// Announces nothing; used without Redis.
#[derive(Clone, Copy, Debug)]
pub struct NoHints;

#[async_trait]
impl ChangeHints for NoHints {
    async fn announce(&self) {}
}

/// Makes the directory of this process poll at once, and then hints to others.
pub struct LocalHints {
    directory: Arc<dyn KeyDirectory>,
    others: Arc<dyn ChangeHints>,
}

impl LocalHints {
    /// Hints to `directory` first, then through `others`.
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

/// Publishes hints over Redis.
pub struct RedisHints {
    access: RedisAccess,
    connection: Mutex<Option<Connection>>,
}

impl RedisHints {
    /// Creates hints over the Redis of the nonces. Does not connect yet.
    pub fn new(access: RedisAccess) -> Self {
        Self { access, connection: Mutex::default() }
    }

    async fn publish(&self) -> Result<(), RedisError> {
        let mut held = self.connection.lock().await;
        // If the connection broke since the last change, reconnect once.
        for connection in [held.take(), None] {
            let mut connection = match connection {
                Some(connection) => connection,
                None => connect(&self.access).await?,
            };
            match publish(&mut connection).await {
                Ok(()) => {
                    *held = Some(connection);
                    return Ok(());
                }
                Err(error) if error.is_io_error() || error.is_connection_dropped() => {}
                Err(error) => return Err(error),
            }
        }
        Err(failed("two connections in a row broke"))
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
        tracing::warn!(
            error,
            "replicas could not be told of a change; they find it at their next poll"
        );
    }
}

/// Subscribes to hints for a directory.
pub struct HintListener {
    access: RedisAccess,
    directory: Arc<dyn KeyDirectory>,
}

impl HintListener {
    /// Creates a listener that makes `directory` poll on each hint over the Redis of `access`.
    pub fn new(access: RedisAccess, directory: Arc<dyn KeyDirectory>) -> Self {
        Self { access, directory }
    }

    /// Listens until `shutdown` completes.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut pause = RECONNECT_FIRST;
        loop {
            let heard = tokio::select! {
                () = &mut shutdown => return,
                heard = self.listen() => heard,
            };
            match heard {
                // It was connected, so the next attempt may follow soon.
                Ok(()) => pause = RECONNECT_FIRST,
                Err(error) => {
                    tracing::debug!(error = %error, "hints of changes cannot be heard; the feed is polled all the same");
                }
            }
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RECONNECT_LAST);
        }
    }

    /// Returns when the connection ends.
    async fn listen(&self) -> Result<(), RedisError> {
        let server = within(CONNECT_TIMEOUT, self.access.publishing_server()).await?;
        let subscriber = self.access.subscribe(&server, Purpose::Anything, CHANNEL).await?;
        // Hints from before this connection was made were missed.
        self.directory.look();
        let mut messages = subscriber.into_on_message();
        while messages.next().await.is_some() {
            self.directory.look();
        }
        Ok(())
    }
}

/// Whether hints can be published and received.
pub async fn check(access: &RedisAccess) -> Result<(), RedisError> {
    let check = async {
        let server = access.publishing_server().await?;
        drop(access.subscribe(&server, Purpose::Anything, CHANNEL).await?);
        publish(&mut connect(access).await?).await
    };
    within(CONNECT_TIMEOUT, check).await
}

async fn connect(access: &RedisAccess) -> Result<Connection, RedisError> {
    access.connect(&access.publishing_server().await?, Purpose::Anything).await
}

async fn publish(connection: &mut Connection) -> Result<(), RedisError> {
    redis::cmd("PUBLISH").arg(CHANNEL).arg("").query_async(&mut **connection).await
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
