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
        /// 1 to 255 characters, compared byte for byte.
        username: Username,
        /// What it may do: scopes separated by spaces. May be given more than once.
        #[arg(long = "scope", value_name = "SCOPES")]
        scopes: Vec<String>,
        #[command(flatten)]
        profile: ProfileArguments,
        /// Add it disabled: it may not pass before it is enabled.
        #[arg(long)]
        disabled: bool,
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

/// Who it is for people. No decision looks at it.
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
