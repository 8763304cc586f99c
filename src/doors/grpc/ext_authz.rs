//! `envoy.service.auth.v3.Authorization/Check`.

use std::sync::Arc;

use envoy_types::ext_authz::v3::pb::{Authorization, CheckRequest, CheckResponse};
use tonic::{Request, Response, Status, async_trait};

use super::{request::auth_request, response::respond, service::Refused};
use crate::{
    doors::{listen::TurnRecord, response::ResponseConfig},
    engine::verify::Verifier,
};

pub(super) struct ExtAuthz {
    pub(super) verifier: Arc<Verifier>,
    pub(super) responses: Arc<ResponseConfig>,
    /// The turn record of the connection.
    pub(super) standing: TurnRecord,
}

#[async_trait]
impl Authorization for ExtAuthz {
    /// Always an OK RPC: Envoy does not read a gRPC error as a denial, but applies
    /// `failure_mode_allow`.
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let auth_request = auth_request(&request, &metadata, &self.responses);
        let verdict = match Refused::reason(&extensions) {
            None => self.verifier.decide(&auth_request).await,
            Some(reason) => self.verifier.refuse(&auth_request, reason),
        };
        self.standing.note(&verdict);
        Ok(Response::new(respond(&verdict, &self.responses)))
    }
}
