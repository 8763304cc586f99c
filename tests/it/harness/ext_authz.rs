//! Envoy's side of the gRPC door. It keeps the bytes of answers: an empty answer would be an allow,
//! and decoding hides that.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use bytes::{Buf as _, Bytes};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Request as RequestAttributes,
};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use prost::Message as _;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A channel to one door. Clones share its connection.
#[derive(Clone)]
pub struct ExtAuthz {
    client: Grpc<Channel>,
}

impl ExtAuthz {
    pub fn connect(server: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap();
        Self { client: Grpc::new(endpoint.connect_lazy()) }
    }

    /// Connects to the door at a Unix socket.
    pub fn connect_to(socket: &Path) -> Self {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
        Self { client: Grpc::new(endpoint.connect_lazy()) }
    }

    /// Asks for a decision about a request.
    ///
    /// # Panics
    /// If the RPC itself fails: for Envoy that is not a decision, whatever the status says.
    pub async fn check(&mut self, request: CheckRequest) -> CheckAnswer {
        self.try_check(request).await.unwrap_or_else(|status| panic!("the RPC failed: {status:?}"))
    }

    pub async fn try_check(&mut self, request: CheckRequest) -> Result<CheckAnswer, Status> {
        self.client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
        let bytes = self.client.unary(Request::new(request), path, RawCodec).await?.into_inner();
        let response = CheckResponse::decode(bytes.clone()).unwrap();
        Ok(CheckAnswer { bytes, response })
    }
}

/// The message that Envoy sends for `GET /` of `gateway.test` with one `authorization` header.
pub fn check_request(authorization: &str) -> CheckRequest {
    http_attributes(HttpRequest {
        headers: HashMap::from([("authorization".to_owned(), authorization.to_owned())]),
        ..bare_request()
    })
}

/// `GET /` of `gateway.test`, without headers.
pub fn bare_request() -> HttpRequest {
    HttpRequest {
        // Envoy's stream id, which differs for each request.
        id: random().to_string(),
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: "gateway.test".to_owned(),
        scheme: "http".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        ..HttpRequest::default()
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    u64::from_ne_bytes(bytes)
}

pub fn http_attributes(http: HttpRequest) -> CheckRequest {
    let request = RequestAttributes { http: Some(http), ..RequestAttributes::default() };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(request),
            ..AttributeContext::default()
        }),
    }
}

#[derive(Debug)]
pub struct CheckAnswer {
    /// The message as received.
    pub bytes: Bytes,
    pub response: CheckResponse,
}

impl CheckAnswer {
    /// The inner status code. A missing status counts as 0, an allow, as it does for Envoy.
    pub fn code(&self) -> i32 {
        self.response.status.as_ref().map_or(0, |status| status.code)
    }

    pub fn ok(&self) -> &OkHttpResponse {
        match &self.response.http_response {
            Some(HttpResponse::OkResponse(ok)) if self.code() == 0 => ok,
            _ => panic!("not allowed: {:?}", self.response),
        }
    }

    pub fn denied(&self) -> &DeniedHttpResponse {
        match &self.response.http_response {
            Some(HttpResponse::DeniedResponse(denied)) if self.code() != 0 => denied,
            _ => panic!("not denied: {:?}", self.response),
        }
    }
}

/// Encodes requests as usual, and does not decode answers.
#[derive(Debug, Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = CheckRequest;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = CheckRequest;
    type Error = Status;

    fn encode(&mut self, item: CheckRequest, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
