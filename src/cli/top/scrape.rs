//! Reads the metrics and the readiness of replicas.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::future;
use reqwest::{Client, StatusCode, redirect};
use serde::Deserialize;
use url::Url;

use super::{
    exposition,
    replica::{Look, Reading, State},
};
use crate::{
    config::ListenAddress,
    domain::json,
    roots::{Roots, RootsError},
};

/// Timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The admin listeners of the replicas.
#[derive(Clone, Debug)]
pub(super) struct Scraper {
    targets: Vec<(Client, Url)>,
}

/// The admin listener of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Url(Url),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Why the scraper cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScraperError {
    /// No certificate authorities to verify replicas with.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The library cannot create a client.
    #[error("the HTTP client could not be made")]
    Http(#[from] reqwest::Error),
    /// The placeholder host for Unix sockets is not a valid URL, which should not happen.
    #[error("{0}")]
    Name(String),
}

/// Why a replica's metrics could not be read, short enough for a row of a table.
#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error("{0}")]
    Http(String),
    #[error("{path} answered {status}")]
    Status { path: &'static str, status: StatusCode },
    #[error("/metrics: {0}")]
    Metrics(#[from] exposition::BadExposition),
    #[error("/readyz answered something else than Countersign does")]
    Readiness,
}

#[derive(Deserialize)]
struct Ready {
    result: bool,
    #[serde(default)]
    dependencies: std::collections::BTreeMap<String, String>,
}

impl Scraper {
    /// Follows no redirects and uses no proxies: admin listeners are on a network nearby.
    pub(super) fn new(targets: Vec<Target>) -> Result<Self, ScraperError> {
        // Without TLS, no certificate authorities are needed.
        let uses_tls = targets
            .iter()
            .any(|target| matches!(target, Target::Url(url) if url.scheme() == "https"));
        let tls = if uses_tls { Some(Roots::load(None)?.for_reqwest()) } else { None };
        let builder = || {
            let builder = match &tls {
                Some(tls) => Client::builder().tls_backend_preconfigured(tls.clone()),
                None => Client::builder().tls_certs_only([]),
            };
            builder
                .timeout(TIMEOUT)
                .redirect(redirect::Policy::none())
                .no_proxy()
                .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
        };
        let shared = builder().build()?;
        let targets = targets.into_iter().map(|target| match target {
            Target::Url(url) => Ok((shared.clone(), url)),
            // All requests of this client go to that socket.
            Target::Unix(path) => Ok((builder().unix_socket(path).build()?, in_any_name()?)),
        });
        Ok(Self { targets: targets.collect::<Result<_, ScraperError>>()? })
    }

    /// Scrapes all replicas at once; results are in their order.
    pub(super) async fn look(&self) -> Vec<Look> {
        future::join_all(self.targets.iter().map(|(client, url)| look_at(client, url))).await
    }
}

async fn look_at(client: &Client, target: &Url) -> Look {
    match future::try_join(metrics(client, target), readiness(client, target)).await {
        Ok((reading, state)) => Look { state, reading: Some(reading) },
        Err(error) => {
            Look { state: State::Unreachable(super::printable(&error.to_string())), reading: None }
        }
    }
}

async fn metrics(client: &Client, target: &Url) -> Result<Reading, ScrapeError> {
    let (status, text) = get(client, target, "metrics").await?;
    if status != StatusCode::OK {
        return Err(ScrapeError::Status { path: "/metrics", status });
    }
    Ok(Reading::of(&exposition::parse(&text)?, Instant::now()))
}

async fn readiness(client: &Client, target: &Url) -> Result<State, ScrapeError> {
    let (status, text) = get(client, target, "readyz").await?;
    if status != StatusCode::OK && status != StatusCode::SERVICE_UNAVAILABLE {
        return Err(ScrapeError::Status { path: "/readyz", status });
    }
    let ready: Ready = json::object(text.as_bytes()).map_err(|_| ScrapeError::Readiness)?;
    if ready.result {
        return Ok(State::Up);
    }
    let down = ready.dependencies.into_iter().filter(|(_, state)| state != "ok");
    Ok(State::NotReady(down.map(|(dependency, _)| super::printable(&dependency)).collect()))
}

async fn get(
    client: &Client,
    target: &Url,
    path: &str,
) -> Result<(StatusCode, String), ScrapeError> {
    let mut url = target.clone();
    url.set_path(&format!("{}/{path}", target.path().trim_end_matches('/')));
    let response = client.get(url).send().await.map_err(innermost)?;
    Ok((response.status(), response.text().await.map_err(innermost)?))
}

/// Parses `--url`: the address of an admin listener, with or without `http://` and with any prefix
/// of its paths; or its Unix socket.
pub(super) fn target(text: &str) -> Result<Target, String> {
    if text.starts_with("unix:") {
        return match text.parse::<ListenAddress>()? {
            ListenAddress::Unix(path) => Ok(Target::Unix(path)),
            ListenAddress::Tcp(address) => url(&address.to_string()).map(Target::Url),
        };
    }
    url(text).map(Target::Url)
}

fn url(text: &str) -> Result<Url, String> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&with_scheme).map_err(|error| error.to_string())?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err("expected an address such as 127.0.0.1:8081, an http:// or https:// URL, or a Unix socket such as \
                  unix:/run/countersign/admin.sock"
            .to_owned()),
    }
}

