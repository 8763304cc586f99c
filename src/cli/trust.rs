//! `countersign trust`

use std::io;

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{self, Format, moment};
use crate::{
    config::Settings,
    domain::{
        key_set::{KeySetContents, LeftOutKey},
        principal::{TrustId, Username},
    },
    engine::ports::TrustRecord,
};

#[derive(Debug, Subcommand)]
pub(super) enum TrustCommand {
    /// Trust a key set: tokens signed with its keys count as the principal's. The key set is
    /// fetched here and by every replica, and its keys are shown; the trust is added even if it
    /// cannot be fetched now.
    Add {
        /// Username of the principal.
        username: Username,
        /// URL of the JWK Set.
        url: String,
        /// Do not fetch the key set here, only on the replicas.
        #[arg(long)]
        no_fetch: bool,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// List trusts, with the last fetch, the keys and the last error of each key set.
    List {
        /// Only trusts of this principal.
        username: Option<Username>,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Fetch a key set now, here and on every replica, and report how many usable keys it has, and
    /// why the others are not usable.
    Refresh {
        /// Id of the trust, from `trust add` or `trust list`.
        id: i64,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Remove a trust in a key set.
    Remove {
        /// Id of the trust, from `trust add` or `trust list`.
        id: i64,
    },
}

const COLUMNS: [&str; 9] = [
    "id",
    "username",
    "jwks_url",
    "last_used_on",
    "last_fetched_at",
    "last_error",
    "usable_keys",
    "left_out",
    "created_at",
];

pub(super) fn run(command: TrustCommand, settings: &Settings) -> super::CommandResult {
    super::block_on(async {
        let registry = super::registry(settings).await?;
        match command {
            TrustCommand::Add { username, url, no_fetch: true, output } => {
                show(&registry.add_trust(&username, &url).await?, output)?;
            }
            TrustCommand::Add { username, url, no_fetch: false, output } => {
                let added = registry.add_trust_and_look(&username, &url).await?;
                if let Some(reason) = &added.last_error {
                    super::warn(&format!(
                        "the trust is added, but its key set cannot be fetched: {reason}"
                    ));
                }
                show(&added, output)?;
            }
            TrustCommand::List { username, output } => {
                let trusts = registry.trusts(username.as_ref()).await?;
                output::list(
                    &COLUMNS,
                    trusts.iter().map(|trust| row(trust, output)).collect(),
                    output,
                )?;
            }
            TrustCommand::Refresh { id, output } => {
                let (trust, fetched) = registry.refresh_trust(TrustId(id)).await?;
                let contents = fetched?;
                match output {
                    Format::Json => show(
                        &TrustRecord { contents: Some(contents), last_error: None, ..trust },
                        output,
                    )?,
                    Format::Table => {
                        let keys = contents.usable_keys;
                        super::print(&format!(
                            "{} has {keys} usable keys; every replica fetches it now\n",
                            trust.jwks_url
                        ))?;
                        tell(&contents)?;
                    }
                }
            }
            TrustCommand::Remove { id } => {
                registry.remove_trust(TrustId(id), None).await?;
                super::print(&format!("trust {id} is removed\n"))?;
            }
        }
        Ok(())
    })?
}

fn show(trust: &TrustRecord, output: Format) -> io::Result<()> {
    output::one(&COLUMNS, row(trust, output), output)?;
    match (&trust.contents, output) {
        (Some(contents), Format::Table) => tell(contents),
        (None, Format::Table) | (_, Format::Json) => Ok(()),
    }
}

/// Prints a line for each entry that is not used.
fn tell(contents: &KeySetContents) -> io::Result<()> {
    let lines: Vec<String> =
        contents.left_out.iter().map(|left_out| format!("left out: {left_out}\n")).collect();
    super::print(&lines.concat())
}

/// The number of unused entries in a table, which has no room for details; all of them in JSON.
fn left_out(contents: &KeySetContents, output: Format) -> Value {
    match output {
        Format::Table => contents.left_out.len().into(),
        Format::Json => {
            let entries = contents.left_out.iter();
            entries.map(|LeftOutKey { kid, kind, reason, .. }| json!({"kid": kid, "kind": kind, "reason": reason})).collect()
        }
    }
}

fn row(record: &TrustRecord, output: Format) -> Vec<Value> {
    let contents = record.contents.as_ref();
    vec![
        record.id.0.into(),
        record.username.as_str().into(),
        record.jwks_url.as_str().into(),
        moment(record.last_used_on),
        moment(record.last_fetched_at),
        output::text(record.last_error.as_deref()),
        contents.map_or(Value::Null, |contents| contents.usable_keys.into()),
        contents.map_or(Value::Null, |contents| left_out(contents, output)),
        moment(Some(record.created_at)),
    ]
}
