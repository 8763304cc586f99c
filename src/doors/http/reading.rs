//! Reads request bodies as bytes.

use actix_web::{
    HttpRequest,
    error::PayloadError,
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
    web,
};
use futures_util::StreamExt;

/// How much of a body that is too large is read and discarded, as a multiple of the limit: a client
/// may not read the response until it has sent everything.
const DISCARDED_MAX: usize = 16;

/// Why a body could not be read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It did not arrive completely.
    Broken(PayloadError),
    /// It is larger than the limit.
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

/// The media type in `Content-Type`, without parameters; empty if there is none.
pub(super) fn media_type(request: &HttpRequest) -> &str {
    content_type(request).split(';').next().unwrap_or_default().trim()
}

/// `Content-Type` with its parameters; empty if there is none.
pub(super) fn content_type(request: &HttpRequest) -> &str {
    request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
