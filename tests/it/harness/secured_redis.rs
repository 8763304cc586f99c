//! Redis as it runs in an untrusted network: TLS with a private authority on every port, client
//! certificates, ACL users, and sentinels with separate credentials. A client needs all of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Process, Signal};
use super::tools::program;
use super::{Authority, Deployment, eventually, free_port};

const PATIENCE: Duration = Duration::from_mins(1);
/// Password for connections among nodes and sentinels.
const OPERATOR: &str = "operator-only";
/// Password of the user `claims` on Redis, with every character that must be escaped in a URL.
pub const PASSWORD: &str = "cl:ai/ms?@%+1";
const PASSWORD_ENCODED: &str = "cl%3Aai%2Fms%3F%40%25+1";
/// Password of the user `watch` on sentinels.
pub const SENTINEL_PASSWORD: &str = "wa&tch=2";
const SENTINEL_PASSWORD_ENCODED: &str = "wa%26tch%3D2";

pub struct SecuredRedis {
    /// URL with all credentials.
    pub url: String,
    /// The servers that hold nonces.
    addresses: Vec<SocketAddr>,
    processes: Vec<Process>,
    dir: TempDir,
}

impl SecuredRedis {
    pub fn single() -> Self {
        let mut redis = Self::without_servers();
        let address = redis.start("redis", &[]);
        redis.url = format!("rediss://claims:{PASSWORD_ENCODED}@{address}/3");
        redis
    }

    /// Three masters.
    pub fn cluster() -> Self {
        let mut redis = Self::without_servers();
        let bus_ports = [(); 3].map(|()| free_port().to_string());
        for bus_port in &bus_ports {
            let lines = [
                "cluster-enabled yes".to_owned(),
                format!("cluster-port {bus_port}"),
                "tls-cluster yes".to_owned(),
            ];
            redis.start("redis", &lines);
        }
        let nodes = redis.addresses.clone();
        for (node, slots) in
            nodes.iter().zip([["0", "5460"], ["5461", "10922"], ["10923", "16383"]])
        {
            assert_eq!(
                redis.cli(*node, &[&["CLUSTER", "ADDSLOTSRANGE"][..], &slots].concat()),
                "OK"
            );
        }
        for (node, bus_port) in nodes.iter().zip(&bus_ports).skip(1) {
            let (host, port) = (node.ip().to_string(), node.port().to_string());
            assert_eq!(redis.cli(nodes[0], &["CLUSTER", "MEET", &host, &port, bus_port]), "OK");
        }
        for node in &nodes {
            eventually("every node sees every slot", PATIENCE, || {
                redis.cli(*node, &["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(())
            });
        }
        let list: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        redis.url = format!("rediss+cluster://claims:{PASSWORD_ENCODED}@{}", list.join(","));
        redis
    }

    /// A master, and a sentinel that watches it under the name `main`.
    pub fn sentinel() -> Self {
        let mut redis = Self::without_servers();
        let master = redis.start("redis", &[]);
        let sentinel = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let lines = [
            format!("sentinel monitor main {} {} 1", master.ip(), master.port()),
            format!("sentinel auth-pass main {OPERATOR}"),
            format!("user watch on \">{SENTINEL_PASSWORD}\" allchannels +@all"),
        ];
        redis.spawn("sentinel", sentinel, &lines, &["--sentinel"]);
        eventually("the sentinel watches the master", PATIENCE, || {
            redis.cli(sentinel, &["SENTINEL", "CKQUORUM", "main"]).starts_with("OK").then_some(())
        });
        let sentinels =
            format!("sentinel_username=watch&sentinel_password={SENTINEL_PASSWORD_ENCODED}");
        redis.url =
            format!("rediss+sentinel://claims:{PASSWORD_ENCODED}@{sentinel}/main/3?{sentinels}");
        redis
    }

    /// A deployment that stores its nonces here, with all settings that it needs to connect.
    pub fn deployment(&self) -> Deployment {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let deployment = Deployment::new().set("nonce.url", &self.url).set("nonce.timeout", "1s");
        let deployment = deployment.set("nonce.ca_file", &file("ca.pem"));
        deployment
            .set("nonce.client_cert", &file("client.pem"))
            .set("nonce.client_key", &file("client.key"))
    }

    /// The number of keys in that database, on all servers.
    pub fn keys_in(&self, database: u32) -> usize {
        let count = |address: &SocketAddr| {
            self.cli(*address, &["-n", &database.to_string(), "DBSIZE"]).parse::<usize>().unwrap()
        };
        self.addresses.iter().map(count).sum()
    }

    pub fn ca_file(&self) -> String {
        self.dir.path().join("ca.pem").display().to_string()
    }

    fn without_servers() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path());
        for name in ["redis", "client"] {
            authority.certify(name);
        }
        Self { url: String::new(), addresses: Vec::new(), processes: Vec::new(), dir }
    }

    fn start(&mut self, name: &'static str, lines: &[String]) -> SocketAddr {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let user = format!("user claims on \">{PASSWORD}\" ~countersign:* &countersign:* +@all");
        let own = [format!("masterauth {OPERATOR}"), "save \"\"".to_owned(), user];
        self.spawn(name, address, &[&own, lines].concat(), &[]);
        self.addresses.push(address);
        address
    }

    fn spawn(
        &mut self,
        name: &'static str,
        address: SocketAddr,
        lines: &[String],
        arguments: &[&str],
    ) {
        let dir = self.dir.path().join(address.port().to_string());
        std::fs::create_dir(&dir).unwrap();
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let common = [
            "bind 127.0.0.1".to_owned(),
            "port 0".to_owned(),
            format!("tls-port {}", address.port()),
            format!("tls-cert-file {}", file("redis.pem")),
            format!("tls-key-file {}", file("redis.key")),
            format!("tls-ca-cert-file {}", file("ca.pem")),
            "tls-auth-clients yes".to_owned(),
            "tls-replication yes".to_owned(),
            format!("requirepass {OPERATOR}"),
            format!("dir {}", dir.display()),
        ];
        let settings = dir.join("redis.conf");
        std::fs::write(&settings, [&common, lines].concat().join("\n") + "\n").unwrap();
        let mut command = Command::new(program("redis-server"));
        command.arg(&settings).args(arguments);
        self.processes
            .push(Process::spawn(name, &mut command, &dir, Signal::Term).listening(address));
    }

    fn cli(&self, address: SocketAddr, arguments: &[&str]) -> String {
        let mut command = Command::new(program("redis-cli"));
        command.args([
            "--tls",
            "--cacert",
            "ca.pem",
            "--cert",
            "client.pem",
            "--key",
            "client.key",
            "--no-auth-warning",
        ]);
        command.args(["-a", OPERATOR, "-p", &address.port().to_string()]).args(arguments);
        let output = command.current_dir(Path::new(self.dir.path())).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
