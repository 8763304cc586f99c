//! gRPC: Envoy's and Istio's `ext_authz`, our own `Verification` for other gateways, health and reflection.

mod answer;
mod ext_authz;
#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, unreachable_pub, reason = "made from proto/countersign/v1 by the test beside it")]
mod generated;
pub mod probe;
mod request;
mod verification;

use std::{future::Future, net::TcpListener, sync::Arc, time::Duration};

use envoy_types::ext_authz::v3::pb::AuthorizationServer;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::ServingStatus;

use self::{
    ext_authz::ExtAuthz,
    generated::verification_server::{SERVICE_NAME as VERIFICATION, VerificationServer},
    verification::PluginVerification,
};
use super::{answer::Language, tls::ServerTls};
use crate::engine::{readiness::Readiness, verify::Verifier};

/// Its health is told, as that of [`VERIFICATION`] and of the server as a whole.
const EXT_AUTHZ: &str = "envoy.service.auth.v3.Authorization";
/// How often health is looked at.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// How often an idle connection is tried, so that one whose gateway is gone does not stay.
const KEEPALIVE_INTERVAL: Duration = Duration::from_mins(1);

/// `envoy.service.auth.v3` and what it imports, for reflection. Made from the `envoy-types` crate by the test beside it.
const ENVOY_DESCRIPTORS: &[u8] = include_bytes!("../../../proto/ext_authz.descriptors.bin");
/// `countersign.v1`, likewise made from `proto/countersign/v1`.
const OWN_DESCRIPTORS: &[u8] = include_bytes!("../../../proto/countersign.descriptors.bin");

/// What the gRPC door needs.
#[derive(Clone, Debug)]
pub struct GrpcDoor {
    /// Decides.
    pub verifier: Arc<Verifier>,
    /// Knows whether decisions can be made.
    pub readiness: Readiness,
    /// How to speak.
    pub language: Arc<Language>,
}

/// The gRPC server failed.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// The socket could not be used.
    #[error("the gRPC listener failed")]
    Listener(#[source] std::io::Error),
    /// The descriptors for reflection are damaged.
    #[error("reflection could not be set up")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The server ended with an error.
    #[error("the gRPC server failed")]
    Server(#[source] tonic::transport::Error),
}

impl GrpcDoor {
    /// Serves on `listener` until `shutdown` is done; then takes nothing new and finishes what is in flight.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Option<&ServerTls>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), GrpcError> {
        listener.set_nonblocking(true).map_err(GrpcError::Listener)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(GrpcError::Listener)?;
        let (reporter, health) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(ENVOY_DESCRIPTORS)
            .register_encoded_file_descriptor_set(OWN_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(GrpcError::Reflection)?;
        let verification = PluginVerification { verifier: Arc::clone(&self.verifier), language: Arc::clone(&self.language) };
        let ext_authz = ExtAuthz { verifier: self.verifier, language: self.language };
        let server = Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .add_service(AuthorizationServer::new(ext_authz))
            .add_service(VerificationServer::new(verification))
            .add_service(health)
            .add_service(reflection);
        let watcher = tokio::spawn(report_health(self.readiness, reporter));
        let ended = match tls {
            None => server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown).await,
            Some(tls) => server.serve_with_incoming_shutdown(tls.accept_all(listener), shutdown).await,
        };
        watcher.abort();
        ended.map_err(GrpcError::Server)
    }
}

/// Keeps grpc.health.v1 true.
async fn report_health(readiness: Readiness, reporter: tonic_health::server::HealthReporter) {
    loop {
        let status = if readiness.is_ready().await { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", EXT_AUTHZ, VERIFICATION] {
            reporter.set_service_status(service, status).await;
        }
        tokio::time::sleep(HEALTH_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests;
