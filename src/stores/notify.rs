//! Hints over Redis that the change feed has something new, so that replicas need not wait for
//! their next poll.
//!
//! Every process that changes the registry publishes an empty message; every replica subscribes. A
//! message may be lost, and Redis may be away: the feed in the database is what counts, and it is
//! polled in any case.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt;
use redis::RedisError;
use tokio::sync::Mutex;

use crate::{
    engine::ports::{ChangeHints, KeyDirectory},
    stores::redis::{CONNECT_TIMEOUT, Connection, Purpose, RedisAccess, failed, within},
};

/// The channel; what is said on it has no meaning.
const CHANNEL: &str = "countersign:registry-changes";
/// How long an announcement may take, connecting included. Whoever made the change waits for it.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_millis(250);
/// How long to wait before connecting is tried again; doubled each time, up to the last.
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
    access: RedisAccess,
    connection: Mutex<Option<Connection>>,
}

impl RedisHints {
    /// Hints over the Redis of the nonces. Nothing is connected yet.
    pub fn new(access: RedisAccess) -> Self {
        Self { access, connection: Mutex::default() }
    }

    async fn publish(&self) -> Result<(), RedisError> {
        let mut held = self.connection.lock().await;
        // A connection that broke since the last change is replaced once.
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

/// Listens for hints on behalf of a directory.
pub struct HintListener {
    access: RedisAccess,
    directory: Arc<dyn KeyDirectory>,
}

impl HintListener {
    /// Lets `directory` look for changes whenever the Redis of `access` says so.
    pub fn new(access: RedisAccess, directory: Arc<dyn KeyDirectory>) -> Self {
        Self { access, directory }
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

    /// Ends when a connection does.
    async fn listen(&self) -> Result<(), RedisError> {
        let server = within(CONNECT_TIMEOUT, self.access.publishing_server()).await?;
        let subscriber = self.access.subscribe(&server, Purpose::Anything, CHANNEL).await?;
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
