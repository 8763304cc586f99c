//! The addresses on which the service listens.

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
    /// Decisions over HTTP (`/validate_request`), the token API, `/jwks`, and liveness (`/livez`). Default `0.0.0.0:8080`.
    pub http_listen: ListenAddress,
    /// Decisions over gRPC (Envoy's `ext_authz` v3 and `countersign.v1.Verification`), health and reflection. Default
    /// `0.0.0.0:9191`.
    pub grpc_listen: ListenAddress,
    /// Readiness (`/readyz`), metrics (`/metrics`) and the admin API (`/admin/v1`). `admin.tls` gives it TLS. Default `127.0.0.1:8081`.
    pub admin_listen: ListenAddress,
    /// What stands before every HTTP path, such as `/auth`: begins with `/`, and does not end with it. The admin listener answers
    /// without it, too. Default empty.
    pub url_prefix: String,
    /// Whether the HTTP listener has the token API; otherwise it has decisions, `/jwks` and liveness alone. Default true.
    pub token_api: bool,
    /// TLS on the HTTP and gRPC listeners. `cert` and `key` belong together, and `client_ca` needs both. The files are read again
    /// when they change.
    pub tls: TlsSettings,
}

/// `server.tls.*` and `admin.tls.*`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsSettings {
    /// A PEM file with the certificate chain. Default none: no TLS.
    #[serde(deserialize_with = "values::optional")]
    pub cert: Option<PathBuf>,
    /// A PEM file with the certificate's private key. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub key: Option<PathBuf>,
    /// A PEM file with certificates of authorities: only clients with a certificate of theirs may connect (mTLS). Default none:
    /// everybody may.
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
        found.extend(self.tls.contradictions(TlsKeys::SERVER));
        found
    }
}

/// What the settings of a listener's TLS are called.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "as in TlsSettings")]
pub struct TlsKeys {
    pub cert: &'static str,
    pub key: &'static str,
    pub client_ca: &'static str,
}

impl TlsKeys {
    /// Of the HTTP and gRPC listeners.
    pub const SERVER: Self = Self { cert: "server.tls.cert", key: "server.tls.key", client_ca: "server.tls.client_ca" };
    /// Of the admin listener.
    pub const ADMIN: Self = Self { cert: "admin.tls.cert", key: "admin.tls.key", client_ca: "admin.tls.client_ca" };
}

impl TlsSettings {
    pub(super) fn contradictions(&self, keys: TlsKeys) -> Option<Contradiction> {
        let TlsKeys { cert, key, client_ca } = keys;
        let (key, reason) = match (&self.cert, &self.key, &self.client_ca) {
            (Some(_), None, _) => (cert, format!("`{key}` is missing; a certificate needs its private key")),
            (None, Some(_), _) => (key, format!("`{cert}` is missing; a private key needs its certificate")),
            (None, None, Some(_)) => (client_ca, format!("`{cert}` and `{key}` are missing; mTLS needs TLS")),
            (Some(_), Some(_), _) | (None, None, None) => return None,
        };
        Some(Contradiction { key, reason })
    }
}
