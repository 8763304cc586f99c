//! One download of one key set.

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

/// Fetches key sets, within all bounds.
#[derive(Debug)]
pub(super) struct Fetcher {
    guard: Guard,
    egress: Egress,
    /// Where the settings name some besides the system's.
    roots: Option<Roots>,
    client: OnceLock<Result<Client, Arc<ClientError>>>,
    timeout: Duration,
    max_bytes: usize,
}

/// The settings do not make a client.
#[derive(Debug, thiserror::Error)]
pub enum FetcherError {
    /// `jwks.ca_file` cannot be used.
    #[error("`jwks.ca_file` cannot be used")]
    CaFile(#[source] RootsError),
    /// A proxy that the environment names cannot be used.
    #[error("`jwks.proxy` is `environment`, and {name} cannot be used: {expected}")]
    ProxyVariable {
        /// The variable.
        name: &'static str,
        /// What is accepted.
        expected: &'static str,
    },
    /// The library does not take the proxy. It may say why by repeating it.
    #[error("`jwks.proxy` cannot be used")]
    Proxy,
    /// Nothing can be fetched with these settings on this system.
    #[error("key sets cannot be fetched: {0}")]
    Client(String),
}

impl From<reqwest::Error> for FetcherError {
    fn from(_: reqwest::Error) -> Self {
        Self::Proxy
    }
}

/// There is nothing to fetch with.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// No server could be verified.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The library does not make a client.
    #[error("the HTTP client could not be made")]
    Http(#[from] reqwest::Error),
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
    /// There is no client.
    #[error(transparent)]
    Client(Arc<ClientError>),
    /// The request failed.
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    /// There was no connection by way of a proxy.
    #[error("no connection through the proxy {proxy}")]
    Proxy {
        /// Without its password.
        proxy: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The whole download took too long.
    #[error("the download took longer than {0:?}")]
    Timeout(Duration),
    /// An answer other than 200. Redirects are not followed: where they lead is not what is
    /// trusted.
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

    /// Made when first needed: where nobody trusts a key set, the system needs no certificate
    /// authorities.
    pub(super) fn client(&self) -> Result<&Client, FetchError> {
        let made = self.client.get_or_init(|| self.make_client().map_err(Arc::new));
        made.as_ref().map_err(|error| FetchError::Client(Arc::clone(error)))
    }

    fn make_client(&self) -> Result<Client, ClientError> {
        let roots = match &self.roots {
            Some(roots) => roots.for_reqwest(),
            None => Roots::load(None)?.for_reqwest(),
        };
        // The library would look into the environment by itself.
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

    /// What `config check` says.
    pub(super) fn described(&self, settings: &JwksSettings) -> Option<String> {
        let roots = self.roots.as_ref().map(ToString::to_string);
        let notes: Vec<String> =
            roots.into_iter().chain(self.egress.described(settings.proxy.as_ref())).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
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
        let body = tokio::time::timeout(self.timeout, self.download(url))
            .await
            .map_err(|_| FetchError::Timeout(self.timeout))??;
        // Up to a hundred keys are checked, which takes milliseconds: not on a thread that decides.
        tokio::task::spawn_blocking(move || KeySet::parse(&body))
            .await
            .map_err(|_| FetchError::Abandoned)?
            .map_err(Into::into)
    }

    async fn download(&self, url: Url) -> Result<Vec<u8>, FetchError> {
        // There are servers that compress whatever is asked of them. The client undoes that, and
        // the cap is on what comes out.
        let request =
            self.client()?.get(url).header(ACCEPT, ACCEPTED).header(ACCEPT_ENCODING, "identity");
        let mut response = request.send().await.map_err(|source| match self.egress.shown() {
            Some(proxy) if source.is_connect() => FetchError::Proxy { proxy, source },
            Some(_) | None => FetchError::Request(source),
        })?;
        if response.status().as_u16() != 200 {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        // The client takes away what it undoes.
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
