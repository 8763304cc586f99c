//! A client that speaks HTTP/2 without TLS and with prior knowledge.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

type Sent = BoxBody<Bytes, std::convert::Infallible>;

/// One connection, for several requests at the same time. Clones share it.
#[derive(Clone)]
pub struct Http2 {
    sender: SendRequest<Sent>,
}

impl Http2 {
    pub async fn open(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await
    }

    pub async fn open_unix(socket: &Path) -> Self {
        Self::over(UnixStream::connect(socket).await.unwrap()).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// Sends `request` with its complete body.
    pub async fn send(&self, request: Request<impl Into<Bytes>>) -> Response<Bytes> {
        self.try_send(request.map(|body| Full::new(body.into()).boxed())).await.unwrap()
    }

    /// Like [`Self::send`], with a body that may never end; the connection may fail.
    pub async fn try_send(&self, request: Request<Sent>) -> hyper::Result<Response<Bytes>> {
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}
