//! The token API: issues access tokens for API keys, refresh tokens and client assertions;
//! introspects and revokes tokens; and publishes the keys that our tokens are signed with.

mod body;
mod discovery;
mod jwtconnect;
mod jwthenticator;
mod oauth;
mod problem;

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::header::{CACHE_CONTROL, HeaderName, HeaderValue},
    web,
};

pub use self::discovery::token_endpoint;
use self::{discovery::Places, problem::TokenProblem};
use super::{admin_token::AdminToken, get, throttle::Throttle};
use crate::{
    config::Secret,
    doors::response::{NO_STORE, name},
    engine::issue::Issuer,
};

/// What the token API needs.
#[derive(Clone, Debug)]
pub struct TokenDoor {
    /// Issues and revokes tokens.
    pub issuer: Issuer,
    /// Whether the token API is served, or only the public keys.
    pub is_open: bool,
    /// The admin token; its holder may revoke any token.
    pub admin_token: Option<Secret>,
    /// How long a new key is published before it signs.
    pub signing_key_delay: Duration,
    /// Wrong secrets that one peer may present per minute; 0 is no limit.
    pub failures_per_peer: u32,
    /// Wrong secrets that may be presented per minute in the name of one client; 0 is no limit.
    pub failures_per_identifier: u32,
}

/// The token API, ready to serve.
#[derive(Debug)]
pub(super) struct TokenApi {
    issuer: Issuer,
    is_open: bool,
    admin_token: AdminToken,
    throttle: Throttle,
    places: Places,
    key_set_max_age: Duration,
}

impl TokenApi {
    pub(super) fn new(door: TokenDoor, url_prefix: &str) -> Self {
        Self {
            is_open: door.is_open,
            admin_token: AdminToken::new(door.admin_token.as_ref()),
            throttle: Throttle::new(door.failures_per_peer, door.failures_per_identifier),
            places: Places::new(&door.issuer.terms().issuer, url_prefix),
            key_set_max_age: discovery::key_set_max_age(door.signing_key_delay),
            issuer: door.issuer,
        }
    }
}

/// The routes of the token API, under `prefix`.
pub(super) fn routes(config: &mut web::ServiceConfig, prefix: &str, api: &Arc<TokenApi>) {
    let at = |path: &str| format!("{prefix}{path}");
    config.app_data(web::Data::from(Arc::clone(api)));
    for path in [discovery::JWKS, discovery::WELL_KNOWN_JWKS] {
        config.service(readable(web::resource(at(path)).route(get().to(discovery::key_set))));
    }
    if !api.is_open {
        return;
    }
    let mut described_at = vec![at(discovery::METADATA)];
    described_at.extend(api.places.metadata_of_issuer());
    described_at.dedup();
    config
        .service(postable(web::resource(at("/authenticate")).post(jwthenticator::authenticate)))
        .service(postable(web::resource(at("/refresh")).post(jwthenticator::refresh)))
        .service(postable(web::resource(at("/validate")).post(jwthenticator::validate)))
        .service(postable(web::resource(at("/token/refresh")).post(jwtconnect::refresh)))
        .service(postable(web::resource(at(discovery::INTROSPECTION)).post(jwtconnect::introspect)))
        .service(postable(web::resource(at(discovery::REVOCATION)).post(jwtconnect::revoke)))
        .service(postable(web::resource(at(discovery::TOKEN)).post(oauth::token)))
        .service(readable(web::resource(described_at).route(get().to(discovery::metadata))));
}

fn postable(resource: actix_web::Resource) -> actix_web::Resource {
    otherwise(resource, "POST")
}

fn readable(resource: actix_web::Resource) -> actix_web::Resource {
    otherwise(resource, "GET, HEAD")
}

fn otherwise(resource: actix_web::Resource, allow: &'static str) -> actix_web::Resource {
    resource.default_service(web::to(move || async move {
        HttpResponse::from_error(TokenProblem::method_not_allowed(allow))
    }))
}

/// The response to a request for `path` that is refused unread because there are too many, in the
/// format of the token API, whether or not the path exists. It is not a decision.
pub(super) fn overloaded(prefix: &str, path: &str) -> HttpResponse {
    let problem = TokenProblem::overloaded();
    let is_token_endpoint = path.strip_prefix(prefix) == Some(discovery::TOKEN);
    let mut response =
        HttpResponse::from_error(if is_token_endpoint { problem.in_plain_json() } else { problem });
    response
        .headers_mut()
        .insert(HeaderName::from_static(name::ERROR), HeaderValue::from_static("unavailable"));
    response
}

/// A response that must not be stored by caches.
fn fresh(mut response: HttpResponseBuilder) -> HttpResponseBuilder {
    response.insert_header((CACHE_CONTROL, NO_STORE));
    response
}
