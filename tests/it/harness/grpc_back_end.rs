//! A gRPC back end: unary calls, streams from the server, and streams in both directions.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tonic::metadata::MetadataMap;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::Echo;

/// grpc.health.v1 and reflection, which together have all three kinds.
pub struct GrpcBackEnd {
    pub address: SocketAddr,
    reporter: HealthReporter,
    seen: Arc<Mutex<Vec<MetadataMap>>>,
}

impl GrpcBackEnd {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reporter, health) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&seen);
        let remember = move |request: tonic::Request<()>| {
            remembered.lock().unwrap().push(request.metadata().clone());
            Ok(request)
        };
        let server = Server::builder()
            .layer(InterceptorLayer::new(remember))
            .add_service(health)
            .add_service(reflection);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Self { address, reporter, seen }
    }

    /// As an [`Echo`], for functions that expect the usual back end. `/healthz` is 200, like every
    /// gRPC answer.
    pub const fn echo(&self) -> Echo {
        Echo::at(self.address)
    }

    /// Sends the status to everyone who watches the service.
    pub async fn report(&self, service: &str, status: ServingStatus) {
        self.reporter.set_service_status(service, status).await;
    }

    /// The metadata of all calls and streams so far that names the caller.
    pub fn named(&self) -> Vec<MetadataMap> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|metadata| metadata.contains_key("x-auth-username"))
            .cloned()
            .collect()
    }
}
