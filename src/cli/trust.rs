//! `countersign trust`

use clap::Subcommand;
use serde_json::Value;

use super::output::{self, Format, moment};
use crate::{
    config::Settings,
    domain::principal::{TrustId, Username},
    engine::ports::TrustRecord,
};

#[derive(Debug, Subcommand)]
pub(super) enum TrustCommand {
    /// Trust a key set: tokens signed with its keys, and naming one by `kid`, count as the principal's.
    Add {
        /// Whose tokens they are.
        username: Username,
        /// Where the JWK Set is.
        url: String,
        /// How to write the result.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// List trusts, with when each key set was fetched and what went wrong.
    List {
        /// Only those of this principal.
        username: Option<Username>,
        /// How to write the list.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Fetch the key set now, here and on every replica, and say how many usable keys it has.
    Refresh {
        /// The id that `trust add` printed and `trust list` shows.
        id: i64,
    },
    /// Trust a key set no longer.
    Remove {
        /// The id that `trust add` printed and `trust list` shows.
        id: i64,
    },
}

const COLUMNS: [&str; 7] = ["id", "username", "jwks_url", "last_used_on", "last_fetched_at", "last_error", "created_at"];

pub(super) fn run(command: TrustCommand, settings: &Settings) -> super::Outcome {
    super::block_on(async {
        let registry = super::registry(settings).await?;
        match command {
            TrustCommand::Add { username, url, output } => {
                output::one(&COLUMNS, row(&registry.add_trust(&username, &url).await?), output)?;
            }
            TrustCommand::List { username, output } => {
                output::list(&COLUMNS, registry.trusts(username.as_ref()).await?.iter().map(row).collect(), output)?;
            }
            TrustCommand::Refresh { id } => {
                let (trust, fetched) = registry.refresh_trust(TrustId(id)).await?;
                let keys = fetched?;
                super::print(&format!("{} has {keys} usable keys; every replica fetches it now\n", trust.jwks_url))?;
            }
            TrustCommand::Remove { id } => {
                registry.remove_trust(TrustId(id), None).await?;
                super::print(&format!("trust {id} is removed\n"))?;
            }
        }
        Ok(())
    })?
}

fn row(record: &TrustRecord) -> Vec<Value> {
    vec![
        record.id.0.into(),
        record.username.as_str().into(),
        record.jwks_url.as_str().into(),
        moment(record.last_used_on),
        moment(record.last_fetched_at),
        output::text(record.last_error.as_deref()),
        moment(Some(record.created_at)),
    ]
}
