//! The Python systems that the service replaces, compared with it on the same machine, in turns:
//! CPU time per request of the processes that answer. Both are unchanged from `PyPI`, as
//! `tests/setup` installs them; if they are not installed, a note says so.

use std::{fs, path::Path, process::Command, time::Duration};

use countersign::domain::algorithm::Algorithm;
use serde_json::{Value, json};
use tokio::task::yield_now;

use crate::{
    gateways::{Parent, QUESTION_HEAD, in_turn, repository},
    machine::CpuClock,
    open_loop::Clients,
    server::{Placement, Server, access_tokens, register},
    table::{Bound, Row, Section, Spread},
    tokens::{Signer, sign},
};

/// Each on one core, which it keeps busy.
const PLACEMENT: Placement = Placement { is_pinned: true };
const CONNECTIONS: usize = 64;
const PRINCIPALS: usize = 16;
/// Minimum ratio of their CPU time to ours.
const JWTHENTICATOR_BOUND: Bound = Bound::AtLeast(6.5);
const ASYMMETRIC_BOUND: Bound = Bound::AtLeast(75.0);
/// Requests per turn: ours take about a tenth of a second, theirs up to two.
const OUR_TOKENS: usize = 2_000;
const BEARERS: usize = 8_000;
const JWTHENTICATOR_REQUESTS: usize = 2_500;
const ASYMMETRIC_REQUESTS: usize = 400;
/// `asymmetric_jwt_auth` stores the nonces of a user and second in one set, which it reads and
/// writes with every request. So the tokens are spread over as many seconds as clients would need
/// to send them.
const ASYMMETRIC_REQUESTS_PER_SECOND: usize = 200;
const TURN_AT_MOST: Duration = Duration::from_secs(2);
const WARM_UP: usize = 2 * CONNECTIONS;

/// Both comparisons.
pub(crate) async fn run(is_quick: bool) -> Section {
    let turns = if is_quick { 2 } else { 6 };
    let bench = Bench::start();
    let mut section = Section::default();
    bench.jwthenticator(turns, &mut section).await;
    bench.asymmetric_jwt_auth(turns, &mut section).await;
    if !section.rows.is_empty() {
        section.notes.push(format!(
            "Peers: CPU time of the answering process for each request, over {CONNECTIONS} connections as fast as they go, each \
             server on a core of its own, in {turns} turns that alternate; so many times the CPU is as many times fewer requests on a core. The CPU of Redis, \
             which ours and asymmetric_jwt_auth both ask, is left out on both sides."
        ));
    }
    section
}

/// The service, which both are compared with.
struct Bench {
    rs256: Vec<Signer>,
    rs512: Vec<Signer>,
    countersign: Server,
    redis: Server,
    dir: tempfile::TempDir,
}

