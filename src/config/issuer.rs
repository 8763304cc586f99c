//! Access and refresh tokens of our own.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::values;

/// `issuer.*`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct IssuerSettings {
    /// The `iss` of tokens. Default `http://localhost:8080`.
    pub url: String,
    /// The name of this service: the `aud` of tokens it issues, and what the `aud` of a self-signed token has to name. Default
    /// empty: a self-signed token that names an audience is refused.
    pub audience: String,
    /// Folder of PEM files: the newest signs, all verify. Default `signing-keys`.
    pub signing_keys_dir: PathBuf,
    /// Default `30m`.
    #[serde(with = "values::duration")]
    pub access_token_lifetime: Duration,
    /// Default `60d`.
    #[serde(with = "values::duration")]
    pub refresh_token_lifetime: Duration,
    /// Whether a principal may have several grants at a time; otherwise a new one ends the older. Default true.
    pub multiple_tokens: bool,
}

impl Default for IssuerSettings {
    fn default() -> Self {
        Self {
            url: "http://localhost:8080".to_owned(),
            audience: String::new(),
            signing_keys_dir: "signing-keys".into(),
            access_token_lifetime: Duration::from_mins(30),
            refresh_token_lifetime: Duration::from_hours(1440),
            multiple_tokens: true,
        }
    }
}
