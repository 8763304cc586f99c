//! gRPC: Envoy's and Istio's `ext_authz`, our own `Verification` for other gateways, health and
//! reflection.

mod arriving;
mod ext_authz;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod response;
#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, unreachable_pub, reason = "made from proto/countersign/v1 by the test beside it")]
mod generated;
mod limits;
mod pending;
pub mod probe;
mod request;
mod service;
mod verification;

use std::{rc::Rc, sync::Arc, thread, time::Duration};

use envoy_types::ext_authz::v3::pb::AuthorizationServer;
use hyper_util::service::TowerToHyperService;
use tonic::service::Routes;
use tonic_health::ServingStatus;

use self::{
    ext_authz::ExtAuthz,
    generated::verification_server::{SERVICE_NAME as VERIFICATION, VerificationServer},
    limits::{Limits, SMALL_MESSAGE_MAX},
    service::DoorService,
    verification::PluginVerification,
};
use super::{
    listen::{
        self, Activity, Connection, ListenError, Listener, Listening, Peer, Protocol, Served,
        Stage, Stages, Stream, TurnRecord, Watched,
    },
    response::ResponseConfig,
    tls::ServerTls,
};
use crate::engine::{readiness::Readiness, verify::Verifier};

/// Its health is reported, as is that of [`VERIFICATION`] and of the server as a whole.
const EXT_AUTHZ: &str = "envoy.service.auth.v3.Authorization";
/// Largest header list of a call in bytes, as HTTP/2 counts them. The original request's headers
/// are in the message.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// How often the reported health is updated.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// `envoy.service.auth.v3` and its imports, for reflection. The test beside it generates them from
/// the `envoy-types` crate.
const ENVOY_DESCRIPTORS: &[u8] = include_bytes!("../../proto/ext_authz.descriptors.bin");
/// `countersign.v1`, generated likewise from `proto/countersign/v1`.
const OWN_DESCRIPTORS: &[u8] = include_bytes!("../../proto/countersign.descriptors.bin");

/// What the gRPC door needs.
#[derive(Clone, Debug)]
pub struct GrpcDoor {
    /// Makes the decisions.
    pub verifier: Arc<Verifier>,
    /// Whether decisions can be made.
    pub readiness: Readiness,
    /// How to respond.
    pub responses: Arc<ResponseConfig>,
    /// Largest check, in bytes.
    pub max_message: usize,
    /// Decisions that may be in flight at once.
    pub max_in_flight: usize,
}

/// The gRPC server cannot start or failed.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// The descriptors for reflection are damaged.
    #[error("reflection could not be set up")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The listener failed.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl GrpcDoor {
    /// Serves on `listener`, with one thread per core.
    pub fn serve(
        self,
        listener: Listener,
        tls: Option<&ServerTls>,
        listening: Listening,
    ) -> Result<Served, GrpcError> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(ENVOY_DESCRIPTORS)
            .register_encoded_file_descriptor_set(OWN_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(GrpcError::Reflection)?
            .max_decoding_message_size(SMALL_MESSAGE_MAX);
        let services = Services {
            verifier: self.verifier,
            responses: self.responses,
            others: Routes::new(health).add_service(reflection).prepare(),
            limits: Limits::new(self.max_message, self.max_in_flight),
        };
        tokio::spawn(report_health(self.readiness, reporter, listening.stages.clone()));
        let threads = thread::available_parallelism().map_or(1, Into::into);
        Ok(listen::serve(
            listener,
            threads,
            tls.map(ServerTls::for_grpc).as_ref(),
            &services,
            listening,
        )?)
    }
}

/// All services of the door.
#[derive(Clone)]
struct Services {
    verifier: Arc<Verifier>,
    responses: Arc<ResponseConfig>,
    /// Health and reflection.
    others: Routes,
    limits: Limits,
}

impl Services {
    /// The services for one connection.
    fn answering(&self, standing: &TurnRecord) -> DoorService {
        let (verifier, responses) = (Arc::clone(&self.verifier), Arc::clone(&self.responses));
        let ext_authz = ExtAuthz { verifier, responses, standing: standing.clone() };
        let (verifier, responses) = (Arc::clone(&self.verifier), Arc::clone(&self.responses));
        let verification = PluginVerification { verifier, responses, standing: standing.clone() };
        DoorService {
            // `DoorService` has refused larger messages before.
            authorization: AuthorizationServer::new(ext_authz)
                .max_decoding_message_size(usize::MAX),
            verification: VerificationServer::new(verification)
                .max_decoding_message_size(usize::MAX),
            others: self.others.clone(),
            limits: self.limits.clone(),
            standing: standing.clone(),
        }
    }
}

impl Protocol for Services {
    type Ready = Self;

    async fn prepare(self) -> Self {
        self
    }

    fn serve<S: Stream>(
        services: &Self,
        stream: Watched<S>,
        _: Peer,
        activity: &Rc<Activity>,
    ) -> impl Connection {
        let answering = TowerToHyperService::new(services.answering(activity.standing()));
        listen::serve_http2(stream, activity, answering, HEADER_LIST_BYTES_MAX)
    }

    fn refusal() -> Vec<u8> {
        listen::goaway()
    }
}

/// Keeps grpc.health.v1 up to date until the service shuts down.
async fn report_health(
    readiness: Readiness,
    reporter: tonic_health::server::HealthReporter,
    stages: Stages,
) {
    loop {
        let is_ready = !stages.has_begun() && readiness.is_ready().await;
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", EXT_AUTHZ, VERIFICATION] {
            reporter.set_service_status(service, status).await;
        }
        if stages.has_begun() && !is_ready {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
            () = stages.reached(Stage::Draining) => {}
        }
    }
}

#[cfg(test)]
mod tests;
