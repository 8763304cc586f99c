//! Redis servers for a test: one that can be stopped and restarted, a cluster, one watched by a
//! sentinel.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Process, Signal};
use super::tools::{peer, program};
use super::{eventually, free_port};

/// Timeout for anything without a guaranteed time.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Redis {
    pub address: SocketAddr,
    program: PathBuf,
    options: Vec<String>,
    process: Option<Process>,
    dir: TempDir,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts it with these options, also at every restart.
    pub fn start_with(options: &[&str]) -> Self {
        Self::run(program("redis-server"), options)
    }

    /// Starts Valkey, which should behave the same.
    pub fn start_valkey() -> Self {
        Self::run(peer("valkey/valkey-server"), &[])
    }

    fn run(program: PathBuf, options: &[&str]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let options = options.iter().map(ToString::to_string).collect();
        let mut redis =
            Self { address, program, options, process: None, dir: tempfile::tempdir().unwrap() };
        redis.restart();
        redis
    }

    /// A replica of `master`, with all of its data.
    pub fn start_replica_of(master: &Self) -> Self {
        let replica = Self::run(
            master.program.clone(),
            &["--replicaof", &master.address.ip().to_string(), &master.address.port().to_string()],
        );
        replica.is_in_sync();
        replica
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The URL with a username and a password, percent-encoded.
    pub fn url_of(&self, username: &str, password: &str) -> String {
        format!("redis://{username}:{password}@{}", self.address)
    }

    /// Waits until it has a master and all of the master's data.
    pub fn is_in_sync(&self) {
        eventually("the replica is in sync", PATIENCE, || {
            self.info("replication").contains("master_link_status:up").then_some(())
        });
    }

    /// Ends it like a crash would, and with it every connection.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::Kill);
            process.exited_within(Duration::from_secs(10));
        }
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("a server that runs").signal(signal);
    }

    /// Runs a command on it, and returns the reply.
    pub fn command(&self, arguments: &[&str]) -> String {
        let reply = cli(self.address, arguments);
        assert!(!reply.starts_with("ERR "), "{arguments:?}: {reply}");
        reply
    }

    /// A section of its `INFO`.
    pub fn info(&self, section: &str) -> String {
        cli(self.address, &["INFO", section])
    }

    /// Writes its data to the file that it reads at a start: [`Self::restart`] then brings this
    /// data back, without later changes.
    pub fn save_snapshot(&self) {
        assert_eq!(self.command(&["SAVE"]), "OK");
    }

    /// Makes its memory count as full, without eviction.
    pub fn fill(&self) {
        self.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        self.command(&["CONFIG", "SET", "maxmemory", "1"]);
    }

    pub fn make_room(&self) {
        self.command(&["CONFIG", "SET", "maxmemory", "0"]);
    }

    /// Makes it a replica of `master`, whose data replaces its own.
    pub fn demote_to_replica_of(&self, master: &Self) {
        self.command(&[
            "REPLICAOF",
            &master.address.ip().to_string(),
            &master.address.port().to_string(),
        ]);
        self.is_in_sync();
    }

    /// Makes a replica a master again.
    pub fn promote(&self) {
        self.command(&["REPLICAOF", "NO", "ONE"]);
    }

    /// From now on its replicas receive no writes.
    pub fn cut_replicas_off(&self) {
        self.command(&["ACL", "SETUSER", "default", "-psync", "-sync"]);
        self.command(&["CLIENT", "KILL", "TYPE", "replica"]);
    }

    /// From now on it cannot write snapshots: there is a folder in place of the file.
    pub fn block_snapshots(&self) {
        std::fs::create_dir_all(self.snapshot().join("in the way")).unwrap();
    }

    pub fn unblock_snapshots(&self) {
        std::fs::remove_dir_all(self.snapshot()).unwrap();
    }

    fn snapshot(&self) -> std::path::PathBuf {
        self.dir.path().join("dump.rdb")
    }

    /// Starts it again at the same address, with its last snapshot, or empty without one.
    pub fn restart(&mut self) {
        self.stop();
        let mut command = server(&self.program, self.address, self.dir.path());
        command.args(&self.options);
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
        let (dir, address) =
            (tempfile::tempdir().unwrap(), SocketAddr::from(([127, 0, 0, 1], free_port())));
        let mut command = server(&program("redis-server"), address, dir.path());
        // The default bus port, the port plus 10,000, may be above 65535.
        command.args(["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()]);
        let mut process = Process::spawn("redis-cluster", &mut command, dir.path(), Signal::Term)
            .listening(address);
        assert_eq!(cli(address, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
        process.wait_until(|| {
            cli(address, &["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(())
        });
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
        let (dir, address) =
            (tempfile::tempdir().unwrap(), SocketAddr::from(([127, 0, 0, 1], free_port())));
        let watched = Redis::start();
        let settings = dir.path().join("sentinel.conf");
        let monitor =
            format!("sentinel monitor main {} {} 1", watched.address.ip(), watched.address.port());
        std::fs::write(&settings, format!("bind 127.0.0.1\nport {}\n{monitor}\n", address.port()))
            .unwrap();
        let mut command = Command::new(program("redis-server"));
        command.arg(&settings).arg("--sentinel");
        let mut process = Process::spawn("redis-sentinel", &mut command, dir.path(), Signal::Term)
            .listening(address);
        process.wait_until(|| {
            cli(address, &["SENTINEL", "CKQUORUM", "main"]).starts_with("OK").then_some(())
        });
        Self { address, _sentinel: process, _watched: watched, _dir: dir }
    }
}

fn server(program: &Path, address: SocketAddr, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]).args([
        "--save",
        "",
        "--appendonly",
        "no",
    ]);
    // Sends all data to a new replica immediately, instead of waiting 5 s for other replicas.
    command.args(["--repl-diskless-sync-delay", "0"]).arg("--dir").arg(dir);
    command
}

/// The standard output of `redis-cli`.
pub fn cli(address: SocketAddr, arguments: &[&str]) -> String {
    let output = Command::new(program("redis-cli"))
        .args(["-p", &address.port().to_string()])
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
