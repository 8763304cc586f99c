//! Counts the allocations of an allowed decision, and checks them against a budget.
//!
//! `cargo bench --bench allocations`. The whole service runs in this process with an allocator that
//! counts, and receives requests over a real connection; the client allocates nothing, and nothing
//! else runs. Allocations of the cryptographic library in C are not included. Needs `redis-server`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program of its own whose output is its purpose, and in which every failure ends the run"
)]

#[path = "load/tokens.rs"]
mod tokens;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use countersign::{
    app::{self, App, FirstKey, Listeners, LogControl},
    config::{ListenAddress, Settings},
    domain::{algorithm::Algorithm, principal::Username, scope::Scopes},
    engine::{
        issue::MintTerms,
        ports::{KeyTerms, NewPrincipal},
    },
};
use tokens::{Signer, sign};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Number of answers that are counted, after the same number that are not.
const COUNTED: usize = 500;
const SCOPES: &str = "orders:read orders:write";

/// Maximum allocations of one decision over HTTP, from the first byte of the request to the last of
/// the answer, including all work of actix-web. Raising one of these needs a reason. With Redis,
/// five are for the epoch that a claim reads in its round trip.
const BUDGETS: [(Case, f64); 4] = [
    (Case::Ed25519Memory, 12.0),
    (Case::Rs256Memory, 12.0),
    (Case::Ed25519Redis, 25.0),
    (Case::AccessToken, 16.0),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Ed25519Memory,
    Rs256Memory,
    Ed25519Redis,
    AccessToken,
}

impl Case {
    const fn name(self) -> &'static str {
        match self {
            Self::Ed25519Memory => "allow, Ed25519, in-memory nonces",
            Self::Rs256Memory => "allow, RS256, in-memory nonces",
            Self::Ed25519Redis => "allow, Ed25519, Redis nonces",
            Self::AccessToken => "allow, access token, RS256",
        }
    }
}

fn main() -> ExitCode {
    // Only `cargo bench` passes this argument.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("nothing is measured without --bench");
        return ExitCode::SUCCESS;
    }
    let _profiler = dhat::Profiler::builder().testing().build();
    let dir = tempfile::tempdir().unwrap();
    let (ed25519, rs256) = (signer("ed25519", Algorithm::EdDsa), signer("rs256", Algorithm::Rs256));
    let redis = Redis::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let in_memory = Service::start(&runtime, &settings(dir.path(), "memory:"), &[&ed25519, &rs256]);
    let in_redis = Service::start(&runtime, &settings(dir.path(), &redis.url), &[]);

    let mut is_within = true;
    println!("| decision | allocations | bytes | budget |\n| --- | --- | --- | --- |");
    for (case, budget) in BUDGETS {
        let (service, values) = match case {
            Case::Ed25519Memory => (&in_memory, signed(&ed25519)),
            Case::Rs256Memory => (&in_memory, signed(&rs256)),
            Case::Ed25519Redis => (&in_redis, signed(&ed25519)),
            Case::AccessToken => (&in_memory, vec![in_memory.access_token.clone(); 2 * COUNTED]),
        };
        let (count, bytes) = service.allocations(&values);
        let mark = if count <= budget { "" } else { " **exceeded**" };
        is_within &= count <= budget;
        println!("| {} | {count:.1} | {bytes:.0} | {budget}{mark} |", case.name());
    }
    if is_within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn signer(name: &str, algorithm: Algorithm) -> Signer {
    Signer::new(format!("{name}@example.com"), algorithm)
}

/// Signs for a time in the future: tokens signed before a nonce store started are fenced.
fn signed(signer: &Signer) -> Vec<String> {
    sign(std::slice::from_ref(signer), 2 * COUNTED, 2)
}

