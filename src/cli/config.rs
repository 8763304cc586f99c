//! `countersign config`

use clap::Subcommand;

use crate::{app, config::Settings};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Validate the settings and connect to every dependency that they name. Nothing is changed.
    Check,
}

pub(super) fn run(command: &ConfigCommand, settings: &Settings) -> super::CommandResult {
    match command {
        ConfigCommand::Check => check(settings),
    }
}

fn check(settings: &Settings) -> super::CommandResult {
    let results = super::block_on(app::check(settings))?;
    let mut failures = Vec::new();
    for app::Check { key, result, advice, note } in results {
        match result {
            Ok(()) => super::print(&format!("{key:<14} ok\n"))?,
            Err(error) => failures.push(format!("{key}: {}", super::one_line(&error))),
        }
        if let Some(note) = note {
            super::print(&format!("{key:<14} note: {note}\n"))?;
        }
        for advice in advice {
            super::print(&format!("{key:<14} warning: {advice}\n"))?;
        }
    }
    for warning in settings.warnings() {
        super::print(&format!("{:<14} warning: {}\n", warning.key, warning.reason))?;
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ").into()) }
}
