//! Commands run on a terminal by `tests/it/peers/on_terminal.py`.

use std::process::Command;

use serde::Deserialize;

use super::tools::{program, repository};
use super::{Deployment, Ran};

/// The exit status of a command, and all its output, including control sequences.
#[derive(Debug, Deserialize)]
pub struct OnTerminal {
    pub code: i32,
    pub written: String,
    /// Whether the terminal's modes are the same as before.
    pub is_restored: bool,
}

impl Deployment {
    /// Runs a command on a terminal of 100 by 30. Once it has printed `expected`, `action` is
    /// performed: `type:TEXT`, `signal:NAME` or none.
    pub fn on_terminal(&self, arguments: &[&str], expected: &str, action: &str) -> OnTerminal {
        let ours = self.command(arguments);
        let mut command = Command::new(program("python3"));
        command
            .arg(repository().join("tests/it/peers/on_terminal.py"))
            .args(["100x30", expected, action]);
        command
            .arg(ours.get_program())
            .args(ours.get_args())
            .current_dir(self.dir.path())
            .env_clear()
            .env("TERM", "xterm-256color");
        command.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran = Ran::of(&mut command);
        assert_eq!(ran.code, 0, "countersign {arguments:?} on a terminal: {ran:?}");
        serde_json::from_value(ran.json()).unwrap()
    }
}
