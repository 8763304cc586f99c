//! What the fuzz targets see of this door.

use hyper::{
    Method, Request, Uri,
    header::{self, HeaderName, HeaderValue},
};

use super::{
    decision::auth_request,
    route::{Route, is_question},
};
use crate::domain::auth_request::AuthRequest;

const ATTEMPT: HeaderName = HeaderName::from_static("x-request-id");

/// Shows `look` what a gateway asks with a request that has this head. `None` if the HTTP library
/// would not hand it on, or it is for another path than those of decisions.
pub fn decision_request<T>(
    method: &str,
    target: &str,
    headers: &[(&[u8], &[u8])],
    look: impl FnOnce(&AuthRequest<'_>) -> T,
) -> Option<T> {
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    let uri: Uri = target.parse().ok()?;
    let (mut request, ()) = Request::new(()).into_parts();
    (request.method, request.uri) = (method, uri);
    for (name, value) in headers {
        request
            .headers
            .append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    is_question("", &request.uri).then(|| {
        let route = Route::of(0, &request.uri);
        look(&auth_request(&request, &route, &header::AUTHORIZATION, Some(&ATTEMPT)))
    })
}
