//! The load harness: the cost of a decision, side by side with the minimum cost of its parts.
//!
//! ```text
//! cargo bench --bench load -- [--quick] [--part PART] [--write-results]
//! cargo bench --bench load -- --registry N [--write-results]
//! ```
//!
//! It starts a Redis, the service and null servers (see [`floors`]), asks each for decisions over
//! the same kind of connections, and prints one table: CPU time of the server per decision, the sum
//! of the floors, and their ratio. Everything is measured in turns, many rounds of each, and the
//! table shows medians: absolute figures depend on the machine, ratios within one round do not.
//!
//! - [`scenario`]: what is measured in a closed loop, and in which order
//! - [`case`]: the kinds of decisions, and their bounds
//! - [`decisions`]: the results, as lines of the table
//! - [`client`]: keep-alive connections that send requests like nginx, one at a time each
//! - [`check`]: connections that send requests like Envoy, over gRPC
//! - [`tokens`]: signs tokens in bulk, all different
//! - [`floors`]: the minimum cost of each part
//! - [`server`]: the processes that are measured
//! - [`gateways`]: another part: latency behind real gateways
//! - [`flood`]: another part: how much garbage slows honest requests down
//! - [`open_loop`]: requests that arrive when a schedule says so
//! - [`peers`]: another part: the Python systems that the service replaces
//! - [`scale`]: another part: how cost and memory grow with principals, nonces and workers
//! - [`registry`]: a separate run: many principals, including some that are not in memory
//! - [`machine`]: CPU clocks, and a description of the machine
//! - [`table`]: the table
//! - [`pictures`]: the same, as pictures
//! - [`report`]: the text around the table
//! - [`resident`]: the memory of a process
//! - [`wire`]: TCP and Unix sockets

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of its own whose output is its purpose, and in which every failure ends the run"
)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures to three digits, far below the bounds of any of these types"
)]

mod case;
mod check;
mod client;
mod decisions;
mod flood;
mod floors;
mod gateways;
mod machine;
mod open_loop;
mod peers;
mod pictures;
mod registry;
mod report;
mod resident;
mod scale;
mod scenario;
mod server;
mod table;
mod tokens;
mod wire;

use std::{
    env,
    path::PathBuf,
    process::{self, ExitCode},
};

use case::Case;
use scenario::Plan;
use table::Section;
use tokio::signal::unix::{SignalKind, signal};

/// The same allocator as in the service, so that the floors use it, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: cargo bench --bench load -- [--quick] [--part PART] [--baseline BINARY] [--write-results]
       cargo bench --bench load -- [--quick] [--passes N] [--only CASE] [--unpinned]
       cargo bench --bench load -- --registry N [--write-results]

  --quick          a minute of measuring, for a first look
  --part PART      one part of a run alone: `decisions`, what they cost beside their floors; `gateways`, latency behind nginx and
                   Envoy; `peers`, the Python systems that the service replaces; `telemetry`, what watching decisions costs;
                   `claims`, what claims in Redis cost; `sockets`, Unix sockets beside TCP; `scale`, many principals, nonces and workers; or `flood`, what garbage
                   takes from honest requests
  --baseline BINARY  another build of `countersign`, which `telemetry`, `claims` and `flood` compare with
  --passes N       how many times decisions are measured, several rounds each
  --only CASE      one kind of decision alone, such as ed25519-redis: to watch or to profile the server meanwhile
  --unpinned       servers on any core with a worker for each, instead of each on one core of its own, with everything else on
                   the others
  --registry N     the registry with N principals, instead of decisions
  --write-results  also append the table to benches/RESULTS.md, and draw the pictures";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    // This executable also runs as the child processes, so that their CPU time can be measured
    // separately.
    match arguments.first().map(String::as_str) {
        Some(floors::NULL_SERVER) => return floors::null_server(&arguments[1..]),
        Some(floors::NULL_CHECK) => return floors::null_check(&arguments[1..]),
        Some(scale::NONCES) => return scale::nonces(&arguments[1..]),
        Some(scale::COLLECTOR) => return scale::collector(&arguments[1..]),
        Some(floors::PARTS) => return floors::parts(&arguments[1..]),
        _ => {}
    }
    // Only `cargo bench` passes this argument; `cargo test --benches` checks whether it starts, not
    // how fast it is.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("nothing is measured without --bench\n{USAGE}");
        return ExitCode::SUCCESS;
    }
    arguments.retain(|argument| argument != "--bench");
    let Some(options) = Options::parse(&arguments) else {
        eprintln!("{USAGE}\n\ncases: {}", Case::ALL.map(Case::name).join(", "));
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).unwrap();
        tokio::select! {
            () = run(options) => ExitCode::SUCCESS,
            // Leaving the block drops the servers, which ends them.
            _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
            _ = terminate.recv() => ExitCode::FAILURE,
        }
    })
}

