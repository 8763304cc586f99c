//! A master with a replica, and three sentinels that watch it under the name `main` and fail over
//! quickly.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::nonces::cli;
use super::process::{Process, Signal};
use super::tools::program;
use super::{Redis, eventually, free_port};

const NAME: &str = "main";
/// Timeout for a failover, and for the sentinels to find each other and the replica.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a master must not answer before a sentinel considers it down.
const DOWN_AFTER_MS: u32 = 500;

pub struct Sentinels {
    pub addresses: [SocketAddr; 3],
    /// The initial master.
    pub first: Redis,
    /// The initial replica.
    pub second: Redis,
    _processes: [Process; 3],
    _dir: TempDir,
}

impl Sentinels {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let first = Redis::start();
        let second = Redis::start_replica_of(&first);
        let addresses = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let processes = addresses.map(|address| sentinel(address, &first, &dir));
        let sentinels = Self { addresses, first, second, _processes: processes, _dir: dir };
        for address in addresses {
            eventually("the sentinels know each other and the replica", PATIENCE, || {
                let has =
                    |counted: &str| cli(address, &["SENTINEL", "MASTER", NAME]).contains(counted);
                let is_agreed = cli(address, &["SENTINEL", "CKQUORUM", NAME]).starts_with("OK 3");
                (is_agreed && has("num-slaves\n1\n") && has("num-other-sentinels\n2\n"))
                    .then_some(())
            });
        }
        sentinels
    }

    pub fn url(&self) -> String {
        let addresses = self.addresses.map(|address| address.to_string());
        format!("redis+sentinel://{}/{NAME}", addresses.join(","))
    }

    /// Makes the replica take over while the master is up. Returns as soon as the first sentinel
    /// names the new master; the old one accepts writes until a sentinel demotes it, which takes
    /// some ten seconds.
    pub fn hand_over(&self) {
        // No sentinel can do so until the replica has announced itself.
        eventually("a sentinel begins a failover", PATIENCE, || {
            (cli(self.addresses[0], &["SENTINEL", "FAILOVER", NAME]) == "OK").then_some(())
        });
        self.has_failed_over();
    }

    /// Waits until a sentinel names the replica as the master.
    pub fn has_failed_over(&self) {
        let expected = self.second.address.port().to_string();
        eventually("the replica takes over", PATIENCE, || {
            let named = |address: &SocketAddr| {
                cli(*address, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME])
            };
            self.addresses
                .iter()
                .any(|address| named(address).lines().nth(1) == Some(expected.as_str()))
                .then_some(())
        });
    }
}

fn sentinel(address: SocketAddr, master: &Redis, dir: &TempDir) -> Process {
    let settings = dir.path().join(format!("sentinel-{}.conf", address.port()));
    let lines = [
        "bind 127.0.0.1".to_owned(),
        format!("port {}", address.port()),
        format!("dir {}", dir.path().display()),
        format!("sentinel monitor {NAME} {} {} 2", master.address.ip(), master.address.port()),
        format!("sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}"),
        format!("sentinel failover-timeout {NAME} 5000"),
    ];
    std::fs::write(&settings, lines.join("\n") + "\n").unwrap();
    let mut command = Command::new(program("redis-server"));
    command.arg(&settings).arg("--sentinel");
    Process::spawn("redis-sentinel", &mut command, dir.path(), Signal::Term).listening(address)
}
