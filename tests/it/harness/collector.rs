//! A collector that receives traces and metrics over OTLP, by gRPC or HTTP, and stores them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, HttpServer, web};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

/// Receives until the test ends, on its own thread.
pub struct Collector {
    address: SocketAddr,
    received: Received,
    running: Running,
}

enum Running {
    Grpc(Option<(oneshot::Sender<()>, JoinHandle<()>)>),
    Http(Option<(ServerHandle, JoinHandle<()>)>),
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    spans: Vec<CollectedSpan>,
    metrics: BTreeSet<String>,
    resources: Vec<BTreeMap<String, String>>,
}

/// A span as it was received.
#[derive(Debug, Clone)]
pub struct CollectedSpan {
    pub service: String,
    pub name: String,
    pub trace_id: String,
    pub span_id: String,
    /// Empty for the root span of a trace.
    pub parent_span_id: String,
    pub attributes: BTreeMap<String, String>,
    pub nanoseconds: u64,
    pub is_error: bool,
}

impl Collector {
    pub fn grpc() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, received) = (listener.local_addr().unwrap(), Received::default());
        let (stop, stopped) = oneshot::channel();
        let kept = received.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                listener.set_nonblocking(true).unwrap();
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(
                    tokio::net::TcpListener::from_std(listener).unwrap(),
                );
                tonic::transport::Server::builder()
                    .add_service(TraceServiceServer::new(kept.clone()))
                    .add_service(MetricsServiceServer::new(kept))
                    .serve_with_incoming_shutdown(incoming, async { drop(stopped.await) })
                    .await
                    .unwrap();
            });
        });
        Self { address, received, running: Running::Grpc(Some((stop, thread))) }
    }

    pub fn http() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, received) = (listener.local_addr().unwrap(), Received::default());
        let kept = web::Data::new(received.clone());
        let (started, start) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async {
                let app = move || {
                    App::new()
                        .app_data(kept.clone())
                        .route("/v1/traces", web::post().to(traces_over_http))
                        .route("/v1/metrics", web::post().to(metrics_over_http))
                };
                let server = HttpServer::new(app)
                    .workers(1)
                    .disable_signals()
                    .listen(listener)
                    .unwrap()
                    .run();
                started.send(server.handle()).unwrap();
                server.await.unwrap();
            });
        });
        Self { address, received, running: Running::Http(Some((start.recv().unwrap(), thread))) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn spans(&self) -> Vec<CollectedSpan> {
        self.received.0.lock().unwrap().spans.clone()
    }

    /// The span of the only decision about `path`, with the spans of its steps, once all have
    /// arrived.
    pub fn decision_about(&self, path: &str) -> Option<(CollectedSpan, Vec<CollectedSpan>)> {
        let spans = self.spans();
        let decision = spans.iter().find(|span| {
            span.name == "decision" && span.attributes.get("url.path").is_some_and(|of| of == path)
        })?;
        let steps =
            spans.iter().filter(|span| span.parent_span_id == decision.span_id).cloned().collect();
        Some((decision.clone(), steps))
    }

    /// The names of all metrics.
    pub fn metrics(&self) -> BTreeSet<String> {
        self.received.0.lock().unwrap().metrics.clone()
    }

    /// The resource attributes of all senders.
    pub fn resources(&self) -> Vec<BTreeMap<String, String>> {
        self.received.0.lock().unwrap().resources.clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        match &mut self.running {
            Running::Grpc(running) => {
                let Some((stop, thread)) = running.take() else { return };
                drop(stop);
                drop(thread.join());
            }
            Running::Http(running) => {
                let Some((handle, thread)) = running.take() else { return };
                drop(handle.stop(false));
                drop(thread.join());
            }
        }
    }
}

impl Received {
    fn take_traces(&self, request: ExportTraceServiceRequest) {
        let mut kept = self.0.lock().unwrap();
        for of_resource in request.resource_spans {
            let resource = resource(of_resource.resource);
            let service = resource.get("service.name").cloned().unwrap_or_default();
            kept.resources.push(resource);
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                kept.spans.push(CollectedSpan {
                    service: service.clone(),
                    name: span.name,
                    trace_id: hex(&span.trace_id),
                    span_id: hex(&span.span_id),
                    parent_span_id: hex(&span.parent_span_id),
                    attributes: attributes(span.attributes),
                    nanoseconds: span.end_time_unix_nano - span.start_time_unix_nano,
                    is_error: span.status.is_some_and(|status| status.code == 2),
                });
            }
        }
    }

    fn take_metrics(&self, request: ExportMetricsServiceRequest) {
        let mut kept = self.0.lock().unwrap();
        for of_resource in request.resource_metrics {
            kept.resources.push(resource(of_resource.resource));
            let metrics = of_resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            kept.metrics.extend(metrics.map(|metric| metric.name));
        }
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take_traces(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take_metrics(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

async fn traces_over_http(received: web::Data<Received>, body: web::Bytes) -> HttpResponse {
    received.take_traces(ExportTraceServiceRequest::decode(&*body).unwrap());
    HttpResponse::Ok()
        .content_type("application/x-protobuf")
        .body(ExportTraceServiceResponse::default().encode_to_vec())
}

async fn metrics_over_http(received: web::Data<Received>, body: web::Bytes) -> HttpResponse {
    received.take_metrics(ExportMetricsServiceRequest::decode(&*body).unwrap());
    HttpResponse::Ok()
        .content_type("application/x-protobuf")
        .body(ExportMetricsServiceResponse::default().encode_to_vec())
}

fn resource(resource: Option<Resource>) -> BTreeMap<String, String> {
    attributes(resource.map(|resource| resource.attributes).unwrap_or_default())
}

fn attributes(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        any_value::Value::StringValue(text) => text,
        other => format!("{other:?}"),
    };
    attributes
        .into_iter()
        .filter_map(|attribute| Some((attribute.key, text(attribute.value?.value?))))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
