//! Settings: one struct per concern, from a TOML file and the environment.
//!
//! `COUNTERSIGN_<SECTION>__<KEY>` in the environment overrides the file; a setting in neither has
//! the default that its field documents. An unknown key, a bad value or a contradiction stops the
//! start with an error that names the key, where it was set and what is expected. Values are never
//! repeated in errors, since any of them may hold a secret.

pub mod admin;
pub mod database;
pub mod issuer;
pub mod jwks;
mod load;
pub mod nonce;
pub mod redis_url;
pub mod registry;
pub mod self_signed;
pub mod server;
pub mod telemetry;
mod values;

use serde::{Deserialize, Serialize};

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use load::load_text;
pub use load::{DEFAULT_FILE, SettingsError, load};
pub use values::{ListenAddress, Secret, SocketMode};

/// All settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "each section documents itself")]
pub struct Settings {
    pub server: server::ServerSettings,
    pub database: database::DatabaseSettings,
    pub nonce: nonce::NonceSettings,
    pub self_signed: self_signed::SelfSignedSettings,
    pub issuer: issuer::IssuerSettings,
    pub jwks: jwks::JwksSettings,
    pub registry: registry::RegistrySettings,
    pub admin: admin::AdminSettings,
    pub telemetry: telemetry::TelemetrySettings,
}

/// A setting that conflicts with another one, or that is not allowed in this context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The key to change.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub reason: String,
}

impl Settings {
    /// Combinations that are allowed but probably not intended.
    pub fn warnings(&self) -> Vec<Contradiction> {
        [self.database.warnings(), self.self_signed.warnings()].concat()
    }

    fn contradictions(&self) -> Vec<Contradiction> {
        [
            self.server.contradictions(),
            self.nonce.contradictions(),
            self.self_signed.contradictions(),
            self.issuer.contradictions(),
            self.admin.contradictions(),
            self.admin
                .tls
                .unless_used_on(&[&self.server.admin_listen], server::TlsKeys::ADMIN)
                .into_iter()
                .collect(),
            self.registry.contradictions(),
        ]
        .concat()
    }
}
