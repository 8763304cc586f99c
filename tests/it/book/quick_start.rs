//! The quick start works: its commands, run in order, print what it says.

use std::path::PathBuf;
use std::process::Command;

use super::markdown::{CodeBlock, Document};
use super::pages;
use crate::harness::{LISTENERS, Ran, free_port, repository, variable};

#[test]
fn the_commands_of_the_quick_start_print_what_it_says() {
    let blocks = Document::read(&pages().join("quick-start.md")).code;
    let checkout = Checkout::new();
    let outputs = checkout.run(blocks.iter().filter(|block| block.language == "sh"));

    let mut output = None;
    let mut compared = 0;
    let mut outputs = outputs.iter();
    for block in &blocks {
        match block.language.as_str() {
            "sh" => output = outputs.next(),
            "text" => {
                let output = output.unwrap_or_else(|| panic!("nothing was run before {block:?}"));
                assert_prints(output, &block.text);
                compared += 1;
            }
            // Builds the program, which the tests have already done.
            "console" => {}
            other => panic!("a block of {other} is neither run nor compared"),
        }
    }
    assert!(compared >= 5, "only {compared} outputs were compared");
}

/// Every line of `wanted` occurs, in any order because headers have none; `...` matches anything.
pub(crate) fn assert_prints(output: &str, wanted: &str) {
    for wanted in
        wanted.lines().map(str::trim_end).filter(|line| !line.is_empty() && *line != "...")
    {
        assert!(
            output.lines().any(|line| fits(line.trim_end(), wanted)),
            "no line `{wanted}` in:\n{output}"
        );
    }
}

fn fits(line: &str, wanted: &str) -> bool {
    let Some((start, rest)) = wanted.split_once("...") else { return line == wanted };
    let Some(line) = line.strip_prefix(start) else { return false };
    rest.is_empty() || line.char_indices().any(|(index, _)| fits(&line[index..], rest))
}

/// The files of a checkout that the quick start needs, with free ports.
struct Checkout {
    dir: tempfile::TempDir,
    ports: [(&'static str, String); 5],
}

impl Checkout {
    fn new() -> Self {
        let ports =
            ["8000", "3000", "8080", "9191", "8081"].map(|port| (port, free_port().to_string()));
        let checkout = Self { dir: tempfile::tempdir().unwrap(), ports };
        let dir = checkout.dir.path();
        std::fs::create_dir_all(dir.join("target/debug")).unwrap();
        std::fs::create_dir_all(dir.join("examples/nginx")).unwrap();
        std::os::unix::fs::symlink(
            env!("CARGO_BIN_EXE_countersign"),
            dir.join("target/debug/countersign"),
        )
        .unwrap();
        let example =
            std::fs::read_to_string(repository().join("examples/nginx/nginx.conf")).unwrap();
        // Its workers have to read what the tests' user wrote, and other tests run at the same
        // time.
        let example = example
            .replace("user www-data;", "user root;")
            .replace("/var/log/nginx", dir.to_str().unwrap());
        let example =
            format!("pid {};\n{}", checkout.nginx_pid().display(), checkout.with_ports(&example));
        std::fs::write(dir.join("examples/nginx/nginx.conf"), example).unwrap();
        checkout
    }

    /// Runs the blocks in one shell. Returns what each printed.
    fn run<'a>(&self, blocks: impl Iterator<Item = &'a CodeBlock>) -> Vec<String> {
        let mut script = format!("exec 2>&1\ntrap '{}' EXIT\n", self.cleanup());
        for block in blocks {
            script += &self.with_ports(&block.text);
            script += "\nprintf '\\036'\n";
        }
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]).current_dir(self.dir.path()).env_clear();
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"))
            .env("TMPDIR", self.dir.path());
        for (listener, (_, port)) in LISTENERS.iter().zip(&self.ports[2..]) {
            command.env(variable(listener), format!("127.0.0.1:{port}"));
        }
        let ran = Ran::of(&mut command);
        assert_eq!(ran.code, 0, "{}", ran.stdout);
        ran.stdout.split('\u{1e}').map(str::to_owned).collect()
    }

    /// Stops the processes of a quick start that failed half-way.
    fn cleanup(&self) -> String {
        let pid = self.nginx_pid();
        format!("kill $(jobs -p) $(cat {} 2>/dev/null) 2>/dev/null || true", pid.display())
    }

    fn nginx_pid(&self) -> PathBuf {
        self.dir.path().join("nginx.pid")
    }

    /// The text with the usual ports replaced, if they stand as numbers of their own.
    fn with_ports(&self, text: &str) -> String {
        let mut whole = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(|character: char| character.is_ascii_digit()) {
            let (before, digits) = rest.split_at(start);
            let end =
                digits.find(|character: char| !character.is_ascii_digit()).unwrap_or(digits.len());
            let (number, after) = digits.split_at(end);
            whole += before;
            whole += self
                .ports
                .iter()
                .find(|(usual, _)| *usual == number)
                .map_or(number, |(_, port)| port);
            rest = after;
        }
        whole + rest
    }
}

#[test]
fn outputs_are_compared_line_by_line() {
    assert_prints("a\nHTTP/1.1 200 OK\nx: 1 2\n", "HTTP/1.1 200 OK\n...\nx: ...2\n");
    assert!(std::panic::catch_unwind(|| assert_prints("a\n", "a\nb\n")).is_err());
    assert!(!fits("HTTP/1.1 2000", "HTTP/1.1 200"));
}
