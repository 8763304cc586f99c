//! Downloads a key set.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use reqwest::{
    Client,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING},
    redirect,
};
use url::Url;

use super::{
    egress::Egress,
    guard::{Forbidden, Guard},
};
use crate::{
    config::jwks::JwksSettings,
    domain::key_set::{KeySet, KeySetError},
    roots::{Roots, RootsError},
};

const ACCEPTED: &str = "application/jwk-set+json, application/json";

/// Fetches key sets, within limits of time and size.
#[derive(Debug)]
pub(super) struct Fetcher {
    guard: Guard,
    egress: Egress,
    /// `None` if the settings name no certificates besides those of the system.
    roots: Option<Roots>,
    client: OnceLock<Result<Client, Arc<ClientError>>>,
    timeout: Duration,
    max_bytes: usize,
}

/// Why no client can be created from the settings.
#[derive(Debug, thiserror::Error)]
pub enum FetcherError {
    /// `jwks.ca_file` cannot be used.
    #[error("`jwks.ca_file` cannot be used")]
    CaFile(#[source] RootsError),
    /// A proxy named by the environment cannot be used.
    #[error("`jwks.proxy` is `environment`, and {name} cannot be used: {expected}")]
    ProxyVariable {
        /// Name of the environment variable.
        name: &'static str,
        /// The expected format.
        expected: &'static str,
    },
    /// The library rejects the proxy. Its reason is not shown, since it may repeat the URL.
    #[error("`jwks.proxy` cannot be used")]
    Proxy,
    /// With these settings, nothing can be fetched on this system.
    #[error("key sets cannot be fetched: {0}")]
    Client(String),
}

impl From<reqwest::Error> for FetcherError {
    fn from(_: reqwest::Error) -> Self {
        Self::Proxy
    }
}

/// Why there is no HTTP client.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// There are no trusted certificates, so no server could be verified.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The library failed to create a client.
    #[error("the HTTP client could not be made")]
    Http(#[from] reqwest::Error),
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The text is not a URL.
    #[error("not a URL")]
    NotAUrl(#[source] url::ParseError),
    /// The URL must not be fetched.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// There is no HTTP client.
    #[error(transparent)]
    Client(Arc<ClientError>),
    /// The request failed.
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    /// The connection through a proxy failed.
    #[error("no connection through the proxy {proxy}")]
    Proxy {
        /// URL of the proxy, without its password.
        proxy: String,
        /// The error of the HTTP client.
        #[source]
        source: reqwest::Error,
    },
    /// The whole download took too long.
    #[error("the download took longer than {0:?}")]
    Timeout(Duration),
    /// The status was not 200. Redirects are not followed: only the URL itself is trusted, not its
    /// redirect target.
    #[error("the answer was {0} instead of 200")]
    Status(u16),
    /// The body is larger than `jwks.max_bytes`.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The body has an encoding that was not requested and is not supported.
    #[error("the answer's Content-Encoding is {0:?}; expected none, `gzip` or `br`")]
    Encoding(String),
    /// The body is not a key set.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    /// Parsing was abandoned because the service is stopping.
    #[error("reading the set was abandoned: the service is stopping")]
    Abandoned,
}

impl Fetcher {
    /// Creates a fetcher for `settings`.
    pub(super) fn new(settings: &JwksSettings) -> Result<Self, FetcherError> {
        let egress = Egress::new(settings.proxy.as_ref(), |name| std::env::var(name).ok())?;
        Ok(Self {
            guard: Guard::new(settings, &egress.hosts),
            egress,
            roots: settings
                .ca_file
                .as_deref()
                .map(|file| Roots::load(Some(file)))
                .transpose()
                .map_err(FetcherError::CaFile)?,
            client: OnceLock::new(),
            timeout: settings.timeout,
            max_bytes: settings.max_bytes,
        })
    }

    /// The client, created when first needed: if no principal trusts a key set, the system needs no
    /// certificate authorities.
    pub(super) fn client(&self) -> Result<&Client, FetchError> {
        let made = self.client.get_or_init(|| self.make_client().map_err(Arc::new));
        made.as_ref().map_err(|error| FetchError::Client(Arc::clone(error)))
    }

    fn make_client(&self) -> Result<Client, ClientError> {
        let roots = match &self.roots {
            Some(roots) => roots.for_reqwest(),
            None => Roots::load(None)?.for_reqwest(),
        };
        // The library would read the environment by itself.
        let direct = Client::builder().no_proxy();
        let builder =
            self.egress.proxies.iter().cloned().fold(direct, reqwest::ClientBuilder::proxy);
        let builder = builder
            .dns_resolver(Arc::new(self.guard.clone()))
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .tls_backend_preconfigured(roots)
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")));
        Ok(builder.build()?)
    }

    /// The description printed by `config check`.
    pub(super) fn described(&self, settings: &JwksSettings) -> Option<String> {
        let roots = self.roots.as_ref().map(ToString::to_string);
        let notes: Vec<String> =
            roots.into_iter().chain(self.egress.described(settings.proxy.as_ref())).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    /// Checks whether `url` may be fetched, as far as the URL itself shows.
    pub(super) fn check_url(&self, url: &str) -> Result<(), FetchError> {
        let url = Url::parse(url).map_err(FetchError::NotAUrl)?;
        Ok(self.guard.check_url(&url)?)
    }

    /// Downloads and parses the set at `url`.
    pub(super) async fn fetch(&self, url: &str) -> Result<KeySet, FetchError> {
        let url = Url::parse(url).map_err(FetchError::NotAUrl)?;
        self.guard.check_url(&url)?;
        let body = tokio::time::timeout(self.timeout, self.download(url))
            .await
            .map_err(|_| FetchError::Timeout(self.timeout))??;
        // Checking up to a hundred keys takes milliseconds, so it does not run on a thread that
        // decides.
        tokio::task::spawn_blocking(move || KeySet::parse(&body))
            .await
            .map_err(|_| FetchError::Abandoned)?
            .map_err(Into::into)
    }

    async fn download(&self, url: Url) -> Result<Vec<u8>, FetchError> {
        // Some servers always compress. The client decompresses, and the size limit applies to the
        // result.
        let request =
            self.client()?.get(url).header(ACCEPT, ACCEPTED).header(ACCEPT_ENCODING, "identity");
        let mut response = request.send().await.map_err(|source| match self.egress.shown() {
            Some(proxy) if source.is_connect() => FetchError::Proxy { proxy, source },
            Some(_) | None => FetchError::Request(source),
        })?;
        if response.status().as_u16() != 200 {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        // The client removes the header if it decompresses.
        if let Some(left) = response
            .headers()
            .get(CONTENT_ENCODING)
            .filter(|left| !left.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(FetchError::Encoding(
                String::from_utf8_lossy(left.as_bytes()).into_owned(),
            ));
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
