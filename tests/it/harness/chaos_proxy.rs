//! A TCP relay that treats connections the way bad networks do.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

/// Bytes of an answer that are passed on before a reset: fewer than any answer has, since one read
/// may return several answers.
const BEGINNING: usize = 3;

/// The state of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Passes everything on immediately.
    Fine,
    /// Passes answers on with this delay, in order, without limiting their number.
    Slow(Duration),
    /// Passes on the beginning of the next answer, then resets the connection.
    ResetsAnswers,
    /// Passes nothing on. Connections stay open, and what was sent arrives when the network is fine
    /// again, as with TCP.
    BlackHole,
    /// Forgets the existing connections: nothing sent over them arrives, and neither side gets an
    /// error. New connections are fine.
    HalfOpen,
}

pub struct ChaosProxy {
    pub address: SocketAddr,
    network: watch::Sender<State>,
}

/// The network, and the connections it has forgotten.
#[derive(Clone, Copy, Debug)]
struct State {
    network: Network,
    /// Connections with a lower number are forgotten.
    forgotten: usize,
    /// Connections so far.
    connections: usize,
}

impl ChaosProxy {
    /// A relay in front of `server`, with a fine network.
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let network =
            watch::Sender::new(State { network: Network::Fine, forgotten: 0, connections: 0 });
        let sender = network.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut number = 0;
                sender.send_modify(|state| {
                    number = state.connections;
                    state.connections += 1;
                });
                tokio::spawn(relay(client, server, number, sender.subscribe()));
            }
        });
        Self { address, network }
    }

    /// Changes the state of the network.
    pub fn becomes(&self, network: Network) {
        self.network.send_modify(|state| {
            if network == Network::HalfOpen {
                state.forgotten = state.connections;
            }
            state.network = network;
        });
    }

    /// The number of connections made so far.
    pub fn connections(&self) -> usize {
        self.network.borrow().connections
    }
}

async fn relay(
    client: TcpStream,
    server: SocketAddr,
    number: usize,
    state: watch::Receiver<State>,
) {
    passes(&mut state.clone()).await;
    let Ok(server) = TcpStream::connect(server).await else { return };
    for side in [&client, &server] {
        side.set_nodelay(true).unwrap();
        // A dropped connection is reset; an orderly close is passed on as one, below.
        side.set_zero_linger().unwrap();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, number, state.clone(), false) => {}
        () = pass(from_server, to_client, number, state, true) => {}
    }
}

/// Waits until the network passes data on.
async fn passes(state: &mut watch::Receiver<State>) {
    // Without a sender, the test has ended.
    drop(state.wait_for(|state| state.network != Network::BlackHole).await);
}

/// Passes on what one side sends until it closes or the network resets the connection.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: usize,
    mut state: watch::Receiver<State>,
    is_answers: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    loop {
        let due = waiting.front().map(|(due, _)| *due);
        tokio::select! {
            read = from.read(&mut buffer) => {
                let length = read.unwrap_or(0);
                if length == 0 {
                    drop(to.shutdown().await);
                    return;
                }
                let now = *state.borrow();
                if number < now.forgotten {
                    continue;
                }
                let delay = match now.network {
                    Network::Slow(delay) if is_answers => delay,
                    Network::ResetsAnswers if is_answers => {
                        drop(to.write_all(&buffer[..length.min(BEGINNING)]).await);
                        return;
                    }
                    Network::Slow(_) | Network::ResetsAnswers | Network::Fine | Network::BlackHole | Network::HalfOpen => {
                        Duration::ZERO
                    }
                };
                // Keeps answers in order.
                let due = waiting.back().map_or(Instant::now(), |(due, _)| *due).max(Instant::now() + delay);
                waiting.push_back((due, buffer[..length].to_vec()));
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                passes(&mut state).await;
                let Some((_, bytes)) = waiting.pop_front() else { continue };
                if number >= state.borrow().forgotten && to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}
