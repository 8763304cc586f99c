//! `asymmetric_jwt_auth` from `PyPI`, run unchanged by `tests/it/peers/asymmetric.py`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::Request;
use super::process::{Process, Signal};
use super::tools::{peer, repository};
use super::{Key, free_port};

/// Its client side.
pub struct AsymmetricJwtAuth {
    dir: TempDir,
}

impl AsymmetricJwtAuth {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A value for `Authorization`, made by its `Token.create_auth_header`.
    pub fn authorization(&self, username: &str, key: &Key) -> String {
        self.authorizations(username, key, 1).remove(0)
    }

    pub fn authorizations(&self, username: &str, key: &Key, count: usize) -> Vec<String> {
        let file = self.file("private.pem", &key.private_pem());
        let output = self.run(&["sign", username, file.to_str().unwrap(), &count.to_string()]);
        let headers: Vec<String> = output.lines().map(str::to_owned).collect();
        assert_eq!(headers.len(), count);
        headers
    }

    /// Its fingerprint of a public key, given in a format that it reads.
    pub fn fingerprint(&self, public_key: &str) -> String {
        let file = self.file("public.pem", public_key);
        self.run(&["fingerprint", file.to_str().unwrap()]).trim().to_owned()
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = python().args(arguments).current_dir(self.dir.path()).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "asymmetric.py {arguments:?}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A Django site with its middleware.
#[derive(Debug)]
pub struct DjangoSite {
    address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl DjangoSite {
    /// A site with one user, who has the public keys of `keys`.
    pub fn start(username: &str, keys: &[&Key]) -> Self {
        let keys: Vec<String> = keys.iter().map(|key| key.public_pem()).collect();
        Self::with_users(&json!([{"username": username, "keys": keys}]))
    }

    /// A site with these users; see `tests/it/peers/asymmetric.py`.
    pub fn with_users(users: &Value) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.json");
        std::fs::write(&file, users.to_string()).unwrap();
        let mut command = python();
        command.args(["serve", &address.port().to_string()]).arg(file).current_dir(dir.path());
        let process =
            Process::spawn("django", &mut command, dir.path(), Signal::Term).listening(address);
        Self { address, _process: process, _dir: dir }
    }

    /// The user that the middleware recognises by this header; empty if none.
    pub async fn recognises(&self, authorization: &str) -> String {
        self.recognises_in(&[authorization]).await
    }

    /// Like [`Self::recognises`], with one header per value.
    pub async fn recognises_in(&self, authorizations: &[impl AsRef<str>]) -> String {
        let request = authorizations
            .iter()
            .fold(Request::get("/"), |request, value| request.authorization(value.as_ref()));
        let answer = request.send(self.address).await;
        assert_eq!(answer.status, 200, "the middleware handles {:?}", answer.text());
        answer.json()["username"].as_str().unwrap().to_owned()
    }
}

/// `PyJWT`, a dependency of `asymmetric_jwt_auth`, run unchanged by `tests/it/peers/pyjwt.py`.
pub struct PyJwt {
    dir: TempDir,
}

impl PyJwt {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// The key set that it builds from the public keys, each with its `kid` and its algorithm.
    pub fn jwks(&self, keys: &[(&str, &str, &Key)]) -> String {
        let arguments = keys.iter().flat_map(|(kid, algorithm, key)| {
            [(*kid).to_owned(), (*algorithm).to_owned(), self.file(key)]
        });
        self.run("jwks", arguments.collect())
    }

    /// A token that it signs.
    pub fn token(&self, username: &str, kid: &str, algorithm: &str, key: &Key) -> String {
        self.run(
            "sign",
            vec![username.to_owned(), kid.to_owned(), algorithm.to_owned(), self.file(key)],
        )
        .trim()
        .to_owned()
    }

    /// The claims of `token`, verified with the key set at `jwks_url`.
    pub fn verified(&self, jwks_url: &str, issuer: &str, audience: &str, token: &str) -> Value {
        let claims =
            self.run("verify", [jwks_url, issuer, audience, token].map(str::to_owned).into());
        serde_json::from_str(&claims).unwrap()
    }

    fn file(&self, key: &Key) -> String {
        let path = self.dir.path().join(format!("{}.pem", key.fingerprint()));
        std::fs::write(&path, key.private_pem()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn run(&self, command: &str, arguments: Vec<String>) -> String {
        let output = script("pyjwt.py")
            .arg(command)
            .args(arguments)
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "pyjwt.py {command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

fn python() -> Command {
    script("asymmetric.py")
}

fn script(name: &str) -> Command {
    let mut command = Command::new(peer("asymmetric_jwt_auth/bin/python"));
    command.arg(repository().join("tests/it/peers").join(name));
    command
}
