//! Accepts every connection of a listener, and hands it to a worker or refuses it.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    drain::{Stage, Stages},
    peer::Peer,
    socket::{AcceptedStream, Listener},
    worker::Workers,
};
use crate::{doors::tls::Acceptor, telemetry::connections::ConnectionCounts};

/// Pause after an accept failed. Usually there are no file descriptors left, and other connections
/// have to end first.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);
/// How often the log reports that.
const WARN_INTERVAL: Duration = Duration::from_secs(1);
/// Refused connections that are kept open for a moment.
const REFUSED_MAX: usize = 16;
/// How long they are kept. Closing a connection with unread data resets it, and the client might
/// not read the reason.
const REFUSED_FOR: Duration = Duration::from_millis(500);

/// A connection on its way to a worker. It counts towards the limit until it is dropped.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: AcceptedStream,
    pub(super) peer: Peer,
    pub(super) place: Place,
}

/// One of the connections that may be open.
#[derive(Debug)]
pub(super) struct Place {
    counts: Arc<ConnectionCounts>,
}

impl Place {
    fn take(counts: &Arc<ConnectionCounts>, max: usize) -> Option<Self> {
        counts.open(max).then(|| Self { counts: Arc::clone(counts) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.closed();
    }
}

/// Accepts the connections of a listener.
pub(super) struct Accepting {
    pub(super) listener: Listener,
    pub(super) workers: Workers,
    pub(super) max_connections: usize,
    /// What a client receives if there are too many connections.
    pub(super) refusal: Vec<u8>,
    /// TLS for refusals.
    pub(super) tls: Option<Acceptor>,
    pub(super) stages: Stages,
    pub(super) counts: Arc<ConnectionCounts>,
}

impl Accepting {
    /// Hands out every connection until the service is closing; then those that are already
    /// complete, and accepts no more.
    pub(super) async fn run(self) {
        let Self { mut listener, workers, max_connections, refusal, tls, stages, counts } = self;
        let mut turns = workers.queues.iter().cycle();
        let mut refused = Refused::new(refusal, tls);
        let mut hand_out =
            |stream: AcceptedStream, peer| match Place::take(&counts, max_connections) {
                None => refused.add(stream),
                Some(place) => {
                    if let Some(worker) = turns.next() {
                        // If a worker has ended, the service ends, so this connection does not
                        // matter.
                        drop(worker.send(Accepted { stream, peer, place }));
                    }
                }
            };
        let mut warned = None::<Instant>;
        let mut closing = std::pin::pin!(stages.reached(Stage::Closing));
        loop {
            let accepted = tokio::select! {
                () = &mut closing => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => hand_out(stream, peer),
                Err(error) => {
                    if warned.is_none_or(|at| at.elapsed() > WARN_INTERVAL) {
                        warned = Some(Instant::now());
                        tracing::warn!(error = %error, listener = counts.listener().name(), "a connection could not be accepted");
                    }
                    tokio::time::sleep(AFTER_FAILED_ACCEPT).await;
                }
            }
        }
        listener.last(hand_out).await;
    }
}

/// Connections that are refused because there are too many.
struct Refused {
    bytes: Bytes,
    tls: Option<Acceptor>,
    kept: VecDeque<Kept>,
    /// Limits refusals over TLS: handshakes are expensive, so at most this many run at a time.
    handshakes: Arc<Semaphore>,
}

struct Kept {
    since: Instant,
    stream: AcceptedStream,
}

impl Refused {
    fn new(bytes: Vec<u8>, tls: Option<Acceptor>) -> Self {
        Self {
            bytes: bytes.into(),
            tls,
            kept: VecDeque::new(),
            handshakes: Arc::new(Semaphore::new(REFUSED_MAX)),
        }
    }

    /// Refuses `stream`. A client that cannot receive the reason still sees the connection closed.
    fn add(&mut self, stream: AcceptedStream) {
        match (&self.tls, stream) {
            (Some(tls), AcceptedStream::Tcp(stream)) => {
                if let Ok(place) = Arc::clone(&self.handshakes).try_acquire_owned() {
                    tokio::spawn(refuse_over_tls(stream, tls.clone(), self.bytes.clone(), place));
                }
            }
            (None, stream) | (Some(_), stream @ AcceptedStream::Unix(_)) => self.keep(stream),
        }
    }

    fn keep(&mut self, mut stream: AcceptedStream) {
        let since = Instant::now();
        while self.kept.front().is_some_and(|first| {
            self.kept.len() >= REFUSED_MAX || since - first.since > REFUSED_FOR
        }) {
            self.kept.pop_front();
        }
        // The send buffer of a new connection has room for this little.
        if stream.write_all(&self.bytes).is_ok() && stream.shutdown().is_ok() {
            self.kept.push_back(Kept { since, stream });
        }
    }
}

/// Holds its `place` for the full [`REFUSED_FOR`], even if it is done sooner.
async fn refuse_over_tls(
    stream: TcpStream,
    tls: Acceptor,
    bytes: Bytes,
    place: OwnedSemaphorePermit,
) {
    let until = Instant::now() + REFUSED_FOR;
    let told = async {
        let mut stream = tls.accept(tokio::net::TcpStream::from_std(stream)?).await?;
        stream.write_all(&bytes).await?;
        stream.shutdown().await?;
        let mut discarded = [0; 4096];
        while stream.read(&mut discarded).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    match tokio::time::timeout_at(until, told).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "a connection could not be told that there are too many");
        }
    }
    tokio::time::sleep_until(until).await;
    drop(place);
}

impl Drop for Kept {
    /// Reads what has arrived: the kernel resets a connection that is closed with unread data.
    fn drop(&mut self) {
        drop(self.stream.read(&mut [0; 4096]));
    }
}
