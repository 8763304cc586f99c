//! A gateway plugin's side of `countersign.v1.Verification`.

use std::net::SocketAddr;

use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::Question;

/// The messages, as anyone who has the `.proto` would generate them.
#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, dead_code, reason = "generated, with the server's side")]
#[path = "../../../src/doors/grpc/generated.rs"]
pub mod api;

use api::verify_response::Result::{Allowed, Denied, Unavailable};
use api::{Header, OriginalRequest, VerifyRequest, VerifyResponse};

/// A channel to one door. Clones share its connection.
#[derive(Clone)]
pub struct Verification {
    client: Grpc<Channel>,
}

impl Verification {
    pub fn connect(server: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap();
        Self { client: Grpc::new(endpoint.connect_lazy()) }
    }

    /// Asks for a decision about a request.
    ///
    /// # Panics
    /// If the RPC itself fails, which no decision causes.
    pub async fn verify(&mut self, request: impl Into<VerifyRequest>) -> VerifyResponse {
        self.client.ready().await.unwrap();
        let path = PathAndQuery::from_static("/countersign.v1.Verification/Verify");
        let answer =
            self.client.unary(Request::new(request.into()), path, ProstCodec::default()).await;
        answer.unwrap_or_else(|status| panic!("the RPC failed: {status:?}")).into_inner()
    }
}

impl From<&Question> for VerifyRequest {
    fn from(question: &Question) -> Self {
        Self {
            credentials: question.authorization.clone(),
            request: Some(OriginalRequest {
                method: question.method.clone(),
                scheme: question.scheme.clone(),
                host: question.host.clone(),
                path: question.target.clone(),
            }),
            required_scopes: question.scope.iter().cloned().collect(),
            attempt: question.attempt.clone().unwrap_or_default(),
            peer: "192.0.2.7".to_owned(),
        }
    }
}

impl VerifyResponse {
    pub fn allowed(&self) -> &api::Allowed {
        match &self.result {
            Some(Allowed(allowed)) => allowed,
            _ => panic!("not allowed: {self:?}"),
        }
    }

    pub fn denied(&self) -> &api::Denied {
        match &self.result {
            Some(Denied(denied)) => denied,
            _ => panic!("not denied: {self:?}"),
        }
    }

    pub fn unavailable(&self) -> &api::Unavailable {
        match &self.result {
            Some(Unavailable(unavailable)) => unavailable,
            _ => panic!("not unavailable: {self:?}"),
        }
    }
}

/// The value of the only header of that name.
pub fn header<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    let mut values =
        headers.iter().filter(|header| header.name == name).map(|header| header.value.as_str());
    let value = values.next();
    assert_eq!(values.next(), None, "a second {name} header in {headers:?}");
    value
}
