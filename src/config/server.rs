//! Listeners.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    Contradiction,
    values::{self, ListenAddress},
};

/// `server.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerSettings {
    /// Where decisions are asked over HTTP. Default `0.0.0.0:8080`.
    pub http_listen: ListenAddress,
    /// Where decisions are asked over gRPC. Default `0.0.0.0:9191`.
    pub grpc_listen: ListenAddress,
    /// Where operators look: readiness, metrics, the admin API. Default `127.0.0.1:8081`.
    pub admin_listen: ListenAddress,
    /// What stands before every HTTP path, such as `/auth`. Default empty.
    pub url_prefix: String,
    /// Whether the HTTP listener carries the token API too; otherwise decisions and `/jwks` alone. Default true.
    pub token_api: bool,
    /// TLS for the HTTP and gRPC listeners. Default none.
    pub tls: TlsSettings,
}

/// `server.tls.*`: PEM files, read again when they change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsSettings {
    /// The certificate chain.
    #[serde(deserialize_with = "values::optional")]
    pub cert: Option<PathBuf>,
    /// The certificate's private key.
    #[serde(deserialize_with = "values::optional")]
    pub key: Option<PathBuf>,
    /// Certificates of the authorities whose clients alone may connect (mTLS).
    #[serde(deserialize_with = "values::optional")]
    pub client_ca: Option<PathBuf>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        let listen = |ip: [u8; 4], port| ListenAddress((ip, port).into());
        Self {
            http_listen: listen([0, 0, 0, 0], 8080),
            grpc_listen: listen([0, 0, 0, 0], 9191),
            admin_listen: listen([127, 0, 0, 1], 8081),
            url_prefix: String::new(),
            token_api: true,
            tls: TlsSettings::default(),
        }
    }
}

impl ServerSettings {
    pub(super) fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        let mut add = |key, reason: &str| found.push(Contradiction { key, reason: reason.to_owned() });
        let prefix = &self.url_prefix;
        if !prefix.is_empty()
            && (!prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#', '{', '}', ' ', '%']))
        {
            add("server.url_prefix", "it has to start with `/`, not end with one, and be a plain path, such as `/auth`");
        }
        let same = |a: ListenAddress, b: ListenAddress| a.0 == b.0 && a.0.port() != 0;
        if same(self.http_listen, self.grpc_listen) {
            add("server.grpc_listen", "it is the same address as `server.http_listen`; each listener needs its own");
        }
        if same(self.http_listen, self.admin_listen) || same(self.grpc_listen, self.admin_listen) {
            add("server.admin_listen", "it is the same address as another listener's; each needs its own");
        }
        match (&self.tls.cert, &self.tls.key, &self.tls.client_ca) {
            (Some(_), None, _) => add("server.tls.cert", "`server.tls.key` is missing; a certificate needs its private key"),
            (None, Some(_), _) => add("server.tls.key", "`server.tls.cert` is missing; a private key needs its certificate"),
            (None, None, Some(_)) => {
                add("server.tls.client_ca", "`server.tls.cert` and `server.tls.key` are missing; mTLS needs TLS");
            }
            (Some(_), Some(_), _) | (None, None, None) => {}
        }
        found
    }
}
