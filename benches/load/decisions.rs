//! Compares decisions with their floors, and denials with allows: turns the rounds of a closed loop
//! into lines of the table.

use std::fmt::Write as _;

use crate::{
    case::Case,
    floors::Part,
    pictures::Decision as Parts,
    scenario::{Floors, Results, Round, Sample},
    table::{Bound, Row, Section, Spread},
};

/// A server that used less than this share of its core waited for its client, and was woken for
/// requests.
const BUSY: f64 = 0.95;

/// One round on one line, to follow the progress of a run.
pub(crate) fn line(round: &Round) -> String {
    let mut line = String::new();
    if let Some(Floors {
        http,
        http_with_headers,
        http_verifying,
        check,
        parse,
        ed25519,
        rs256,
        redis,
    }) = &round.floors
    {
        let _ = write!(
            line,
            "floors: http {:.1}, with headers {:.1}, verifying {:.1}, check {:.1}, parse {parse:.2}, ed25519 {ed25519:.1}, rs256 {rs256:.1}, redis {redis:.2};",
            http.cpu_us, http_with_headers.cpu_us, http_verifying.cpu_us, check.cpu_us
        );
    }
    for (case, sample) in &round.decisions {
        let _ = write!(line, " {} {:.1}", case.name(), sample.cpu_us);
    }
    line
}

/// The complete section.
pub(crate) fn section(results: &Results) -> Section {
    let rows = Case::ALL.into_iter().flat_map(|case| match case.denial_of() {
        None => [with_floors(results, case), with_headers(results, case), in_one(results, case)],
        Some(allow) => [with_allow(results, case, allow), None, None],
    });
    let mut notes = vec![how(results), servers(results)];
    if results.failures() > 0 {
        let failures = results.failures();
        notes.push(format!("**{failures} answers were not what they should have been: these figures mean nothing.**"));
    }
    Section { rows: rows.flatten().collect(), notes }
}

/// The parts of allows, for the picture.
pub(crate) fn drawn(results: &Results) -> Vec<Parts> {
    Case::ALL
        .into_iter()
        .filter(|case| case.denial_of().is_none())
        .filter_map(|case| parts(results, case))
        .collect()
}

fn parts(results: &Results, case: Case) -> Option<Parts> {
    let ours = of_case(results, case, |sample| sample.cpu_us);
    let of = |figure: fn(&Floors, Case) -> f64| of_floors(results, |floors| figure(floors, case));
    let transport = of(|floors, case| floors.transport(case).cpu_us);
    (!ours.is_empty() && !transport.is_empty()).then(|| Parts {
        label: case
            .title()
            .trim_start_matches("allow, ")
            .replace("in-memory nonces", "in memory")
            .replace(" nonces", ""),
        transport_us: transport.median(),
        verify_us: of(|floors, case| floors.parse + floors.of_parts(case)[0]).median(),
        claim_us: of(|floors, case| floors.of_parts(case)[1]).median(),
        ours_us: ours.median(),
    })
}

/// An allow and the sum of its floors.
fn with_floors(results: &Results, case: Case) -> Option<Row> {
    let parts = parts(results, case)?;
    let times = spread(results, |round| {
        Some(round.sample(case)?.cpu_us / round.floors.as_ref()?.sum(case))
    });
    let sum = of_floors(results, |floors| floors.sum(case)).median();
    let (name, Parts { transport_us, verify_us, claim_us, .. }) =
        (if case.is_grpc() { "null `Check`" } else { "HTTP" }, parts);
    let claim = if case.uses_redis() { format!(" + claim {claim_us:.1}") } else { String::new() };
    let with =
        format!("{name} {transport_us:.1} + parse and verify {verify_us:.1}{claim} = {sum:.1} µs");
    Some(Row::new(
        case.title(),
        ours(results, case)?,
        with,
        times,
        Some(Bound::AtMost(case.bound())),
    ))
}

/// The same, with a floor that answers with the headers of an allow; over gRPC it always does.
fn with_headers(results: &Results, case: Case) -> Option<Row> {
    if case.is_grpc() {
        return None;
    }
    let sum =
        |floors: &Floors| floors.sum(case) - floors.http.cpu_us + floors.http_with_headers.cpu_us;
    let times =
        spread(results, |round| Some(round.sample(case)?.cpu_us / sum(round.floors.as_ref()?)));
    let sums = spread(results, |round| Some(sum(round.floors.as_ref()?)));
    (!times.is_empty()).then(|| {
        let with = format!("the same, HTTP with the headers of an allow: {:.1} µs", sums.median());
        Row::new("", "", with, times, None)
    })
}

