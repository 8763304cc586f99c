//! A WebSocket client behind a gateway.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderName;

use super::Seen;

/// An open socket to the echo.
pub struct WebSocket {
    stream: WebSocketStream<TcpStream>,
    /// The handshake as the back end received it.
    pub seen: Seen,
}

/// Why the socket was not opened: the answer to the handshake.
#[derive(Debug)]
pub struct NoWebSocket {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl NoWebSocket {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl WebSocket {
    pub async fn open(
        gateway: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, NoWebSocket> {
        let mut request = format!("ws://{gateway}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request
                .headers_mut()
                .append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let stream = TcpStream::connect(gateway).await.unwrap();
        let mut stream = match tokio_tungstenite::client_async(request, stream).await {
            Ok((stream, _)) => stream,
            Err(Error::Http(answer)) => {
                let headers = answer.headers().iter();
                let headers = headers
                    .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                    .collect();
                return Err(NoWebSocket { status: answer.status().as_u16(), headers });
            }
            Err(error) => panic!("no handshake with {gateway}: {error}"),
        };
        let greeting = stream.next().await.expect("a greeting").unwrap();
        let seen = Seen::told(&serde_json::from_str(greeting.to_text().unwrap()).unwrap());
        Ok(Self { stream, seen })
    }

    /// Sends a message, and expects it back.
    pub async fn bounce(&mut self, message: Message) {
        self.stream.send(message.clone()).await.unwrap();
        assert_eq!(self.stream.next().await.expect("an answer").unwrap(), message);
    }
}
