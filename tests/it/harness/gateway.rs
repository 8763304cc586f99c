//! Real gateways, configured by the very files of `examples/`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Process, Signal};
use super::tools::{peer, program, repository};
use super::{Countersign, Echo, eventually_async, free_port, http};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    Nginx,
    EnvoyGrpc,
    EnvoyHttp,
    /// Asks nobody: verifies access tokens with the keys that we publish.
    EnvoyJwtAuthn,
}

#[derive(Debug)]
pub struct RunningGateway {
    pub address: SocketAddr,
    _process: Process,
    dir: TempDir,
}

impl Gateway {
    /// Those that ask us about every request.
    pub const ALL: [Self; 3] = [Self::Nginx, Self::EnvoyGrpc, Self::EnvoyHttp];

    /// Starts it in front of `echo`, asking `countersign`.
    pub async fn start(self, countersign: &Countersign, echo: &Echo) -> RunningGateway {
        self.start_edited(countersign, echo, &[]).await
    }

    /// [`Self::start`] with the example changed: in each pair, the second in place of the first.
    pub async fn start_edited(self, countersign: &Countersign, echo: &Echo, edits: &[(&str, &str)]) -> RunningGateway {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let dir = tempfile::tempdir().unwrap();
        let places = Places { gateway: address, countersign, echo, dir: dir.path() };
        let example = std::fs::read_to_string(repository().join(self.example())).unwrap();
        let config = replaced(&replaced(&example, edits), &self.substitutions(&places));
        let file = dir.path().join(Path::new(self.example()).file_name().unwrap());
        std::fs::write(&file, config).unwrap();

        let mut command = self.command(dir.path(), &file);
        let process = Process::spawn(self.name(), &mut command, dir.path(), Signal::Term).listening(address);
        let gateway = RunningGateway { address, _process: process, dir };
        gateway.reaches_the_back_end().await;
        gateway
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::EnvoyGrpc | Self::EnvoyHttp | Self::EnvoyJwtAuthn => "envoy",
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::Nginx => "examples/nginx/nginx.conf",
            Self::EnvoyGrpc => "examples/envoy/envoy-grpc.yaml",
            Self::EnvoyHttp => "examples/envoy/envoy-http.yaml",
            Self::EnvoyJwtAuthn => "examples/envoy/envoy-jwt-authn.yaml",
        }
    }

    fn command(self, dir: &Path, config: &Path) -> Command {
        match self {
            Self::Nginx => {
                let mut command = Command::new(program("nginx"));
                command.arg("-p").arg(dir).arg("-c").arg(config);
                command.arg("-g").arg(format!("daemon off; pid {};", dir.join("nginx.pid").display()));
                command
            }
            Self::EnvoyGrpc | Self::EnvoyHttp | Self::EnvoyJwtAuthn => {
                let mut command = Command::new(peer("envoy/envoy"));
                command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
                command.arg("-c").arg(config);
                command
            }
        }
    }

    /// Addresses and paths, and nothing else: what is tested is what people paste.
    fn substitutions(self, places: &Places<'_>) -> Vec<(&'static str, String)> {
        let endpoint = |address: SocketAddr| format!("address: {}, port_value: {}", address.ip(), address.port());
        match self {
            Self::Nginx => vec![
                // Its workers have to read what the user of the tests wrote.
                ("user www-data;", "user root;".to_owned()),
                ("/var/log/nginx", places.dir.display().to_string()),
                ("/srv/www", places.dir.join("www").display().to_string()),
                ("127.0.0.1:8000", places.gateway.to_string()),
                ("127.0.0.1:8080", places.countersign.http.to_string()),
                ("127.0.0.1:3000", places.echo.address.to_string()),
            ],
            Self::EnvoyGrpc => vec![
                ("address: 127.0.0.1, port_value: 8000", endpoint(places.gateway)),
                ("address: 127.0.0.1, port_value: 9191", endpoint(places.countersign.grpc)),
                ("address: 127.0.0.1, port_value: 3000", endpoint(places.echo.address)),
            ],
            Self::EnvoyHttp | Self::EnvoyJwtAuthn => vec![
                ("address: 127.0.0.1, port_value: 8000", endpoint(places.gateway)),
                ("address: 127.0.0.1, port_value: 8080", endpoint(places.countersign.http)),
                ("address: 127.0.0.1, port_value: 3000", endpoint(places.echo.address)),
                ("http://127.0.0.1:8080", format!("http://{}", places.countersign.http)),
            ],
        }
    }
}

impl RunningGateway {
    pub async fn send(&self, request: &http::Request) -> http::Answer {
        request.send(self.address).await
    }

    /// Puts a file where the nginx example serves static files from.
    pub fn static_file(&self, path: &str, content: &str) {
        let file = self.dir.path().join("www").join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }

    /// Listening is not yet serving: Envoy listens before it knows its clusters.
    async fn reaches_the_back_end(&self) {
        eventually_async("the gateway's open route", Duration::from_secs(30), async || {
            let answer = http::Request::get("/healthz").try_send(self.address).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

/// What the examples' addresses and paths stand for in one test.
struct Places<'a> {
    gateway: SocketAddr,
    countersign: &'a Countersign,
    echo: &'a Echo,
    dir: &'a Path,
}

/// Replaces every pattern, in two steps: a value may look like another pattern (port 30001 and `:3000`).
fn replaced(text: &str, replacements: &[(&str, impl AsRef<str>)]) -> String {
    let marker = |index: usize| format!("\u{1}{index}\u{1}");
    let mut text = text.to_owned();
    for (index, (pattern, _)) in replacements.iter().enumerate() {
        assert!(text.contains(pattern), "the example has no `{pattern}` any more");
        text = text.replace(pattern, &marker(index));
    }
    for (index, (_, value)) in replacements.iter().enumerate() {
        text = text.replace(&marker(index), value.as_ref());
    }
    text
}
