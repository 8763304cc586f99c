//! The admin API, on the listener `server.admin_listen`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    Contradiction,
    values::{self, Secret},
};

/// `admin.*`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AdminSettings {
    /// The token that opens the admin API, sent as `Authorization: Bearer`. Long and random, such as from `openssl rand -hex 32`.
    /// Default none: it answers 401 to everybody.
    #[serde(deserialize_with = "values::optional_secret")]
    pub token: Option<Secret>,
    /// A file that holds the token, instead of `admin.token`; white space around it does not count. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub token_file: Option<PathBuf>,
    /// Whether `/register_key` and `/is_key_registered`, which jwthenticator has on its internal network, need no token. Whoever
    /// reaches the listener can then register API keys. Default false.
    pub open_key_registration: bool,
}

impl AdminSettings {
    pub(super) fn contradictions(&self) -> Vec<Contradiction> {
        if self.token.is_some() && self.token_file.is_some() {
            let reason = "`admin.token` is set too; keep one of them".to_owned();
            return vec![Contradiction { key: "admin.token_file", reason }];
        }
        Vec::new()
    }
}
