//! Access to Redis, shared by the nonces and the hints of changes, which use the same Redis.
//!
//! Connections are made here and not by the library's client, so that all of them use the same
//! trusted certificates and `TCP_NODELAY`, and record when data last arrived.

mod connection;
mod discovery;

use std::{path::Path, sync::Arc, time::Duration};

use redis::{ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, aio::PubSub};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

pub(crate) use self::{
    connection::Connection,
    discovery::{Held, Question, SLOTS, Told, ask_all},
};
use crate::{
    config::{
        nonce::{NonceSettings, NonceUrl},
        redis_url::{Login, RedisAddress, RedisServers, RedisUrl},
    },
    roots::{Roots, RootsError},
};

/// How long connecting may take, including the login. It continues even if the caller stops waiting
/// for it.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The Redis named by the settings, and how to log in.
#[derive(Clone)]
pub struct RedisAccess {
    url: Arc<RedisUrl>,
    tls: Option<Arc<ClientConfig>>,
}

/// TLS to Redis cannot be set up with these settings.
#[derive(Debug, thiserror::Error)]
pub enum BadRedisTls {
    /// A file cannot be read, or holds no PEM of the expected kind.
    #[error("`{key}` cannot be used: {}: {reason}", path.display())]
    File {
        /// Name of the setting that names the file.
        key: &'static str,
        /// Path of the file.
        path: Box<Path>,
        /// What is wrong with the file.
        reason: String,
    },
    /// There are no trusted certificates.
    #[error("`nonce.ca_file`: {0}")]
    Roots(#[from] RootsError),
    /// The certificate and the key do not match.
    #[error("`nonce.client_cert` and `nonce.client_key` do not fit together")]
    Mismatch(#[source] rustls::Error),
}

/// The purpose of a connection, which determines how it logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Reading and writing nonces.
    Data,
    /// Commands that need no particular database, such as questions to a cluster node, or messages.
    Anything,
    /// Questions to a sentinel.
    Sentinel,
}

impl RedisAccess {
    /// Returns `None` if the settings name no Redis. Reads the files named there, but does not
    /// connect.
    pub fn new(settings: &NonceSettings) -> Result<Option<Self>, BadRedisTls> {
        let NonceUrl::Redis(url) = &settings.url else { return Ok(None) };
        let tls = if url.is_tls { Some(Arc::new(client_config(settings)?)) } else { None };
        Ok(Some(Self { url: Arc::new(RedisUrl::clone(url)), tls }))
    }

    pub(crate) fn servers(&self) -> &RedisServers {
        &self.url.servers
    }

    /// Connects and logs in, within [`CONNECT_TIMEOUT`].
    pub(crate) async fn connect(
        &self,
        address: &RedisAddress,
        purpose: Purpose,
    ) -> Result<Connection, RedisError> {
        let connect = async {
            let stream = connection::open(address, self.tls.as_ref()).await?;
            Connection::log_in(&self.login(purpose), stream).await
        };
        within(CONNECT_TIMEOUT, connect).await
    }

    /// Connects, logs in and subscribes to `channel`, within [`CONNECT_TIMEOUT`].
    pub(crate) async fn subscribe(
        &self,
        address: &RedisAddress,
        purpose: Purpose,
        channel: &str,
    ) -> Result<PubSub, RedisError> {
        let connect = async {
            let stream = connection::open(address, self.tls.as_ref()).await?;
            let mut subscriber = PubSub::new(&self.login(purpose), stream).await?;
            subscriber.subscribe(channel).await?;
            Ok(subscriber)
        };
        within(CONNECT_TIMEOUT, connect).await
    }

    /// A server at which a published message reaches all subscribers: the server of the URL, the
    /// master that the sentinels name, or a node of the cluster.
    pub(crate) async fn publishing_server(&self) -> Result<RedisAddress, RedisError> {
        let (addresses, question) = match self.servers() {
            RedisServers::Single(address) => return Ok(address.clone()),
            RedisServers::Cluster(nodes) => (nodes.clone(), Question::ClusterNode),
            RedisServers::Sentinel { sentinels, service, .. } => {
                (sentinels.clone(), Question::Sentinel { service })
            }
        };
        let told = ask_all(self, &mut Held::default(), addresses, question).await;
        let masters = told.map(|told| told.masters).unwrap_or_default();
        masters
            .into_iter()
            .next()
            .map(|(address, _)| address)
            .ok_or_else(|| failed("no server tells who is master"))
    }

    fn login(&self, purpose: Purpose) -> RedisConnectionInfo {
        let login = match (self.servers(), purpose) {
            (RedisServers::Sentinel { login, .. }, Purpose::Sentinel) => login,
            (
                RedisServers::Single(_) | RedisServers::Cluster(_) | RedisServers::Sentinel { .. },
                _,
            ) => &self.url.login,
        };
        // Setting the library's name would be one more round trip on each new connection.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let info = info.set_protocol(if self.url.is_resp3 {
            ProtocolVersion::RESP3
        } else {
            ProtocolVersion::RESP2
        });
        let info =
            if purpose == Purpose::Data { info.set_db(self.url.database.into()) } else { info };
        let Login { username, password } = login;
        let info = if let Some(username) = username { info.set_username(username) } else { info };
        if let Some(password) = password { info.set_password(password.expose()) } else { info }
    }
}

impl std::fmt::Debug for RedisAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisAccess").field("url", &self.url).finish_non_exhaustive()
    }
}

/// An error of ours as the library's error type.
pub(crate) fn failed(what: &'static str) -> RedisError {
    (ErrorKind::Io, what).into()
}

pub(crate) async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| Err(failed("no answer in time")))
}

fn client_config(settings: &NonceSettings) -> Result<ClientConfig, BadRedisTls> {
    let roots = Roots::load(settings.ca_file.as_deref())?;
    let builder = roots.client_config();
    match (&settings.client_cert, &settings.client_key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("nonce.client_cert", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| bad_file("nonce.client_key", key, error.to_string()))?;
            builder.with_client_auth_cert(chain, key).map_err(BadRedisTls::Mismatch)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, BadRedisTls> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| bad_file(key, path, error.to_string()))?;
    if certificates.is_empty() {
        Err(bad_file(key, path, "it holds no certificate in PEM".to_owned()))
    } else {
        Ok(certificates)
    }
}

fn bad_file(key: &'static str, path: &Path, reason: String) -> BadRedisTls {
    BadRedisTls::File { key, path: path.into(), reason }
}
