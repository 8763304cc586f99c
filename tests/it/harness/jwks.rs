//! A server of key sets, which can become slow, broken or hostile while it runs, and which counts
//! requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

use super::{Authority, Claims, Key, free_port};

/// Short enough that no client's idle timeout ends the connection.
const DRIP: Duration = Duration::from_millis(50);

/// How a path reacts to requests.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Answers immediately.
    Answers { status: u16, headers: String, body: Vec<u8> },
    /// Takes the request and sends nothing, until another behaviour replaces this one; then it
    /// answers with that.
    Holds,
    /// Sends the head immediately, and then endless white space, one byte at a time: never idle,
    /// and never done.
    Drips,
    /// Sends this and then endless white space, as fast as the client reads, without a length.
    Floods(String),
}

impl Behaviour {
    /// The key set of these keys.
    pub fn set(keys: impl IntoIterator<Item = Value>) -> Self {
        Self::text(json!({"keys": keys.into_iter().collect::<Vec<_>>()}).to_string())
    }

    /// Status 200 and this text.
    pub fn text(body: impl Into<Vec<u8>>) -> Self {
        Self::Answers { status: 200, headers: String::new(), body: body.into() }
    }

    /// Status 200 and these bytes, encoded regardless of what the client accepts.
    pub fn encoded(encoding: &str, body: Vec<u8>) -> Self {
        Self::Answers { status: 200, headers: format!("Content-Encoding: {encoding}\r\n"), body }
    }

    /// The same body with another status.
    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        match self {
            Self::Answers { headers, body, .. } => Self::Answers { status, headers, body },
            other => other,
        }
    }

    /// A redirect with this body.
    #[must_use]
    pub fn redirecting(self, status: u16, location: &str) -> Self {
        match self {
            Self::Answers { body, .. } => {
                Self::Answers { status, headers: format!("Location: {location}\r\n"), body }
            }
            other => other,
        }
    }
}

/// Serves until the test ends, on its own thread, so that a test may wait for a command that sends
/// requests to it.
pub struct JwksServer {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    dir: TempDir,
}

impl JwksServer {
    /// Serves TLS with a certificate from its own authority, for `localhost` and `127.0.0.1`.
    pub fn https() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path());
        authority.certify("server");
        Self::start(
            Some(acceptor(authority.certificate("server"), authority.private_key("server"))),
            dir,
        )
    }

    /// Serves TLS with this certificate.
    pub fn https_with(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Self {
        Self::start(Some(acceptor(certificate, key)), tempfile::tempdir().unwrap())
    }

    /// Serves plain HTTP.
    pub fn http() -> Self {
        Self::start(None, tempfile::tempdir().unwrap())
    }

    fn start(tls: Option<TlsAcceptor>, dir: TempDir) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut server = Self { address, tls, state: Arc::default(), running: None, dir };
        server.resume();
        server
    }

    pub fn url(&self, path: &str) -> String {
        self.url_of("localhost", path)
    }

    /// The URL of `path` with another host name.
    pub fn url_of(&self, host: &str, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{host}:{}{path}", self.address.port())
    }

    /// The certificate of its authority, in PEM.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Sets the behaviour of `path`, which is 404 initially.
    pub fn put(&self, path: &str, behaviour: Behaviour) {
        self.state.behaviours.send_modify(|behaviours| {
            behaviours.insert(path.to_owned(), behaviour);
        });
    }

    /// The times of the requests for `path`.
    pub fn requests(&self, path: &str) -> Vec<Instant> {
        self.state
            .traffic
            .lock()
            .unwrap()
            .get(path)
            .map(|traffic| traffic.requests.clone())
            .unwrap_or_default()
    }

    /// The head of the last request for `path`, in lower case; empty if there was none.
    pub fn last_head(&self, path: &str) -> String {
        self.state
            .traffic
            .lock()
            .unwrap()
            .get(path)
            .map(|traffic| traffic.head.clone())
            .unwrap_or_default()
    }

    /// The maximum number of simultaneous requests for `path`.
    pub fn most_in_flight(&self, path: &str) -> usize {
        self.state.traffic.lock().unwrap().get(path).map_or(0, |traffic| traffic.most_in_flight)
    }

    /// The number of connections, with or without a request.
    pub fn connections(&self) -> usize {
        *self.state.connections.lock().unwrap()
    }

    /// Breaks every connection and refuses new ones.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            thread.join().unwrap();
        }
    }

    /// Listens on the same port again.
    pub fn resume(&mut self) {
        let listener = std::net::TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (state, tls) = (Arc::clone(&self.state), self.tls.clone());
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = stopped => (),
                    () = accept(&listener, &state, tls.as_ref()) => (),
                }
            });
        });
        self.running = Some((stop, thread));
    }
}

