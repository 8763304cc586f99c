//! A TCP relay that can lose answers: the server receives the request and answers it, but the
//! client sees a broken connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub struct Breaker {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// How many more answers to lose.
    losses: AtomicUsize,
    answers: AtomicUsize,
}

impl Breaker {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server, Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }

    /// Loses the next `count` answers.
    pub fn lose_answers(&self, count: usize) {
        self.state.losses.store(count, Ordering::SeqCst);
    }

    /// How many times the server has answered, whether or not the answer reached the client.
    pub fn answers(&self) -> usize {
        self.state.answers.load(Ordering::SeqCst)
    }
}

impl State {
    /// Whether to lose the current answer.
    fn is_loss(&self) -> bool {
        self.losses
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |losses| losses.checked_sub(1))
            .is_ok()
    }
}

/// Counts everything that one read from the server returns as one answer, which is true for the
/// small answers here.
async fn relay(client: TcpStream, server: SocketAddr, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            state.answers.fetch_add(1, Ordering::SeqCst);
            if state.is_loss() || to_client.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    // A request may arrive in pieces. When either side ends, both end.
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = answers => {}
    }
}
