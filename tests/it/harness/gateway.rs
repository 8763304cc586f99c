//! Real gateways, configured by the files of `examples/`.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Process, Signal};
use super::tools::{peer, program, repository};
use super::{Countersign, Echo, eventually_async, free_port, http};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gateway {
    /// The nginx of Debian.
    Nginx,
    /// The same example with a recent nginx.
    NginxMainline,
    EnvoyGrpc,
    EnvoyHttp,
    /// The same example with an older Envoy of this version.
    OlderEnvoyGrpc(&'static str),
    OlderEnvoyHttp(&'static str),
    Caddy,
    /// The same example with the Caddy of Debian 12, which is years older.
    CaddyDebian,
    Haproxy,
    Apache,
    Traefik,
    /// Asks no service: verifies access tokens with the keys that we publish.
    EnvoyJwtAuthn,
}

#[derive(Debug)]
pub struct RunningGateway {
    pub address: SocketAddr,
    _process: Process,
    dir: TempDir,
}

impl Gateway {
    /// The gateways that ask us about every request.
    pub const ALL: [Self; 9] = [
        Self::Nginx,
        Self::NginxMainline,
        Self::EnvoyGrpc,
        Self::EnvoyHttp,
        Self::Caddy,
        Self::CaddyDebian,
        Self::Haproxy,
        Self::Apache,
        Self::Traefik,
    ];

    /// The gateway whose example this one runs.
    const fn newest(self) -> Self {
        match self {
            Self::OlderEnvoyGrpc(_) => Self::EnvoyGrpc,
            Self::OlderEnvoyHttp(_) => Self::EnvoyHttp,
            other => other,
        }
    }

    /// Whether it is an nginx, Debian's or another.
    pub fn is_nginx(self) -> bool {
        matches!(self, Self::Nginx | Self::NginxMainline)
    }

    /// Starts it in front of `echo`; it asks `countersign`.
    pub async fn start(self, countersign: &Countersign, echo: &Echo) -> RunningGateway {
        self.start_edited(countersign, echo, &[]).await
    }

    /// Like [`Self::start`], with changes to the example: in each pair, the second text replaces
    /// the first.
    pub async fn start_edited(
        self,
        countersign: &Countersign,
        echo: &Echo,
        edits: &[(&str, &str)],
    ) -> RunningGateway {
        self.start_asking(std::slice::from_ref(countersign), echo, edits).await
    }

    /// Starts it so that it asks any of `replicas`. If there are several, the example's lines for
    /// that are enabled.
    pub async fn start_asking(
        self,
        replicas: &[Countersign],
        echo: &Echo,
        edits: &[(&str, &str)],
    ) -> RunningGateway {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let dir = tempfile::tempdir().unwrap();
        let places = Places { gateway: address, way: free_port(), replicas, echo, dir: dir.path() };
        let file = self.put_files(&places, edits);

        let mut command = self.command(dir.path(), &file);
        let process =
            Process::spawn(self.name(), &mut command, dir.path(), Signal::Term).listening(address);
        let gateway = RunningGateway { address, _process: process, dir };
        gateway.reaches_the_back_end().await;
        gateway
    }

    /// Writes the files of the example into the test's folder, and returns the first, which the
    /// gateway is started with.
    fn put_files(self, places: &Places<'_>, edits: &[(&str, &str)]) -> PathBuf {
        // Apache's workers run as a different user than the tests.
        std::fs::set_permissions(places.dir, Permissions::from_mode(0o755)).unwrap();
        let paths = self.example();
        let mut texts: Vec<_> = paths
            .iter()
            .map(|path| std::fs::read_to_string(repository().join(path)).unwrap())
            .collect();
        if let [_, more @ ..] = places.replicas
            && !more.is_empty()
        {
            let second = self.second_replica();
            assert!(
                texts.iter().any(|text| text.contains(second)),
                "{self:?} has no second replica"
            );
            let addresses: Vec<_> = more.iter().map(|replica| self.replica(replica)).collect();
            texts = texts.iter().map(|text| with_more_replicas(text, second, &addresses)).collect();
        }
        let texts = replaced(replaced(texts, edits), &self.substitutions(places));
        let place = |path: &str| places.dir.join(Path::new(path).file_name().unwrap());
        for (path, text) in paths.iter().zip(texts) {
            std::fs::write(place(path), text).unwrap();
        }
        place(paths[0])
    }

    /// The change to the example that makes it use the Unix socket `socket`: the line for that
    /// replaces the one above it.
    pub fn on_the_same_host(self, socket: &Path) -> (String, String) {
        let text = std::fs::read_to_string(repository().join(self.example()[0])).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let told = lines
            .iter()
            .position(|line| line.contains(ON_THE_SAME_HOST))
            .unwrap_or_else(|| panic!("{self:?} says nothing of it"));
        let [above, note, commented] = [lines[told - 1], lines[told], lines[told + 1]];
        let (indent, line) = commented.split_once("# ").unwrap();
        let (before, rest) = line.split_once("/run/countersign/").unwrap();
        let (_, after) = rest.split_once(".sock").unwrap();
        let taken_in = format!("{indent}# {above}\n{indent}{before}{}{after}", socket.display());
        ([above, note, commented].join("\n"), taken_in)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nginx | Self::NginxMainline => "nginx",
            Self::EnvoyGrpc
            | Self::EnvoyHttp
            | Self::OlderEnvoyGrpc(_)
            | Self::OlderEnvoyHttp(_)
            | Self::EnvoyJwtAuthn => "envoy",
            Self::Caddy | Self::CaddyDebian => "caddy",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache2",
            Self::Traefik => "traefik",
        }
    }

    /// The version that the program prints. For programs from Debian only the first two numbers,
    /// since updates change the others.
    pub fn version(self) -> String {
        let flag = match self.name() {
            "envoy" => "--version",
            "caddy" | "traefik" => "version",
            _ => "-v",
        };
        let output = Command::new(self.command(Path::new("/"), Path::new("/")).get_program())
            .arg(flag)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let words = said.split(|character: char| !character.is_ascii_digit() && character != '.');
        let version =
            words.map(|word| word.trim_matches('.')).find(|word| word.split('.').count() == 3);
        let version = version.unwrap_or_else(|| panic!("{self:?} says no version: {said}"));
        let numbers = if matches!(self, Self::Haproxy | Self::Apache) { 2 } else { 3 };
        version.split('.').take(numbers).collect::<Vec<_>>().join(".")
    }

    /// The file to start it with, and the files that this one refers to.
    fn example(self) -> &'static [&'static str] {
        match self {
            Self::Nginx | Self::NginxMainline => &["examples/nginx/nginx.conf"],
            Self::EnvoyGrpc | Self::OlderEnvoyGrpc(_) => &["examples/envoy/envoy-grpc.yaml"],
            Self::EnvoyHttp | Self::OlderEnvoyHttp(_) => &["examples/envoy/envoy-http.yaml"],
            Self::Caddy | Self::CaddyDebian => &["examples/caddy/Caddyfile"],
            Self::Haproxy => &["examples/haproxy/haproxy.cfg", "examples/haproxy/countersign.lua"],
            Self::Apache => &["examples/apache/httpd.conf", "examples/apache/countersign.lua"],
            Self::Traefik => &["examples/traefik/traefik.yaml", "examples/traefik/dynamic.yaml"],
            Self::EnvoyJwtAuthn => &["examples/envoy/envoy-jwt-authn.yaml"],
        }
    }

    /// The address of the second replica in the example.
    fn second_replica(self) -> &'static str {
        match self.newest() {
            Self::EnvoyGrpc => "address: 127.0.0.1, port_value: 9192",
            Self::EnvoyHttp => "address: 127.0.0.1, port_value: 8082",
            _ => "127.0.0.1:8082",
        }
    }

    /// The address at which the gateway asks a replica, in the format of its example.
    fn replica(self, replica: &Countersign) -> String {
        match self.newest() {
            Self::EnvoyGrpc => endpoint(replica.grpc),
            Self::EnvoyHttp | Self::EnvoyJwtAuthn => endpoint(replica.http),
            _ => replica.http.to_string(),
        }
    }

    fn command(self, dir: &Path, config: &Path) -> Command {
        match self {
            Self::Nginx | Self::NginxMainline => {
                let nginx =
                    if self == Self::Nginx { program("nginx") } else { peer("nginx/nginx") };
                let mut command = Command::new(nginx);
                command.arg("-p").arg(dir).arg("-c").arg(config);
                command
                    .arg("-g")
                    .arg(format!("daemon off; pid {};", dir.join("nginx.pid").display()));
                command
            }
            Self::EnvoyGrpc
            | Self::EnvoyHttp
            | Self::OlderEnvoyGrpc(_)
            | Self::OlderEnvoyHttp(_)
            | Self::EnvoyJwtAuthn => {
                let envoy = match self {
                    Self::OlderEnvoyGrpc(version) | Self::OlderEnvoyHttp(version) => {
                        peer(&format!("envoy_{version}/envoy"))
                    }
                    _ => peer("envoy/envoy"),
                };
                let mut command = Command::new(envoy);
                command.args([
                    "--disable-hot-restart",
                    "--concurrency",
                    "1",
                    "--log-level",
                    "warning",
                ]);
                command.arg("-c").arg(config);
                command
            }
            Self::Caddy | Self::CaddyDebian => {
                let caddy =
                    if self == Self::Caddy { peer("caddy/bin/caddy") } else { program("caddy") };
                let mut command = Command::new(caddy);
                command.arg("run").arg("--config").arg(config);
                // It stores its state in the home directory of the user who starts it.
                command.envs(["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"].map(|name| (name, dir)));
                command
            }
            Self::Haproxy => {
                let mut command = Command::new(program("haproxy"));
                command.current_dir(dir).arg("-db").arg("-f").arg(config);
                command
            }
            Self::Apache => {
                let mut command = Command::new(program("apache2"));
                command.arg("-DFOREGROUND").arg("-f").arg(config);
                command
            }
            Self::Traefik => {
                let mut command = Command::new(peer("traefik/bin/traefik"));
                command.arg("--configFile").arg(config);
                command
            }
        }
    }

    /// Only addresses and paths, so that the test covers what people paste.
    fn substitutions(self, places: &Places<'_>) -> Vec<(&'static str, String)> {
        let asked = self.replica(&places.replicas[0]);
        match self {
            Self::Nginx | Self::NginxMainline => vec![
                // Its workers have to read files that the user of the tests wrote.
                ("user www-data;", "user root;".to_owned()),
                ("/var/log/nginx", places.dir.display().to_string()),
                ("/srv/www", places.dir.join("www").display().to_string()),
                ("127.0.0.1:8000", places.gateway.to_string()),
                ("127.0.0.1:8080", asked),
                ("127.0.0.1:3000", places.echo.address.to_string()),
            ],
            Self::EnvoyGrpc | Self::OlderEnvoyGrpc(_) => vec![
                ("address: 127.0.0.1, port_value: 8000", endpoint(places.gateway)),
                ("address: 127.0.0.1, port_value: 9191", asked),
                ("address: 127.0.0.1, port_value: 3000", endpoint(places.echo.address)),
            ],
            Self::Caddy | Self::CaddyDebian => {
                let mut edits = vec![
                    (":8000", format!(":{}", places.gateway.port())),
                    ("127.0.0.1:8080", asked),
                    ("127.0.0.1:3000", places.echo.address.to_string()),
                ];
                if self == Self::CaddyDebian {
                    // The line that the example has for this.
                    edits.push(("header_up -*", "header_up -X-Original-*".to_owned()));
                }
                edits
            }
            Self::Haproxy => vec![
                ("127.0.0.1:8000", places.gateway.to_string()),
                ("127.0.0.1:8080", asked),
                ("127.0.0.1:3000", places.echo.address.to_string()),
                // One namespace for the whole machine, and tests run at the same time.
                ("abns@countersign", format!("abns@countersign-{}", places.gateway.port())),
            ],
            Self::Apache => vec![
                (
                    "/etc/apache2/countersign.lua",
                    places.dir.join("countersign.lua").display().to_string(),
                ),
                ("/var/log/apache2", places.dir.display().to_string()),
                ("/run/apache2", places.dir.display().to_string()),
                ("127.0.0.1:8000", places.gateway.to_string()),
                ("127.0.0.1:8080", asked),
                ("127.0.0.1:3000", places.echo.address.to_string()),
            ],
            Self::Traefik => vec![
                ("/etc/traefik", places.dir.display().to_string()),
                ("127.0.0.1:8000", places.gateway.to_string()),
                ("127.0.0.1:8079", format!("127.0.0.1:{}", places.way)),
                ("127.0.0.1:8080", asked),
                ("127.0.0.1:3000", places.echo.address.to_string()),
            ],
            Self::EnvoyHttp | Self::OlderEnvoyHttp(_) | Self::EnvoyJwtAuthn => vec![
                ("address: 127.0.0.1, port_value: 8000", endpoint(places.gateway)),
                ("address: 127.0.0.1, port_value: 8080", asked),
                ("address: 127.0.0.1, port_value: 3000", endpoint(places.echo.address)),
                ("http://127.0.0.1:8080", format!("http://{}", places.replicas[0].http)),
            ],
        }
    }
}

