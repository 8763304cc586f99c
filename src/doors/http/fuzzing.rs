//! What the fuzz targets see of this door.

use actix_web::{
    http::{
        Method, Uri,
        header::{self, HeaderName, HeaderValue},
    },
    test::TestRequest,
};

use super::{
    decision::{path_behind, presented, query_scopes},
    original,
};
use crate::domain::presented::Presented;

const EXACT: &str = "/validate_request";
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
    let mut request = TestRequest::default().method(method).uri(target);
    for (name, value) in headers {
        request = request.append_header((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?));
    }
    let request = request.to_http_request();
    let host = original::own_host(&request);
    let (original, asked) = match uri.path().strip_prefix(EXACT)? {
        "" => (original::from_headers(&request, host), query_scopes(request.query_string())),
        tail if tail.starts_with('/') => (original::from_request_line(&request, host, path_behind(0, &uri)), Vec::new()),
        _ => return None,
    };
    Some(look(&presented(&request, &header::AUTHORIZATION, Some(&ATTEMPT), original, &asked)))
}