async fn run(options: Options) {
    let before = machine::Usage::now();
    if let Some(principals) = options.registry {
        let results = registry::run(principals).await;
        let report = registry::render(&results, &machine::Description::now(&before));
        println!("\n{report}");
        if options.writes_results {
            report::append(&report);
        }
        return;
    }
    let (mut sections, mut drawn, mut failures) = (Vec::new(), Drawn::default(), 0);
    for part in Part::ALL.into_iter().filter(|part| options.measures(*part)) {
        println!("{}:", part.name());
        sections.push(match part {
            Part::Decisions => {
                let results = scenario::run(&options.plan).await;
                failures = results.failures();
                drawn.decisions = decisions::drawn(&results);
                decisions::section(&results)
            }
            Part::Gateways => {
                let (section, curves) = gateways::run(options.is_quick).await;
                drawn.curves = curves;
                section
            }
            Part::Peers => peers::run(options.is_quick).await,
            Part::Telemetry => {
                scale::telemetry::run(options.is_quick, options.baseline.as_deref()).await
            }
            Part::Claims => scale::claims::run(options.is_quick, options.baseline.as_deref()).await,
            Part::Flood => flood::run(options.is_quick, options.baseline.as_deref()).await,
            Part::Sockets => scale::sockets::run(options.is_quick).await,
            Part::Scale => {
                let (section, points) = scale::run(options.is_quick).await;
                drawn.points = points;
                section
            }
        });
    }
    let description = machine::Description::now(&before);
    if options.writes_results {
        sections.push(Section {
            notes: drawn.draw(&pictures::caption(&description)),
            ..Section::default()
        });
    }
    let report = report::render(&description, &sections);
    println!("\n{report}");
    if options.writes_results {
        report::append(&report);
    }
    if failures > 0 {
        process::exit(1);
    }
}

/// The data of the pictures; empty if it was not measured.
#[derive(Default)]
struct Drawn {
    decisions: Vec<pictures::Decision>,
    curves: Vec<open_loop::Curve>,
    points: scale::CostAgainstPrincipals,
}

impl Drawn {
    /// Draws the available data. Returns references to the pictures, in Markdown.
    fn draw(&self, caption: &str) -> Vec<String> {
        let mut references = Vec::new();
        if !self.decisions.is_empty() {
            references.push(pictures::cost_by_part(&self.decisions, caption));
        }
        if !self.curves.is_empty() {
            let curves: Vec<_> = self
                .curves
                .iter()
                .map(|curve| (curve.label.as_str(), curve.points.as_slice()))
                .collect();
            references.push(pictures::latency_against_load(&curves, caption));
        }
        if !self.points.is_empty() {
            references.push(pictures::cost_against_principals(&self.points, caption));
        }
        references
    }
}

/// A part of a run. Each can be measured alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Decisions,
    Gateways,
    Peers,
    Telemetry,
    Claims,
    Flood,
    Sockets,
    Scale,
}

impl Part {
    const ALL: [Self; 8] = [
        Self::Decisions,
        Self::Gateways,
        Self::Peers,
        Self::Telemetry,
        Self::Claims,
        Self::Flood,
        Self::Sockets,
        Self::Scale,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Decisions => "decisions",
            Self::Gateways => "gateways",
            Self::Peers => "peers",
            Self::Telemetry => "telemetry",
            Self::Claims => "claims",
            Self::Flood => "flood",
            Self::Sockets => "sockets",
            Self::Scale => "scale",
        }
    }

    /// Whether it is part of a quick run.
    const fn is_quick(self) -> bool {
        matches!(self, Self::Decisions | Self::Gateways)
    }
}

struct Options {
    plan: Plan,
    is_quick: bool,
    part: Option<Part>,
    registry: Option<usize>,
    baseline: Option<PathBuf>,
    writes_results: bool,
}

impl Options {
    fn measures(&self, part: Part) -> bool {
        match self.part {
            Some(only) => part == only,
            None if self.plan.only.is_some() => part == Part::Decisions,
            None => part.is_quick() || !self.is_quick,
        }
    }

    fn parse(arguments: &[String]) -> Option<Self> {
        let is_quick = arguments.iter().any(|argument| argument == "--quick");
        let mut options = Self {
            plan: if is_quick { Plan::QUICK } else { Plan::FULL },
            is_quick,
            part: None,
            registry: None,
            baseline: None,
            writes_results: false,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--quick" => {}
                "--part" => {
                    let name = rest.next()?;
                    options.part = Some(Part::ALL.into_iter().find(|part| part.name() == name)?);
                }
                "--baseline" => options.baseline = Some(PathBuf::from(rest.next()?)),
                "--unpinned" => options.plan.is_pinned = false,
                "--write-results" => options.writes_results = true,
                "--registry" => {
                    options.registry = Some(rest.next()?.parse().ok().filter(|count| *count > 0)?);
                }
                "--passes" => options.plan.passes = rest.next()?.parse().ok()?,
                "--only" => options.plan.only = Some(Case::named(rest.next()?)?),
                _ => return None,
            }
        }
        (options.plan.passes > 0).then_some(options)
    }
}
