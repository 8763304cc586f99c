//! Listeners on Unix sockets: our own, and those from systemd.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::net::UnixStream;

use crate::gateways::every::{Scene, assert_challenge};
use crate::harness::http::{Connection, Request};
use crate::harness::{
    ADMIN_TOKEN, Claims, Deployment, ExtAuthz, Gateway, Http2, Key, LISTENERS, Process, Ran, Redis,
    Seen, Signal, Sluice, check_request, decision_request, eventually, eventually_async, free_port,
    pass_the_fence, program, variable,
};

const EXIT_WITHIN: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_mins(1);

#[tokio::test]
async fn every_listener_serves_on_one() {
    let sockets = Sockets::new();
    let mut countersign = sockets.deployment.serve();

    sockets.decide_at_both_doors().await;
    let over_http2 = Http2::open_unix(&sockets.http()).await;
    let question = hyper::Request::get("http://localhost/validate_request")
        .header("Authorization", sockets.token());
    assert_eq!(over_http2.send(question.body("").unwrap()).await.status(), 200);
    for path in ["/readyz", "/metrics"] {
        assert_eq!(Request::get(path).send_to(&sockets.admin()).await.status, 200, "{path}");
    }
    let modes = [sockets.http(), sockets.grpc(), sockets.admin()].map(|path| {
        let metadata = path.metadata().unwrap();
        assert!(metadata.file_type().is_socket());
        metadata.permissions().mode() & 0o777
    });
    assert_eq!(modes, [0o660, 0o660, 0o600]);
    let log = countersign.log();
    assert!(log.contains(&format!("\"http\":\"unix:{}\"", sockets.http().display())), "{log}");

    countersign.signal(Signal::Term);
    assert_eq!(countersign.exited_within(EXIT_WITHIN).code(), Some(0));
    assert_eq!(sockets.files(), Vec::<PathBuf>::new(), "they are left behind");
}

#[tokio::test]
async fn the_settings_say_who_may_connect() {
    let sockets = Sockets::with(|deployment| {
        deployment.set("server.socket_mode", "0666").set("admin.socket_mode", "0640")
    });
    let _countersign = sockets.deployment.serve();
    let modes = [sockets.http(), sockets.grpc(), sockets.admin()]
        .map(|path| path.metadata().unwrap().permissions().mode() & 0o777);
    assert_eq!(modes, [0o666, 0o666, 0o640]);
}

/// After a crash the files remain, and nobody listens on them. While a service listens, a second
/// one does not start.
#[tokio::test]
async fn what_a_crash_left_is_replaced_and_what_is_in_use_is_not() {
    let sockets = Sockets::new();
    let mut countersign = sockets.deployment.serve();

    let second = sockets.deployment.run(&["serve"]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains("server.http_listen"), "{second:?}");
    sockets.decide_at_both_doors().await;

    countersign.signal(Signal::Kill);
    countersign.exited_within(EXIT_WITHIN);
    assert!(sockets.http().exists(), "as after a crash");
    countersign.start_again(&sockets.deployment);
    pass_the_fence();
    sockets.decide_at_both_doors().await;

    countersign.signal(Signal::Term);
    countersign.exited_within(EXIT_WITHIN);
    std::fs::write(sockets.http(), "precious").unwrap();
    let refused = sockets.deployment.run(&["serve"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("no socket"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(sockets.http()).unwrap(), "precious");
}

/// Decisions that wait for their nonces when the signal arrives are answered, at each door.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_in_flight_are_finished() {
    let redis = Redis::start();
    let sluice = Sluice::before(redis.address).await;
    let sockets = Sockets::with(|deployment| {
        deployment.nonces_at(sluice.address()).set("server.drain", "0s")
    });
    let mut countersign = sockets.deployment.serve();
    let mut over_http = Connection::open_unix(&sockets.http()).await.unwrap();
    let mut over_grpc = ExtAuthz::connect_to(&sockets.grpc());
    // Both have served before.
    assert_eq!(
        over_http.send(&decision_request().authorization(&sockets.token())).await.unwrap().status,
        200
    );
    over_grpc.check(check_request(&sockets.token())).await.ok();
    let idle = UnixStream::connect(sockets.http()).await.unwrap();

    sluice.shut();
    let (question, request) =
        (decision_request().authorization(&sockets.token()), check_request(&sockets.token()));
    let http = tokio::spawn(async move { over_http.send(&question).await });
    let grpc = tokio::spawn(async move { over_grpc.check(request).await });
    sluice.holds(2).await;
    countersign.signal(Signal::Term);
    for socket in [sockets.http(), sockets.grpc()] {
        eventually_async("nobody finds it", EXIT_WITHIN, async || {
            UnixStream::connect(&socket).await.err()
        })
        .await;
    }
    sluice.open();

    assert_eq!(http.await.unwrap().unwrap().status, 200);
    grpc.await.unwrap().ok();
    assert_eq!(countersign.exited_within(EXIT_WITHIN).code(), Some(0));
    drop(idle);
}

/// All connections look alike, except for the user of the process at the other end.
#[tokio::test]
async fn a_peer_is_the_user_of_its_process() {
    let sockets = Sockets::with(|deployment| {
        deployment.set("admin.token", ADMIN_TOKEN).set("admin.failures_per_peer", "3")
    });
    let countersign = sockets.deployment.serve();
    let user = sockets.dir.path().metadata().unwrap().uid();
    let send = async |request: Request, token: &str| {
        let request = request
            .header("Content-Type", "application/json")
            .authorization(&format!("Bearer {token}"));
        request.send_to(&sockets.admin()).await
    };

    let added = send(
        Request::new("POST", "/admin/v1/principals").body("{\"username\": \"bob\"}"),
        ADMIN_TOKEN,
    )
    .await;
    assert_eq!(added.status, 201, "{added:?}");
    let audit = send(Request::get("/admin/v1/audit"), ADMIN_TOKEN).await;
    assert!(audit.text().contains(&format!("\"admin-api@uid:{user}\"")), "{audit:?}");

    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(
            send(Request::get("/admin/v1/principals"), "a wrong token, long enough").await.status,
        );
    }
    assert_eq!(answers, [401, 401, 401, 429]);
    let told = eventually("the log has the line", Duration::from_secs(10), || {
        let log = countersign.log();
        log.lines()
            .find(|line| line.contains("a wrong admin token was presented"))
            .map(str::to_owned)
    });
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["peer"], format!("uid:{user}"), "{told}");
    assert_eq!(told["process"], std::process::id(), "{told}");
}

