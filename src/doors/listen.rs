//! The connections of every listener: accepted, counted, limited, dropped when they are too slow,
//! and closed gracefully.
//!
//! One thread per core, each with a runtime of its own. A request stays on the thread that read it,
//! and so does its claim on the way to Redis and back: no other thread is woken for either.
//! Connections are handed out round-robin. Leaving that to the kernel (`SO_REUSEPORT`) would
//! sometimes put the few connections of a gateway, one for each of its threads, on the same core,
//! and keep them there.
//!
//! Deadlines do not use timers. A connection records what it waits for and since when
//! ([`Activity`]); each worker checks all of its connections four times a second.

mod accept;
mod connection;
mod deadlines;
mod drain;
mod http1;
mod http2;
mod inherited;
mod lock;
mod memory;
mod peer;
mod socket;
mod stream;
mod turns;
mod versions;
mod worker;

use std::{future::Future, io, rc::Rc, sync::Arc};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::oneshot, task::JoinHandle};

use self::worker::Workers;
pub(super) use self::{
    connection::Connection,
    deadlines::{Activity, BODY_PART_TIME, BODY_TIME, Held},
    http1::{serve as serve_http1, too_many_connections},
    http2::{goaway, serve as serve_http2},
    peer::{Origin, Peer},
    stream::{Stream, Watched},
    turns::TurnRecord,
    versions::serve as serve_http,
};
pub use self::{
    drain::{Stage, Stages},
    inherited::{Inherited, InheritedError},
    socket::{Bound, Listener},
};
use super::tls::Acceptor;
use crate::telemetry::connections::ConnectionCounts;

/// What a listener's connections speak.
pub(super) trait Protocol: Clone + Send + 'static {
    /// What a worker serves its connections with.
    type Ready: Clone + 'static;

    /// Runs once on each worker's thread.
    fn prepare(self) -> impl Future<Output = Self::Ready>;

    /// Serves `stream`.
    fn serve<S: Stream>(
        ready: &Self::Ready,
        stream: Watched<S>,
        peer: Peer,
        activity: &Rc<Activity>,
    ) -> impl Connection;

    /// What a client receives if there are too many connections.
    fn refusal() -> Vec<u8>;
}

/// What all listeners need.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Connections that may be open at once.
    pub max_connections: usize,
    /// The stage of the shutdown.
    pub stages: Stages,
    /// Counts connections.
    pub counts: Arc<ConnectionCounts>,
}

/// A listener or its threads failed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A thread to serve connections with could not be started.
    #[error("a thread for connections could not be started")]
    Thread(#[source] io::Error),
    /// A thread that served connections panicked.
    #[error("a thread that served connections panicked")]
    WorkerPanicked,
}

/// A listener that is being served, until the last of the [`Stages`]. If it is dropped, it accepts
/// no more connections, and its workers close theirs.
#[derive(Debug)]
pub struct Served {
    accepting: JoinHandle<()>,
    ends: FuturesUnordered<oneshot::Receiver<()>>,
}

/// Serves `listener` on `threads` threads; over TCP with `tls`, if there is one.
pub(super) fn serve<P: Protocol>(
    listener: Listener,
    threads: usize,
    tls: Option<&Acceptor>,
    protocol: &P,
    listening: Listening,
) -> Result<Served, ListenError> {
    let Listening { max_connections, stages, counts } = listening;
    let tls = tls.filter(|_| listener.is_tcp());
    let (workers, ends) =
        Workers::start(threads, tls, protocol, &stages, &counts).map_err(ListenError::Thread)?;
    let accepting = accept::Accepting {
        listener,
        workers,
        max_connections,
        refusal: P::refusal(),
        tls: tls.cloned(),
        stages,
        counts,
    };
    Ok(Served { accepting: tokio::spawn(accepting.run()), ends })
}

impl Served {
    /// Resolves when every connection has ended, or the first worker has failed.
    pub async fn ended(&mut self) -> Result<(), ListenError> {
        while let Some(end) = self.ends.next().await {
            end.map_err(|_| ListenError::WorkerPanicked)?;
        }
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
