//! A TCP relay that can be shut: data for the server then waits, and the test can see that it
//! waits.
//!
//! In front of Redis it keeps a decision in flight for as long as a test needs, without sleeping or
//! guessing.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

const DEADLINE: Duration = Duration::from_secs(20);

/// The command name, as it appears in the protocol.
const SET: &[u8] = b"\r\nSET\r\n";

pub struct Sluice {
    address: SocketAddr,
    open: watch::Sender<bool>,
    held: watch::Receiver<usize>,
}

impl Sluice {
    /// An open relay to `server`.
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, opened) = watch::channel(true);
        let (counter, held) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server, opened.clone(), counter.clone()));
            }
        });
        Self { address, open, held }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until at least `count` claims have arrived while the sluice was shut: occurrences of
    /// `SET`, or new connections, since a claim on a thread without a connection opens one first.
    pub async fn holds(&self, count: usize) {
        let mut held = self.held.clone();
        let wait = tokio::time::timeout(DEADLINE, held.wait_for(|held| *held >= count));
        wait.await
            .unwrap_or_else(|_| panic!("{count} commands do not arrive within {DEADLINE:?}"))
            .unwrap();
    }
}

async fn relay(
    client: TcpStream,
    server: SocketAddr,
    mut open: watch::Receiver<bool>,
    counter: watch::Sender<usize>,
) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (arrived, mut waiting) = mpsc::unbounded_channel::<Vec<u8>>();

    let opened = open.clone();
    let onward = tokio::spawn(async move {
        while let Some(bytes) = waiting.recv().await {
            let closed = open.wait_for(|open| *open).await.is_err();
            if closed || to_server.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    let answers =
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });

    // Keeps reading while the sluice is shut: several commands may wait on one connection.
    let mut buffer = vec![0; 64 * 1024];
    let mut is_beginning = true;
    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
        let bytes = &buffer[..length];
        if arrived.send(bytes.to_vec()).is_err() {
            break;
        }
        if !*opened.borrow() {
            let sets = bytes.windows(SET.len()).filter(|window| *window == SET).count();
            counter.send_modify(|held| *held += sets.max(usize::from(is_beginning)));
        }
        is_beginning = false;
    }
    onward.abort();
    answers.abort();
}
