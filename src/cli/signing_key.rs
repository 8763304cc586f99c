//! `countersign signing-key`

use clap::Subcommand;
use serde_json::Value;

use super::output::{self, Format, moment};
use crate::{
    app::{self, ListedKey},
    config::Settings,
};

#[derive(Debug, Subcommand)]
pub(super) enum SigningKeyCommand {
    /// Create a new signing key. Running services publish it at once, and sign with it after
    /// `issuer.signing_key_delay`.
    Rotate {
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// List the signing keys, oldest first. A retired key may be deleted.
    List {
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
}

const COLUMNS: [&str; 8] = [
    "id",
    "algorithm",
    "state",
    "file",
    "created_at",
    "signs_from",
    "signs_until",
    "verifies_until",
];

pub(super) fn run(command: &SigningKeyCommand, settings: &Settings) -> super::CommandResult {
    match command {
        SigningKeyCommand::Rotate { output } => {
            output::one(&COLUMNS, row(&app::rotate_signing_key(settings)?), *output)?;
        }
        SigningKeyCommand::List { output } => {
            output::list(
                &COLUMNS,
                app::signing_keys(settings)?.iter().map(row).collect(),
                *output,
            )?;
        }
    }
    Ok(())
}

fn row(key: &ListedKey) -> Vec<Value> {
    vec![
        key.kid.as_str().into(),
        key.algorithm.name().into(),
        key.schedule.state.name().into(),
        key.file.display().to_string().into(),
        moment(Some(key.created_at)),
        moment(Some(key.schedule.signs_from)),
        moment(key.schedule.signs_until),
        moment(key.schedule.verifies_until),
    ]
}
