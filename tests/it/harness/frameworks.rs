//! Back ends built on common frameworks, with the routes `/healthz`, `/admin`, `/admin/keys` and
//! `/orders`. Each answers with `{"route": ...}`, so that a test sees which route served a path.

use std::net::SocketAddr;
use std::process::Command;

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tempfile::TempDir;

use super::process::{Process, Signal};
use super::tools::{peer, program, repository};
use super::{Echo, free_port};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framework {
    /// Ignores case and a slash at the end.
    Express,
    Django,
    /// A stand-in for routers on the JVM and .NET: ignores case, parameters after `;` and an
    /// extension like `.json`.
    Lenient,
}

/// A running back end.
#[derive(Debug)]
pub struct BackEnd {
    pub address: SocketAddr,
    _running: Option<(Process, TempDir)>,
}

impl Framework {
    pub const ALL: [Self; 3] = [Self::Express, Self::Django, Self::Lenient];

    pub fn start(self) -> BackEnd {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = match self {
            Self::Lenient => return BackEnd { address: lenient(), _running: None },
            Self::Express => {
                let mut command = Command::new(program("node"));
                command.arg(repository().join("tests/it/peers/express_site.cjs"));
                command.env("NODE_PATH", peer("express/node_modules"));
                command
            }
            Self::Django => {
                let mut command = Command::new(peer("asymmetric_jwt_auth/bin/python"));
                command.arg(repository().join("tests/it/peers/django_site.py"));
                command
            }
        };
        let dir = tempfile::tempdir().unwrap();
        command.arg(address.port().to_string()).current_dir(dir.path());
        let name = if self == Self::Express { "express" } else { "django" };
        let process =
            Process::spawn(name, &mut command, dir.path(), Signal::Term).listening(address);
        BackEnd { address, _running: Some((process, dir)) }
    }
}

impl BackEnd {
    /// As an [`Echo`], for functions that expect the usual back end.
    pub const fn echo(&self) -> Echo {
        Echo::at(self.address)
    }
}

fn lenient() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, Router::new().fallback(leniently)).await
        })
    });
    address
}

async fn leniently(target: Uri) -> Response {
    let without_parameters =
        |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
    let path: Vec<_> = target.path().split('/').map(without_parameters).collect();
    let path = percent_decode_str(&path.join("/")).decode_utf8_lossy().to_lowercase();
    let path = path.trim_end_matches('/');
    let route = match path.rsplit_once('/') {
        Some((parent, name)) => format!("{parent}/{}", name.split('.').next().unwrap_or_default()),
        None => path.to_owned(),
    };
    match route.as_str() {
        "/healthz" | "/admin" | "/admin/keys" | "/orders" => {
            let body = json!({"route": route}).to_string();
            ([("content-type", "application/json")], body).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
