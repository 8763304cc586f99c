//! `countersign migrate`

use clap::Subcommand;

use super::output::{self, Format};
use crate::{app, config::Settings};

#[derive(Debug, Subcommand)]
pub(super) enum MigrateCommand {
    /// Apply every migration that is missing.
    Up,
    /// Take back the newest migration, with the data of its tables.
    Down,
    /// List the migrations and whether the database has them.
    Status {
        /// How to write the list.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
}

pub(super) fn run(command: &MigrateCommand, settings: &Settings) -> super::Outcome {
    let database = &settings.database;
    match command {
        MigrateCommand::Up => {
            let applied = super::block_on(app::migrate_up(database))??;
            for name in &applied {
                super::print(&format!("applied {name}\n"))?;
            }
            if applied.is_empty() {
                super::print("nothing to apply\n")?;
            }
        }
        MigrateCommand::Down => {
            let line = super::block_on(app::migrate_down(database))??.map(|name| format!("took back {name}\n"));
            super::print(line.as_deref().unwrap_or("nothing to take back\n"))?;
        }
        MigrateCommand::Status { output } => {
            let states = super::block_on(app::migration_status(database))??;
            let rows = states.into_iter().map(|state| vec![state.name.into(), state.is_applied.into()]).collect();
            output::list(&["id", "applied"], rows, *output)?;
        }
    }
    Ok(())
}