/// The defaults, except for its addresses and folders; it polls for changes so rarely that no poll
/// happens during the measurement.
fn settings(dir: &Path, nonces: &str) -> Settings {
    let mut settings = Settings::default();
    for address in [
        &mut settings.server.http_listen,
        &mut settings.server.grpc_listen,
        &mut settings.server.admin_listen,
    ] {
        *address = ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into());
    }
    settings.database.url =
        format!("sqlite://{}?mode=rwc", dir.join("countersign.db").display()).parse().unwrap();
    settings.nonce.url = nonces.parse().unwrap();
    settings.issuer.signing_keys_dir = dir.join("signing-keys");
    settings.registry.poll_interval = Duration::from_mins(1);
    settings
}

struct Service {
    address: SocketAddr,
    access_token: String,
}

impl Service {
    fn start(runtime: &Runtime, settings: &Settings, signers: &[&Signer]) -> Self {
        runtime.block_on(async {
            let registry = app::registry(settings, "bench").await.unwrap();
            for signer in signers {
                let username = Username::new(signer.username()).unwrap();
                let new = NewPrincipal {
                    scopes: Scopes::parse(SCOPES).unwrap(),
                    ..NewPrincipal::named(username.clone())
                };
                registry.add_principal(new).await.unwrap();
                registry
                    .add_key(&username, &signer.public_key().to_pem(), KeyTerms::default())
                    .await
                    .unwrap();
            }
            let listeners = Listeners::bind(settings).unwrap();
            let address = listeners.http.address().unwrap().tcp().unwrap();
            let app =
                App::build(settings, LogControl::of_decisions(&settings.telemetry)).await.unwrap();
            let holder = registry.principals().await.unwrap()[0].username.clone();
            let issuer = app::issuer(settings, FirstKey::Make).await.unwrap();
            let minted = issuer.mint(&holder, MintTerms::default(), "bench").await.unwrap();
            tokio::spawn(app.serve(
                listeners.open().unwrap(),
                std::future::pending(),
                std::future::pending(),
            ));
            Self { address, access_token: format!("Bearer {}", minted.access_token) }
        })
    }

    /// Allocations and bytes for each of `values`, all of which must be allowed.
    fn allocations(&self, values: &[String]) -> (f64, f64) {
        let requests: Vec<String> = values.iter().map(|value| request(value)).collect();
        let mut stream = TcpStream::connect(self.address).unwrap();
        let (warm_up, counted) = requests.split_at(COUNTED);
        ask(&mut stream, warm_up);
        let before = dhat::HeapStats::get();
        ask(&mut stream, counted);
        let after = dhat::HeapStats::get();
        let each = |before: u64, after: u64| (after - before) as f64 / counted.len() as f64;
        (each(before.total_blocks, after.total_blocks), each(before.total_bytes, after.total_bytes))
    }
}

/// The request that nginx sends.
fn request(authorization: &str) -> String {
    format!(
        "GET /validate_request HTTP/1.1\r\nHost: auth.internal\r\nX-Original-Method: GET\r\nX-Original-URI: /orders/1017?page=2\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: api.example.com\r\nX-Real-IP: 192.0.2.17\r\n\
         User-Agent: orders-client/1.4\r\nAccept: application/json\r\nAuthorization: {authorization}\r\n\r\n"
    )
}

fn ask(stream: &mut TcpStream, requests: &[String]) {
    let mut answer = [0; 4096];
    for request in requests {
        stream.write_all(request.as_bytes()).unwrap();
        let mut length = 0;
        while !answer[..length].ends_with(b"\r\n\r\n") {
            length += stream.read(&mut answer[length..]).unwrap();
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 200 "),
            "{}",
            String::from_utf8_lossy(&answer[..length])
        );
    }
}

/// A Redis without persistence, which ends when this is dropped.
struct Redis {
    url: String,
    process: Child,
}

impl Redis {
    fn start() -> Self {
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let process = Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed: apt-get install redis-server");
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            thread::sleep(Duration::from_millis(20));
        }
        Self { url: format!("redis://127.0.0.1:{port}"), process }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
