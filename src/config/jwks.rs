//! Trusted key sets on other servers: how they are fetched, and how long a copy is valid.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::values::{self, Secret};

/// `jwks.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct JwksSettings {
    /// How often each key set is refreshed. Default `5m`.
    #[serde(with = "values::duration")]
    pub refresh_interval: Duration,
    /// How old the last good copy of a key set may be and still be used while its server is
    /// unreachable. Default `1h`.
    #[serde(with = "values::duration")]
    pub max_age: Duration,
    /// The minimum time between a fetch and another one that is caused by a token which no key of
    /// the set verifies. Default `30s`.
    #[serde(with = "values::duration")]
    pub cooldown: Duration,
    /// Timeout for a complete download. Default `5s`.
    #[serde(with = "values::duration")]
    pub timeout: Duration,
    /// Maximum size of a key set in bytes. Default 1,048,576 (1 MiB).
    pub max_bytes: usize,
    /// Whether plain `http:` URLs may be trusted. Anyone who can read and change that traffic can
    /// then act as the principals that trust them. Default false.
    pub allow_http: bool,
    /// The only hosts from which key sets may be fetched. Private, loopback and link-local
    /// addresses are used only if their host is listed. If empty, any public host is allowed.
    /// Default empty.
    #[serde(deserialize_with = "values::list")]
    pub allowed_hosts: Vec<String>,
    /// A PEM file with certificates to trust for key set servers, in addition to the system's:
    /// certificate authorities, or the server's own certificate if it is self-signed. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub ca_file: Option<PathBuf>,
    /// The proxy through which key sets are fetched, such as `http://proxy.example:3128`, or an
    /// `https:` URL, with `USER:PASSWORD@` before the host if the proxy requires credentials; or
    /// `environment` to use `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, which are
    /// ignored otherwise. The proxy resolves host names, so this service can no longer recognise
    /// private addresses: the proxy has to refuse them, or `jwks.allowed_hosts` has to list the
    /// hosts. Local names such as `keys.internal` are refused unless listed. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub proxy: Option<JwksProxy>,
}

/// The proxy through which key sets are fetched.
#[derive(Clone, Debug)]
pub enum JwksProxy {
    /// The proxy that the environment variables name.
    Environment,
    /// The proxy at this URL.
    Url(ProxyUrl),
}

impl FromStr for JwksProxy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "environment" { Ok(Self::Environment) } else { text.parse().map(Self::Url) }
    }
}

impl Serialize for JwksProxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Environment => serializer.serialize_str("environment"),
            Self::Url(url) => serializer.collect_str(url),
        }
    }
}

/// The URL of a proxy. Shown without the password that it may hold.
#[derive(Clone, Debug)]
pub struct ProxyUrl {
    url: Secret,
    shown: String,
    host: String,
}

impl ProxyUrl {
    /// The URL, for connecting.
    pub fn expose(&self) -> &str {
        self.url.expose()
    }

    /// The host, in lowercase.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl FromStr for ProxyUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a URL such as http://proxy.example:3128 or https://USER:PASSWORD@proxy.example:3129, \
                                without a path, or `environment`";
        let url = Url::parse(text).map_err(|_| EXPECTED)?;
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let host = url
            .host_str()
            .filter(|_| is_bare && matches!(url.scheme(), "http" | "https"))
            .ok_or(EXPECTED)?;
        let mut shown = url.clone();
        // Both calls fail only if the URL has no host.
        let _ = (shown.set_username(""), shown.set_password(None));
        let shown = shown.as_str().trim_end_matches('/').to_owned();
        Ok(Self { host: host.to_owned(), shown, url: Secret::new(text) })
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Default for JwksSettings {
    fn default() -> Self {
        Self {
            refresh_interval: Duration::from_mins(5),
            max_age: Duration::from_hours(1),
            cooldown: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            max_bytes: 1024 * 1024,
            allow_http: false,
            allowed_hosts: Vec::new(),
            ca_file: None,
            proxy: None,
        }
    }
}
