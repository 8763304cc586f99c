//! Who may use the admin API: clients that hold the admin token, but no web page of another host in
//! someone's browser.

use actix_web::{
    Error, HttpRequest, HttpResponse,
    body::BoxBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue},
    middleware::Next,
    web,
};

use super::{hosts::Hosts, problem::Problem};
use crate::{
    config::Secret,
    doors::{
        http::{admin_token::AdminToken, peer, throttle::Throttle},
        listen::Peer,
        response::NO_STORE,
    },
};

/// The checks at the entrance of the admin API.
#[derive(Debug)]
pub(super) struct Entrance {
    hosts: Hosts,
    admin_token: AdminToken,
    throttle: Throttle,
}

impl Entrance {
    /// For clients that hold `token` and call one of `hosts`. A peer may present
    /// `failures_per_peer` wrong tokens per minute; 0 is no limit.
    pub(super) fn new(token: Option<&Secret>, hosts: Hosts, failures_per_peer: u32) -> Self {
        Self {
            hosts,
            admin_token: AdminToken::new(token),
            throttle: Throttle::new(failures_per_peer, 0),
        }
    }

    fn check(&self, request: &HttpRequest) -> Result<(), Problem> {
        // Before the token, so that a web page of another host cannot guess tokens.
        self.hosts.check(request.headers(), request.uri().authority())?;
        if !request.headers().contains_key(AUTHORIZATION) {
            return Err(Problem::unauthorized());
        }
        let attempt = self.throttle.admit(request, None)?;
        if self.admin_token.is_in(request.headers()) {
            return Ok(());
        }
        attempt.failed()?;
        let process = peer::of(request).and_then(Peer::process);
        tracing::warn!(peer = peer::name(request), process, "a wrong admin token was presented");
        Err(Problem::unauthorized())
    }
}

/// Checks a request to the admin API, and marks every response as not to be stored.
pub(super) async fn check(
    entrance: web::Data<Entrance>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let checked = entrance.check(request.request());
    go_on(checked, request, next).await
}

/// The same without a token: only web pages of other hosts are refused.
pub(super) async fn let_in(
    entrance: web::Data<Entrance>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let checked = entrance.hosts.check(request.headers(), request.uri().authority());
    go_on(checked, request, next).await
}

async fn go_on(
    checked: Result<(), Problem>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let mut response = match checked {
        Ok(()) => next.call(request).await?,
        Err(problem) => request.into_response(HttpResponse::from_error(problem)),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
    Ok(response)
}