#[test]
fn top_asks_there() {
    let sockets = Sockets::new();
    let _countersign = sockets.deployment.serve();
    let there = format!("unix:{}", sockets.admin().display());

    for ran in [
        sockets.deployment.run(&["top", "--interval", "100ms"]),
        Deployment::bare().run(&["top", "--interval", "100ms", "--url", &there]),
    ] {
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stdout.contains(&format!("{there} up\n")), "{ran:?}");
    }
}

#[test]
fn the_demo_serves_there() {
    let sockets = Sockets::on(Deployment::bare().set("issuer.algorithm", "ES256"));
    let demo = Process::spawn(
        "demo",
        &mut sockets.deployment.command(&["demo"]),
        sockets.deployment.dir.path(),
        Signal::Term,
    );

    let shown = eventually("it serves", START, || {
        Some(demo.log()).filter(|shown| shown.contains("Stop with Ctrl-C"))
    });

    for (door, answer) in [("HTTP", "200 OK"), ("gRPC", "0 Ok")] {
        let line = shown.lines().find(|line| line.trim_start().starts_with(door)).unwrap();
        assert!(line.contains(answer), "{shown}");
    }
    let command = shown.lines().find_map(|line| line.trim_start().strip_prefix("curl ")).unwrap();
    assert!(
        command.contains(&format!(
            "--unix-socket {} http://localhost/validate_request",
            sockets.http().display()
        )),
        "{shown}"
    );
    let ran = Ran::of(Command::new(program("bash")).args(["-c", &format!("curl {command}")]));
    assert!(ran.stdout.starts_with("HTTP/1.1 200 OK"), "{ran:?}");
}

/// With the gateway's example and its line for a Unix socket enabled. The service may stop and
/// start again.
async fn decides_for(gateway: Gateway) {
    let dir = tempfile::tempdir().unwrap();
    let [http, grpc] = ["http.sock", "grpc.sock"].map(|name| dir.path().join(name));
    let listens = |path: &Path| format!("unix:{}", path.display());
    let deployment = Deployment::new()
        .set("server.http_listen", &listens(&http))
        .set("server.grpc_listen", &listens(&grpc));
    let (address, socket) =
        gateway.on_the_same_host(if gateway == Gateway::EnvoyGrpc { &grpc } else { &http });
    let mut scene = Scene::on(deployment, gateway, Key::ed25519(), &[(&address, &socket)]).await;

    for _ in 0..2 {
        let request = Request::get("/").authorization(&scene.authorization());
        let seen = eventually_async("it decides", START, async || {
            let answer = scene.gateway.send(&request).await;
            (answer.status != 503).then_some(answer)
        });
        assert_eq!(Seen::by(&seen.await).values("x-auth-username"), ["alice"]);
        assert_challenge(&scene.gateway.send(&request).await, "replayed");
        assert_challenge(&scene.gateway.send(&Request::get("/")).await, "missing_credentials");

        scene.countersign.signal(Signal::Term);
        scene.countersign.exited_within(EXIT_WITHIN);
        let refused = scene.send(Request::get("/")).await;
        assert_eq!(
            (refused.status, refused.header("x-auth-error")),
            (503, Some("unavailable")),
            "{refused:?}"
        );
        scene.countersign.start_again(&scene.deployment);
        pass_the_fence();
    }
}

