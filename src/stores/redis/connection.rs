//! One connection to one server.

use std::{
    fmt, io,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::future::select_ok;
use redis::{
    AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, aio::MultiplexedConnection,
};
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    task::AbortHandle,
};
use tokio_rustls::TlsConnector;

use super::failed;
use crate::config::redis_url::RedisAddress;

/// How long a connection may be idle before the system probes it, and the interval of probes after
/// that.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent data may stay unacknowledged before the system ends the connection.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// A connection that many can use at the same time: replies are matched by their order, and dropped
/// if nobody waits for them any more. Closes with its last clone.
#[derive(Clone)]
pub(crate) struct Connection {
    multiplexed: MultiplexedConnection,
    life: Arc<Life>,
}

struct Life {
    heard: Arc<Heard>,
    driver: AbortHandle,
}

/// When data last arrived from the server.
struct Heard {
    opened: Instant,
    /// Microseconds after `opened`.
    last: AtomicU64,
}

impl Connection {
    pub(super) async fn log_in(
        login: &RedisConnectionInfo,
        stream: Stream,
    ) -> Result<Self, RedisError> {
        let heard = Arc::clone(&stream.heard);
        // Callers set their own timeouts.
        let config =
            AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let (multiplexed, driver) =
            MultiplexedConnection::new_with_config(login, stream, config).await?;
        let driver = tokio::spawn(driver).abort_handle();
        Ok(Self { multiplexed, life: Arc::new(Life { heard, driver }) })
    }

    /// Whether anything came from the server since `moment`.
    pub(crate) fn heard_since(&self, moment: Instant) -> bool {
        self.life.heard.last() >= moment
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Deref for Connection {
    type Target = MultiplexedConnection;

    fn deref(&self) -> &MultiplexedConnection {
        &self.multiplexed
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut MultiplexedConnection {
        &mut self.multiplexed
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Heard {
    fn new() -> Self {
        Self { opened: Instant::now(), last: AtomicU64::new(0) }
    }

    fn now(&self) {
        let micros = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(micros, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.opened + Duration::from_micros(self.last.load(Ordering::Relaxed))
    }
}

/// The byte stream of a connection.
pub(super) struct Stream {
    bytes: Pin<Box<dyn Bytes>>,
    heard: Arc<Heard>,
}

trait Bytes: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Bytes for T {}

/// Connects to `address`, including the TLS handshake if there is one.
pub(super) async fn open(
    address: &RedisAddress,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Stream, RedisError> {
    let bytes: Pin<Box<dyn Bytes>> = match (address, tls) {
        (RedisAddress::Unix(path), _) => Box::pin(UnixStream::connect(path).await?),
        (RedisAddress::Tcp(host, port), None) => Box::pin(tcp(host, *port).await?),
        (RedisAddress::Tcp(host, port), Some(tls)) => {
            let name = ServerName::try_from(host.clone()).map_err(|_| {
                RedisError::from((
                    ErrorKind::InvalidClientConfig,
                    "a host that no certificate can name",
                ))
            })?;
            let connector = TlsConnector::from(Arc::clone(tls));
            Box::pin(connector.connect(name, tcp(host, *port).await?).await?)
        }
    };
    Ok(Stream { bytes, heard: Arc::new(Heard::new()) })
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, RedisError> {
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    if addresses.is_empty() {
        return Err(failed("the host has no address"));
    }
    let (stream, _) =
        select_ok(addresses.into_iter().map(|address| Box::pin(TcpStream::connect(address))))
            .await?;
    // A claim is smaller than a segment: it must not wait for the previous one to be acknowledged.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(stream)
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.bytes.as_mut().poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.heard.now();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bytes.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes.as_mut().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Without `TCP_NODELAY`, a claim would wait until the previous one is acknowledged, which the
    /// other side delays by 40 ms.
    #[tokio::test]
    async fn nothing_waits_on_a_connection_for_an_acknowledgement_and_it_is_kept_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tcp("localhost", listener.local_addr().unwrap().port()).await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(&stream).keepalive().unwrap());
        assert!(SockRef::from(&stream).tcp_user_timeout().unwrap().is_some());
    }
}
