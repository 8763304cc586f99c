//! `countersign.v1.Verification/Verify`: the same decision for the plugins of API gateways.

use std::sync::Arc;

use bytestring::ByteString;
use tonic::{Request, Response, Status, async_trait};

use super::{
    generated::{
        self as wire, VerifyRequest, VerifyResponse, verification_server::Verification,
        verify_response,
    },
    request::trace,
    response::date,
    service::Refused,
};
use crate::{
    domain::{
        auth_request::{AuthRequest, Body, Credentials, Door, OriginalRequest, Reported},
        decision::Identity,
        scope::Scopes,
    },
    doors::{
        listen::TurnRecord,
        response::{
            RETRY_AFTER_SECONDS, Refusal, RefusalKind, ResponseConfig, identity_values, name,
            to_response,
        },
    },
    engine::verify::{Verdict, Verifier},
};

pub(super) struct PluginVerification {
    pub(super) verifier: Arc<Verifier>,
    pub(super) responses: Arc<ResponseConfig>,
    /// The turn record of the connection.
    pub(super) standing: TurnRecord,
}

#[async_trait]
impl Verification for PluginVerification {
    /// Always an OK RPC, as for Envoy, so that a plugin has only one way to read a denial.
    async fn verify(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<VerifyResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let auth_request = AuthRequest { trace: trace(&metadata), ..AuthRequest::from(&request) };
        let verdict = match Refused::reason(&extensions) {
            None => self.verifier.decide(&auth_request).await,
            Some(reason) => self.verifier.refuse(&auth_request, reason),
        };
        self.standing.note(&verdict);
        Ok(Response::new(respond(&verdict, &self.responses)))
    }
}

impl<'a> From<&'a VerifyRequest> for AuthRequest<'a> {
    fn from(asked: &'a VerifyRequest) -> Self {
        let credentials = asked
            .credentials
            .iter()
            .fold(Credentials::None, |known, value| known.and_another(value));
        Self {
            request: asked.request.as_ref().map(OriginalRequest::from).unwrap_or_default(),
            required_scopes: asked.required_scopes.iter().map(String::as_str).collect(),
            attempt: Some(asked.attempt.as_str()).filter(|name| !name.is_empty()),
            peer: asked.peer.parse().ok(),
            ..Self::alone(Door::Grpc, credentials)
        }
    }
}

impl<'a> From<&'a wire::OriginalRequest> for OriginalRequest<'a> {
    fn from(told: &'a wire::OriginalRequest) -> Self {
        let [method, scheme, host, path] = [&told.method, &told.scheme, &told.host, &told.path]
            .map(|value| Reported::from(Some(value.as_str())));
        Self { method, scheme, host, path, body: Body::Unseen }
    }
}

/// The whole response, always with a result.
fn respond(verdict: &Verdict, responses: &ResponseConfig) -> VerifyResponse {
    let decision_id = verdict.id.to_string();
    let result = match to_response(verdict, responses) {
        Ok(identity) => verify_response::Result::Allowed(allow(identity, &decision_id, responses)),
        Err(refusal) => refuse(&refusal, &decision_id),
    };
    VerifyResponse { decision_id, result: Some(result) }
}

fn allow(identity: &Identity, id: &str, responses: &ResponseConfig) -> wire::Allowed {
    let values = identity_values(identity, id);
    let [_, principal_id, method, key_id, ..] = &values;
    wire::Allowed {
        identity: Some(wire::Identity {
            username: identity.principal().username.to_string(),
            principal_id: principal_id.to_string(),
            method: method.to_string(),
            key_id: key_id.to_string(),
            scopes: listed(identity.scopes()),
        }),
        identity_headers: name::IDENTITY
            .into_iter()
            .zip(values.iter().cloned())
            .map(wire::Header::from)
            .collect(),
        headers_to_remove: responses
            .header_to_remove(identity)
            .map(str::to_owned)
            .into_iter()
            .collect(),
    }
}

fn refuse(refusal: &Refusal<'_>, id: &str) -> verify_response::Result {
    let http_status = u32::from(refusal.status());
    let headers = refusal.headers(id).chain([("date", date())]).map(wire::Header::from).collect();
    match refusal.kind() {
        RefusalKind::Unauthenticated | RefusalKind::Forbidden | RefusalKind::Misconfigured => {
            verify_response::Result::Denied(wire::Denied {
                code: refusal.code().to_owned(),
                http_status,
                www_authenticate: refusal.challenge().to_string(),
                body: refusal.body(id),
                missing_scopes: refusal.missing_scopes.map(listed).unwrap_or_default(),
                headers,
            })
        }
        RefusalKind::Unavailable => verify_response::Result::Unavailable(wire::Unavailable {
            http_status,
            retry_after_seconds: RETRY_AFTER_SECONDS,
            body: refusal.body(id),
            headers,
        }),
    }
}

fn listed(scopes: &Scopes) -> Vec<String> {
    scopes.iter().map(str::to_owned).collect()
}

impl From<(&'static str, ByteString)> for wire::Header {
    fn from((name, value): (&'static str, ByteString)) -> Self {
        Self { name: name.to_owned(), value: value.to_string() }
    }
}
