//! What the fuzz targets see of this door.

use hyper::{
    Method, Request, Uri,
    header::{self, HeaderName, HeaderValue},
};

use super::{
    decision::{Asks, asks, path_behind, presented, query_scopes},
    original,
};
use crate::domain::presented::Presented;

const ATTEMPT: HeaderName = HeaderName::from_static("x-request-id");

/// Shows `look` what a gateway asks with a request that has this head. `None` if the HTTP library would not hand it on, or it is for
/// another path than that of decisions.
pub fn decision_request<T>(
    method: &str,
    target: &str,
    headers: &[(&[u8], &[u8])],
    look: impl FnOnce(&Presented<'_>) -> T,
) -> Option<T> {
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    let uri: Uri = target.parse().ok()?;
    let (mut request, ()) = Request::new(()).into_parts();
    (request.method, request.uri) = (method, uri);
    for (name, value) in headers {
        request.headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    let host = original::own_host(&request);
    let (original, asked) = match asks("", &request.uri)? {
        Asks::WithHeaders => (original::from_headers(&request, host), query_scopes(request.uri.query().unwrap_or_default())),
        Asks::WithTail => (original::from_request_line(&request, host, path_behind(0, &request.uri)), Vec::new()),
    };
    Some(look(&presented(&request, &header::AUTHORIZATION, Some(&ATTEMPT), original, &asked)))
}