#[tokio::test]
async fn nginx_asks_there() {
    decides_for(Gateway::Nginx).await;
}

#[tokio::test]
async fn the_newest_nginx_asks_there() {
    decides_for(Gateway::NginxMainline).await;
}

#[tokio::test]
async fn envoy_asks_there_over_grpc() {
    decides_for(Gateway::EnvoyGrpc).await;
}

#[tokio::test]
async fn envoy_asks_there_over_http() {
    decides_for(Gateway::EnvoyHttp).await;
}

#[tokio::test]
async fn haproxy_asks_there() {
    decides_for(Gateway::Haproxy).await;
}

/// As systemd starts it; sockets are matched by name, in any order, whatever the settings say.
#[tokio::test]
async fn systemd_hands_over_all_three() {
    let sockets = Sockets::unused();
    let deployment = &sockets.deployment;
    let admin = format!("127.0.0.1:{}", free_port());
    let served = deployment.command(&["serve"]);
    let mut command = Command::new(program("systemd-socket-activate"));
    command.args(["--listen", &admin]);
    for socket in [sockets.grpc(), sockets.http()] {
        command.arg("--listen").arg(socket);
    }
    command.arg("--fdname=admin:grpc:http").current_dir(deployment.dir.path()).env_clear();
    for (name, value) in served.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        command.arg("--setenv").arg(name).env(name, value);
    }
    command.arg(served.get_program()).args(served.get_args());
    let process = Process::spawn("countersign", &mut command, deployment.dir.path(), Signal::Kill);

    // The first connection starts the service, and waits for it.
    let mut first = eventually_async("it listens", START, async || {
        Connection::open_unix(&sockets.http()).await.ok()
    })
    .await;
    assert_eq!(first.send(&Request::get("/livez")).await.unwrap().status, 200);
    pass_the_fence();
    sockets.decide_at_both_doors().await;
    assert_eq!(Request::get("/readyz").send(admin.parse().unwrap()).await.status, 200);
    assert_ne!(
        sockets.http().metadata().unwrap().permissions().mode() & 0o777,
        0o660,
        "the modes are systemd's"
    );
    let log = process.log();
    assert!(log.contains(&format!("\"admin\":\"{admin}\"")), "{log}");
}

/// A client that connects while no service runs waits, and is answered by the next one: nothing is
/// refused in between.
#[tokio::test]
async fn a_socket_of_systemd_outlives_the_service() {
    let sockets = Sockets::unused();
    let handed_over = UnixListener::bind(sockets.http()).unwrap();
    let mut before = sockets.start_with(&[("http", inheritable(&handed_over))]);
    pass_the_fence();
    assert_eq!(
        decision_request().authorization(&sockets.token()).send_to(&sockets.http()).await.status,
        200
    );

    before.signal(Signal::Term);
    assert_eq!(before.exited_within(EXIT_WITHIN).code(), Some(0));
    assert!(sockets.http().exists());
    let path = sockets.http();
    let waiting = tokio::spawn(async move { Request::get("/livez").send_to(&path).await });
    let _after = sockets.start_with(&[("http", inheritable(&handed_over))]);

    assert_eq!(waiting.await.unwrap().status, 200);
    pass_the_fence();
    assert_eq!(
        decision_request().authorization(&sockets.token()).send_to(&sockets.http()).await.status,
        200
    );
}

/// The filter that closes our own TCP listener would stay on one of systemd's.
#[tokio::test]
async fn a_port_of_systemd_outlives_the_service() {
    let sockets = Sockets::unused();
    let handed_over = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = handed_over.local_addr().unwrap();
    for _ in 0..2 {
        let mut service = sockets.start_with(&[("http", inheritable(&handed_over))]);
        assert_eq!(Request::get("/livez").send(address).await.status, 200);
        service.signal(Signal::Term);
        assert_eq!(service.exited_within(EXIT_WITHIN).code(), Some(0));
    }
}

