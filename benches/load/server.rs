//! The processes that are measured. Each listens only on the loopback address, and ends when it is
//! dropped.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::{
    floors::{NULL_CHECK, NULL_SERVER, VERIFYING},
    machine::CpuClock,
    scale::COLLECTOR,
    tokens::Signer,
};

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of the end of a server's log is shown when it fails.
const LOG_TAIL_BYTES: usize = 4 * 1024;
/// Below Linux's range for outgoing connections, so that no client takes a port before its server
/// does.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// The scopes of every principal.
const SCOPES: &str = "orders:read orders:write";

/// A server that is running.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// The admin listener of the service; for other servers, the same address.
    pub(crate) admin: SocketAddr,
    /// The gRPC listener of the service; for other servers, the same address.
    pub(crate) grpc: SocketAddr,
    pub(crate) cpu: CpuClock,
    process: Process,
}

/// Where processes run: on any core, or each server on the first core and everything else on the
/// others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) is_pinned: bool,
}

impl Placement {
    /// A command that runs `program` on the cores for measured servers.
    pub(crate) fn server(self, program: impl AsRef<OsStr>) -> Command {
        self.on("0", program)
    }

    /// A command that runs `program` on the cores for everything else.
    pub(crate) fn client(self, program: impl AsRef<OsStr>) -> Command {
        if self.is_pinned { self.on(&other_cores(), program) } else { Command::new(program) }
    }

    /// Moves this process to the cores for everything but servers, with all its threads and future
    /// children; or back to every core.
    pub(crate) fn withdraw(self, withdraws: bool) {
        if self.is_pinned {
            let (cores, id) = (
                if withdraws { other_cores() } else { "0-".to_owned() + &last_core() },
                std::process::id().to_string(),
            );
            let status = Command::new("taskset")
                .args(["-a", "-p", "-c", &cores, &id])
                .stdout(Stdio::null())
                .status();
            assert!(
                status.is_ok_and(|status| status.success()),
                "taskset cannot move this process to the cores {cores}"
            );
        }
    }

    fn on(self, cores: &str, program: impl AsRef<OsStr>) -> Command {
        if !self.is_pinned {
            return Command::new(program);
        }
        let mut command = Command::new("taskset");
        command.args(["-c", cores]).arg(program);
        command
    }
}

/// Raises the limit of open files of this process and its children to `count`, as far as the system
/// permits.
pub(crate) fn allow_files(count: usize) {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| {
        line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok()
    });
    if limit.is_some_and(|limit: usize| limit < count) {
        let (id, limit) = (std::process::id().to_string(), format!("--nofile={count}:"));
        let _ = Command::new("prlimit").args(["--pid", &id, &limit]).status();
    }
}

fn other_cores() -> String {
    "1-".to_owned() + &last_core()
}

fn last_core() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap();
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    assert!(cores > 1, "there is one core only, which servers and clients cannot share");
    (cores - 1).to_string()
}

impl Server {
    /// A Redis without persistence.
    pub(crate) fn redis(placement: Placement, dir: &Path) -> Self {
        let address = free_address();
        let mut command = placement.client("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--dir")
            .arg(dir);
        Self::start(address, command, |address| TcpStream::connect(address).is_ok())
    }

    /// The service, with nonces at `nonce_url`, the principals that are registered in `dir`, and
    /// otherwise default settings.
    pub(crate) fn countersign(placement: Placement, dir: &Path, nonce_url: &str) -> Self {
        Self::countersign_with(placement, dir, nonce_url, &[])
    }

    /// The same, with more `settings` as environment variables.
    pub(crate) fn countersign_with(
        placement: Placement,
        dir: &Path,
        nonce_url: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        Self::countersign_from(
            Path::new(env!("CARGO_BIN_EXE_countersign")),
            placement,
            dir,
            nonce_url,
            settings,
        )
    }

