//! Sockets: bound, opened, and every connection that comes to them handed to a worker, or refused.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use tokio::{
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
/// How often the log tells of that.
const WARN_INTERVAL: Duration = Duration::from_secs(1);
/// How long connections that the kernel has completed are looked for before the listener is closed.
const LAST_LOOK: Duration = Duration::from_millis(20);
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
        let mut turns = workers.queues.iter().cycle();
        let mut refused = Refused { bytes: refusal, kept: VecDeque::new() };
        let mut hand_out = |stream: TcpStream, peer| match Place::take(&counts, max_connections) {
            None => refused.add(stream),
            Some(place) => {
                if let Some(worker) = turns.next() {
                    // A worker that has ended ends the service, so the connection is not missed.
                    drop(worker.send(Accepted { stream, peer, place }));
                }
            }
        };
        let mut warned = None::<Instant>;
        let mut closing = std::pin::pin!(stages.reached(Stage::Closing));
        loop {
            let accepted = tokio::select! {
                () = &mut closing => break,
                accepted = listener.accept() => accepted.and_then(detach),
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
        if let Err(error) = connect_no_more(&listener) {
            // Then whoever connects in the very moment of the end is cut.
            tracing::debug!(error = %error, "the kernel goes on completing connections");
        }
        let end = Instant::now() + LAST_LOOK;
        while let Ok(Ok(accepted)) = tokio::time::timeout_at(end, listener.accept()).await {
            if let Ok((stream, peer)) = detach(accepted) {
                hand_out(stream, peer);
            }
        }
    }
}

/// Has the kernel pass over those who want to connect, so that no connection is completed after the last that is accepted: it would be reset
/// when the listener is closed, and a client that has sent its question by then cannot tell whether it was read. Who is passed over tries again
/// within a second, and is refused.
#[cfg(target_os = "linux")]
fn connect_no_more(listener: &TcpListener) -> io::Result<()> {
    use socket2::{SockFilter, SockRef};

    // Instructions of the classic packet filter: BPF_LD | BPF_B | BPF_ABS, BPF_JMP | BPF_JSET | BPF_K, BPF_RET | BPF_K.
    const LOAD_BYTE: u16 = 0x30;
    const TEST_BITS: u16 = 0x45;
    const RETURN: u16 = 0x06;
    // What a listener's filter looks at begins with the TCP header; a first segment has SYN among its flags.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(TEST_BITS, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// Elsewhere there is a moment in which one that was just completed is reset.
#[cfg(not(target_os = "linux"))]
fn connect_no_more(_: &TcpListener) -> io::Result<()> {
    Ok(())
}

/// The connection, free to move to another runtime.
fn detach((stream, peer): (tokio::net::TcpStream, SocketAddr)) -> io::Result<(TcpStream, SocketAddr)> {
    // Answers are small and waited for.
    stream.set_nodelay(true)?;
    Ok((stream.into_std()?, peer))
}

/// Connections that were told that there are too many.
struct Refused {
    bytes: Vec<u8>,
    kept: VecDeque<Kept>,
}

struct Kept {
    since: Instant,
    stream: TcpStream,
}

impl Refused {
    fn add(&mut self, stream: TcpStream) {
        let since = Instant::now();
        while self.kept.front().is_some_and(|first| self.kept.len() >= REFUSED_MAX || since - first.since > REFUSED_FOR) {
            self.kept.pop_front();
        }
        // A new connection has room for as little. What cannot be told is seen from the closed connection.
        if !self.bytes.is_empty() && (&stream).write_all(&self.bytes).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
            self.kept.push_back(Kept { since, stream });
        }
    }
}

impl Drop for Kept {
    /// What has come is taken out of the kernel's hands, which would reset the connection over it.
    fn drop(&mut self) {
        drop(self.stream.read(&mut [0; 4096]));
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
        let listener = bound.open().unwrap();
        let _gateway = TcpStream::connect(address).unwrap();
        let (stream, _) = detach(listener.accept().await.unwrap()).unwrap();
        assert!(stream.nodelay().unwrap());
    }
}
