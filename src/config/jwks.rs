//! Key sets elsewhere that principals trust: how they are fetched, and for how long they count.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::values;

/// `jwks.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct JwksSettings {
    /// How often each key set is fetched again. Default `5m`.
    #[serde(with = "values::duration")]
    pub refresh_interval: Duration,
    /// How old the last good copy of a key set may be and still count, while its endpoint is out of reach. Default `1h`.
    #[serde(with = "values::duration")]
    pub max_age: Duration,
    /// How long after one fetch a token that no key of the set verifies may cause another. Default `30s`.
    #[serde(with = "values::duration")]
    pub cooldown: Duration,
    /// How long a whole download may take. Default `5s`.
    #[serde(with = "values::duration")]
    pub timeout: Duration,
    /// How large a key set may be, in bytes. Default 1,048,576 (1 MiB).
    pub max_bytes: usize,
    /// Whether plain `http:` URLs may be trusted. Whoever can read and change that traffic can then act as the principals who
    /// trust them. Default false.
    pub allow_http: bool,
    /// The only hosts that may be asked. Private, loopback and link-local addresses are asked only where their host is listed.
    /// Default empty: any public host.
    #[serde(deserialize_with = "values::list")]
    pub allowed_hosts: Vec<String>,
    /// A PEM file with certificates of authorities that count for these endpoints besides the system's. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub ca_file: Option<PathBuf>,
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
        }
    }
}
