//! A forward proxy: tinyproxy, which requires a password.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use super::free_port;
use super::process::{Process, Signal};
use super::tools::program;

pub struct Tinyproxy {
    pub address: SocketAddr,
    process: Process,
    _dir: TempDir,
}

impl Tinyproxy {
    /// Rejects requests without `user` and `password`.
    pub fn start(user: &str, password: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = format!(
            "Port {}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogLevel Connect\nBasicAuth {user} {password}\n",
            address.port()
        );
        let file = dir.path().join("tinyproxy.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program("tinyproxy"));
        let process = Process::spawn(
            "tinyproxy",
            command.arg("-d").arg("-c").arg(&file),
            dir.path(),
            Signal::Term,
        );
        Self { address, process: process.listening(address), _dir: dir }
    }

    /// The requests that it forwarded, as lines of its log.
    pub fn passed(&self) -> Vec<String> {
        let established = |line: &&str| line.contains("Established connection to host");
        self.process.log().lines().filter(established).map(str::to_owned).collect()
    }
}
