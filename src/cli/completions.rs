//! `countersign completions`

use clap_complete::Shell;

pub(super) fn run(shell: Shell) -> super::CommandResult {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "countersign", &mut script);
    Ok(super::print(&String::from_utf8(script)?)?)
}
