//! The addresses on which the service listens.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Contradiction,
    values::{self, ListenAddress, SocketMode},
};

/// `server.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerSettings {
    /// Decisions over HTTP (`/validate_request`), the token API, `/jwks`, and liveness (`/livez`):
    /// an IP address and a port, or a Unix socket, such as `unix:/run/countersign/http.sock`, for
    /// gateways on the same host. Default `0.0.0.0:8080`.
    pub http_listen: ListenAddress,
    /// Decisions over gRPC (Envoy's `ext_authz` v3 and `countersign.v1.Verification`), health and
    /// reflection: an address or a Unix socket, as above. Default `0.0.0.0:9191`.
    pub grpc_listen: ListenAddress,
    /// Readiness (`/readyz`), metrics (`/metrics`) and the admin API (`/admin/v1`): an address or a
    /// Unix socket, as above. `admin.tls` enables TLS on it. Default `127.0.0.1:8081`.
    pub admin_listen: ListenAddress,
    /// The permissions of the Unix sockets of the HTTP and gRPC listeners, as four octal digits: a
    /// gateway can connect if it may write to the socket. The socket has the group of the service.
    /// Default `0660`.
    pub socket_mode: SocketMode,
    /// A prefix of every HTTP path, such as `/auth`: starts with `/` and does not end with it. The
    /// admin listener also answers without it. Default empty.
    pub url_prefix: String,
    /// Whether the HTTP listener serves the token API; if not, it serves only decisions, `/jwks`
    /// and liveness. Default true.
    pub token_api: bool,
    /// Limits of the gRPC listener.
    pub grpc: GrpcSettings,
    /// How long the service continues after it receives the signal to stop. `/readyz` answers 503
    /// at once, and load balancers have this long to notice while new connections are still
    /// accepted. After that, requests in flight get 5 s to finish. Up to `1m`; `0s` stops at once.
    /// Default `2s`.
    #[serde(with = "values::duration")]
    pub drain: Duration,
    /// Maximum number of simultaneous connections per listener; any further connection gets 503
    /// (`UNAVAILABLE` over gRPC) and is closed. Lowered at the start if the limit of open files is
    /// too small. From 1 to 1,000,000. Default 4096.
    pub max_connections: u32,
    /// Maximum number of simultaneous requests per listener; any further request gets 503
    /// (`UNAVAILABLE` over gRPC) before any work is done for it. From 1 to 1,000,000. Default 4096.
    pub max_in_flight: u32,
    /// TLS on the HTTP and gRPC listeners, if they have an IP address; access to Unix sockets is
    /// controlled by `server.socket_mode`. `cert` and `key` must be set together, and `client_ca`
    /// needs both. The files are read again when they change.
    pub tls: TlsSettings,
}

/// `server.grpc.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct GrpcSettings {
    /// Maximum size of a check in bytes, from 16,384 (16 KiB) to 16,777,216 (16 MiB); the answer to
    /// a larger one is *unavailable*, with the reason `request_too_large`. A check contains the
    /// headers of the original request, and its body if the gateway sends it (Envoy's
    /// `with_request_body`). Default 1,310,720: 1 MiB of body, and 256 KiB for the rest.
    pub max_message: usize,
}

impl Default for GrpcSettings {
    fn default() -> Self {
        Self { max_message: 1280 * 1024 }
    }
}

/// `server.tls.*` and `admin.tls.*`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsSettings {
    /// A PEM file with the certificate chain. Without it, there is no TLS. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub cert: Option<PathBuf>,
    /// A PEM file with the certificate's private key. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub key: Option<PathBuf>,
    /// A PEM file with certificates for client authentication (mTLS): a client may connect only if
    /// its certificate is in the file, such as a self-signed one, or is signed by an authority in
    /// it. Without it, any client may connect. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub client_ca: Option<PathBuf>,
}

/// Orchestrators kill processes that take longer to end.
const DRAIN_MAX: Duration = Duration::from_mins(1);

