//! Commands on a terminal: `tests/it/peers/on_terminal.py`.

use std::process::Command;

use serde::Deserialize;

use super::tools::{program, repository};
use super::{Deployment, Ran};

/// How a command ended, and all that it wrote, with what steers the terminal.
#[derive(Debug, Deserialize)]
pub struct OnTerminal {
    pub code: i32,
    pub written: String,
    /// Whether the terminal's modes are those from before.
    pub is_restored: bool,
}

impl Deployment {
    /// Runs a command on a terminal of 100 by 30. Once it wrote `expected`, `action` is done:
    /// `type:TEXT`, `signal:NAME` or none.
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
