//! Asks a gRPC door as Envoy would, for `countersign demo`.

use envoy_types::{
    ext_authz::v3::pb::{CheckRequest, HttpResponse},
    pb::envoy::service::auth::v3::{
        AttributeContext,
        attribute_context::{HttpRequest, Request},
        authorization_client::AuthorizationClient,
    },
};

use crate::{
    config::ListenAddress,
    doors::{http::probe::Answer, response::name},
};

/// The gRPC door could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection failed.
    #[error("the gRPC door cannot be reached")]
    Connect(#[from] tonic::transport::Error),
    /// The call failed. A decision never fails a call.
    #[error("the gRPC door failed")]
    Call(#[from] Box<tonic::Status>),
}

/// Sends `authorization` to `Check` of the door at `address`.
pub async fn ask(address: &ListenAddress, authorization: &str) -> Result<Answer, AskError> {
    let url = match address {
        ListenAddress::Tcp(address) => format!("http://{address}"),
        ListenAddress::Unix(path) => format!("unix://{}", path.display()),
    };
    let mut client = AuthorizationClient::connect(url).await?;
    let http = HttpRequest {
        method: "GET".to_owned(),
        path: "/demo".to_owned(),
        host: address.to_string(),
        headers: [("authorization".to_owned(), authorization.to_owned())].into(),
        ..HttpRequest::default()
    };
    let request = Request { http: Some(http), ..Request::default() };
    let attributes = AttributeContext { request: Some(request), ..AttributeContext::default() };
    let answer = client
        .check(CheckRequest { attributes: Some(attributes) })
        .await
        .map_err(Box::new)?
        .into_inner();
    let code =
        tonic::Code::from(answer.status.map_or(tonic::Code::Unknown as i32, |status| status.code));
    let (wanted, headers) = match answer.http_response {
        Some(HttpResponse::OkResponse(response)) => (name::USERNAME, response.headers),
        Some(HttpResponse::DeniedResponse(response)) => (name::ERROR, response.headers),
        Some(HttpResponse::ErrorResponse(_)) | None => ("", Vec::new()),
    };
    let value = headers
        .into_iter()
        .filter_map(|option| option.header)
        .find(|header| header.key == wanted)
        .map(|header| header.value);
    Ok(Answer {
        status: format!("{} {code:?}", code as i32),
        says: format!("{wanted}: {}", value.unwrap_or_default()),
    })
}
