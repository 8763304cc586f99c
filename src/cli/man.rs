//! `countersign man`

use std::{fs, path::PathBuf};

use clap::Args;
use clap_mangen::Man;

#[derive(Debug, Args)]
pub(super) struct ManArguments {
    /// Write one page per command into this folder, which is created if it does not exist.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &ManArguments) -> super::CommandResult {
    let Some(folder) = &arguments.out else {
        let mut page = Vec::new();
        Man::new(super::command()).render(&mut page)?;
        return Ok(super::print(&String::from_utf8(page)?)?);
    };
    fs::create_dir_all(folder)
        .map_err(|error| format!("the folder {} cannot be made: {error}", folder.display()))?;
    clap_mangen::generate_to(super::command(), folder).map_err(|error| {
        format!("the pages cannot be written into {}: {error}", folder.display()).into()
    })
}
