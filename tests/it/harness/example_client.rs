//! The clients in `examples/clients`, each run as its README describes.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::http::Answer;
use super::tools::{optional_program, peer, program, repository};
use super::{Key, Ran, Seen};

#[derive(Debug)]
pub struct ExampleClient {
    pub language: &'static str,
    /// The first words of a command line: the program that runs the client, and the mode if one
    /// program has two.
    signed: Vec<PathBuf>,
    exchanged: Vec<PathBuf>,
    /// Also its home directory.
    dir: TempDir,
}

/// What a client printed about the last answer that it received.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    pub body: String,
}

impl ExampleClient {
    /// One client per language, without Go's if the machine has no Go.
    pub fn all() -> Vec<Self> {
        let examples = repository().join("examples/clients");
        let python =
            [peer("asymmetric_jwt_auth/bin/python"), examples.join("python/countersign_client.py")];
        let node = [program("node"), examples.join("node/countersign-client.mjs")];
        let mut clients = vec![
            Self::new("Python", &python),
            Self::new("Node.js", &node),
            Self::shell(&examples.join("curl")),
        ];
        if let Some(go) = optional_program("go") {
            clients.push(Self::go(&go, &examples.join("go")));
        } else {
            eprintln!("There is no `go` on this machine: examples/clients/go is NOT tested");
        }
        clients
    }

    fn new(language: &'static str, program: &[PathBuf]) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), language, program)
    }

    fn in_dir(dir: TempDir, language: &'static str, program: &[PathBuf]) -> Self {
        let mode = |mode: &str| [program, &[PathBuf::from(mode)]].concat();
        Self { language, signed: mode("signed"), exchanged: mode("exchanged"), dir }
    }

    /// The program built from the Go example, which uses the standard library only.
    fn go(go: &Path, example: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("client");
        let mut build = Command::new(go);
        build.args(["build", "-o"]).arg(&program).arg(".").current_dir(example);
        build.env("GOPROXY", "off").env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0");
        // Keeps what is compiled, for all tests and for later runs.
        let ran = Ran::of(build.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go")));
        assert_eq!(ran.code, 0, "{ran:?}");
        Self::in_dir(dir, "Go", &[program])
    }

    /// A script for each mode.
    fn shell(scripts: &Path) -> Self {
        // The tools that the scripts run.
        for tool in ["curl", "openssl"] {
            program(tool);
        }
        let script = |name: &str| vec![program("bash"), scripts.join(name)];
        Self {
            language: "curl",
            signed: script("signed.sh"),
            exchanged: script("exchanged.sh"),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Requests `url` with tokens that the client signs.
    pub fn signed(&self, url: &str, username: &str, key: &Key, options: &[&str]) -> Told {
        let file = self.dir.path().join("private.pem");
        std::fs::write(&file, key.private_pem()).unwrap();
        let mut command = self.command(&self.signed, url);
        command.args(["--username", username, "--key"]).arg(file).args(options);
        self.told(&Ran::of(&mut command))
    }

    /// Requests `url` with a token that the client gets from the service at `server` for its API
    /// key.
    pub fn exchanged(
        &self,
        url: &str,
        server: &str,
        identifier: &str,
        api_key: &str,
        options: &[&str],
    ) -> Told {
        let ran = self.try_exchanged(url, server, identifier, api_key, options);
        self.told(&ran)
    }

    /// Like [`Self::exchanged`], but the client may end without an answer.
    pub fn try_exchanged(
        &self,
        url: &str,
        server: &str,
        identifier: &str,
        api_key: &str,
        options: &[&str],
    ) -> Ran {
        let mut command = self.command(&self.exchanged, url);
        command.args(["--server", server, "--identifier", identifier]).args(options);
        Ran::of(command.env("COUNTERSIGN_API_KEY", api_key))
    }

    fn command(&self, mode: &[PathBuf], url: &str) -> Command {
        let mut command = Command::new(&mode[0]);
        command.args(&mode[1..]).arg(url).env_clear();
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path());
        // Otherwise Python writes bytecode into the checkout.
        command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(self.dir.path());
        command
    }

    fn told(&self, ran: &Ran) -> Told {
        let told = ran
            .stdout
            .split_once('\n')
            .and_then(|(status, body)| Some((status.parse().ok()?, body)));
        let (status, body) = told
            .unwrap_or_else(|| panic!("{}: no status on the first line: {ran:?}", self.language));
        assert_eq!(ran.code == 0, (200..300).contains(&status), "{}: {ran:?}", self.language);
        Told { status, body: body.trim_end().to_owned() }
    }
}

impl Told {
    /// The request that the echo behind a gateway received.
    pub fn seen(&self) -> Seen {
        let body = self.body.clone().into_bytes();
        Seen::by(&Answer { status: self.status, head: Vec::new(), headers: Vec::new(), body })
    }
}
