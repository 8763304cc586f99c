//! gRPC: Envoy's and Istio's `ext_authz`, our own `Verification` for other gateways, health and reflection.

mod answer;
mod arriving;
mod ext_authz;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, unreachable_pub, reason = "made from proto/countersign/v1 by the test beside it")]
mod generated;
mod limits;
pub mod probe;
mod request;
mod service;
mod verification;
mod workers;

use std::{future::Future, net::TcpListener, sync::Arc, time::Duration};

use envoy_types::ext_authz::v3::pb::AuthorizationServer;
use tonic::service::Routes;
use tonic_health::ServingStatus;

use self::{
    ext_authz::ExtAuthz,
    generated::verification_server::{SERVICE_NAME as VERIFICATION, VerificationServer},
    limits::{Limits, SMALL_MESSAGE_MAX},
    service::DoorService,
    verification::PluginVerification,
    workers::Workers,
};
use super::{answer::Language, tls::ServerTls};
use crate::engine::{readiness::Readiness, verify::Verifier};

/// Its health is told, as that of [`VERIFICATION`] and of the server as a whole.
const EXT_AUTHZ: &str = "envoy.service.auth.v3.Authorization";
/// How often health is looked at.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

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
    /// How many bytes a check may have.
    pub max_message: usize,
    /// How many decisions may be on their way at once.
    pub max_in_flight: usize,
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
    /// A thread to serve connections with could not be started.
    #[error("a thread for gRPC connections could not be started")]
    Thread(#[source] std::io::Error),
    /// A thread that served connections panicked.
    #[error("a thread that served gRPC connections panicked")]
    WorkerPanicked,
    /// The server ended with an error.
    #[error("the gRPC server failed")]
    Server(#[source] tonic::transport::Error),
}

impl GrpcDoor {
    /// Serves on `listener` until `shutdown` is done; then takes nothing new and finishes what is in flight. Where this is dropped,
    /// connections are cut.
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
            .map_err(GrpcError::Reflection)?
            .max_decoding_message_size(SMALL_MESSAGE_MAX);
        let verification = PluginVerification { verifier: Arc::clone(&self.verifier), language: Arc::clone(&self.language) };
        let ext_authz = ExtAuthz { verifier: self.verifier, language: self.language };
        let service = DoorService {
            // What is too large for these has been refused before.
            authorization: AuthorizationServer::new(ext_authz).max_decoding_message_size(usize::MAX),
            verification: VerificationServer::new(verification).max_decoding_message_size(usize::MAX),
            others: Routes::new(health).add_service(reflection).prepare(),
            limits: Limits::new(self.max_message, self.max_in_flight),
        };
        let (workers, mut ends) = Workers::start(&service, tls)?;
        let watcher = tokio::spawn(report_health(self.readiness, reporter));
        let ended_early = tokio::select! {
            () = workers.accept_all(&listener) => None,
            () = shutdown => None,
            ended = ends.all() => Some(ended),
        };
        drop(listener);
        let ended = if let Some(ended) = ended_early {
            ended
        } else {
            workers.drain();
            ends.all().await
        };
        watcher.abort();
        ended
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
