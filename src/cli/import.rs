//! `countersign import`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    output::{self, Format},
    progress::Progress,
};
use crate::{
    app::{self, LegacySystem, LegacyUsers},
    config::{Settings, database::DatabaseUrl},
    engine::import::{ImportReport, Kind, Remark},
};

#[derive(Debug, Subcommand)]
pub(super) enum ImportCommand {
    /// Import from a Django project with `asymmetric_jwt_auth`: users, public keys, trusted key
    /// sets.
    AsymmetricJwtAuth {
        #[command(flatten)]
        users: UserArguments,
        /// Also import users with neither a key nor a trusted key set.
        #[arg(long)]
        all_users: bool,
        #[command(flatten)]
        common: CommonArguments,
    },
    /// Import from jwthenticator: API keys, each for a principal named by its identifier, and
    /// refresh tokens.
    Jwthenticator {
        #[command(flatten)]
        common: CommonArguments,
    },
    /// Import from a Django project with django-jwtconnect-auth: users and refresh tokens.
    Jwtconnect {
        #[command(flatten)]
        users: UserArguments,
        #[command(flatten)]
        common: CommonArguments,
    },
}

/// Where a Django project stores its users.
#[derive(Debug, Args)]
pub(super) struct UserArguments {
    /// Table of users, if the project has its own user model.
    #[arg(long, value_name = "TABLE", default_value = "auth_user")]
    user_table: String,
    /// Primary key column of that table.
    #[arg(long, value_name = "COLUMN", default_value = "id")]
    user_id_column: String,
}

#[derive(Debug, Args)]
pub(super) struct CommonArguments {
    /// The database to import from: `sqlite:`, `postgres:` or `mysql:`; `-` reads the URL from
    /// standard input. The database is only read; what is imported goes into `database.url`.
    #[arg(
        long,
        value_name = "URL|-",
        required_unless_present = "database_env",
        conflicts_with = "database_env"
    )]
    database: Option<String>,
    /// Environment variable with the database URL. Other users of this machine can see the
    /// arguments of a command, including passwords: use this or standard input for a URL that
    /// contains one.
    #[arg(long, value_name = "VAR")]
    database_env: Option<String>,
    /// Report what would be imported, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(command: ImportCommand, settings: &Settings) -> super::CommandResult {
    let (name, system, common) = match command {
        ImportCommand::AsymmetricJwtAuth { users, all_users, common } => (
            "asymmetric-jwt-auth",
            LegacySystem::AsymmetricJwtAuth { users: users.into(), takes_all_users: all_users },
            common,
        ),
        ImportCommand::Jwthenticator { common } => {
            ("jwthenticator", LegacySystem::Jwthenticator, common)
        }
        ImportCommand::Jwtconnect { users, common } => {
            ("jwtconnect", LegacySystem::Jwtconnect { users: users.into() }, common)
        }
    };
    let url = url(common.database, common.database_env.as_deref())?;
    let actor = format!("{} (import {name})", super::actor());
    let report = super::block_on(async {
        let source = app::legacy_source(&system, &url).await?;
        let import = app::import(settings, source, common.dry_run, &actor).await?;
        let (mut shown, mut before) = (None, 0);
        let report = import
            .run(&mut |now| {
                let progress: &mut Progress =
                    shown.get_or_insert_with(|| Progress::new("accounts", Some(now.total)));
                progress.advance(now.done - before);
                before = now.done;
            })
            .await;
        if let Some(progress) = shown {
            progress.finish();
        }
        Ok::<_, super::Failure>(report?)
    })??;
    match common.output {
        Format::Table => tell(&report, common.dry_run)?,
        Format::Json => super::print(&format!("{:#}\n", object(&report, common.dry_run)))?,
    }
    match report.refused() {
        0 => Ok(()),
        1 => Err("1 row was not taken over".into()),
        refused => Err(format!("{refused} rows were not taken over").into()),
    }
}

impl From<UserArguments> for LegacyUsers {
    fn from(arguments: UserArguments) -> Self {
        Self { table: arguments.user_table, id_column: arguments.user_id_column }
    }
}

/// Parsed here, because the argument parser would repeat an invalid URL in its error.
fn url(given: Option<String>, variable: Option<&str>) -> Result<DatabaseUrl, super::Failure> {
    let usage = |text: String| super::Failure::Usage(text.into());
    if let Some(url) = given {
        let url = super::argument_or_input(url)?;
        return url.trim().parse().map_err(|error| usage(format!("--database: {error}")));
    }
    let name = variable.unwrap_or_default();
    let value = std::env::var(name).unwrap_or_default();
    if value.is_empty() {
        return Err(usage(format!(
            "the environment variable {name}, named by --database-env, is not set or empty"
        )));
    }
    value.parse().map_err(|error| {
        usage(format!("the environment variable {name}, named by --database-env: {error}"))
    })
}

fn tell(report: &ImportReport, is_dry_run: bool) -> super::CommandResult {
    for remark in &report.remarks {
        super::print(&format!("{}\n", line(remark)))?;
    }
    output::list(
        &["id", "taken_over", "already_there", "refused"],
        Kind::ALL.map(|kind| row(report, kind)).into(),
        Format::Table,
    )?;
    if let Some(totals) = report.totals.filter(|totals| totals.passed_over > 0) {
        super::print(&format!(
            "passed over: {} {}\n",
            totals.passed_over, totals.passed_over_kind
        ))?;
    }
    if is_dry_run {
        super::print("dry run: nothing was changed\n")?;
    } else if report.taken_over() == 0 {
        super::print("nothing was changed\n")?;
    }
    Ok(())
}

fn line(remark: &Remark) -> String {
    let what = if remark.is_refused { "not taken over" } else { "already there" };
    format!(
        "{}: {} ({} of {:?}): {}",
        what,
        remark.origin,
        remark.kind.name(),
        remark.username,
        remark.reason
    )
}

fn row(report: &ImportReport, kind: Kind) -> Vec<Value> {
    let counts = report.counts(kind);
    vec![
        kind.name().into(),
        counts.taken_over.into(),
        counts.already_there.into(),
        counts.refused.into(),
    ]
}

fn object(report: &ImportReport, is_dry_run: bool) -> Value {
    let counts = Kind::ALL.map(|kind| {
        output::object(&["id", "taken_over", "already_there", "refused"], row(report, kind))
    });
    let remarks = report.remarks.iter().map(|remark| {
        json!({
            "id": remark.origin.id,
            "table": &*remark.origin.table,
            "kind": remark.kind.name(),
            "username": remark.username,
            "outcome": if remark.is_refused { "refused" } else { "already_there" },
            "reason": remark.reason,
        })
    });
    json!({
        "dry_run": is_dry_run,
        "counts": counts,
        "passed_over": report.totals.map_or(0, |totals| totals.passed_over),
        "passed_over_kind": report.totals.map(|totals| totals.passed_over_kind),
        "remarks": remarks.collect::<Vec<_>>(),
    })
}
