//! One download of one key set.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use reqwest::{
    Certificate, Client,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING},
    redirect,
};
use url::Url;

use super::guard::{Forbidden, Guard};
use crate::{
    config::jwks::JwksSettings,
    domain::key_set::{KeySet, KeySetError},
};

const ACCEPTED: &str = "application/jwk-set+json, application/json";

/// Fetches key sets, within all bounds.
#[derive(Debug)]
pub(super) struct Fetcher {
    guard: Guard,
    authorities: Vec<Certificate>,
    client: OnceLock<Result<Client, Arc<reqwest::Error>>>,
    timeout: Duration,
    max_bytes: usize,
}

/// The settings do not make a client.
#[derive(Debug, thiserror::Error)]
pub enum FetcherError {
    /// `jwks.ca_file` cannot be used.
    #[error("`jwks.ca_file` cannot be used: {0}")]
    CaFile(String),
    /// Nothing can be fetched with these settings on this system.
    #[error("key sets cannot be fetched: {0}")]
    Client(String),
}

/// Why there is no new key set.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// Not a URL.
    #[error("not a URL")]
    NotAUrl(#[source] url::ParseError),
    /// A URL that is not fetched.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// There is no client, for want of certificate authorities for instance.
    #[error("the HTTP client could not be made; are the system's certificate authorities installed?")]
    Client(#[source] Arc<reqwest::Error>),
    /// The request failed.
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    /// The whole download took too long.
    #[error("the download took longer than {0:?}")]
    Timeout(Duration),
    /// An answer other than 200. Redirects are not followed: where they lead is not what is trusted.
    #[error("the answer was {0} instead of 200")]
    Status(u16),
    /// Too large.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// Encoded in a way that was not asked for and is not read.
    #[error("the answer's Content-Encoding is {0:?}; expected none, `gzip` or `br`")]
    Encoding(String),
    /// Not a key set.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    /// Reading it was given up.
    #[error("reading the set was abandoned: the service is stopping")]
    Abandoned,
}

impl Fetcher {
    /// A fetcher as `settings` say.
    pub(super) fn new(settings: &JwksSettings) -> Result<Self, FetcherError> {
        Ok(Self {
            guard: Guard::new(settings),
            authorities: settings.ca_file.as_deref().map(authorities).transpose()?.unwrap_or_default(),
            client: OnceLock::new(),
            timeout: settings.timeout,
            max_bytes: settings.max_bytes,
        })
    }

    /// Made when first needed: where nobody trusts a key set, the system needs no certificate authorities.
    pub(super) fn client(&self) -> Result<&Client, FetchError> {
        let made = self.client.get_or_init(|| {
            let builder = Client::builder()
                .dns_resolver(Arc::new(self.guard.clone()))
                .redirect(redirect::Policy::none())
                .no_proxy()
                .pool_max_idle_per_host(0)
                .tls_certs_merge(self.authorities.iter().cloned())
                .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")));
            builder.build().map_err(Arc::new)
        });
        made.as_ref().map_err(|error| FetchError::Client(Arc::clone(error)))
    }

    /// Whether `url` would be fetched, as far as the URL itself shows.
    pub(super) fn check_url(&self, url: &str) -> Result<(), FetchError> {
        let url = Url::parse(url).map_err(FetchError::NotAUrl)?;
        Ok(self.guard.check_url(&url)?)
    }

    /// Downloads the set at `url`, and reads it.
    pub(super) async fn fetch(&self, url: &str) -> Result<KeySet, FetchError> {
        let url = Url::parse(url).map_err(FetchError::NotAUrl)?;
        self.guard.check_url(&url)?;
        let body =
            tokio::time::timeout(self.timeout, self.download(url)).await.map_err(|_| FetchError::Timeout(self.timeout))??;
        // Up to a hundred keys are checked, which takes milliseconds: not on a thread that decides.
        tokio::task::spawn_blocking(move || KeySet::parse(&body)).await.map_err(|_| FetchError::Abandoned)?.map_err(Into::into)
    }

    async fn download(&self, url: Url) -> Result<Vec<u8>, FetchError> {
        // There are servers that compress whatever is asked of them. The client undoes that, and the cap is on what comes out.
        let request = self.client()?.get(url).header(ACCEPT, ACCEPTED).header(ACCEPT_ENCODING, "identity");
        let mut response = request.send().await.map_err(FetchError::Request)?;
        if response.status().as_u16() != 200 {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        // The client takes away what it undoes.
        if let Some(left) =
            response.headers().get(CONTENT_ENCODING).filter(|left| !left.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(FetchError::Encoding(String::from_utf8_lossy(left.as_bytes()).into_owned()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(FetchError::Request)? {
            if body.len() + chunk.len() > self.max_bytes {
                return Err(FetchError::TooLarge(self.max_bytes));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, FetcherError> {
    let unusable = |reason: String| FetcherError::CaFile(format!("{}: {reason}", path.display()));
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() { Err(unusable("it holds no certificate in PEM".to_owned())) } else { Ok(certificates) }
}
