//! TLS for the listeners: PEM files that are reloaded when they change, and client certificates if
//! the settings require them.

mod failure;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{VerifierBuilderError, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::TcpStream;
use tokio_rustls::{Accept, TlsAcceptor};

pub(super) use self::failure::failure;
use crate::{
    config::server::{TlsKeys, TlsSettings},
    roots::peers,
};

/// How often the files are checked for changes.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// The TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or contains no PEM of the expected kind.
    #[error("{} (`{key}`) cannot be used: {reason}", path.display())]
    File {
        /// The setting that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The files do not match each other.
    #[error("the TLS files do not fit together")]
    Mismatch(#[source] rustls::Error),
    /// No client could be verified with these authorities.
    #[error("`{key}` cannot be used")]
    ClientCa {
        /// The setting that names them.
        key: &'static str,
        /// What is wrong with them.
        source: VerifierBuilderError,
    },
}

/// TLS for the listeners: one set of files, reloaded while connections stay open.
#[derive(Clone)]
pub struct ServerTls {
    loaded: Arc<Loaded>,
}

struct Loaded {
    files: Files,
    current: ArcSwap<Material>,
}

struct Files {
    keys: TlsKeys,
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What is made from the files. Sessions that clients may resume without being verified again
/// belong to it: after a reload, none of them is valid.
struct Material {
    http: Arc<ServerConfig>,
    grpc: Arc<ServerConfig>,
    /// The contents of the files, to detect a change.
    bytes: Vec<Vec<u8>>,
}

/// Performs the handshakes of one listener, with the files as they are when a connection begins.
#[derive(Clone)]
pub(super) struct Acceptor {
    loaded: Arc<Loaded>,
    chosen: fn(&Material) -> &Arc<ServerConfig>,
}

impl ServerTls {
    /// Loads the files that `settings` name; `keys` are the names of those settings. `None` if
    /// there are none.
    pub fn load(settings: &TlsSettings, keys: TlsKeys) -> Result<Option<Self>, TlsError> {
        let (Some(certificate), Some(key)) = (settings.cert.clone(), settings.key.clone()) else {
            return Ok(None);
        };
        let files = Files { keys, certificate, key, client_ca: settings.client_ca.clone() };
        let current = ArcSwap::from_pointee(files.load()?);
        Ok(Some(Self { loaded: Arc::new(Loaded { files, current }) }))
    }

    /// Checks the files periodically, and reloads them when they have changed. If the new files
    /// cannot be used, that is logged, and the last good ones stay in use.
    pub async fn watch(self) {
        let mut refused: Option<Vec<Vec<u8>>> = None;
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let Loaded { files, current } = &*self.loaded;
            let bytes = match files.read() {
                Ok(bytes) if bytes == current.load().bytes || refused.as_ref() == Some(&bytes) => {
                    continue;
                }
                Ok(bytes) => bytes,
                Err(error) if refused.is_none() => {
                    tracing::error!(error = %error, "the TLS files cannot be read; the last good ones stay");
                    refused = Some(Vec::new());
                    continue;
                }
                Err(_) => continue,
            };
            match files.load() {
                Ok(material) => {
                    current.store(Arc::new(material));
                    refused = None;
                    tracing::info!("the TLS files have changed and are used from now on");
                }
                Err(error) => {
                    tracing::error!(error = %error, "the TLS files have changed and cannot be used; the last good ones stay");
                    refused = Some(bytes);
                }
            }
        }
    }

    /// Performs the handshakes of the HTTP listener.
    pub(super) fn for_http(&self) -> Acceptor {
        Acceptor { loaded: Arc::clone(&self.loaded), chosen: |material| &material.http }
    }

    /// Performs the handshakes of the gRPC listener.
    pub(super) fn for_grpc(&self) -> Acceptor {
        Acceptor { loaded: Arc::clone(&self.loaded), chosen: |material| &material.grpc }
    }
}

impl Acceptor {
    pub(super) fn accept(&self, stream: TcpStream) -> Accept<TcpStream> {
        let material = self.loaded.current.load();
        TlsAcceptor::from(Arc::clone((self.chosen)(&material))).accept(stream)
    }
}

impl Files {
    fn read(&self) -> Result<Vec<Vec<u8>>, TlsError> {
        let all = [
            (self.keys.cert, Some(&self.certificate)),
            (self.keys.key, Some(&self.key)),
            (self.keys.client_ca, self.client_ca.as_ref()),
        ];
        let named = all.into_iter().filter_map(|(key, path)| Some((key, path?)));
        named
            .map(|(key, path)| std::fs::read(path).map_err(|error| unusable(key, path, &error)))
            .collect()
    }

    fn load(&self) -> Result<Material, TlsError> {
        let bytes = self.read()?;
        let chain = certificates(self.keys.cert, &self.certificate, &bytes[0])?;
        let key = PrivateKeyDer::from_pem_slice(&bytes[1])
            .map_err(|error| unusable(self.keys.key, &self.key, &error))?;
        let certified: CertifiedKey =
            CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
                .map_err(TlsError::Mismatch)?;
        let clients: Option<Arc<dyn ClientCertVerifier>> =
            match &self.client_ca {
                None => None,
                Some(path) => {
                    let trusted = certificates(self.keys.client_ca, path, &bytes[2])?;
                    for certificate in &trusted {
                        let usable = RootCertStore::empty().add(certificate.clone());
                        usable.map_err(|error| unusable(self.keys.client_ca, path, &error))?;
                    }
                    let verifier = peers::clients(&trusted);
                    Some(verifier.map_err(|source| TlsError::ClientCa {
                        key: self.keys.client_ca,
                        source,
                    })?)
                }
            };
        let certified = Arc::new(SingleCertAndKey::from(certified));
        let config = |protocol: &[u8]| {
            let builder = ServerConfig::builder();
            let builder = match &clients {
                Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients)),
                None => builder.with_no_client_auth(),
            };
            let mut config = builder.with_cert_resolver(Arc::clone(&certified) as _);
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Ok(Material { http: config(b"http/1.1"), grpc: config(b"h2"), bytes })
    }
}

fn certificates(
    key: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => {
            Err(unusable(key, path, &"it holds no certificate in PEM"))
        }
        Ok(chain) => Ok(chain),
        Err(error) => Err(unusable(key, path, &error)),
    }
}

fn unusable(key: &'static str, path: &Path, reason: &dyn fmt::Display) -> TlsError {
    TlsError::File { key, path: path.to_owned(), reason: reason.to_string() }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.loaded.fmt(f)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.loaded.fmt(f)
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("certificate", &self.files.certificate)
            .finish_non_exhaustive()
    }
}