impl Bench {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let make = |kind: &str, algorithm| -> Vec<Signer> {
            (0..PRINCIPALS)
                .map(|number| Signer::new(format!("{kind}-{number:02}@example.com"), algorithm))
                .collect()
        };
        let (rs256, rs512) = (make("rs256", Algorithm::Rs256), make("rs512", Algorithm::Rs512));
        register(dir.path(), &rs256);
        register(dir.path(), &rs512);
        let redis = Server::redis(PLACEMENT, dir.path());
        let countersign =
            Server::countersign(PLACEMENT, dir.path(), &format!("redis://{}", redis.address));
        Self { rs256, rs512, countersign, redis, dir }
    }

    fn our_clients(&self) -> Subject {
        let clients = Clients::new(self.countersign.address, QUESTION_HEAD, CONNECTIONS);
        Subject { clients, clocks: vec![CpuClock::of_process(self.countersign.process_id())] }
    }

    /// Its `/validate_request` with an access token, compared with ours with a self-signed token,
    /// and with an access token.
    async fn jwthenticator(&self, turns: u64, section: &mut Section) {
        let Some(python) = installed("jwthenticator/bin/python", section) else { return };
        let dir = self.dir.path().join("jwthenticator");
        fs::create_dir(&dir).unwrap();
        let server = start_jwthenticator(&python, &dir);
        let their_token = [jwthenticator_token(&server).await];
        let our_tokens = access_tokens(self.dir.path(), &self.rs256);
        let clients = Clients::new(server.address, QUESTION_HEAD, CONNECTIONS);
        let mut theirs =
            Subject { clients, clocks: vec![CpuClock::of_process(server.process_id())] };
        let mut ours = self.our_clients();
        theirs.clients.closed_loop(&their_token, WARM_UP, TURN_AT_MOST);
        ours.clients.closed_loop(&our_tokens, WARM_UP, TURN_AT_MOST);
        ours.clients.closed_loop(&sign(&self.rs256, WARM_UP, 0), WARM_UP, TURN_AT_MOST);

        let mut figures = Vec::new();
        for number in 0..turns {
            let tokens = sign(&self.rs256, OUR_TOKENS, 0);
            let mut figure = [0.0; 3];
            PLACEMENT.withdraw(true);
            for side in in_turn(number) {
                if side == 0 {
                    figure[0] = ours.cpu_us(&tokens, OUR_TOKENS, section);
                    figure[1] = ours.cpu_us(&our_tokens, BEARERS, section);
                } else {
                    figure[2] = theirs.cpu_us(&their_token, JWTHENTICATOR_REQUESTS, section);
                }
                yield_now().await;
            }
            PLACEMENT.withdraw(false);
            let [self_signed, bearer, jwthenticator] = figure;
            println!(
                "jwthenticator {jwthenticator:.0} µs; ours, self-signed {self_signed:.1}, access token {bearer:.1}"
            );
            figures.push(figure);
        }
        let name = "jwthenticator 1.6.3 `/validate_request`, access token, RS256";
        for (place, figure) in ["self-signed token, RS256, Redis nonces", "access token, RS256"]
            .into_iter()
            .enumerate()
        {
            let pairs = figures.iter().map(|figure| [figure[place], figure[2]]).collect::<Vec<_>>();
            section.rows.push(faster(figure, name, &pairs, JWTHENTICATOR_BOUND));
        }
    }

    /// A Django site with its middleware, compared with ours with the same tokens.
    async fn asymmetric_jwt_auth(&self, turns: u64, section: &mut Section) {
        let Some(gunicorn) = installed("asymmetric_jwt_auth/bin/gunicorn", section) else { return };
        let site = self.django_site(&gunicorn);
        let mut clients = Clients::new(site.server.address, QUESTION_HEAD, CONNECTIONS);
        let mut ours = self.our_clients();
        let tokens = sign(&self.rs512, WARM_UP, 0);
        // Its only worker accepts requests once it has loaded Django.
        clients.closed_loop(&tokens, WARM_UP, 2 * TURN_AT_MOST);
        ours.clients.closed_loop(&tokens, WARM_UP, TURN_AT_MOST);
        let clocks = site.children().into_iter().map(CpuClock::of_process).collect();
        let mut theirs = Subject { clients, clocks };

        let mut pairs = Vec::new();
        for number in 0..turns {
            let of_a_second = |second| sign(&self.rs512, ASYMMETRIC_REQUESTS_PER_SECOND, second);
            let tokens: Vec<String> = (0..).flat_map(of_a_second).take(OUR_TOKENS).collect();
            let mut pair = [0.0; 2];
            PLACEMENT.withdraw(true);
            for side in in_turn(number) {
                // They do not share nonces, so both can use the same tokens.
                pair[side] = if side == 0 {
                    ours.cpu_us(&tokens, OUR_TOKENS, section)
                } else {
                    theirs.cpu_us(&tokens, ASYMMETRIC_REQUESTS, section)
                };
                yield_now().await;
            }
            PLACEMENT.withdraw(false);
            println!("asymmetric_jwt_auth {:.0} µs; ours {:.1}", pair[1], pair[0]);
            pairs.push(pair);
        }
        let name =
            "asymmetric_jwt_auth 1.3.0, Django, gunicorn, RS512, nonces in Django's Redis cache";
        section.rows.push(faster(
            "self-signed token, RS512, Redis nonces",
            name,
            &pairs,
            ASYMMETRIC_BOUND,
        ));
        section.notes.push(format!(
            "asymmetric_jwt_auth: Django as it comes, with SQLite, behind one worker of gunicorn of the usual kind (`sync`, which takes \
             a new connection for each request); tokens of {PRINCIPALS} users, {ASYMMETRIC_REQUESTS_PER_SECOND} for each second, since \
             the nonces of one user and second are one value in its cache."
        ));
    }

    fn django_site(&self, gunicorn: &Path) -> Parent {
        let dir = self.dir.path().join("django");
        fs::create_dir(&dir).unwrap();
        let scripts = repository().join("benches/load/peers");
        let command = |program: &Path| {
            let mut command = python_command(program, &dir);
            command.env("REDIS_URL", format!("redis://{}", self.redis.address));
            command
        };
        let mut prepare = command(&gunicorn.with_file_name("python"));
        prepare.arg(scripts.join("asymmetric_site.py"));
        for signer in &self.rs512 {
            fs::write(dir.join(signer.username()), signer.public_key().to_pem()).unwrap();
            prepare.arg(signer.username());
        }
        let output = prepare.output().unwrap();
        assert!(
            output.status.success(),
            "asymmetric_site.py: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let address = crate::server::free_address();
        let mut serve = command(gunicorn);
        serve.args([
            "--workers",
            "1",
            "--no-control-socket",
            "--bind",
            &address.to_string(),
            "--pythonpath",
        ]);
        serve.arg(scripts).arg("asymmetric_site:application");
        Parent::start(address, serve)
    }
}

