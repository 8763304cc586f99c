//! A TCP relay that can lose answers: the server gets the question and answers it, and the client sees a broken connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub struct Breaker {
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    loses_answers: AtomicBool,
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

    pub fn lose_answers(&self) {
        self.state.loses_answers.store(true, Ordering::SeqCst);
    }

    /// How often the server has answered, whether or not the answer got through.
    pub fn answers(&self) -> usize {
        self.state.answers.load(Ordering::SeqCst)
    }
}

/// Takes whatever one read yields for one message, which holds for the small ones here.
async fn relay(mut client: TcpStream, server: SocketAddr, state: Arc<State>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = client.read(&mut buffer).await {
        if server.write_all(&buffer[..length]).await.is_err() {
            return;
        }
        let Ok(length @ 1..) = server.read(&mut buffer).await else { return };
        state.answers.fetch_add(1, Ordering::SeqCst);
        if state.loses_answers.load(Ordering::SeqCst) || client.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
