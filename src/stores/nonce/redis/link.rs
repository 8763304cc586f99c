//! The connections of a thread: one to each server, shared by all claims of the thread and driven
//! by the thread's own runtime.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use futures_util::future::{BoxFuture, FutureExt, Shared};

use super::failure::ClaimError;
use crate::stores::redis::Connection;

/// The state of one thread.
#[derive(Default)]
pub(super) struct Thread {
    held: Mutex<Vec<Link>>,
    /// Connections that are being made, so that many waiting claims share one. Connecting continues
    /// even if no claim waits for it any more.
    connecting: Mutex<Vec<(u64, Connecting)>>,
}

pub(super) type Connecting = Shared<BoxFuture<'static, Result<(), Arc<ClaimError>>>>;

/// A connection to a server.
#[derive(Clone)]
pub(super) struct Link {
    /// The id of the server.
    pub(super) server: u64,
    /// The id of the connection.
    serial: u64,
    pub(super) connection: Connection,
}

impl Link {
    pub(super) fn new(server: u64, connection: Connection) -> Self {
        Self { server, serial: fastrand::u64(..), connection }
    }
}

impl Thread {
    pub(super) fn held(&self, server: u64) -> Option<Link> {
        lock(&self.held).iter().find(|held| held.server == server).cloned()
    }

    /// Keeps a connection in place of any other to the same server. Replies that are still due on
    /// the old connection still arrive.
    pub(super) fn keep(&self, link: Link) {
        let mut held = lock(&self.held);
        held.retain(|known| known.server != link.server);
        held.push(link);
    }

    /// Keeps a connection in place of `suspect`, unless `suspect` is still kept and something came
    /// over it since `moment`.
    pub(super) fn keep_instead(&self, suspect: &Link, moment: Instant, link: Link) {
        let is_held = lock(&self.held).iter().any(|known| known.serial == suspect.serial);
        if !(is_held && suspect.connection.heard_since(moment)) {
            self.keep(link);
        }
    }

    /// Drops the connection of `link`, if it belongs to this thread.
    pub(super) fn drop_link(&self, link: &Link) {
        self.drop_if(|held| held.serial == link.serial);
    }

    /// Drops the connections that match `condition`.
    pub(super) fn drop_if(&self, condition: impl Fn(&Link) -> bool) {
        lock(&self.held).retain(|held| !condition(held));
    }

    /// The connection to `server` that is being made; if there is none, `connect` starts one.
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
        let begun = task
            .map(|ended| ended.unwrap_or_else(|_| Err(Arc::new(ClaimError::Stopping))))
            .boxed()
            .shared();
        connecting.push((server, begun.clone()));
        begun
    }
}

/// Ignores poisoning: the list behind the lock is valid at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