    /// The same, with another build `program`.
    pub(crate) fn countersign_from(
        program: &Path,
        placement: Placement,
        dir: &Path,
        nonce_url: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        let [http, grpc, admin] = [(); 3].map(|()| free_address());
        let mut command = in_dir(placement.server(program), dir);
        command
            .arg("serve")
            .env("COUNTERSIGN_SERVER__HTTP_LISTEN", http.to_string())
            .env("COUNTERSIGN_SERVER__GRPC_LISTEN", grpc.to_string())
            .env("COUNTERSIGN_SERVER__ADMIN_LISTEN", admin.to_string())
            .env("COUNTERSIGN_NONCE__URL", nonce_url)
            .envs(settings.iter().copied());
        let started = Self::start(http, command, |_| answers_200(admin, "/readyz"));
        // Tokens from before the start of the nonce store are denied, and the times of tokens are
        // whole seconds.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        thread::sleep(
            Duration::from_secs(1).saturating_sub(Duration::from_nanos(now.subsec_nanos().into())),
        );
        Self { admin, grpc, ..started }
    }

    /// A collector that discards spans and metrics.
    pub(crate) fn collector(placement: Placement) -> Self {
        let address = free_address();
        let mut command = placement.client(env::current_exe().unwrap());
        command.arg(COLLECTOR).arg(address.to_string());
        Self::start(address, command, |address| TcpStream::connect(address).is_ok())
    }

    /// A server that answers every request with `headers`.
    pub(crate) fn null(placement: Placement, headers: &[(String, String)]) -> Self {
        let address = free_address();
        let mut command = placement.server(env::current_exe().unwrap());
        command
            .arg(NULL_SERVER)
            .arg(address.to_string())
            .args(headers.iter().map(|(name, value)| format!("{name}={value}")));
        Self::start(address, command, |address| TcpStream::connect(address).is_ok())
    }

    /// The same, which also verifies an RS256 signature for each request.
    pub(crate) fn null_verifying(placement: Placement, headers: &[(String, String)]) -> Self {
        let address = free_address();
        let mut command = placement.server(env::current_exe().unwrap());
        let headers = headers.iter().map(|(name, value)| format!("{name}={value}"));
        command.arg(NULL_SERVER).arg(address.to_string()).arg(VERIFYING).args(headers);
        Self::start(address, command, |address| TcpStream::connect(address).is_ok())
    }

    /// A server that answers every `Check` with `response`, a `CheckResponse`.
    pub(crate) fn null_check(placement: Placement, response: &[u8]) -> Self {
        let address = free_address();
        let mut command = placement.server(env::current_exe().unwrap());
        command.arg(NULL_CHECK).arg(address.to_string()).arg(BASE64_STANDARD.encode(response));
        Self::start(address, command, |address| TcpStream::connect(address).is_ok())
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.child.id()
    }

    /// The end of its log.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Starts `command`, which listens on `address` and serves as soon as `is_ready`.
    pub(crate) fn start(
        address: SocketAddr,
        command: Command,
        is_ready: impl Fn(SocketAddr) -> bool,
    ) -> Self {
        let mut process = Process::start(command);
        let start = Instant::now();
        while !is_ready(address) {
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("a server ended with {status} instead of serving:\n{}", process.log());
            }
            assert!(start.elapsed() < START_TIMEOUT, "a server is not ready:\n{}", process.log());
            thread::sleep(Duration::from_millis(20));
        }
        Self {
            address,
            admin: address,
            grpc: address,
            cpu: CpuClock::of_process(process.child.id()),
            process,
        }
    }
}

/// Registers `signers` with their keys through the command line, in the database of `dir`.
pub(crate) fn register(dir: &Path, signers: &[Signer]) {
    for signer in signers {
        run(dir, &["principal", "add", signer.username(), "--scope", SCOPES], "");
        run(dir, &["key", "add", signer.username(), "-"], &signer.public_key().to_pem());
    }
}

/// An `Authorization` with an access token for each of `signers`, which must be registered in
/// `dir`.
pub(crate) fn access_tokens(dir: &Path, signers: &[Signer]) -> Vec<String> {
    let issue = |signer: &Signer| {
        let output = run(dir, &["token", "issue", signer.username(), "--output", "json"], "");
        let output: serde_json::Value = serde_json::from_str(&output).unwrap();
        let issued = output.get(0).unwrap_or(&output);
        format!("Bearer {}", issued["access_token"].as_str().expect("there is an access token"))
    };
    signers.iter().map(issue).collect()
}

/// The output of the command line.
fn run(dir: &Path, arguments: &[&str], input: &str) -> String {
    let mut command = in_dir(Command::new(env!("CARGO_BIN_EXE_countersign")), dir);
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{arguments:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// `command` with only the settings in `dir`.
fn in_dir(mut command: Command, dir: &Path) -> Command {
    for (name, _) in
        env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("COUNTERSIGN_"))
    {
        command.env_remove(name);
    }
    command.current_dir(dir).env("COUNTERSIGN_DATABASE__URL", database_url(dir));
    command
}

pub(crate) fn database_url(dir: &Path) -> String {
    format!("sqlite://{}?mode=rwc", dir.join("countersign.db").display())
}

struct Process {
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Process {
    /// Starts `command`, and reads its output through a pipe, as container runtimes and systemd do.
    fn start(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started, is it installed? {error}"));
        let (log, mut written) = (Arc::new(Mutex::new(Vec::new())), child.stderr.take().unwrap());
        let tail = Arc::clone(&log);
        thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            while let Ok(read @ 1..) = written.read(&mut buffer) {
                let mut tail = tail.lock().unwrap();
                tail.extend_from_slice(&buffer[read.saturating_sub(LOG_TAIL_BYTES)..read]);
                let surplus = tail.len().saturating_sub(LOG_TAIL_BYTES);
                tail.drain(..surplus);
            }
        });
        Self { child, log }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_address() -> SocketAddr {
    (0..1000)
        .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS))))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("there is a free port")
}

pub(crate) fn answers_200(server: SocketAddr, path: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(server) else { return false };
    let mut answer = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sent = write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    sent.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
}
