//! The connections of a thread: one to each server, shared by all claims of the thread and driven by its own runtime.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deadpool_redis::redis::aio::MultiplexedConnection;
use futures_util::future::{BoxFuture, FutureExt, Shared};

use super::failure::ClaimError;

/// What belongs to one thread.
#[derive(Default)]
pub(super) struct Thread {
    held: Mutex<Vec<Held>>,
    /// Connections that are being made, so that many waiting claims make one. They go on if nobody waits any more.
    connecting: Mutex<Vec<(u64, Connecting)>>,
}

pub(super) type Connecting = Shared<BoxFuture<'static, Result<(), Arc<ClaimError>>>>;

struct Held {
    link: Link,
    /// The pool's own handle, kept for as long as the connection is used.
    pooled: deadpool_redis::Connection,
}

/// A connection to a server.
#[derive(Clone)]
pub(super) struct Link {
    /// The number of the server.
    pub(super) server: u64,
    /// Of the connection.
    serial: u64,
    pub(super) connection: MultiplexedConnection,
}

impl Thread {
    pub(super) fn held(&self, server: u64) -> Option<Link> {
        lock(&self.held).iter().find(|held| held.link.server == server).map(|held| held.link.clone())
    }

    /// Keeps a connection, instead of any other to the same server.
    pub(super) fn keep(&self, server: u64, pooled: deadpool_redis::Connection) {
        let link = Link { server, serial: fastrand::u64(..), connection: MultiplexedConnection::clone(&pooled) };
        let mut held = lock(&self.held);
        let replaced = take(&mut held, |held| held.link.server == server);
        held.push(Held { link, pooled });
        drop(held);
        give_up(replaced);
    }

    /// Gives up the connection that `link` is.
    pub(super) fn drop_link(&self, link: &Link) {
        self.drop_if(|held| held.serial == link.serial);
    }

    /// Gives up the connections to which `condition` applies.
    pub(super) fn drop_if(&self, condition: impl Fn(&Link) -> bool) {
        let dropped = take(&mut lock(&self.held), |held| condition(&held.link));
        give_up(dropped);
    }

    /// The connection to `server` that is being made, or that `connect` begins to make.
    pub(super) fn connecting(
        self: &Arc<Self>,
        server: u64,
        connect: impl Future<Output = Result<(), ClaimError>> + Send + 'static,
    ) -> Connecting {
        let mut connecting = lock(&self.connecting);
        if let Some((_, begun)) = connecting.iter().find(|(begun, _)| *begun == server) {
            return begun.clone();
        }
        let thread = Arc::clone(self);
        let task = tokio::spawn(async move {
            let connected = connect.await;
            lock(&thread.connecting).retain(|(begun, _)| *begun != server);
            connected.map_err(Arc::new)
        });
        let begun = task.map(|ended| ended.unwrap_or_else(|_| Err(Arc::new(ClaimError::Stopping)))).boxed().shared();
        connecting.push((server, begun.clone()));
        begun
    }
}

/// A lock that is poisoned guards a list that is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(held: &mut Vec<Held>, condition: impl Fn(&Held) -> bool) -> Vec<Held> {
    held.extract_if(.., |held| condition(held)).collect()
}

/// Takes connections out of their pool, which then has room for new ones.
fn give_up(held: Vec<Held>) {
    for held in held {
        drop(deadpool_redis::Connection::take(held.pooled));
    }
}
