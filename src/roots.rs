//! The certificates that outgoing connections trust: those of the system, and those in a file named
//! by a setting. All clients take them from here, so that no library uses a list of its own. How
//! they are applied, for servers and clients, is in [`peers`].
//!
//! The system's certificates are found like those of OpenSSL: `SSL_CERT_FILE` and `SSL_CERT_DIR`,
//! if either is set, replace the usual places.

pub mod peers;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use pem::{EncodeConfig, LineEnding, Pem};
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::WantsClientCert,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_native_certs::{CertificateResult, load_native_certs};

/// Environment variables that replace the system's certificate authorities.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// The trusted certificates of one kind of connection; at least one.
#[derive(Clone)]
pub struct Roots {
    /// Those of the system come first, then those of the file.
    certificates: Vec<CertificateDer<'static>>,
    from_system: usize,
    ca_file: Option<PathBuf>,
    client_config: ConfigBuilder<ClientConfig, WantsClientCert>,
}

/// Why no server could be verified.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// A file of certificates cannot be used.
    #[error("{}: {reason}", path.display())]
    CaFile {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// Neither the system nor a setting provides certificates.
    #[error(
        "there are no certificate authorities {}{reason}; install the system's (the package `ca-certificates`), or name a file of \
         them in the environment variable SSL_CERT_FILE",
        place()
    )]
    None {
        /// Why they could not be read.
        reason: String,
    },
}

impl Roots {
    /// Loads the system's certificates, and those in the PEM file `ca_file`. Reads hundreds of
    /// files, so call it only at startup.
    pub fn load(ca_file: Option<&Path>) -> Result<Self, RootsError> {
        Self::with_system(load_native_certs(), ca_file)
    }

    fn with_system(system: CertificateResult, ca_file: Option<&Path>) -> Result<Self, RootsError> {
        // One broken certificate of the system must not make the others unusable.
        let mut certificates: Vec<_> =
            system.certs.into_iter().filter(|certificate| is_usable(certificate).is_ok()).collect();
        let from_system = certificates.len();
        if let Some(path) = ca_file {
            certificates.extend(read(path)?);
        }
        let complaints: Vec<String> = system.errors.iter().map(ToString::to_string).collect();
        if certificates.is_empty() {
            let reason =
                complaints.first().map(|complaint| format!(" ({complaint})")).unwrap_or_default();
            return Err(RootsError::None { reason });
        }
        #[cfg(feature = "server")]
        for complaint in complaints {
            tracing::warn!(
                error = complaint,
                "some of the certificate authorities {} cannot be read",
                place()
            );
        }
        let none = |reason: &dyn fmt::Display| RootsError::None { reason: format!(" ({reason})") };
        let servers = peers::servers(&certificates).map_err(|error| none(&error))?;
        let client_config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let client_config =
            client_config.with_safe_default_protocol_versions().map_err(|error| none(&error))?;
        let client_config = client_config.dangerous().with_custom_certificate_verifier(servers);
        Ok(Self { certificates, from_system, ca_file: ca_file.map(Path::to_owned), client_config })
    }

    /// For rustls clients that accept only certificate authorities.
    pub fn store(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(self.certificates.iter().cloned());
        store
    }

    /// For rustls clients.
    pub fn client_config(&self) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        self.client_config.clone()
    }

    /// For `reqwest::ClientBuilder::tls_backend_preconfigured`: the library's defaults, with the
    /// verification in [`peers`].
    pub fn for_reqwest(&self) -> ClientConfig {
        let mut config = self.client_config().with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }

    /// For clients that read certificates as PEM.
    pub fn pem(&self) -> String {
        let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
        let block = |certificate: &CertificateDer<'_>| {
            pem::encode_config(&Pem::new("CERTIFICATE", certificate.to_vec()), config)
        };
        self.certificates.iter().map(block).collect()
    }
}

/// Shows the number of certificates and their origin.
impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate authorities: {} {}", self.from_system, place())?;
        match &self.ca_file {
            Some(path) => {
                write!(f, ", {} in {}", self.certificates.len() - self.from_system, path.display())
            }
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({self})")
    }
}

/// Where the system's certificates are looked for.
fn place() -> String {
    let set: Vec<&str> =
        VARIABLES.into_iter().filter(|name| std::env::var_os(name).is_some()).collect();
    if set.is_empty() {
        "of the system".to_owned()
    } else {
        format!("named by {}", set.join(" and "))
    }
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, RootsError> {
    let unusable = |reason: String| RootsError::CaFile { path: path.to_owned(), reason };
    let text = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("it holds no certificate in PEM".to_owned()));
    }
    for certificate in &certificates {
        is_usable(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    Ok(certificates)
}

/// Whether a certificate can be used as an authority.
fn is_usable(certificate: &CertificateDer<'static>) -> Result<(), rustls::Error> {
    RootCertStore::empty().add(certificate.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500
    /// -subj /CN=roots`.
    const CERTIFICATE: &str = include_str!("roots/authority.pem");

    fn system(certificates: Vec<CertificateDer<'static>>) -> CertificateResult {
        let mut result = CertificateResult::default();
        result.certs = certificates;
        result
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_file_adds_to_the_system_s() {
        let one = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
        let file = file(CERTIFICATE);
        let roots =
            Roots::with_system(system(vec![one.clone(), vec![0].into()]), Some(file.path()))
                .unwrap();
        assert_eq!(roots.certificates, [one.clone(), one], "what is no certificate is left out");
        assert_eq!(roots.store().len(), 2);
        reqwest::Client::builder()
            .tls_backend_preconfigured(roots.for_reqwest())
            .build()
            .expect("the library's rustls is ours");
        assert_eq!(roots.pem(), CERTIFICATE.repeat(2));
        let described = roots.to_string();
        assert!(
            described.starts_with("certificate authorities: 1 ") && described.contains(", 1 in /"),
            "{described}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_used_is_an_error() {
        let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", "no certificate", text] {
            let file = file(text);
            let error = Roots::with_system(system(Vec::new()), Some(file.path())).unwrap_err();
            assert!(matches!(error, RootsError::CaFile { .. }), "{error}");
        }
        let missing = Roots::with_system(system(Vec::new()), Some(Path::new("/missing.pem")))
            .unwrap_err()
            .to_string();
        assert!(missing.starts_with("/missing.pem: "), "{missing}");
    }

    #[test]
    fn without_any_there_is_no_connection() {
        let error = Roots::with_system(system(Vec::new()), None).unwrap_err().to_string();
        assert!(error.contains("SSL_CERT_FILE"), "{error}");
    }
}
