//! Asks replicas how they are.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
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
    domain::json,
    roots::{Roots, RootsError},
};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The admin listeners of the replicas.
#[derive(Clone, Debug)]
pub(super) struct Scraper {
    client: Client,
    targets: Vec<Url>,
}

/// There is nothing to ask with.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScraperError {
    /// No replica could be verified.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The library does not make a client.
    #[error("the HTTP client could not be made")]
    Http(#[from] reqwest::Error),
}

/// Why a replica's metrics could not be read, in a few words for one row of a table.
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
    /// Redirects are not followed and proxies not asked: an admin listener is near.
    pub(super) fn new(targets: Vec<Url>) -> Result<Self, ScraperError> {
        // Without TLS, no authorities are needed.
        let uses_tls = targets.iter().any(|target| target.scheme() == "https");
        let client = if uses_tls {
            Client::builder().tls_backend_preconfigured(Roots::load(None)?.for_reqwest())
        } else {
            Client::builder().tls_certs_only([])
        };
        let client = client
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, targets })
    }

    /// One look at each replica, in their order, all at once.
    pub(super) async fn look(&self) -> Vec<Look> {
        future::join_all(self.targets.iter().map(|target| self.look_at(target))).await
    }

    async fn look_at(&self, target: &Url) -> Look {
        match future::try_join(self.metrics(target), self.readiness(target)).await {
            Ok((reading, state)) => Look { state, reading: Some(reading) },
            Err(error) => Look { state: State::Unreachable(super::printable(&error.to_string())), reading: None },
        }
    }

    async fn metrics(&self, target: &Url) -> Result<Reading, ScrapeError> {
        let (status, text) = self.get(target, "metrics").await?;
        if status != StatusCode::OK {
            return Err(ScrapeError::Status { path: "/metrics", status });
        }
        Ok(Reading::of(&exposition::parse(&text)?, Instant::now()))
    }

    async fn readiness(&self, target: &Url) -> Result<State, ScrapeError> {
        let (status, text) = self.get(target, "readyz").await?;
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

    async fn get(&self, target: &Url, path: &str) -> Result<(StatusCode, String), ScrapeError> {
        let mut url = target.clone();
        url.set_path(&format!("{}/{path}", target.path().trim_end_matches('/')));
        let response = self.client.get(url).send().await.map_err(innermost)?;
        Ok((response.status(), response.text().await.map_err(innermost)?))
    }
}

/// What `--url` gives: the admin listener's address, with or without `http://` and with whatever stands before its paths.
pub(super) fn target(text: &str) -> Result<Url, String> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&with_scheme).map_err(|error| error.to_string())?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err("accepted are addresses such as 127.0.0.1:8081 and http:// and https:// URLs".to_owned()),
    }
}

/// A target as it is shown, without the password that it may have.
pub(super) fn name(target: &Url) -> String {
    let mut shown = target.clone();
    // Both fail only where there is no host, and a target has one.
    let _ = (shown.set_username(""), shown.set_password(None));
    super::printable(shown.as_str().trim_end_matches('/'))
}

/// Where a service of these settings is asked from the same machine.
pub(super) fn local(listener: SocketAddr, uses_tls: bool) -> Result<Url, String> {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let scheme = if uses_tls { "https" } else { "http" };
    target(&format!("{scheme}://{}", SocketAddr::new(ip, listener.port())))
}

/// The cause that says most: what surrounds it repeats the URL, which has a column of its own.
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
            assert_eq!(target(text).unwrap().as_str(), url);
        }
        for text in ["", "ftp://admin.test", "http://", "host:port"] {
            assert!(target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(name(&target("https://top:secret@admin.test/auth/").unwrap()), "https://admin.test/auth");
    }

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        for (listener, url) in [
            ("0.0.0.0:8081", "http://127.0.0.1:8081/"),
            ("[::]:8081", "http://[::1]:8081/"),
            ("192.0.2.7:9", "http://192.0.2.7:9/"),
        ] {
            assert_eq!(local(listener.parse().unwrap(), false).unwrap().as_str(), url);
            assert_eq!(local(listener.parse().unwrap(), true).unwrap().as_str(), url.replace("http:", "https:"));
        }
    }
}
