//! Sockets: bound, opened, and every connection that comes to them handed to a worker, or refused.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{self, Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::unix::AsyncFd,
    net::{TcpListener, TcpSocket},
    time::Instant,
};

use super::{
    drain::{Stage, Stages},
    worker::Workers,
};
use crate::telemetry::connections::ConnectionCounts;

/// Connections that the kernel completes before they are accepted; it may have a lower limit of its own.
const BACKLOG: u32 = 4096;
/// How long nothing is accepted after that failed: mostly for want of files, which others have to give back first.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);
/// Refused connections that are kept open for a moment.
const REFUSED_MAX: usize = 16;
/// That moment: closed before it is empty, a connection is reset, and the client may not read why.
const REFUSED_FOR: Duration = Duration::from_millis(500);

/// An address that is taken, and that nobody can connect to yet.
#[derive(Debug)]
pub struct Bound {
    socket: TcpSocket,
}

impl Bound {
    /// Takes `address`.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // As the standard library does: connections of a process before may still be about to end.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { socket })
    }

    /// The address, with the port that was chosen.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Lets others connect. To be called on a runtime.
    pub fn open(self) -> io::Result<TcpListener> {
        self.socket.listen(BACKLOG)
    }
}

/// A connection on its way to a worker. Counted until it is dropped.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
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

/// Takes connections.
pub(super) struct Accepting {
    pub(super) listener: TcpListener,
    pub(super) workers: Workers,
    pub(super) max_connections: usize,
    /// What one connection too many is told.
    pub(super) refusal: Vec<u8>,
    pub(super) stages: Stages,
    pub(super) counts: Arc<ConnectionCounts>,
}

impl Accepting {
    /// Hands out every connection until the service is closing; then those that have come already, and takes no more.
    pub(super) async fn run(self) {
        let Self { listener, workers, max_connections, refusal, stages, counts } = self;
        let listener = match listener.into_std().and_then(AsyncFd::new) {
            Ok(listener) => listener,
            Err(error) => {
                // Without workers there is nobody to end well: the service notices and stops.
                tracing::error!(error = %error, listener = counts.listener().name(), "a listener could not be used");
                return;
            }
        };
        let mut turns = workers.queues.iter().cycle();
        let mut refused = Refused { bytes: refusal, kept: VecDeque::new() };
        let mut hand_out = |stream: TcpStream, peer| match (prepare(&stream), Place::take(&counts, max_connections)) {
            (Err(error), _) => tracing::debug!(error = %error, "a connection was gone before it was served"),
            (Ok(()), None) => refused.add(stream),
            (Ok(()), Some(place)) => {
                if let Some(worker) = turns.next() {
                    // A worker that has ended ends the service, so the connection is not missed.
                    drop(worker.send(Accepted { stream, peer, place }));
                }
            }
        };
        let mut closing = std::pin::pin!(stages.reached(Stage::Closing));
        loop {
            let accepted = tokio::select! {
                () = &mut closing => break,
                accepted = accept(&listener) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => hand_out(stream, peer),
                Err(error) => {
                    tracing::warn!(error = %error, listener = counts.listener().name(), "a connection could not be accepted");
                    tokio::time::sleep(AFTER_FAILED_ACCEPT).await;
                }
            }
        }
        while let Ok((stream, peer)) = listener.get_ref().accept() {
            hand_out(stream, peer);
        }
    }
}

async fn accept(listener: &AsyncFd<net::TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        let mut ready = listener.readable().await?;
        if let Ok(accepted) = ready.try_io(|listener| listener.get_ref().accept()) {
            return accepted;
        }
    }
}

/// Answers are small and waited for.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)
}

/// Connections that were told that there are too many.
struct Refused {
    bytes: Vec<u8>,
    kept: VecDeque<(Instant, TcpStream)>,
}

impl Refused {
    fn add(&mut self, stream: TcpStream) {
        let now = Instant::now();
        while self.kept.front().is_some_and(|(since, _)| self.kept.len() >= REFUSED_MAX || now - *since > REFUSED_FOR) {
            self.kept.pop_front();
        }
        // A new connection has room for as little. What cannot be told is seen from the closed connection.
        if !self.bytes.is_empty() && (&stream).write_all(&self.bytes).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
            self.kept.push_back((now, stream));
        }
    }
}

impl Drop for Refused {
    fn drop(&mut self) {
        for (_, mut stream) in self.kept.drain(..) {
            drop(stream.read(&mut [0; 4096]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise every answer but the first waits for the gateway to acknowledge the one before, which it puts off by 40 ms.
    #[tokio::test]
    async fn answers_wait_for_no_acknowledgement() {
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.local_addr().unwrap();
        assert!(TcpStream::connect(address).is_err(), "bound is not open");
        let listener = AsyncFd::new(bound.open().unwrap().into_std().unwrap()).unwrap();
        let _gateway = TcpStream::connect(address).unwrap();
        let (stream, _) = accept(&listener).await.unwrap();
        prepare(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
    }
}
