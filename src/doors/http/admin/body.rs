//! Reads and parses request bodies.

use actix_web::{HttpRequest, http::header, web};
use serde::de::DeserializeOwned;

use super::{
    super::reading::{self, Unread},
    problem::Problem,
};
use crate::domain::json::{self, Object};

pub(super) const JSON: &str = "application/json";
/// Content type of merge patches (RFC 7396).
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";

/// Largest body, in bytes.
const BYTES_MAX: usize = 1024 * 1024;

/// Parses the body of a `POST`.
pub(super) async fn json<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<T, Problem> {
    parsed(&read(request, payload, &[JSON]).await?)
}

/// The same for jwthenticator's API, which ignores `Content-Type`. Requests from web pages of other
/// hosts are refused before.
pub(super) async fn json_of_any_type<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<T, Problem> {
    parsed(&read_any(request, payload).await?)
}

/// Parses the body of a `PATCH`: absent members stay as they are, `null` removes a value.
pub(super) async fn merge_patch<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<T, Problem> {
    parsed(&read(request, payload, &[JSON, MERGE_PATCH]).await?)
}

async fn read(
    request: &HttpRequest,
    payload: web::Payload,
    accepted: &[&str],
) -> Result<Vec<u8>, Problem> {
    let media_type = reading::media_type(request);
    if !accepted.iter().any(|accepted| media_type.eq_ignore_ascii_case(accepted)) {
        return Err(Problem::unsupported_media_type(accepted));
    }
    read_any(request, payload).await
}

async fn read_any(request: &HttpRequest, payload: web::Payload) -> Result<Vec<u8>, Problem> {
    reading::body(request, payload, BYTES_MAX).await.map_err(|unread| match unread {
        Unread::Broken(error) => {
            Problem::malformed(format!("the body did not arrive as a whole: {error}"))
        }
        Unread::TooLarge => Problem::too_large(BYTES_MAX),
    })
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_str(
        json::text(body).map_err(|error| Problem::malformed(error.to_string()))?,
    );
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let member = error.path().to_string();
        let fault = error.into_inner();
        let detail = fault.to_string();
        // If the body is not JSON at all, no single member is wrong.
        if fault.is_data() && member != "." {
            Problem::bad_member(member, detail)
        } else {
            Problem::malformed(detail)
        }
    })?;
    json.end().map_err(|error| Problem::malformed(error.to_string()))?;
    Ok(value)
}

/// Parses a body whose members are all optional: no body at all counts as an empty object.
pub(super) async fn json_if_any<T: DeserializeOwned + Default>(
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<T, Problem> {
    let has_body = request.headers().contains_key(header::TRANSFER_ENCODING)
        || request.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if !has_body && !request.headers().contains_key(header::CONTENT_TYPE) {
        Ok(T::default())
    } else {
        json(request, payload).await
    }
}
