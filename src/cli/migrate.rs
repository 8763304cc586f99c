//! `countersign migrate`

use clap::Subcommand;

use super::{
    output::{self, Format},
    progress::Progress,
};
use crate::{
    app::{self, MigrationStep},
    config::{Settings, database::DatabaseSettings},
};

#[derive(Debug, Subcommand)]
pub(super) enum MigrateCommand {
    /// Apply all pending migrations.
    Up,
    /// Revert the newest migration and delete the data of its tables.
    Down,
    /// List the migrations and whether each is applied.
    Status {
        /// Output format.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
}

pub(super) fn run(command: &MigrateCommand, settings: &Settings) -> super::CommandResult {
    let database = &settings.database;
    match command {
        MigrateCommand::Up => up(database)?,
        MigrateCommand::Down => {
            let progress = Progress::new("taking back", None);
            let taken_back = super::block_on(app::migrate_down(database))??;
            progress.finish();
            let line = taken_back.map(|name| format!("took back {name}\n"));
            super::print(line.as_deref().unwrap_or("nothing to take back\n"))?;
        }
        MigrateCommand::Status { output } => {
            let states = super::block_on(app::migration_status(database))??;
            let rows = states
                .into_iter()
                .map(|state| vec![state.name.into(), state.is_applied.into()])
                .collect();
            output::list(&["id", "applied"], rows, *output)?;
        }
    }
    Ok(())
}

/// Reports each migration when it is done, since one on a large table may take long or fail.
fn up(database: &DatabaseSettings) -> super::CommandResult {
    let mut progress = None::<Progress>;
    let mut printed = Ok(());
    super::block_on(app::migrate_up_telling(database, |step| match (step, &progress) {
        (MigrationStep::Missing(0), _)
        | (MigrationStep::Waiting | MigrationStep::Applied(_), None) => {}
        (MigrationStep::Waiting, Some(shown)) => {
            shown.note("another process is migrating this database; waiting for it");
        }
        (MigrationStep::Missing(count), _) => {
            let shown = Progress::new("migrations", u64::try_from(count).ok());
            shown.note(&format!("to apply: {count}"));
            progress = Some(shown);
        }
        (MigrationStep::Applied(name), Some(shown)) => {
            let line = shown.print(&format!("applied {name}\n"));
            printed = std::mem::replace(&mut printed, Ok(())).and(line);
            shown.advance(1);
        }
    }))??;
    printed?;
    match progress {
        Some(progress) => progress.finish(),
        None => super::print("nothing to apply\n")?,
    }
    Ok(())
}
