//! Key sets elsewhere that principals trust: how they are fetched, and for how long they count.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::values::{self, Secret};

/// `jwks.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct JwksSettings {
    /// How often each key set is fetched again. Default `5m`.
    #[serde(with = "values::duration")]
    pub refresh_interval: Duration,
    /// How old the last good copy of a key set may be and still count, while its endpoint is out
    /// of reach. Default `1h`.
    #[serde(with = "values::duration")]
    pub max_age: Duration,
    /// How long after one fetch a token that no key of the set verifies may cause another. Default
    /// `30s`.
    #[serde(with = "values::duration")]
    pub cooldown: Duration,
    /// How long a whole download may take. Default `5s`.
    #[serde(with = "values::duration")]
    pub timeout: Duration,
    /// How large a key set may be, in bytes. Default 1,048,576 (1 MiB).
    pub max_bytes: usize,
    /// Whether plain `http:` URLs may be trusted. Whoever can read and change that traffic can
    /// then act as the principals who trust them. Default false.
    pub allow_http: bool,
    /// The only hosts that may be asked. Private, loopback and link-local addresses are asked only
    /// where their host is listed. Default empty: any public host.
    #[serde(deserialize_with = "values::list")]
    pub allowed_hosts: Vec<String>,
    /// A PEM file with certificates that count for these endpoints besides the system's: those of
    /// authorities, or a server's own, such as a self-signed one. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub ca_file: Option<PathBuf>,
    /// The proxy through which key sets are fetched, such as `http://proxy.example:3128`, or `https:`, with `USER:PASSWORD@` before the
    /// host if it asks for them; or `environment`: what `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`
    /// and `NO_PROXY` say, which are not looked at otherwise. The proxy looks hosts up, so
    /// that private addresses can no longer be told: it has to refuse them, or
    /// `jwks.allowed_hosts` has to name the hosts. Local names such as `keys.internal` are refused
    /// unless listed. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub proxy: Option<JwksProxy>,
}

/// Which proxy key sets are fetched through.
#[derive(Clone, Debug)]
pub enum JwksProxy {
    /// What the environment says.
    Environment,
    /// This one.
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

/// Where a proxy is. Shown without the password that it may hold.
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
        // Both fail only if there is no host.
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
