//! The latency that a client sees behind a real nginx and a real Envoy, which ask the service or a
//! server that allows everything; and latency against load without a gateway.
//!
//! The gateways run the files of `examples/` with other addresses, and answer allowed requests
//! themselves: a back end would only hide the cost of the decision. If one is not installed, a note
//! says so.

use std::{
    env, fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use countersign::domain::algorithm::Algorithm;
use tokio::task::yield_now;

use crate::{
    check::Envoy,
    client::Gateway,
    open_loop::{Clients, Curve, Latencies, Schedule},
    server::{Placement, Server, answers_200, free_address, register},
    table::{Bound, Row, Section, Spread},
    tokens::{Signer, sign},
};

const CONNECTIONS: usize = 64;
const PRINCIPALS: usize = 16;
/// Gives the same arrivals in every run.
const SEED: u64 = 0x5eed;
/// Bound for p99, relative to p99 behind a null server.
const P99_BOUND: Bound = Bound::AtMost(1.5);
/// The share of the capacity at which the bound applies.
const LOAD: f64 = 0.5;
/// More requests per second than any server here can answer.
const RATE_MAX: f64 = 30_000.0;
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a graceful stop.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// The head that a client sends to a gateway, before the token.
const CLIENT_HEAD: &str = "GET /orders/1017?page=2 HTTP/1.1\r\n\
    Host: api.example.com\r\n\
    User-Agent: orders-client/1.4\r\n\
    Accept: application/json\r\n\
    Authorization: ";
/// The head that nginx sends to the service.
pub(crate) const QUESTION_HEAD: &str = "GET /validate_request HTTP/1.1\r\n\
    Host: auth.internal\r\n\
    X-Original-Method: GET\r\n\
    X-Original-URI: /orders/1017?page=2\r\n\
    X-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: api.example.com\r\n\
    Authorization: ";

/// The extent of the measurement.
struct Plan {
    /// How long to send as fast as possible, to find the capacity.
    probe: Duration,
    /// The number of turns of each side, and their duration.
    turns: u64,
    turn: Duration,
    /// The points of a curve, as shares of the capacity, and how long to measure each.
    loads: &'static [f64],
    point: Duration,
}

impl Plan {
    const FULL: Self = Self {
        probe: Duration::from_secs(1),
        turns: 5,
        turn: Duration::from_secs(2),
        loads: &[0.1, 0.3, 0.5, 0.7, 0.9],
        point: Duration::from_millis(1200),
    };
    const QUICK: Self = Self {
        probe: Duration::from_millis(300),
        turns: 2,
        turn: Duration::from_millis(600),
        loads: &[0.1, 0.5, 0.9],
        point: Duration::from_millis(300),
    };
}

/// The rows, and the curves of the service and of the null server.
pub(crate) async fn run(is_quick: bool) -> (Section, Vec<Curve>) {
    let plan = if is_quick { Plan::QUICK } else { Plan::FULL };
    let bench = Bench::start().await;
    let mut section = Section::default();
    for kind in [Kind::Nginx, Kind::Envoy] {
        match kind.program() {
            Some(program) => bench.behind(kind, &program, &plan, &mut section).await,
            None => section.notes.push(format!(
                "{} is not installed (`tests/setup` does): nothing was measured behind it.",
                kind.name()
            )),
        }
    }
    let curves = bench.curves(&plan, &mut section).await;
    (section, curves)
}

struct Bench {
    signers: Vec<Signer>,
    countersign: Server,
    null: Server,
    null_grpc: Server,
    _redis: Server,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let placement = Placement { is_pinned: false };
        let name = |number| format!("ed25519-{number:02}@example.com");
        let signers: Vec<Signer> =
            (0..PRINCIPALS).map(|number| Signer::new(name(number), Algorithm::EdDsa)).collect();
        register(dir.path(), &signers);
        let redis = Server::redis(placement, dir.path());
        let countersign =
            Server::countersign(placement, dir.path(), &format!("redis://{}", redis.address));
        let token = sign(&signers, 1, 0);
        let headers =
            Gateway::connect(countersign.address, 1).await.unwrap().headers(&token[0]).await;
        let null = Server::null(placement, &headers);
        let token = sign(&signers, 1, 0);
        let response = Envoy::connect(countersign.grpc).await.unwrap().allow(&token[0]).await;
        let null_grpc = Server::null_check(placement, &response);
        Self { signers, countersign, null, null_grpc, _redis: redis, dir }
    }

    async fn behind(&self, kind: Kind, program: &Path, plan: &Plan, section: &mut Section) {
        let (ours, null) = match kind {
            Kind::Nginx => (self.countersign.address, self.null.address),
            Kind::Envoy => (self.countersign.grpc, self.null_grpc.address),
        };
        let gateways = [("ours", ours), ("null", null)]
            .map(|(name, asked)| kind.start(program, asked, &self.dir.path().join(name)));
        let mut clients = gateways
            .each_ref()
            .map(|gateway| Clients::new(gateway.server.address, CLIENT_HEAD, CONNECTIONS));
        let capacities = self.capacities(&mut clients, plan, section).await;
        let rate = capacities[0] * LOAD;

        let (mut rounds, mut turns) = (Vec::new(), [Vec::new(), Vec::new()]);
        for number in 0..plan.turns {
            let schedule = Schedule::poisson(rate, plan.turn, SEED + number);
            // The null server stores no nonces, so both can use the same tokens.
            let tokens = sign(&self.signers, schedule.count(), 0);
            let mut round = [Latencies::default(), Latencies::default()];
            for side in in_turn(number) {
                round[side] = clients[side].open_loop(&tokens, &schedule);
                yield_now().await;
            }
            let name = kind.name();
            println!(
                "{name}, turn {} of {}: p99 {} behind the service, {} behind the null server",
                number + 1,
                plan.turns,
                milliseconds(round[0].quantile_us(0.99)),
                milliseconds(round[1].quantile_us(0.99))
            );
            rounds.push(QUANTILES.map(|(quantile, ..)| {
                round[0].quantile_us(quantile) / round[1].quantile_us(quantile)
            }));
            for (turns, turn) in turns.iter_mut().zip(round) {
                turns.push(turn);
            }
        }

        let [ours, null] = turns.map(Latencies::of);
        for (place, (quantile, name, bound)) in QUANTILES.into_iter().enumerate() {
            section.rows.push(Row::new(
                format!(
                    "{name} behind {} at {:.0} % load, Ed25519, Redis nonces",
                    kind.name(),
                    LOAD * 100.0
                ),
                milliseconds(ours.quantile_us(quantile)),
                format!("null auth server there, {}", milliseconds(null.quantile_us(quantile))),
                rounds.iter().map(|round| round[place]).collect::<Spread>(),
                bound,
            ));
        }
        section.notes.push(format!(
            "Behind {}: {rate:.0} requests per second arrive independently of each other (Poisson) over {CONNECTIONS} connections, in {} \
             turns of {} s each; latency counts from the intended moment. That is {:.0} % of what goes through with the service \
             ({:.0}/s), and {:.0} % with the null server ({:.0}/s), with clients, gateway, service and Redis all on the same cores. \
             The load generator itself was late by {:.0} µs in the median, {:.0} µs at p99: that is part of both sides.",
            kind.name(),
            plan.turns,
            plan.turn.as_secs_f64(),
            LOAD * 100.0,
            capacities[0],
            rate / capacities[1] * 100.0,
            capacities[1],
            ours.delay_us(0.5),
            ours.delay_us(0.99),
        ));
        section.expect_allows(&format!("behind {}", kind.name()), &[ours, null]);
    }

    /// Latency against load, for the service and the null server at the same rates.
    async fn curves(&self, plan: &Plan, section: &mut Section) -> Vec<Curve> {
        let servers = [self.countersign.address, self.null.address];
        let mut clients = servers.map(|server| Clients::new(server, QUESTION_HEAD, CONNECTIONS));
        let [capacity, _] = self.capacities(&mut clients, plan, section).await;
        let mut curves = ["Countersign", "null server"]
            .map(|label| Curve { label: label.to_owned(), points: Vec::new() });
        for (number, load) in (0..).zip(plan.loads) {
            let rate = capacity * load;
            let schedule = Schedule::poisson(rate, plan.point, SEED + number);
            let tokens = sign(&self.signers, schedule.count(), 0);
            for side in in_turn(number) {
                let seen = clients[side].open_loop(&tokens, &schedule);
                let [p50, p99, p999] = QUANTILES.map(|(quantile, ..)| seen.quantile_us(quantile));
                println!(
                    "{}: {rate:.0}/s, p50 {p50:.0} µs, p99 {p99:.0} µs, p99.9 {p999:.0} µs",
                    curves[side].label
                );
                curves[side].points.push((rate, p50, p99, p999));
                section.expect_allows("over HTTP", &[seen]);
                yield_now().await;
            }
        }
        curves.into()
    }

    /// Maximum answers per second of each side: the better of two turns.
    async fn capacities(
        &self,
        clients: &mut [Clients; 2],
        plan: &Plan,
        section: &mut Section,
    ) -> [f64; 2] {
        let count = (plan.probe.as_secs_f64() * RATE_MAX) as usize;
        let mut capacities = [0.0_f64; 2];
        for number in 0..2 {
            let tokens = sign(&self.signers, count, 0);
            for side in in_turn(number) {
                let seen = clients[side].closed_loop(&tokens, count, plan.probe);
                capacities[side] = capacities[side].max(seen.rate());
                section.expect_allows("as fast as it goes", &[seen]);
                yield_now().await;
            }
        }
        capacities
    }
}