/// The base URL for requests over a Unix socket, which has no host name.
fn in_any_name() -> Result<Url, ScraperError> {
    url("localhost").map_err(ScraperError::Name)
}

impl Target {
    /// The name to show, without the password that the URL may have.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Url(url) => {
                let mut shown = url.clone();
                // Both calls fail only if the URL has no host, and a target has one.
                let _ = (shown.set_username(""), shown.set_password(None));
                super::printable(shown.as_str().trim_end_matches('/'))
            }
            Self::Unix(path) => super::printable(&ListenAddress::Unix(path.clone()).to_string()),
        }
    }
}

/// The target of a service with these settings on this machine.
pub(super) fn local(listener: &ListenAddress, uses_tls: bool) -> Result<Target, String> {
    let listener = match listener {
        ListenAddress::Tcp(address) => address,
        // Unix sockets have no TLS.
        ListenAddress::Unix(path) => return Ok(Target::Unix(path.clone())),
    };
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let scheme = if uses_tls { "https" } else { "http" };
    target(&format!("{scheme}://{}", SocketAddr::new(ip, listener.port())))
}

/// The innermost cause, which says most: the others repeat the URL, which has its own column.
fn innermost(error: reqwest::Error) -> ScrapeError {
    if error.is_timeout() {
        return ScrapeError::Http(format!("no answer within {} s", TIMEOUT.as_secs()));
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    ScrapeError::Http(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_as_good_as_a_url() {
        for (text, url) in [
            ("127.0.0.1:8081", "http://127.0.0.1:8081/"),
            ("localhost:8081", "http://localhost:8081/"),
            ("[::1]:8081", "http://[::1]:8081/"),
            ("https://admin.test/auth", "https://admin.test/auth"),
        ] {
            assert_eq!(target(text).unwrap(), Target::Url(Url::parse(url).unwrap()));
        }
        assert_eq!(target("unix:/run/admin.sock").unwrap(), Target::Unix("/run/admin.sock".into()));
        for text in ["", "unix:admin.sock", "unix:", "ftp://admin.test", "http://", "host:port"] {
            assert!(target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(
            target("https://top:secret@admin.test/auth/").unwrap().name(),
            "https://admin.test/auth"
        );
        assert_eq!(target("unix:/run/admin.sock").unwrap().name(), "unix:/run/admin.sock");
    }

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        for (listener, url) in [
            ("0.0.0.0:8081", "http://127.0.0.1:8081/"),
            ("[::]:8081", "http://[::1]:8081/"),
            ("192.0.2.7:9", "http://192.0.2.7:9/"),
        ] {
            let listener = listener.parse().unwrap();
            let of = |url: &str| Ok(Target::Url(Url::parse(url).unwrap()));
            assert_eq!(local(&listener, false), of(url));
            assert_eq!(local(&listener, true), of(&url.replace("http:", "https:")));
        }
    }
}
