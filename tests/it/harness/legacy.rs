//! Databases of the systems that `countersign import` reads, created and filled by those systems.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Process, Signal};
use super::tools::{peer, repository};
use super::{Database, Deployment, Key, Ran, free_port};

/// The database of another system.
pub struct LegacyDatabase {
    /// The URL for `--database`.
    pub url: String,
    dir: TempDir,
    _server: Option<Database>,
}

impl LegacyDatabase {
    pub fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            url: format!("sqlite://{}", dir.path().join("legacy.db").display()),
            dir,
            _server: None,
        }
    }

    /// A database on its own server.
    pub fn on(server: Database) -> Self {
        Self { url: server.url.clone(), dir: tempfile::tempdir().unwrap(), _server: Some(server) }
    }

    /// Creates a Django project with `asymmetric_jwt_auth` here, or adds to it; see
    /// `tests/it/peers/import_sources.py`.
    pub fn asymmetric(self, users: &Value) -> Self {
        self.django(&["asymmetric"], users);
        self
    }

    /// Like [`Self::asymmetric`], with a custom user model.
    pub fn asymmetric_with_people(self, users: &Value) -> Self {
        self.django(&["asymmetric", "people"], users);
        self
    }

    /// Creates a Django project with the data of `django-jwtconnect-auth`, and returns the tokens
    /// of each user.
    pub fn jwtconnect(&self, users: &Value) -> Value {
        self.django(&["jwtconnect"], users)
    }

    fn django(&self, arguments: &[&str], users: &Value) -> Value {
        let mut command = python("import_sources", "import_sources.py");
        command.arg(arguments[0]).arg(&self.url).args(&arguments[1..]);
        filled(&mut command, users)
    }

    /// Registers keys through jwthenticator's own managers, and returns the refresh tokens of each
    /// key.
    pub fn jwthenticator(&self, keys: &Value) -> Vec<Vec<String>> {
        let mut command = self.jwthenticator_command();
        serde_json::from_value(filled(command.arg("fill"), keys)).unwrap()
    }

    /// jwthenticator's own server, on this database.
    pub fn jwthenticator_server(&self) -> JwthenticatorServer {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = self.jwthenticator_command();
        command.args(["serve", &address.port().to_string()]);
        let process = Process::spawn("jwthenticator", &mut command, self.dir.path(), Signal::Term)
            .listening(address);
        JwthenticatorServer { address, _process: process }
    }

    fn jwthenticator_command(&self) -> Command {
        let with = |sqlite: &str, postgres: &str| {
            let url = self.url.replace("sqlite://", &format!("{sqlite}:///"));
            url.replace("postgres://", &format!("{postgres}://"))
        };
        let mut command = python("jwthenticator", "jwthenticator_server.py");
        command.env("DB_URI", with("sqlite", "postgresql+pg8000"));
        command.env("ASYNC_URI", with("sqlite+aiosqlite", "postgresql+asyncpg"));
        // Otherwise it creates several keys, in Python, before it listens.
        let key = Key::rsa();
        command.env("RSA_PRIVATE_KEY", key.private_pem()).env("RSA_PUBLIC_KEY", key.public_pem());
        command
    }
}

pub struct JwthenticatorServer {
    pub address: SocketAddr,
    _process: Process,
}

impl Deployment {
    /// Runs `countersign import` from `legacy`, with the result as JSON.
    pub fn import(&self, system: &str, legacy: &LegacyDatabase, options: &[&str]) -> Imported {
        let fixed = ["import", system, "--database", &legacy.url, "--output", "json"];
        let ran = self.run(&[&fixed, options].concat());
        assert!(ran.code == 0 || ran.stderr.contains("not taken over"), "{ran:?}");
        Imported { code: ran.code, result: ran.json(), ran }
    }

    /// Everything of these kinds in the registry.
    pub fn all(&self, kinds: [&str; 2]) -> [Vec<Value>; 2] {
        kinds.map(|kind| self.list(&[kind, "list"]))
    }

    /// Whether the registry has no principals, and so nothing else.
    pub fn is_empty(&self) -> bool {
        self.list(&["principal", "list"]).is_empty()
    }
}

/// The report of an import.
#[derive(Debug)]
pub struct Imported {
    pub code: i32,
    pub result: Value,
    pub ran: Ran,
}

impl Imported {
    /// The number of rows of a kind that were imported, existed already, and were refused.
    pub fn counts(&self, kind: &str) -> [u64; 3] {
        let counts = self.result["counts"].as_array().unwrap();
        let found = counts
            .iter()
            .find(|counts| counts["id"] == kind)
            .unwrap_or_else(|| panic!("{kind} is not in {self:?}"));
        ["taken_over", "already_there", "refused"].map(|name| found[name].as_u64().unwrap())
    }

    /// Table, number, owner and reason of each row with a remark.
    pub fn remarks(&self) -> Vec<[&str; 4]> {
        let remarks = self.result["remarks"].as_array().unwrap();
        remarks
            .iter()
            .map(|remark| {
                ["table", "id", "username", "reason"].map(|name| remark[name].as_str().unwrap())
            })
            .collect()
    }
}

fn python(venv: &str, script: &str) -> Command {
    let mut command = Command::new(peer(&format!("{venv}/bin/python")));
    command
        .arg(repository().join("tests/it/peers").join(script))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn filled(command: &mut Command, input: &Value) -> Value {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