impl Section {
    /// Adds a row that misses its bound, if any request was not allowed.
    pub(crate) fn expect_allows(&mut self, what: &str, seen: &[Latencies]) {
        let unexpected: Vec<u16> = seen.iter().flat_map(|seen| &seen.unexpected).copied().collect();
        if let Some(first) = unexpected.first() {
            let figure = format!("answers other than 200, {what}");
            let count = unexpected.len();
            let times = Spread::from_iter([count as f64]);
            self.rows.push(Row::new(
                figure,
                format!("{count}, the first {first}"),
                "none",
                times,
                Some(Bound::AtMost(0.0)),
            ));
        }
    }
}

/// Quantiles of latency to report, with the bound for each relative to the null server.
const QUANTILES: [(f64, &str, Option<Bound>); 3] =
    [(0.5, "p50", None), (0.99, "p99", Some(P99_BOUND)), (0.999, "p99.9", None)];

/// The sides also take turns in going first.
pub(crate) const fn in_turn(number: u64) -> [usize; 2] {
    if number.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

fn milliseconds(us: f64) -> String {
    format!("{:.2} ms", us / 1000.0)
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Nginx,
    Envoy,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
        }
    }

    fn program(self) -> Option<PathBuf> {
        match self {
            Self::Nginx => program("nginx"),
            Self::Envoy => Some(repository().join("target/peers/envoy/envoy"))
                .filter(|program| program.exists()),
        }
    }

    const fn example(self) -> &'static str {
        match self {
            Self::Nginx => "examples/nginx/nginx.conf",
            Self::Envoy => "examples/envoy/envoy-grpc.yaml",
        }
    }

    /// Starts it with its files in `dir`; it asks the server at `asked`.
    fn start(self, program: &Path, asked: SocketAddr, dir: &Path) -> Parent {
        fs::create_dir_all(dir).unwrap();
        let address = free_address();
        let example = fs::read_to_string(repository().join(self.example())).unwrap();
        let file = dir.join(Path::new(self.example()).file_name().unwrap());
        fs::write(&file, replaced(&example, &self.substitutions(address, asked, dir))).unwrap();
        let mut command = Command::new(program);
        match self {
            Self::Nginx => {
                let global = format!("daemon off; pid {};", dir.join("nginx.pid").display());
                command.arg("-p").arg(dir).arg("-g").arg(global).arg("-c").arg(file)
            }
            Self::Envoy => {
                command.args(["--disable-hot-restart", "--log-level", "warning", "-c"]).arg(file)
            }
        };
        let gateway = Parent::start(address, command);
        let begun = Instant::now();
        // Listening does not mean serving: Envoy listens before it knows its clusters.
        while !answers_200(address, "/healthz") {
            assert!(
                begun.elapsed() < READY_TIMEOUT,
                "{} is not ready:\n{}",
                self.name(),
                gateway.server.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
        gateway
    }

    /// Replaces addresses, paths, and the answer to allowed requests.
    fn substitutions(
        self,
        gateway: SocketAddr,
        asked: SocketAddr,
        dir: &Path,
    ) -> Vec<(&'static str, String)> {
        let endpoint = |address: SocketAddr| {
            format!("address: {}, port_value: {}", address.ip(), address.port())
        };
        match self {
            Self::Nginx => vec![
                ("user www-data;", "user root;".to_owned()),
                ("/var/log/nginx", dir.display().to_string()),
                ("127.0.0.1:8000", gateway.to_string()),
                ("127.0.0.1:8080", asked.to_string()),
                (
                    "auth_request off;\n            proxy_pass http://backend;",
                    "auth_request off;\n            return 200;".to_owned(),
                ),
                // The answer must come after the decision; `return` would run before it.
                ("proxy_pass http://backend;", "empty_gif;".to_owned()),
            ],
            Self::Envoy => vec![
                ("address: 127.0.0.1, port_value: 8000", endpoint(gateway)),
                ("address: 127.0.0.1, port_value: 9191", endpoint(asked)),
                ("route: { cluster: backend }", "direct_response: { status: 200 }".to_owned()),
            ],
        }
    }
}

/// A server with child processes, which it ends on a graceful stop but not when it is killed.
pub(crate) struct Parent {
    pub(crate) server: Server,
}

impl Parent {
    /// Starts `command`, and waits until it listens on `address`.
    pub(crate) fn start(address: SocketAddr, command: Command) -> Self {
        Self {
            server: Server::start(address, command, |address| TcpStream::connect(address).is_ok()),
        }
    }

    /// The processes that it started.
    pub(crate) fn children(&self) -> Vec<u32> {
        let id = self.server.process_id();
        let children =
            fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().map(|child| child.parse().unwrap()).collect()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let asked = Command::new("kill")
            .arg(self.server.process_id().to_string())
            .stderr(Stdio::null())
            .status();
        let begun = Instant::now();
        while asked.as_ref().is_ok_and(std::process::ExitStatus::success)
            && begun.elapsed() < END_TIMEOUT
            && !self.children().is_empty()
        {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A program on this machine. Servers are in sbin, which is not in everyone's `PATH`.
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs =
        env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|program| program.is_file())
}

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Replaces every pattern, in two steps, since a value may look like another pattern.
fn replaced(text: &str, replacements: &[(&str, String)]) -> String {
    let marker = |index: usize| format!("\u{1}{index}\u{1}");
    let mut text = text.to_owned();
    for (index, (pattern, _)) in replacements.iter().enumerate() {
        assert!(text.contains(pattern), "the example has no `{pattern}` any more");
        text = text.replace(pattern, &marker(index));
    }
    for (index, (_, value)) in replacements.iter().enumerate() {
        text = text.replace(&marker(index), value);
    }
    text
}
