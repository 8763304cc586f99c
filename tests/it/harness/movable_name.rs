//! An address that leads first to one server and later to another, like a DNS name: existing
//! connections stay.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct MovableName {
    pub address: SocketAddr,
    server: watch::Sender<SocketAddr>,
}

impl MovableName {
    pub async fn of(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = watch::Sender::new(server);
        let named = server.subscribe();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = *named.borrow();
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(server).await {
                        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                    }
                });
            }
        });
        Self { address, server }
    }

    /// Sends new connections to `server` from now on.
    pub fn moves_to(&self, server: SocketAddr) {
        self.server.send_replace(server);
    }
}
