//! Settings, a database and principals, which one or more replicas share.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Countersign, Database, JwksServer, Key, Redis};

pub struct Deployment {
    /// The working directory of every command, so that default paths fall into it.
    pub dir: TempDir,
    settings: Vec<(String, String)>,
    variables: Vec<(String, String)>,
    database: Database,
}

impl Deployment {
    /// The defaults: SQLite, and nonces in memory.
    pub fn new() -> Self {
        Self::on(Database::sqlite())
    }

    /// A deployment on an empty database, which is migrated.
    pub fn on(database: Database) -> Self {
        let deployment = Self::unmigrated(database);
        deployment.done(&["migrate", "up"]);
        deployment
    }

    pub fn unmigrated(database: Database) -> Self {
        let url = database.url.clone();
        let deployment = Self {
            dir: tempfile::tempdir().unwrap(),
            settings: Vec::new(),
            variables: Vec::new(),
            database,
        };
        // Creating a key of the default type takes some tenths of a second, at the first start of
        // each of hundreds of deployments.
        deployment.set("database.url", &url).set("issuer.algorithm", "ES256")
    }

    /// An empty directory, and no settings.
    pub fn bare() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            settings: Vec::new(),
            variables: Vec::new(),
            database: Database::sqlite(),
        }
    }

    /// Sets the setting `key`, through the environment.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Sets an environment variable that is not one of our settings.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The value that [`Self::set`] last set for `key`.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().rev().find(|(set, _)| set == key).map(|(_, value)| value.as_str())
    }

    /// Stores nonces there, with a long timeout for claims: the default of 100 ms is not meant for
    /// machines that run a dozen servers on two cores.
    #[must_use]
    pub fn nonces_in(self, redis: &Redis) -> Self {
        self.nonces_at(redis.address)
    }

    /// Like [`Self::nonces_in`], through a relay in front of the Redis.
    #[must_use]
    pub fn nonces_at(self, redis: SocketAddr) -> Self {
        self.set("nonce.url", &format!("redis://{redis}")).set("nonce.timeout", "1s")
    }

    /// Allows key sets from `server` although it is local and only its own authority vouches for
    /// it.
    #[must_use]
    pub fn trusting(self, server: &JwksServer) -> Self {
        self.set("jwks.ca_file", server.ca_file().to_str().unwrap())
            .set("jwks.allowed_hosts", "localhost,127.0.0.1")
    }

    /// Adds a principal with one key, and returns the key's id.
    pub fn enrol(&self, username: &str, key: &Key) -> String {
        self.done(&["principal", "add", username]);
        self.add_key(username, key)
    }

    /// Adds a key to an existing principal, and returns the key's id.
    pub fn add_key(&self, username: &str, key: &Key) -> String {
        self.add_key_with(username, key, &[])
    }

    pub fn add_key_with(&self, username: &str, key: &Key, options: &[&str]) -> String {
        let file = self.file(&format!("{}.pub", key.fingerprint()), &key.public_pem());
        self.done(&[["key", "add", username, file.to_str().unwrap()].as_slice(), options].concat());
        let keys = self.list(&["key", "list", username]);
        let added = keys.iter().find(|listed| listed["fingerprint"] == key.fingerprint());
        id(added.unwrap_or_else(|| panic!("{} is not in {keys:?}", key.fingerprint())))
    }

    /// Makes a principal trust the key set at `url`, and returns the trust's id. Only the service
    /// fetches the set, so that a test can control when.
    pub fn add_trust(&self, username: &str, url: &str) -> String {
        let json = self.done(&["trust", "add", username, url, "--no-fetch", "--output", "json"]);
        id(&serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}")))
    }

    /// A trust as it is listed.
    pub fn listed_trust(&self, trust: &str) -> Value {
        let trusts = self.list(&["trust", "list"]);
        let found = trusts.iter().find(|listed| id(listed) == trust);
        found.unwrap_or_else(|| panic!("{trust} is not in {trusts:?}")).clone()
    }

    pub fn principal_id(&self, username: &str) -> String {
        let principals = self.list(&["principal", "list"]);
        let found = principals.iter().find(|listed| listed["username"] == username);
        id(found.unwrap_or_else(|| panic!("{username} is not in {principals:?}")))
    }

    /// The rows that a listing command prints with `--output json`.
    pub fn list(&self, command: &[&str]) -> Vec<Value> {
        let json = self.done(&[command, &["--output", "json"]].concat());
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"))
    }

    /// Writes a file into the deployment's directory.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Runs a command that must succeed, and returns its output.
    pub fn done(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "countersign {arguments:?}: {ran:?}");
        ran.stdout
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// The command with the settings of this deployment only, not those of the user's environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        command.args(arguments).current_dir(self.dir.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // Never the default ports: other processes of the user may use them.
        for listener in LISTENERS {
            command.env(variable(listener), "127.0.0.1:0");
        }
        for (key, value) in &self.settings {
            command.env(variable(key), value);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The database that it was created with.
    pub const fn database(&self) -> &Database {
        &self.database
    }

    /// Ends the server of the database, if it has one.
    pub fn lose_the_database(&mut self) {
        self.database.stop();
    }

    /// Starts the server of the database again, with its data.
    pub fn restore_the_database(&mut self) {
        self.database.restart();
    }

    /// A key as it is listed.
    pub fn listed_key(&self, key: &str) -> Value {
        let keys = self.list(&["key", "list"]);
        let found = keys.iter().find(|listed| id(listed) == key);
        found.unwrap_or_else(|| panic!("{key} is not in {keys:?}")).clone()
    }

    /// The last use of a key, in Unix seconds, as `key list` shows it.
    pub fn last_used_on(&self, key: &str) -> Option<i64> {
        let listed = self.listed_key(key);
        let text = listed["last_used_on"].as_str()?;
        Some(
            OffsetDateTime::parse(text, &Rfc3339)
                .unwrap_or_else(|error| panic!("{error} in {listed}"))
                .unix_timestamp(),
        )
    }

    /// Starts a replica and waits until it is ready.
    pub fn serve(&self) -> Countersign {
        Countersign::start(self)
    }
}

/// The settings that hold the address of a listener.
pub const LISTENERS: [&str; 3] =
    ["server.http_listen", "server.grpc_listen", "server.admin_listen"];

/// The exit status of a command, and its output.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        Self::from(command.stdin(Stdio::null()).output().unwrap())
    }

    /// Runs the command with this standard input.
    pub fn reading(command: &mut Command, input: &[u8]) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        Self::from(child.wait_with_output().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The environment variable of a setting: `nonce.url` is `COUNTERSIGN_NONCE__URL`.
pub fn variable(key: &str) -> String {
    format!("COUNTERSIGN_{}", key.replace('.', "__").to_ascii_uppercase())
}

/// A row's `id`, as the command line takes it.
fn id(row: &Value) -> String {
    row["id"].as_str().map_or_else(|| row["id"].to_string(), str::to_owned)
}
