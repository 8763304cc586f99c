//! One running `countersign serve`.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ChildStderr, Command, ExitStatus};
use std::time::Duration;

use super::deployment::{Deployment, LISTENERS, variable};
use super::http::{Answer, Request};
use super::process::{Process, Signal, Usage};
use super::{ExtAuthz, SetClock, Verification, eventually, free_port, now};

#[derive(Debug)]
pub struct Countersign {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
    process: Process,
}

impl Countersign {
    pub fn start(deployment: &Deployment) -> Self {
        Self::start_at(deployment, SocketAddr::from(([127, 0, 0, 1], free_port())))
    }

    /// Starts it with its HTTP listener at `http`.
    pub fn start_at(deployment: &Deployment, http: SocketAddr) -> Self {
        let [grpc, admin] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let started =
            Self::spawn(deployment, deployment.command(&["serve"]), [http, grpc, admin], true);
        pass_the_fence();
        started
    }

    /// Waits until it answers; it may never be ready.
    pub fn start_unready(deployment: &Deployment) -> Self {
        let listeners = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        Self::spawn(deployment, deployment.command(&["serve"]), listeners, false)
    }

    /// Starts it with a limit of open files.
    pub fn start_with_files(deployment: &Deployment, files: u32) -> Self {
        let listeners = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let served = deployment.command(&["serve"]);
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--nofile={files}:{files}"))
            .arg(served.get_program())
            .args(served.get_args())
            .env_clear();
        command
            .envs(served.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(deployment.dir.path());
        let started = Self::spawn(deployment, command, listeners, true);
        pass_the_fence();
        started
    }

    /// Starts it with its own clock. Waits until it answers; it may never be ready.
    pub fn start_by(deployment: &Deployment, clock: &SetClock) -> Self {
        let [http, grpc, admin] = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let mut command = deployment.command(&["serve"]);
        clock.governs(&mut command);
        Self::spawn(deployment, command, [http, grpc, admin], false)
    }

    /// Ends it with `signal`, starts it again with the same listeners, and waits until it is ready.
    pub fn restart(&mut self, deployment: &Deployment, signal: Signal) {
        self.process.signal(signal);
        self.process.exited_within(Duration::from_secs(15));
        self.start_again(deployment);
    }

    /// Starts it again with the same listeners, after it has ended.
    pub fn start_again(&mut self, deployment: &Deployment) {
        *self = Self::spawn(
            deployment,
            deployment.command(&["serve"]),
            [self.http, self.grpc, self.admin],
            true,
        );
    }

    /// Ends it like a crash would, and starts another in its place, with the same listeners and the
    /// settings of `deployment`.
    pub fn replace(&mut self, deployment: &Deployment) {
        self.restart(deployment, Signal::Kill);
    }

    /// Starts it with standard error in a pipe. Returns the other end, which nobody reads yet.
    pub fn start_unread(deployment: &Deployment) -> (Self, ChildStderr) {
        let listeners = [(); 3].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let mut command = deployment.command(&["serve"]);
        listening(deployment, &mut command, listeners);
        let (process, unread) =
            Process::spawn_unread("countersign", &mut command, deployment.dir.path(), Signal::Kill);
        let started = Self::wait_for(deployment, process, listeners, true);
        pass_the_fence();
        (started, unread)
    }

    /// Runs `command` with these listeners, and waits until it is alive or ready.
    fn spawn(
        deployment: &Deployment,
        mut command: Command,
        listeners: [SocketAddr; 3],
        until_ready: bool,
    ) -> Self {
        listening(deployment, &mut command, listeners);
        let process =
            Process::spawn("countersign", &mut command, deployment.dir.path(), Signal::Kill);
        Self::wait_for(deployment, process, listeners, until_ready)
    }

    fn wait_for(
        deployment: &Deployment,
        mut process: Process,
        listeners: [SocketAddr; 3],
        until_ready: bool,
    ) -> Self {
        let [http, grpc, admin] = listeners;
        let [alive_at, asked_at, ready_at] = places(deployment, listeners);
        let prefix = deployment.setting("server.url_prefix").unwrap_or_default();
        // With TLS, nothing answers in plain text.
        let is_plain = deployment.setting("server.tls.cert").is_none();
        let until_ready = until_ready && deployment.setting("admin.tls.cert").is_none();
        process.wait_until(|| {
            let alive = !is_plain || answers_200(&alive_at, &format!("{prefix}/livez"));
            let ready =
                alive && (!until_ready || answers_200(&ready_at, &format!("{prefix}/readyz")));
            (ready && asked_at.connect().is_ok()).then_some(())
        });
        Self { http, grpc, admin, process }
    }

    /// Asks the HTTP door as nginx does, about `GET /` of `gateway.test`.
    pub async fn decide(&self, authorization: &str) -> Answer {
        decision_request().authorization(authorization).send(self.http).await
    }

    pub fn ext_authz(&self) -> ExtAuthz {
        ExtAuthz::connect(self.grpc)
    }

    pub fn verification(&self) -> Verification {
        Verification::connect(self.grpc)
    }

    /// The whole log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The resources that it uses now.
    pub fn usage(&self) -> Usage {
        self.process.usage()
    }

    /// The command line as other users of the machine see it.
    pub fn command_line(&self) -> String {
        self.process.command_line()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub fn exited_within(&mut self, deadline: Duration) -> ExitStatus {
        self.process.exited_within(deadline)
    }
}

/// Sets the listeners of `command`, except those that have a Unix socket in `deployment`.
fn listening(deployment: &Deployment, command: &mut Command, listeners: [SocketAddr; 3]) {
    for (listener, place) in LISTENERS.into_iter().zip(places(deployment, listeners)) {
        if let Place::Tcp(address) = place {
            command.env(variable(listener), address.to_string());
        }
    }
}

/// The address of a listener.
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

trait Duplex: std::io::Read + std::io::Write {}

impl<S: std::io::Read + std::io::Write> Duplex for S {}

impl Place {
    fn connect(&self) -> std::io::Result<Box<dyn Duplex>> {
        const PATIENCE: Option<Duration> = Some(Duration::from_secs(5));
        Ok(match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(PATIENCE)?;
                Box::new(stream)
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(PATIENCE)?;
                Box::new(stream)
            }
        })
    }
}

fn places(deployment: &Deployment, listeners: [SocketAddr; 3]) -> [Place; 3] {
    let set = LISTENERS
        .map(|listener| deployment.setting(listener).and_then(|set| set.strip_prefix("unix:")));
    let mut addresses = listeners.into_iter();
    set.map(|path| {
        let address = addresses.next().unwrap();
        path.map_or(Place::Tcp(address), |path| Place::Unix(path.into()))
    })
}

/// A nonce store that starts empty denies tokens signed before its start, and times of tokens are
/// whole seconds: honest tokens pass from the next second on.
pub fn pass_the_fence() {
    let began = now();
    eventually("the second does not end", Duration::from_secs(5), || (now() > began).then_some(()));
}

/// The request that nginx sends for `GET /` of `gateway.test`, without credentials.
pub fn decision_request() -> Request {
    Request::get("/validate_request")
        .header("X-Original-Method", "GET")
        .header("X-Original-URI", "/")
        .header("X-Forwarded-Proto", "http")
        .header("X-Forwarded-Host", "gateway.test")
}

fn answers_200(server: &Place, path: &str) -> bool {
    let Ok(mut stream) = server.connect() else { return false };
    let mut answer = String::new();
    let sent =
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    sent.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
}
