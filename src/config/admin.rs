//! The admin API, on the listener `server.admin_listen`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    Contradiction,
    server::{TlsKeys, TlsSettings},
    values::{self, Secret, SocketMode},
};

/// Minimum length of an admin token in characters. Guesses are rate limited, but not impossible.
pub const TOKEN_MIN: usize = 16;

/// `admin.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct AdminSettings {
    /// The token that grants access to the admin API, sent as `Authorization: Bearer`: at least 16
    /// characters, long and random, such as from `openssl rand -hex 32`. Without one, the admin API
    /// answers 401 to every request. Default none.
    #[serde(deserialize_with = "values::optional_secret")]
    pub token: Option<Secret>,
    /// A file that holds the token, instead of `admin.token`; leading and trailing white space is
    /// ignored. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub token_file: Option<PathBuf>,
    /// The host names, without a port, at which the admin API may be reached, such as that of a
    /// service or an ingress. A request with any other name in `Host` gets 421, and a request from
    /// a web page of any other host gets 403. IP addresses and `localhost` are always allowed;
    /// `/readyz`, `/livez` and `/metrics` answer under every name. Default empty.
    #[serde(deserialize_with = "values::list")]
    pub allowed_hosts: Vec<String>,
    /// How many wrong tokens one peer may send per minute. A peer is an IPv4 address, an IPv6 `/64`
    /// or, over a Unix socket, a user. After that the answer is 429 until some time has passed,
    /// even to the right token. 0 means no limit. Default 10.
    pub failures_per_peer: u32,
    /// Whether `/register_key` and `/is_key_registered`, which jwthenticator offers on its internal
    /// network, need no token. Anyone who can reach the listener can then register API keys.
    /// Default false.
    pub open_key_registration: bool,
    /// The permissions of the admin listener's Unix socket, as four octal digits. Anyone who may
    /// write to the socket may connect, but still needs the token for the admin API. Default
    /// `0600`.
    pub socket_mode: SocketMode,
    /// TLS on the admin listener, if it has an IP address. It applies to everything on the
    /// listener, so probes and scrapers have to use TLS, too. `cert` and `key` must be set
    /// together, and `client_ca` needs both. The files are read again when they change.
    pub tls: TlsSettings,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            token: None,
            token_file: None,
            allowed_hosts: Vec::new(),
            failures_per_peer: 10,
            open_key_registration: false,
            socket_mode: SocketMode(0o600),
            tls: TlsSettings::default(),
        }
    }
}

impl AdminSettings {
    pub(super) fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        let mut add = |key, reason: String| found.push(Contradiction { key, reason });
        if self.token.is_some() && self.token_file.is_some() {
            add("admin.token_file", "`admin.token` is set too; keep one of them".to_owned());
        }
        if self.token.as_ref().is_some_and(|token| token.expose().chars().count() < TOKEN_MIN) {
            add(
                "admin.token",
                format!(
                    "expected at least {TOKEN_MIN} characters, such as from `openssl rand -hex 32`"
                ),
            );
        }
        let is_name = |host: &String| {
            host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        if !self.allowed_hosts.iter().all(is_name) {
            add(
                "admin.allowed_hosts",
                "expected host names such as countersign-admin.example, without scheme, port and path; IP addresses need no entry"
                    .to_owned(),
            );
        }
        found.extend(self.tls.contradictions(TlsKeys::ADMIN));
        found
    }
}
