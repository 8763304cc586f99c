//! `jwthenticator` from `PyPI`, run unchanged by `tests/it/peers/jwthenticator_clients.py`.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use super::tools::{peer, repository};

/// One Python process, which ends when this and all clients are dropped.
#[derive(Clone)]
pub struct Jwthenticator {
    process: Arc<Mutex<Conversation>>,
}

struct Conversation {
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

/// The exception that a call raised.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Exception {
    pub class: String,
    pub text: String,
}

/// The tokens that a client holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct JwthenticatorTokens {
    pub jwt: Option<String>,
    pub refresh_token: Option<String>,
}

/// The answer that a client received from an API.
#[derive(Debug, Deserialize)]
pub struct JwthenticatorAnswer {
    pub status: u16,
    pub body: String,
}

impl Jwthenticator {
    pub fn start() -> Self {
        let mut command = Command::new(peer("jwthenticator/bin/python"));
        command.arg(repository().join("tests/it/peers/jwthenticator_clients.py"));
        // Its modules read the settings of its server from the environment.
        command.env_clear().env("PYTHONDONTWRITEBYTECODE", "1");
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = piped.spawn().unwrap();
        let (questions, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let conversation =
            Conversation { questions, answers: BufReader::new(answers).lines(), _child: child };
        Self { process: Arc::new(Mutex::new(conversation)) }
    }

    /// Its `Client`, for the service at `server`.
    pub async fn client(&self, server: &str, identifier: &str, key: &str) -> JwthenticatorClient {
        let number = self
            .ask("client", json!({"server": server, "identifier": identifier, "key": key}))
            .await
            .unwrap();
        JwthenticatorClient { peer: self.clone(), number }
    }

    /// Its `Client` with a refresh token and no key.
    pub async fn client_with_refresh_token(
        &self,
        server: &str,
        identifier: &str,
        token: &str,
    ) -> JwthenticatorClient {
        let question = json!({"server": server, "identifier": identifier, "refresh_token": token});
        let number = self.ask("client", question).await.unwrap();
        JwthenticatorClient { peer: self.clone(), number }
    }

    /// Its `InternalClient`, for the service at `server`.
    pub async fn internal_client(
        &self,
        server: &str,
        identifier: &str,
    ) -> JwthenticatorInternalClient {
        let number = self
            .ask("internal_client", json!({"server": server, "identifier": identifier}))
            .await
            .unwrap();
        JwthenticatorInternalClient { peer: self.clone(), number }
    }

    /// Starts a site with a `/page` that its decorator protects by asking the service at `server`.
    pub async fn site(&self, server: &str) -> SocketAddr {
        let address: String = self.ask("site", json!({"server": server})).await.unwrap();
        address.parse().unwrap()
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        operation: &str,
        mut question: Value,
    ) -> Result<T, Exception> {
        question["do"] = operation.into();
        let mut process = self.process.lock().await;
        process.questions.write_all(format!("{question}\n").as_bytes()).await.unwrap();
        let line = process.answers.next_line().await.unwrap();
        let line = line.unwrap_or_else(|| panic!("jwthenticator_clients.py ended at {question}"));
        let mut answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
        if answer.get("class").is_some() {
            return Err(serde_json::from_value(answer).unwrap());
        }
        Ok(serde_json::from_value(answer["result"].take())
            .unwrap_or_else(|error| panic!("{error} in {line}")))
    }
}

pub struct JwthenticatorClient {
    peer: Jwthenticator,
    number: usize,
}

impl JwthenticatorClient {
    /// Gets a JWT and a refresh token for its key.
    pub async fn authenticate(&self) -> Result<(), Exception> {
        self.peer.ask("authenticate", json!({"client": self.number})).await
    }

    /// Gets a JWT for its refresh token, or for its key if that fails.
    pub async fn refresh(&self) -> Result<(), Exception> {
        self.peer.ask("refresh", json!({"client": self.number, "auth_on_fail": true})).await
    }

    /// Like [`Self::refresh`], but fails if the refresh token is refused.
    pub async fn refresh_alone(&self) -> Result<(), Exception> {
        self.peer.ask("refresh", json!({"client": self.number, "auth_on_fail": false})).await
    }

    /// Calls an API, with a new JWT if the current one has expired or is refused.
    pub async fn get_with_auth(&self, url: &str) -> Result<JwthenticatorAnswer, Exception> {
        self.peer.ask("get_with_auth", json!({"client": self.number, "url": url})).await
    }

    pub async fn tokens(&self) -> JwthenticatorTokens {
        self.peer.ask("tokens", json!({"client": self.number})).await.unwrap()
    }
}

pub struct JwthenticatorInternalClient {
    peer: Jwthenticator,
    number: usize,
}

impl JwthenticatorInternalClient {
    pub async fn register_key(&self, key: &str) -> Result<(), Exception> {
        self.peer.ask("register_key", json!({"client": self.number, "key": key})).await
    }

    pub async fn is_key_registered(&self, key: &str) -> Result<bool, Exception> {
        self.peer.ask("is_key_registered", json!({"client": self.number, "key": key})).await
    }
}
