//! The table.

use std::{fmt::Write as _, fs::OpenOptions, io::Write as _, path::Path};

use crate::{
    machine::Description,
    scenario::{Case, Results, Round, Sample},
};

/// An allowed decision may cost this many times the sum of its floors.
const ALLOWED_BOUND: f64 = 1.4;
/// A denial may cost this many times an allow.
const DENIED_BOUND: f64 = 1.0;

/// One round in one line, to follow a run by.
pub(crate) fn line(round: &Round) -> String {
    let mut line = String::new();
    if let Round { http: Some(http), ed25519, rs256, redis, .. } = round {
        let _ = write!(line, "floors: http {:.1}, ed25519 {ed25519:.1}, rs256 {rs256:.1}, redis {redis:.2};", http.cpu_us);
    }
    for (case, sample) in &round.decisions {
        let _ = write!(line, " {} {:.1}", case.name(), sample.cpu_us);
    }
    line
}

/// Everything, in Markdown.
pub(crate) fn render(results: &Results, description: &Description) -> String {
    let Description { date, commit, cpu, cores, others } = description;
    let mut text = format!("## {date}, commit {commit}\n\n");
    let rounds = results.rounds.len();
    let (number, others) = (rounds, others * 100.0);
    let _ = writeln!(text, "{cpu}, {cores} cores; {number} rounds; other processes used {others:.0} % of the machine meanwhile.");
    let _ = writeln!(text, "CPU time in microseconds: the median of the rounds, and between which figures half of them lie.\n");
    if results.rounds.iter().all(|round| round.http.is_some()) {
        floors(&mut text, results);
    }
    decisions(&mut text, results);
    text
}

fn floors(text: &mut String, results: &Results) {
    text.push_str("| floor | CPU |\n| --- | --- |\n");
    let mut add = |name, value: fn(&Round) -> Option<f64>| {
        let _ = writeln!(text, "| {name} | {} |", Spread::of(results, value).with_range(2));
    };
    add("HTTP: an actix-web handler that answers with the same headers", |round| Some(round.http.as_ref()?.cpu_us));
    add("Ed25519: one verification by aws-lc-rs, key prepared", |round| Some(round.ed25519));
    add("RS256, 2048 bit: one verification by aws-lc-rs, key prepared", |round| Some(round.rs256));
    add("nonce: `SET NX EX` on a shared multiplexed redis-rs connection", |round| Some(round.redis));
    text.push('\n');
}

fn decisions(text: &mut String, results: &Results) {
    text.push_str("| decision | CPU | of | times | bound | Redis CPU | client CPU | per second | p50 ms | p99 ms |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for case in Case::ALL {
        let of = |figure: fn(&Sample) -> f64| Spread::of(results, |round| round.sample(case).map(figure));
        let cpu = of(|sample| sample.cpu_us);
        if cpu.0.is_empty() {
            continue;
        }
        let (name, cpu) = (description(case), cpu.with_range(1));
        let (redis, client) = (of(|sample| sample.redis_us).median(), of(|sample| sample.client_us).median());
        let (rate, p50, p99) =
            (of(|sample| sample.rate).median(), of(|sample| sample.p50_us).median(), of(|sample| sample.p99_us).median());
        let compared = Compared::of(results, case);
        let _ = writeln!(
            text,
            "| {name} | {cpu} | {compared} | {redis:.1} | {client:.1} | {rate:.0} | {:.2} | {:.2} |",
            p50 / 1000.0,
            p99 / 1000.0
        );
    }
    if results.failures() > 0 {
        let _ =
            writeln!(text, "\n**{} answers were not what they should have been: these figures mean nothing.**", results.failures());
    }
}

const fn description(case: Case) -> &'static str {
    match case {
        Case::Ed25519Redis => "allow, Ed25519, Redis nonces",
        Case::Rs256Redis => "allow, RS256, Redis nonces",
        Case::Ed25519Memory => "allow, Ed25519, in-memory nonces",
        Case::Rs256Memory => "allow, RS256, in-memory nonces",
        Case::Garbage => "deny, garbage",
        Case::UnknownUser => "deny, unknown user, Ed25519",
        Case::Replay => "deny, replay, Ed25519, Redis nonces",
    }
}

/// A decision and what it is compared with: an allow with the sum of its floors, a denial with an allow.
struct Compared {
    with: Spread,
    times: Spread,
    bound: f64,
}

impl Compared {
    fn of(results: &Results, case: Case) -> Self {
        let with = |round: &Round| {
            if case.is_allowed() { round.floor(case) } else { Some(round.sample(Case::Ed25519Redis)?.cpu_us) }
        };
        Self {
            with: Spread::of(results, with),
            times: Spread::of(results, |round| Some(round.sample(case)?.cpu_us / with(round)?)),
            bound: if case.is_allowed() { ALLOWED_BOUND } else { DENIED_BOUND },
        }
    }
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.with.0.is_empty() {
            return f.write_str(" | | ");
        }
        let mark = if self.times.median() <= self.bound { "" } else { " **exceeded**" };
        write!(f, "{:.1} | {} | {:.2}{mark}", self.with.median(), self.times.with_range(2), self.bound)
    }
}

/// A figure in each round, sorted.
struct Spread(Vec<f64>);

impl Spread {
    fn of(results: &Results, figure: impl Fn(&Round) -> Option<f64>) -> Self {
        let mut figures: Vec<f64> = results.rounds.iter().filter_map(figure).collect();
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    fn quantile(&self, share: f64) -> f64 {
        let place = share * (self.0.len() - 1) as f64;
        let (below, above) = (self.0[place.floor() as usize], self.0[place.ceil() as usize]);
        below + (above - below) * place.fract()
    }

    fn with_range(&self, digits: usize) -> String {
        let (low, high) = (self.quantile(0.25), self.quantile(0.75));
        format!("{:.digits$} ({low:.digits$} to {high:.digits$})", self.median())
    }
}

/// Appends `report` to `benches/RESULTS.md`.
pub(crate) fn append(report: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    if file.metadata().unwrap().len() == 0 {
        file.write_all(b"# Results\n\nWritten by `cargo bench --bench load -- --write-results`, the newest last.\n\n").unwrap();
    }
    writeln!(file, "{report}").unwrap();
}