/// The same, with a floor that answers with the headers and also verifies the signature.
/// Alternating work in one process costs more than repeating each part, since each part finds less
/// of its data in the caches; that cannot be avoided.
fn in_one(results: &Results, case: Case) -> Option<Row> {
    if case.is_grpc() || case.signature() != Part::Rs256 {
        return None;
    }
    let sum =
        |floors: &Floors| floors.http_verifying.cpu_us + floors.parse + floors.of_parts(case)[1];
    let times =
        spread(results, |round| Some(round.sample(case)?.cpu_us / sum(round.floors.as_ref()?)));
    let sums = spread(results, |round| Some(sum(round.floors.as_ref()?)));
    (!times.is_empty()).then(|| {
        let with = format!(
            "the same, HTTP with the headers and verify in one process: {:.1} µs",
            sums.median()
        );
        Row::new("", "", with, times, None)
    })
}

/// A denial and the corresponding allow.
fn with_allow(results: &Results, case: Case, allow: Case) -> Option<Row> {
    let times =
        spread(results, |round| Some(round.sample(case)?.cpu_us / round.sample(allow)?.cpu_us));
    if times.is_empty() {
        return None;
    }
    let with = format!(
        "{}: {:.1} µs",
        allow.title(),
        of_case(results, allow, |sample| sample.cpu_us).median()
    );
    Some(Row::new(
        case.title(),
        ours(results, case)?,
        with,
        times,
        Some(Bound::AtMost(case.bound())),
    ))
}

fn ours(results: &Results, case: Case) -> Option<String> {
    let cpu = of_case(results, case, |sample| sample.cpu_us);
    (!cpu.is_empty())
        .then(|| format!("{:.1} µs CPU, {:.0}/s per core", cpu.median(), 1e6 / cpu.median()))
}

fn how(results: &Results) -> String {
    format!(
        "Decisions in a closed loop, {} rounds: CPU time of the server (user and system) over its answers, 64 requests in flight, \
        default logging and metrics. HTTP over 64 keep-alive connections, gRPC over 2 HTTP/2 connections. Ratios are of figures \
        of the same round. Floors: `HTTP`, an actix-web handler that answers 200 with no headers of its own; `null Check`, a \
        tonic service that answers with an allow of ours; `parse and verify`, base64 and borrowing serde, and aws-lc-rs with a prepared key; `claim`, `SET NX EX` on a \
        shared multiplexed redis-rs connection. What the CPU allows is told per core: a second over the CPU time of a decision. \
        Unknown users are denied after a look into the registry: asked over 1024 connections, so that the server is as busy \
        meanwhile, and compared with an allow over 64.",
        results.rounds.len()
    )
}

/// How busy each server was.
fn servers(results: &Results) -> String {
    let mut text = String::from(
        "| server asked for | CPU | busy | per second | Redis CPU | p50 ms | p99 ms |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut idle = Vec::new();
    let mut line = |name: &str, of: &dyn Fn(fn(&Sample) -> f64) -> Spread| {
        if of(|sample| sample.cpu_us).is_empty() {
            return;
        }
        let median = |figure| of(figure).median();
        let busy = median(|sample| sample.busy);
        if busy < BUSY {
            idle.push(name.to_owned());
        }
        let _ = writeln!(
            text,
            "| {name} | {} | {busy:.2} | {:.0} | {:.1} | {:.2} | {:.2} |",
            of(|sample| sample.cpu_us).with_range(1),
            median(|sample| sample.rate),
            median(|sample| sample.redis_us),
            median(|sample| sample.p50_us) / 1000.0,
            median(|sample| sample.p99_us) / 1000.0,
        );
    };
    line("floor: HTTP", &|figure| of_floors(results, |floors| figure(&floors.http)));
    line("floor: HTTP with the headers of an allow", &|figure| {
        of_floors(results, |floors| figure(&floors.http_with_headers))
    });
    line("floor: HTTP that verifies RS256", &|figure| {
        of_floors(results, |floors| figure(&floors.http_verifying))
    });
    line("floor: null `Check`", &|figure| of_floors(results, |floors| figure(&floors.check)));
    for case in Case::ALL {
        line(case.title(), &|figure| of_case(results, case, figure));
    }
    if !idle.is_empty() {
        let _ = write!(
            text,
            "\nNot busy all the time, which makes each answer dearer: {}.",
            idle.join("; ")
        );
    }
    text
}

fn of_floors(results: &Results, figure: impl Fn(&Floors) -> f64) -> Spread {
    spread(results, |round| round.floors.as_ref().map(&figure))
}

fn of_case(results: &Results, case: Case, figure: impl Fn(&Sample) -> f64) -> Spread {
    spread(results, |round| round.sample(case).map(&figure))
}

fn spread(results: &Results, figure: impl Fn(&Round) -> Option<f64>) -> Spread {
    results.rounds.iter().filter_map(figure).collect()
}
