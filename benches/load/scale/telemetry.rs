//! What telemetry costs: the service with default settings, compared with one that sends traces
//! and, if given, with another build.

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

use super::{
    CONNECTIONS,
    seed::Registry,
    side_by_side::{BASELINE_SETTINGS, DECISIONS, PLACEMENT, Variant, measure},
};
use crate::{
    floors::end_with_input,
    server::Server,
    table::{Bound, Section},
    tokens::Signer,
};

/// Maximum ratio of the CPU time of a decision, with default settings.
const BOUND: f64 = 1.05;
const PRINCIPALS: usize = 16;

/// First argument of the process that plays the collector, followed by the address.
pub(crate) const COLLECTOR: &str = "--collector";

/// `baseline` is a build of the service without the change to measure, such as the commit before
/// it.
pub(crate) async fn run(is_quick: bool, baseline: Option<&Path>) -> Section {
    let registry = Registry::new(PRINCIPALS, 1, Algorithm::Rs256, PRINCIPALS).await;
    let signers: Vec<Signer> = (0..PRINCIPALS).map(|number| registry.signer(number)).collect();
    let collector = Server::collector(PLACEMENT);
    let endpoint = format!("http://{}", collector.address);
    let traced = |share| {
        vec![
            ("COUNTERSIGN_TELEMETRY__OTLP_ENDPOINT", endpoint.as_str()),
            ("COUNTERSIGN_TELEMETRY__TRACE_SAMPLE", share),
        ]
    };
    let own = Path::new(env!("CARGO_BIN_EXE_countersign"));
    let mut plan = vec![
        ("as it comes", own, Vec::new()),
        ("with a collector, 1 in 100 traced", own, traced("0.01")),
        ("with a collector, every decision traced", own, traced("1")),
    ];
    plan.extend(baseline.map(|baseline| ("the baseline", baseline, BASELINE_SETTINGS.to_vec())));
    let mut variants = Vec::new();
    for (label, program, settings) in plan {
        let server =
            Server::countersign_from(program, PLACEMENT, registry.dir(), "memory:", &settings);
        variants.push(Variant::of(label, server, &signers).await);
    }
    measure("telemetry", &mut variants, &signers, is_quick).await;
    tell(&variants, baseline.is_some())
}

fn tell(variants: &[Variant], has_baseline: bool) -> Section {
    const WHAT: &str = "allow, RS256, in-memory nonces, HTTP";
    let [usual, sampled, traced, others @ ..] = variants else {
        panic!("three are always measured")
    };
    let mut section = Section::default();
    section.rows.extend(
        others.iter().map(|baseline| usual.against(baseline, WHAT, Some(Bound::AtMost(BOUND)))),
    );
    section.rows.push(sampled.against(usual, WHAT, None));
    section.rows.push(traced.against(usual, WHAT, None));
    let baseline = if has_baseline {
        " The baseline is another build of the service, measured in the same rounds."
    } else {
        ""
    };
    section.notes.push(format!(
        "Telemetry: {} rounds of {DECISIONS} decisions of each service in turn, {CONNECTIONS} connections; the collector takes and forgets.{baseline}",
        usual.rounds.len()
    ));
    section
}

/// Receives spans and metrics, and discards them.
pub(crate) fn collector(arguments: &[String]) -> ExitCode {
    let address: SocketAddr = arguments[0].parse().unwrap();
    end_with_input();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut server = transport::Server::builder();
    let server = server
        .add_service(TraceServiceServer::new(Forgets))
        .add_service(MetricsServiceServer::new(Forgets));
    runtime.block_on(server.serve(address)).unwrap();
    ExitCode::SUCCESS
}

struct Forgets;

#[async_trait]
impl TraceService for Forgets {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[async_trait]
impl MetricsService for Forgets {
    async fn export(
        &self,
        _: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