fn acceptor(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> TlsAcceptor {
    let config = ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![certificate], key)
    .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

impl Drop for JwksServer {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            // The thread may have panicked, and so may this test.
            let _ = thread.join();
        }
    }
}

#[derive(Default)]
struct State {
    behaviours: watch::Sender<HashMap<String, Behaviour>>,
    traffic: Mutex<HashMap<String, Traffic>>,
    connections: Mutex<usize>,
}

#[derive(Default)]
struct Traffic {
    requests: Vec<Instant>,
    head: String,
    in_flight: usize,
    most_in_flight: usize,
}

/// Counts a request as in flight until it is dropped.
struct InFlight<'a> {
    state: &'a State,
    path: String,
}

impl State {
    fn arrived(&self, path: String, head: &[u8]) -> InFlight<'_> {
        let mut all = self.traffic.lock().unwrap();
        let traffic = all.entry(path.clone()).or_default();
        traffic.head = String::from_utf8_lossy(head).to_lowercase();
        traffic.requests.push(Instant::now());
        traffic.in_flight += 1;
        traffic.most_in_flight = traffic.most_in_flight.max(traffic.in_flight);
        InFlight { state: self, path }
    }

    /// The behaviour of `path`, as soon as it is not to hold.
    async fn behaviour(&self, path: &str) -> Behaviour {
        let mut behaviours = self.behaviours.subscribe();
        let decided = behaviours
            .wait_for(|all| !matches!(all.get(path), Some(Behaviour::Holds)))
            .await
            .unwrap();
        decided.get(path).cloned().unwrap_or_else(|| Behaviour::text("").with_status(404))
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Ok(mut all) = self.state.traffic.lock()
            && let Some(traffic) = all.get_mut(&self.path)
        {
            traffic.in_flight -= 1;
        }
    }
}

async fn accept(listener: &TcpListener, state: &Arc<State>, tls: Option<&TlsAcceptor>) {
    while let Ok((stream, _)) = listener.accept().await {
        *state.connections.lock().unwrap() += 1;
        let (state, tls) = (Arc::clone(state), tls.cloned());
        tokio::spawn(async move {
            // Some tests have clients that disconnect early.
            let _ = serve(stream, &state, tls).await;
        });
    }
}

async fn serve(stream: TcpStream, state: &State, tls: Option<TlsAcceptor>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        None => answer(stream, state).await,
        Some(tls) => answer(tls.accept(stream).await?, state).await,
    }
}

/// Answers one request, unless the client disconnects before.
async fn answer(stream: impl AsyncRead + AsyncWrite, state: &State) -> std::io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(reader.read_u8().await?);
    }
    let path = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned();
    let in_flight = state.arrived(path, &head);
    tokio::select! {
        sent = send(&mut writer, state, &in_flight.path) => sent,
        // After its request, a client can only disconnect.
        _ = reader.read_u8() => Ok(()),
    }
}

async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    state: &State,
    path: &str,
) -> std::io::Result<()> {
    let endless = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    match state.behaviour(path).await {
        Behaviour::Holds => Ok(()),
        Behaviour::Answers { status, headers, body } => {
            let head = format!(
                "HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nConnection: close\r\n{headers}"
            );
            let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
            writer.write_all(&[head.as_bytes(), &body].concat()).await?;
            writer.shutdown().await
        }
        Behaviour::Drips => {
            writer.write_all(endless.as_bytes()).await?;
            loop {
                writer.write_all(b" ").await?;
                writer.flush().await?;
                tokio::time::sleep(DRIP).await;
            }
        }
        Behaviour::Floods(beginning) => {
            writer.write_all(&[endless.as_bytes(), beginning.as_bytes()].concat()).await?;
            let padding = vec![b' '; 64 * 1024];
            loop {
                writer.write_all(&padding).await?;
            }
        }
    }
}

/// A key with its name in a key set.
pub struct Signer {
    pub kid: String,
    pub key: Key,
}

impl Signer {
    pub fn new(kid: impl Into<String>, key: Key) -> Self {
        Self { kid: kid.into(), key }
    }

    /// An Ed25519 key.
    pub fn named(kid: impl Into<String>) -> Self {
        Self::new(kid, Key::ed25519())
    }

    pub fn jwk(&self) -> Value {
        self.key.jwk(&self.kid)
    }

    pub fn claims(&self, username: &str) -> Claims {
        Claims::of(username).with_header("kid", self.kid.as_str())
    }

    /// A value for `Authorization`, with a fresh token that names the key.
    pub fn authorization(&self, username: &str) -> String {
        self.claims(username).authorization(&self.key)
    }
}

/// The JWK with a member added or replaced.
pub fn member(mut jwk: Value, name: &str, value: impl Into<Value>) -> Value {
    jwk[name] = value.into();
    jwk
}
