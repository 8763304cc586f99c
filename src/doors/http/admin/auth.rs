//! Who may use the admin API: whoever holds the admin token.

use actix_web::{
    Error, HttpResponse,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{CACHE_CONTROL, HeaderValue},
    middleware::Next,
    web,
};

use super::{super::gate::Gate, problem::Problem};
use crate::doors::answer::NO_STORE;

/// Lets a request through to the admin API, and sees to it that no answer is stored on its way.
pub(super) async fn check(
    gate: web::Data<Gate>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let mut response = if gate.opens_for(request.headers()) {
        next.call(request).await?
    } else {
        request.into_response(HttpResponse::from_error(Problem::unauthorized()))
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
    Ok(response)
}
