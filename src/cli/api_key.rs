//! `countersign api-key`

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;
use uuid::Uuid;

use super::output::{self, Format, moment};
use crate::{
    config::Settings,
    domain::principal::{ApiKeyId, Username},
    engine::{
        ports::ApiKeyRecord,
        registry::{ApiKeyTerms, Expiry},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum ApiKeyCommand {
    /// Create an API key for a principal, and show it once. Its holder exchanges it for tokens at
    /// `/authenticate`, with its identifier.
    Issue(IssueArguments),
    /// List API keys, including revoked ones.
    List {
        /// Only keys of this principal.
        username: Option<Username>,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Revoke an API key and every token that was issued for it, permanently.
    Revoke {
        /// Id of the key, from `api-key issue` or `api-key list`.
        id: i64,
    },
}

#[derive(Debug, Args)]
pub(super) struct IssueArguments {
    /// Username of the owning principal.
    username: Username,
    /// Lifetime of the key, such as `90d` [default: `issuer.api_key_lifetime`].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires_in: Option<Duration>,
    /// The identifier that the holder has to send with the key [default: a new one].
    #[arg(long, value_name = "UUID")]
    identifier: Option<Uuid>,
    /// A name for the key.
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

const COLUMNS: [&str; 8] = [
    "id",
    "username",
    "identifier",
    "comment",
    "expires_at",
    "revoked_at",
    "last_used_on",
    "created_at",
];

pub(super) fn run(command: ApiKeyCommand, settings: &Settings) -> super::CommandResult {
    super::block_on(async {
        let registry = super::registry(settings).await?;
        match command {
            ApiKeyCommand::Issue(IssueArguments {
                username,
                expires_in,
                identifier,
                comment,
                output,
            }) => {
                let expiry = Expiry::In(expires_in.unwrap_or(settings.issuer.api_key_lifetime));
                let (record, key) = registry
                    .issue_api_key(&username, ApiKeyTerms { identifier, comment, expiry })
                    .await?;
                let (columns, mut values) = ([&COLUMNS[..], &["key"]].concat(), row(&record));
                values.push(key.expose().into());
                output::one(&columns, values, output)?;
            }
            ApiKeyCommand::List { username, output } => {
                output::list(
                    &COLUMNS,
                    registry.api_keys(username.as_ref()).await?.iter().map(row).collect(),
                    output,
                )?;
            }
            ApiKeyCommand::Revoke { id } => {
                let key = registry.revoke_api_key(ApiKeyId(id), None).await?;
                super::print(&format!("API key {id} of {} is revoked\n", key.username))?;
            }
        }
        Ok(())
    })?
}

fn row(record: &ApiKeyRecord) -> Vec<Value> {
    vec![
        record.id.0.into(),
        record.username.as_str().into(),
        record.identifier.to_string().into(),
        output::text(record.comment.as_deref()),
        moment(Some(record.expires_at)),
        moment(record.revoked_at),
        moment(record.last_used_on),
        moment(Some(record.created_at)),
    ]
}
