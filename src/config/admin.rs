//! The admin API.

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
    /// The token that opens the admin API. Default none: it answers 401.
    #[serde(deserialize_with = "values::optional_secret")]
    pub token: Option<Secret>,
    /// A file that holds the token, instead. Default none.
    #[serde(deserialize_with = "values::optional")]
    pub token_file: Option<PathBuf>,
    /// Whether `/register_key` and `/is_key_registered` need no token. Default false.
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
