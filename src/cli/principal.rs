//! `countersign principal`

use clap::Subcommand;
use serde_json::Value;

use super::output::{self, Format, moment};
use crate::{
    app,
    config::Settings,
    domain::{principal::Username, scope::Scopes},
    engine::ports::PrincipalRecord,
};

#[derive(Debug, Subcommand)]
pub(super) enum PrincipalCommand {
    /// Add a principal.
    Add {
        /// 1 to 255 characters, compared byte for byte.
        username: Username,
        /// What it may do: scopes separated by spaces. May be given more than once.
        #[arg(long = "scope", value_name = "SCOPES")]
        scopes: Vec<String>,
        /// How to write the result.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// List every principal.
    List {
        /// How to write the list.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show one principal.
    Show {
        /// Whom.
        username: Username,
        /// How to write it.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Let a principal pass again.
    Enable {
        /// Whom.
        username: Username,
    },
    /// Let a principal pass no more. Its keys stay.
    Disable {
        /// Whom.
        username: Username,
    },
    /// Remove a principal with its keys and trusts.
    Remove {
        /// Whom.
        username: Username,
    },
}

const COLUMNS: [&str; 6] = ["id", "username", "is_active", "scopes", "created_at", "updated_at"];

pub(super) fn run(command: PrincipalCommand, settings: &Settings) -> super::Outcome {
    super::block_on(async {
        let registry = app::registry(settings).await?;
        match command {
            PrincipalCommand::Add { username, scopes, output } => {
                let scopes = Scopes::parse(&scopes.join(" "))?;
                output::one(&COLUMNS, row(&registry.add_principal(username, scopes).await?), output)?;
            }
            PrincipalCommand::List { output } => {
                output::list(&COLUMNS, registry.principals().await?.iter().map(row).collect(), output)?;
            }
            PrincipalCommand::Show { username, output } => {
                output::one(&COLUMNS, row(&registry.principal(&username).await?), output)?;
            }
            PrincipalCommand::Enable { username } => {
                registry.enable(&username).await?;
                super::print(&format!("{username} may pass\n"))?;
            }
            PrincipalCommand::Disable { username } => {
                registry.disable(&username).await?;
                super::print(&format!("{username} may no longer pass\n"))?;
            }
            PrincipalCommand::Remove { username } => {
                registry.remove_principal(&username).await?;
                super::print(&format!("{username} is removed\n"))?;
            }
        }
        Ok(())
    })?
}

fn row(record: &PrincipalRecord) -> Vec<Value> {
    vec![
        record.id.0.into(),
        record.username.as_str().into(),
        record.is_active.into(),
        record.scopes.as_str().into(),
        moment(Some(record.created_at)),
        moment(Some(record.updated_at)),
    ]
}
