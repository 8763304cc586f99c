//! What watching decisions costs: the service as it comes, beside one that sends traces, and, where there is one, beside another
//! build of it.

use std::{net::SocketAddr, path::Path, process::ExitCode};

use countersign::domain::algorithm::Algorithm;
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tonic::{Request, Response, Status, async_trait, transport};

use super::{AHEAD, CONNECTIONS, Target, seed::Registry};
use crate::{
    floors::end_with_input,
    server::{Placement, Server},
    table::{Bound, Row, Section, Spread},
    tokens::{Signer, sign},
};

/// Of the CPU time of a decision, at default settings.
const BOUND: f64 = 1.05;
const PRINCIPALS: usize = 16;
const DECISIONS: usize = 3_000;
const ROUNDS_FULL: usize = 24;
const ROUNDS_QUICK: usize = 6;
const PLACEMENT: Placement = Placement { is_pinned: true };

/// First argument of the process that takes what is sent to a collector. Then the address.
pub(crate) const COLLECTOR: &str = "--collector";

struct Variant {
    label: &'static str,
    target: Target,
    rounds: Vec<f64>,
}

/// `baseline` is a build of the service without what is to be measured: the commit before it, say.
pub(crate) async fn run(is_quick: bool, baseline: Option<&Path>) -> Section {
    let registry = Registry::new(PRINCIPALS, 1, Algorithm::Rs256, PRINCIPALS).await;
    let signers: Vec<Signer> = (0..PRINCIPALS).map(|number| registry.signer(number)).collect();
    let collector = Server::collector(PLACEMENT);
    let endpoint = format!("http://{}", collector.address);
    let traced =
        |share| vec![("COUNTERSIGN_TELEMETRY__OTLP_ENDPOINT", endpoint.as_str()), ("COUNTERSIGN_TELEMETRY__TRACE_SAMPLE", share)];
    let own = Path::new(env!("CARGO_BIN_EXE_countersign"));
    let mut plan = vec![
        ("as it comes", own, Vec::new()),
        ("with a collector, 1 in 100 traced", own, traced("0.01")),
        ("with a collector, every decision traced", own, traced("1")),
    ];
    plan.extend(baseline.map(|baseline| ("the baseline", baseline, Vec::new())));
    let mut variants = Vec::new();
    for (label, program, settings) in plan {
        let server = Server::countersign_from(program, PLACEMENT, registry.dir(), "memory:", &settings);
        let mut target = Target::of(server).await;
        target.ask(&sign(&signers, 8 * CONNECTIONS, 0)).await;
        variants.push(Variant { label, target, rounds: Vec::new() });
    }
    let rounds = if is_quick { ROUNDS_QUICK } else { ROUNDS_FULL };
    for round in 0..rounds {
        // Each service has nonces of its own, so that all are asked about the same.
        let tokens = sign(&signers, DECISIONS, AHEAD);
        PLACEMENT.withdraw(true);
        let count = variants.len();
        // Whoever is first finds the caches as signing left them, so that each is first in turn.
        for place in 0..count {
            let variant = &mut variants[(round + place) % count];
            let taken = variant.target.ask(&tokens).await;
            variant.rounds.push(taken.cpu_us);
        }
        PLACEMENT.withdraw(false);
        let figures: Vec<String> =
            variants.iter().map(|variant| format!("{} {:.1}", variant.label, variant.rounds[round])).collect();
        println!("telemetry, round {} of {rounds}: {}", round + 1, figures.join("; "));
    }
    tell(&variants, baseline.is_some())
}

fn tell(variants: &[Variant], has_baseline: bool) -> Section {
    let [usual, sampled, traced, others @ ..] = variants else { panic!("three are always measured") };
    let median = |variant: &Variant| variant.rounds.iter().copied().collect::<Spread>().median();
    let row = |ours: &Variant, with: &Variant, bound| {
        let times = ours.rounds.iter().zip(&with.rounds).map(|(ours, with)| ours / with).collect();
        let figure = format!("allow, RS256, in-memory nonces, HTTP, {}", ours.label);
        Row::new(figure, format!("{:.1} µs CPU", median(ours)), format!("{}, {:.1} µs", with.label, median(with)), times, bound)
    };
    let mut section = Section::default();
    section.rows.extend(others.iter().map(|baseline| row(usual, baseline, Some(Bound::AtMost(BOUND)))));
    section.rows.push(row(sampled, usual, None));
    section.rows.push(row(traced, usual, None));
    let baseline = if has_baseline { " The baseline is another build of the service, measured in the same rounds." } else { "" };
    section.notes.push(format!(
        "Telemetry: {} rounds of {DECISIONS} decisions of each service in turn, {CONNECTIONS} connections; the collector takes and forgets.{baseline}",
        usual.rounds.len()
    ));
    section
}

/// Takes spans and metrics, and forgets them.
pub(crate) fn collector(arguments: &[String]) -> ExitCode {
    let address: SocketAddr = arguments[0].parse().unwrap();
    end_with_input();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut server = transport::Server::builder();
    let server = server.add_service(TraceServiceServer::new(Forgets)).add_service(MetricsServiceServer::new(Forgets));
    runtime.block_on(server.serve(address)).unwrap();
    ExitCode::SUCCESS
}

struct Forgets;

#[async_trait]
impl TraceService for Forgets {
    async fn export(&self, _: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[async_trait]
impl MetricsService for Forgets {
    async fn export(&self, _: Request<ExportMetricsServiceRequest>) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
