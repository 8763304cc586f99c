//! `countersign principal`

use clap::{Args, Subcommand};
use serde_json::Value;

use super::output::{self, Format, moment};
use crate::{
    config::Settings,
    domain::{principal::Username, scope::Scopes},
    engine::ports::{NewPrincipal, PrincipalRecord, Profile},
};

#[derive(Debug, Subcommand)]
pub(super) enum PrincipalCommand {
    /// Add a principal.
    Add {
        /// Username: 1 to 255 characters, compared byte for byte.
        username: Username,
        /// Scopes of the principal, separated by spaces. May be repeated.
        #[arg(long = "scope", value_name = "SCOPES")]
        scopes: Vec<String>,
        #[command(flatten)]
        profile: ProfileArguments,
        /// Add it disabled: all its tokens are denied until it is enabled.
        #[arg(long)]
        disabled: bool,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// List all principals.
    List {
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show one principal.
    Show {
        /// Username of the principal.
        username: Username,
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Enable a disabled principal.
    Enable {
        /// Username of the principal.
        username: Username,
    },
    /// Disable a principal; its keys are kept.
    Disable {
        /// Username of the principal.
        username: Username,
    },
    /// Remove a principal and its keys and trusts.
    Remove {
        /// Username of the principal.
        username: Username,
    },
}

/// Profile of the principal, for people. Decisions ignore it.
#[derive(Debug, Args)]
pub(super) struct ProfileArguments {
    #[arg(long, value_name = "NAME")]
    given_name: Option<String>,
    #[arg(long, value_name = "NAME")]
    family_name: Option<String>,
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
}

const COLUMNS: [&str; 9] = [
    "id",
    "username",
    "is_active",
    "scopes",
    "given_name",
    "family_name",
    "email",
    "created_at",
    "updated_at",
];

pub(super) fn run(command: PrincipalCommand, settings: &Settings) -> super::CommandResult {
    super::block_on(async {
        let registry = super::registry(settings).await?;
        match command {
            PrincipalCommand::Add { username, scopes, profile, disabled, output } => {
                let ProfileArguments { given_name, family_name, email } = profile;
                let new = NewPrincipal {
                    is_active: !disabled,
                    scopes: Scopes::parse(&scopes.join(" "))?,
                    profile: Profile { given_name, family_name, email },
                    ..NewPrincipal::named(username)
                };
                output::one(&COLUMNS, row(&registry.add_principal(new).await?), output)?;
            }
            PrincipalCommand::List { output } => {
                output::list(
                    &COLUMNS,
                    registry.principals().await?.iter().map(row).collect(),
                    output,
                )?;
            }
            PrincipalCommand::Show { username, output } => {
                output::one(&COLUMNS, row(&registry.principal(&username).await?), output)?;
            }
            PrincipalCommand::Enable { username } => {
                registry.set_active(&username, true).await?;
                super::print(&format!("{username} may pass\n"))?;
            }
            PrincipalCommand::Disable { username } => {
                registry.set_active(&username, false).await?;
                super::print(&format!("{username} may no longer pass\n"))?;
            }
            PrincipalCommand::Remove { username } => {
                registry.remove_principal(&username, None).await?;
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
        output::text(record.profile.given_name.as_deref()),
        output::text(record.profile.family_name.as_deref()),
        output::text(record.profile.email.as_deref()),
        moment(Some(record.created_at)),
        moment(Some(record.updated_at)),
    ]
}