/// A system to measure, and the clocks of the processes that answer.
struct Subject {
    clients: Clients,
    clocks: Vec<CpuClock>,
}

impl Subject {
    /// CPU time for each of up to `count` requests, in microseconds.
    fn cpu_us(&mut self, authorizations: &[String], count: usize, section: &mut Section) -> f64 {
        let before: Vec<_> = self.clocks.iter().map(CpuClock::now).collect();
        let seen = self.clients.closed_loop(authorizations, count, TURN_AT_MOST);
        let micros: f64 =
            self.clocks.iter().zip(&before).map(|(clock, before)| clock.micros_since(before)).sum();
        let answers = seen.count() as f64;
        section.expect_allows("beside the peers", &[seen]);
        micros / answers
    }
}

/// Each pair holds our figure and theirs.
fn faster(ours: &str, theirs: &str, pairs: &[[f64; 2]], bound: Bound) -> Row {
    let of = |side: usize| pairs.iter().map(|pair| pair[side]).collect::<Spread>().median();
    let times = pairs.iter().map(|[ours, theirs]| theirs / ours).collect();
    let theirs = format!("{theirs}, {:.0} µs CPU", of(1));
    Row::new(
        format!("faster than a peer: {ours}"),
        format!("{:.1} µs CPU", of(0)),
        theirs,
        times,
        Some(bound),
    )
}

/// A program under `target/peers`; adds a note if it is missing.
fn installed(program: &str, section: &mut Section) -> Option<std::path::PathBuf> {
    let path = repository().join("target/peers").join(program);
    if !path.exists() {
        section.notes.push(format!("target/peers/{program} is not there (`tests/setup` installs it): no comparison with it."));
        return None;
    }
    Some(path)
}

/// Runs `program` in `dir`, without settings from the environment.
fn python_command(program: &Path, dir: &Path) -> Command {
    let mut command = PLACEMENT.server(program);
    command.env_clear().env("PYTHONDONTWRITEBYTECODE", "1").current_dir(dir);
    command
}

fn start_jwthenticator(python: &Path, dir: &Path) -> Server {
    let address = crate::server::free_address();
    let mut command = python_command(python, dir);
    command
        .arg(repository().join("benches/load/peers/jwthenticator_server.py"))
        .arg(address.port().to_string());
    Server::start(address, command, |address| crate::server::answers_200(address, "/health"))
}

/// One of its own access tokens, for a key that is registered with it.
async fn jwthenticator_token(server: &Server) -> String {
    let client = reqwest::Client::new();
    let post = async |path: &str| -> Value {
        let body = json!({ "key": "the key of this run", "identifier": "3b0a3d36-7c5c-4a6e-9a0b-0d9c7b0a1f52" });
        let answer = client
            .post(format!("http://{}{path}", server.address))
            .json(&body)
            .send()
            .await
            .unwrap();
        let status = answer.status();
        assert!(status.is_success(), "jwthenticator answers {status} to {path}");
        answer.json().await.unwrap()
    };
    post("/register_key").await;
    format!("Bearer {}", post("/authenticate").await["jwt"].as_str().expect("there is a token"))
}
