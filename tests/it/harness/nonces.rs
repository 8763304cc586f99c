//! Redis servers of one's own: one that can be taken away and given back, a cluster, one watched by a sentinel.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use super::free_port;
use super::process::{Process, Signal};
use super::tools::program;

pub struct Redis {
    pub address: SocketAddr,
    process: Option<Process>,
    dir: TempDir,
}

impl Redis {
    pub fn start() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut redis = Self { address, process: None, dir: tempfile::tempdir().unwrap() };
        redis.restart();
        redis
    }

    /// Ends it as a crash would, and with it every connection.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::Kill);
            process.exited_within(std::time::Duration::from_secs(10));
        }
    }

    /// Has it run a command, and yields the reply.
    pub fn command(&self, arguments: &[&str]) -> String {
        let reply = cli(self.address, arguments);
        assert!(!reply.starts_with("ERR "), "{arguments:?}: {reply}");
        reply
    }

    /// From now on none of its snapshots can be written: there is a folder where the file should be.
    pub fn block_snapshots(&self) {
        std::fs::create_dir_all(self.snapshot().join("in the way")).unwrap();
    }

    pub fn unblock_snapshots(&self) {
        std::fs::remove_dir_all(self.snapshot()).unwrap();
    }

    fn snapshot(&self) -> std::path::PathBuf {
        self.dir.path().join("dump.rdb")
    }

    /// Starts it, empty, where it was.
    pub fn restart(&mut self) {
        self.stop();
        let mut command = server(self.address, self.dir.path());
        let process = Process::spawn("redis-server", &mut command, self.dir.path(), Signal::Term);
        self.process = Some(process.listening(self.address));
    }
}

/// A cluster of one node that holds every slot.
pub struct RedisCluster {
    pub address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl RedisCluster {
    pub fn start() -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), SocketAddr::from(([127, 0, 0, 1], free_port())));
        let mut command = server(address, dir.path());
        // The bus port, which is the port plus 10,000 by default, may lie beyond the last port.
        command.args(["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()]);
        let mut process = Process::spawn("redis-cluster", &mut command, dir.path(), Signal::Term).listening(address);
        assert_eq!(cli(address, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
        process.wait_until(|| cli(address, &["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(()));
        Self { address, _process: process, _dir: dir }
    }
}

/// A Redis, and a sentinel that watches it under the name `main`.
pub struct RedisSentinel {
    pub address: SocketAddr,
    _sentinel: Process,
    _watched: Redis,
    _dir: TempDir,
}

impl RedisSentinel {
    pub fn start() -> Self {
        let (dir, address) = (tempfile::tempdir().unwrap(), SocketAddr::from(([127, 0, 0, 1], free_port())));
        let watched = Redis::start();
        let settings = dir.path().join("sentinel.conf");
        let monitor = format!("sentinel monitor main {} {} 1", watched.address.ip(), watched.address.port());
        std::fs::write(&settings, format!("bind 127.0.0.1\nport {}\n{monitor}\n", address.port())).unwrap();
        let mut command = Command::new(program("redis-server"));
        command.arg(&settings).arg("--sentinel");
        let mut process = Process::spawn("redis-sentinel", &mut command, dir.path(), Signal::Term).listening(address);
        process.wait_until(|| cli(address, &["SENTINEL", "CKQUORUM", "main"]).starts_with("OK").then_some(()));
        Self { address, _sentinel: process, _watched: watched, _dir: dir }
    }
}

fn server(address: SocketAddr, dir: &std::path::Path) -> Command {
    let mut command = Command::new(program("redis-server"));
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]).args(["--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(dir);
    command
}

fn cli(address: SocketAddr, arguments: &[&str]) -> String {
    let output = Command::new(program("redis-cli")).args(["-p", &address.port().to_string()]).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
