//! Bodies of requests, as bytes.

use actix_web::{
    HttpRequest,
    error::PayloadError,
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
    web,
};
use futures_util::StreamExt;

/// How much of a body that is too large is read to no purpose, as a multiple of what is accepted: a
/// client that is still sending may not look at the answer.
const DISCARDED_MAX: usize = 16;

/// There is no body.
#[derive(Debug)]
pub(super) enum Unread {
    /// It did not arrive as a whole.
    Broken(PayloadError),
    /// It is larger than what is accepted.
    TooLarge,
}

/// The whole body, of at most `bytes_max` bytes.
pub(super) async fn body(
    request: &HttpRequest,
    mut payload: web::Payload,
    bytes_max: usize,
) -> Result<Vec<u8>, Unread> {
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0);
    let mut body = Vec::with_capacity(if announced > bytes_max { 0 } else { announced });
    let mut length: usize = 0;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(Unread::Broken)?;
        length = length.saturating_add(chunk.len());
        if length <= bytes_max {
            body.extend_from_slice(&chunk);
        } else if length > bytes_max.saturating_mul(DISCARDED_MAX) {
            break;
        }
    }
    if length > bytes_max { Err(Unread::TooLarge) } else { Ok(body) }
}

/// What the body is said to be, without parameters; empty where nothing is said.
pub(super) fn media_type(request: &HttpRequest) -> &str {
    content_type(request).split(';').next().unwrap_or_default().trim()
}

/// The same with its parameters.
pub(super) fn content_type(request: &HttpRequest) -> &str {
    request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