impl RunningGateway {
    pub async fn send(&self, request: &http::Request) -> http::Answer {
        request.send(self.address).await
    }

    /// Writes a file into the folder from which the nginx example serves static files.
    pub fn static_file(&self, path: &str, content: &str) {
        let file = self.dir.path().join("www").join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }

    /// Listening does not mean serving: Envoy listens before it knows its clusters.
    async fn reaches_the_back_end(&self) {
        eventually_async("the gateway's open route", Duration::from_secs(30), async || {
            let answer = http::Request::get("/healthz").try_send(self.address).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

/// The actual addresses and paths in one test, in place of those in the examples.
struct Places<'a> {
    gateway: SocketAddr,
    /// A port for gateways that ask through a listener of their own.
    way: u16,
    replicas: &'a [Countersign],
    echo: &'a Echo,
    dir: &'a Path,
}

/// An address in the format of Envoy's configuration.
fn endpoint(address: SocketAddr) -> String {
    format!("address: {}, port_value: {}", address.ip(), address.port())
}

/// Start of the comment between the line with an address and the one with a Unix socket.
const ON_THE_SAME_HOST: &str = "On the same host, a Unix socket in its place";

/// Start of the comment above the lines that are only for several replicas.
const FOR_SEVERAL: &str = "With more than one replica";

/// Enables the lines that an example has for several replicas: those commented out below such a
/// comment, and those with `second`, the address of the second replica, once for each of
/// `addresses`.
fn with_more_replicas(text: &str, second: &str, addresses: &[String]) -> String {
    let mut taken_in = String::new();
    let mut leader = None;
    for line in text.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let uncommented = leader.and_then(|leader| line.trim_start().strip_prefix(leader));
        let Some(code) = uncommented else {
            leader = line
                .contains(FOR_SEVERAL)
                .then(|| if line.trim_start().starts_with("--") { "-- " } else { "# " });
            taken_in.extend([line, "\n"]);
            continue;
        };
        let numbered = |number: usize, address: &str| {
            code.replace(second, address).replace("countersign-2", &format!("countersign-{number}"))
        };
        let lines = if code.contains(second) {
            addresses.iter().zip(2..).map(|(address, number)| numbered(number, address)).collect()
        } else {
            vec![code.to_owned()]
        };
        for line in lines {
            taken_in.extend([indent, &line, "\n"]);
        }
    }
    assert!(!taken_in.contains(second), "a second replica that is not below `{FOR_SEVERAL}`");
    taken_in
}

/// Replaces every pattern, in two steps: a value may look like another pattern (port 30001 and
/// `:3000`).
fn replaced(mut texts: Vec<String>, replacements: &[(&str, impl AsRef<str>)]) -> Vec<String> {
    let marker = |index: usize| format!("\u{1}{index}\u{1}");
    for (index, (pattern, _)) in replacements.iter().enumerate() {
        assert!(
            texts.iter().any(|text| text.contains(pattern)),
            "the example has no `{pattern}` any more"
        );
        for text in &mut texts {
            *text = text.replace(pattern, &marker(index));
        }
    }
    for (index, (_, value)) in replacements.iter().enumerate() {
        for text in &mut texts {
            *text = text.replace(&marker(index), value.as_ref());
        }
    }
    texts
}
