//! What a decision costs over a Unix socket, compared with TCP, at each door.

use std::path::Path;

use countersign::domain::algorithm::Algorithm;

use super::{
    CONNECTIONS, Target,
    seed::Registry,
    side_by_side::{DECISIONS, PLACEMENT, Variant, measure},
};
use crate::{
    server::Server,
    table::{Bound, Section},
    tokens::Signer,
    wire::Place,
};

/// Maximum ratio to the CPU time of a decision over TCP. A Unix socket should not cost more.
const BOUND: f64 = 1.0;
const PRINCIPALS: usize = 16;

pub(crate) async fn run(is_quick: bool) -> Section {
    let registry = Registry::new(PRINCIPALS, 1, Algorithm::EdDsa, PRINCIPALS).await;
    let signers: Vec<Signer> = (0..PRINCIPALS).map(|number| registry.signer(number)).collect();
    let mut section = Section::default();
    for door in [Door::Http, Door::Grpc] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listens = format!("unix:{}", path.display());
        let settings = [(door.variable(), listens.as_str())];
        let start = |settings: &[(&str, &str)]| {
            Server::countersign_with(PLACEMENT, registry.dir(), "memory:", settings)
        };
        let over_tcp = door.target(start(&[]), None).await;
        let over_unix = door.target(start(&settings), Some(&path)).await;
        let mut variants = [
            Variant::asked("over a Unix socket", over_unix, &signers).await,
            Variant::asked("over TCP", over_tcp, &signers).await,
        ];
        measure(&format!("sockets, {}", door.name()), &mut variants, &signers, is_quick).await;
        let [unix, tcp] = &variants;
        let what = format!("allow, {}, Ed25519, in-memory nonces", door.name());
        section.rows.push(unix.against(tcp, &what, Some(Bound::AtMost(BOUND))));
        section.notes.push(format!(
            "Sockets, {}: {} rounds of {DECISIONS} decisions over each in turn, of a service each, {}.",
            door.name(),
            unix.rounds.len(),
            door.connections()
        ));
    }
    section
}

/// The door that is asked.
#[derive(Clone, Copy)]
enum Door {
    Http,
    Grpc,
}

impl Door {
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Grpc => "gRPC",
        }
    }

    const fn variable(self) -> &'static str {
        match self {
            Self::Http => "COUNTERSIGN_SERVER__HTTP_LISTEN",
            Self::Grpc => "COUNTERSIGN_SERVER__GRPC_LISTEN",
        }
    }

    fn connections(self) -> String {
        match self {
            Self::Http => format!("{CONNECTIONS} connections"),
            Self::Grpc => "over a few HTTP/2 connections".to_owned(),
        }
    }

    /// Connects to `server` at its address, or at the Unix socket `path`.
    async fn target(self, server: Server, path: Option<&Path>) -> Target {
        let at = |address| path.map_or(Place::Tcp(address), |path| Place::Unix(path.to_owned()));
        match self {
            Self::Http => {
                let place = at(server.address);
                Target::over_http(server, &place).await
            }
            Self::Grpc => {
                let place = at(server.grpc);
                Target::over_grpc(server, &place).await
            }
        }
    }
}
