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

/// Calls `look` with the authorization request of a request with this head. `None` if the HTTP
/// library would reject the head, or if the path is not one for decisions.
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