#[test]
fn what_is_handed_over_for_nothing_stops_the_start() {
    let sockets = Sockets::unused();
    let handed_over = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = inheritable(&handed_over);
    for (named, expected) in [
        (vec![("countersign.socket", fd)], "FileDescriptorName="),
        (vec![("http", fd), ("http", fd)], "called `http`"),
    ] {
        let ran = Ran::of(&mut sockets.handing_over(&named));
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains(expected), "{ran:?}");
    }
}

/// A descriptor that child processes inherit.
fn inheritable(socket: &impl AsFd) -> i32 {
    socket2::SockRef::from(socket).set_cloexec(false).unwrap();
    socket.as_fd().as_raw_fd()
}

/// A deployment whose listeners have Unix sockets in a folder of their own, and alice with a key.
struct Sockets {
    deployment: Deployment,
    dir: tempfile::TempDir,
    key: Key,
}

impl Sockets {
    fn new() -> Self {
        Self::with(|deployment| deployment)
    }

    fn with(set: impl FnOnce(Deployment) -> Deployment) -> Self {
        let sockets = Self::on(set(Deployment::new()));
        sockets.deployment.enrol("alice", &sockets.key);
        sockets
    }

    /// Without alice.
    fn on(deployment: Deployment) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = |name: &str| format!("unix:{}", dir.path().join(name).display());
        let deployment = LISTENERS
            .into_iter()
            .zip(NAMES)
            .fold(deployment, |all, (key, name)| all.set(key, &socket(name)));
        Self { deployment, dir, key: Key::ed25519() }
    }

    /// The settings do not mention the sockets.
    fn unused() -> Self {
        let sockets = Self {
            deployment: Deployment::new(),
            dir: tempfile::tempdir().unwrap(),
            key: Key::ed25519(),
        };
        sockets.deployment.enrol("alice", &sockets.key);
        sockets
    }

    fn http(&self) -> PathBuf {
        self.dir.path().join(NAMES[0])
    }

    fn grpc(&self) -> PathBuf {
        self.dir.path().join(NAMES[1])
    }

    fn admin(&self) -> PathBuf {
        self.dir.path().join(NAMES[2])
    }

    fn files(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn token(&self) -> String {
        Claims::of("alice").authorization(&self.key)
    }

    async fn decide_at_both_doors(&self) {
        let allowed = decision_request().authorization(&self.token()).send_to(&self.http()).await;
        assert_eq!(
            (allowed.status, allowed.header("x-auth-username")),
            (200, Some("alice")),
            "{allowed:?}"
        );
        let mut over_grpc = ExtAuthz::connect_to(&self.grpc());
        over_grpc.check(check_request(&self.token())).await.ok();
        over_grpc.check(check_request("JWT nonsense")).await.denied();
    }

    /// Runs the service with these descriptors, as systemd passes them. It binds the other
    /// listeners on any port.
    fn handing_over(&self, named: &[(&str, i32)]) -> Command {
        let served = self.deployment.command(&["serve"]);
        // First moved away from the numbers that they will get.
        let moved =
            named.iter().zip(20..).map(|((_, fd), number)| format!("exec {number}<&{fd}; "));
        let placed = (3..)
            .zip(20..)
            .take(named.len())
            .map(|(place, number)| format!("exec {place}<&{number} {number}<&-; "));
        let redirections = moved.chain(placed).collect::<Vec<_>>().concat();
        let known_as: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
        let mut command = Command::new(program("bash"));
        let script = format!("{redirections}export LISTEN_PID=$$; exec \"$0\" \"$@\"");
        command
            .arg("-c")
            .arg(script)
            .arg(served.get_program())
            .args(served.get_args())
            .current_dir(self.deployment.dir.path());
        command.envs(served.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
            .env("LISTEN_FDS", named.len().to_string())
            .env("LISTEN_FDNAMES", known_as.join(":"));
        for listener in LISTENERS {
            command.env(variable(listener), "127.0.0.1:0");
        }
        command
    }

    fn start_with(&self, named: &[(&str, i32)]) -> Process {
        let dir = self.deployment.dir.path();
        let process =
            Process::spawn("countersign", &mut self.handing_over(named), dir, Signal::Kill);
        eventually("it serves", START, || process.log().contains("\"serving\"").then_some(()));
        process
    }
}

const NAMES: [&str; 3] = ["http.sock", "grpc.sock", "admin.sock"];
