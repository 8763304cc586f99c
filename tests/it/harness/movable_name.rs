//! An address that leads to one server and later to another, as a name in DNS does: connections
//! that are there stay where they are.

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

    /// New connections lead to `server` from now on.
    pub fn moves_to(&self, server: SocketAddr) {
        self.server.send_replace(server);
    }
}