impl Default for ServerSettings {
    fn default() -> Self {
        let listen = |ip: [u8; 4], port| ListenAddress::Tcp((ip, port).into());
        Self {
            http_listen: listen([0, 0, 0, 0], 8080),
            grpc_listen: listen([0, 0, 0, 0], 9191),
            admin_listen: listen([127, 0, 0, 1], 8081),
            socket_mode: SocketMode(0o660),
            url_prefix: String::new(),
            token_api: true,
            grpc: GrpcSettings::default(),
            drain: Duration::from_secs(2),
            max_connections: 4096,
            max_in_flight: 4096,
            tls: TlsSettings::default(),
        }
    }
}

impl ServerSettings {
    pub(super) fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        let mut add =
            |key, reason: &str| found.push(Contradiction { key, reason: reason.to_owned() });
        let prefix = &self.url_prefix;
        if !prefix.is_empty()
            && (!prefix.starts_with('/')
                || prefix.ends_with('/')
                || prefix.contains(['?', '#', '{', '}', ' ', '%']))
        {
            add(
                "server.url_prefix",
                "it has to start with `/`, not end with one, and be a plain path, such as `/auth`",
            );
        }
        if self.drain > DRAIN_MAX {
            add(
                "server.drain",
                "it is at most `1m`; whoever stops the service does not wait for longer",
            );
        }
        for (key, value) in [
            ("server.max_connections", self.max_connections),
            ("server.max_in_flight", self.max_in_flight),
        ] {
            if !(1..=1_000_000).contains(&value) {
                add(key, "expected a number from 1 to 1000000");
            }
        }
        if self.http_listen.is_taken_by(&self.grpc_listen) {
            add(
                "server.grpc_listen",
                "it is the same address as `server.http_listen`; each listener needs its own",
            );
        }
        if self.admin_listen.is_taken_by(&self.http_listen)
            || self.admin_listen.is_taken_by(&self.grpc_listen)
        {
            add(
                "server.admin_listen",
                "it is the same address as another listener's; each needs its own",
            );
        }
        if !(16 * 1024..=16 * 1024 * 1024).contains(&self.grpc.max_message) {
            add("server.grpc.max_message", "accepted are 16384 to 16777216 bytes (16 MiB)");
        }
        found.extend(self.tls.contradictions(TlsKeys::SERVER));
        found.extend(
            self.tls.unless_used_on(&[&self.http_listen, &self.grpc_listen], TlsKeys::SERVER),
        );
        found
    }
}

/// The names of a listener's TLS settings, for error messages.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "as in TlsSettings")]
pub struct TlsKeys {
    pub cert: &'static str,
    pub key: &'static str,
    pub client_ca: &'static str,
}

impl TlsKeys {
    /// Names for the HTTP and gRPC listeners.
    pub const SERVER: Self =
        Self { cert: "server.tls.cert", key: "server.tls.key", client_ca: "server.tls.client_ca" };
    /// Names for the admin listener.
    pub const ADMIN: Self =
        Self { cert: "admin.tls.cert", key: "admin.tls.key", client_ca: "admin.tls.client_ca" };
}

impl TlsSettings {
    /// Error if TLS is set but none of the `listeners` has an IP address.
    pub(super) fn unless_used_on(
        &self,
        listeners: &[&ListenAddress],
        keys: TlsKeys,
    ) -> Option<Contradiction> {
        let is_unused =
            self.cert.is_some() && listeners.iter().all(|listener| listener.tcp().is_none());
        let reason = "there is no TLS on a Unix socket, whose permissions say who may connect; remove it, or listen on an IP address";
        is_unused.then(|| Contradiction { key: keys.cert, reason: reason.to_owned() })
    }

    pub(super) fn contradictions(&self, keys: TlsKeys) -> Option<Contradiction> {
        let TlsKeys { cert, key, client_ca } = keys;
        let (key, reason) = match (&self.cert, &self.key, &self.client_ca) {
            (Some(_), None, _) => {
                (cert, format!("`{key}` is missing; a certificate needs its private key"))
            }
            (None, Some(_), _) => {
                (key, format!("`{cert}` is missing; a private key needs its certificate"))
            }
            (None, None, Some(_)) => {
                (client_ca, format!("`{cert}` and `{key}` are missing; mTLS needs TLS"))
            }
            (Some(_), Some(_), _) | (None, None, None) => return None,
        };
        Some(Contradiction { key, reason })
    }
}
