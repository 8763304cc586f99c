//! The door for operators: the admin API, readiness and metrics.

mod api_keys;
mod audit;
mod auth;
mod body;
mod etag;
mod explain;
mod fields;
mod hosts;
mod keys;
mod log;
mod openapi;
mod paging;
mod path;
mod principals;
mod problem;
mod registration;
mod tokens;
mod trusts;

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_web::{App, HttpRequest, HttpResponse, Resource, Route, middleware::from_fn, web};

use self::{auth::Entrance, hosts::Hosts, path::Mount, problem::Problem};
use super::{bridge::Bridge, get, health, not_found, peer};
use crate::{
    config::Secret,
    doors::{
        listen::{
            self, Activity, Connection, ListenError, Listener, Listening, Peer, Protocol, Served,
            Stream, Watched,
        },
        tls::ServerTls,
    },
    engine::{issue::Issuer, readiness::Readiness, registry::Registry, verify::Verifier},
    telemetry::{log::LogControl, metrics::Metrics},
};

/// What the admin door needs.
#[derive(Clone, Debug)]
pub struct AdminDoor {
    /// The registry that operators change.
    pub registry: Registry,
    /// Issues and revokes tokens.
    pub issuer: Issuer,
    /// Explains decisions.
    pub verifier: Arc<Verifier>,
    /// Counters and measurements.
    pub metrics: Metrics,
    /// Changes what is logged.
    pub log: LogControl,
    /// Whether decisions can be made.
    pub readiness: Readiness,
    /// The scheme in front of self-signed tokens.
    pub scheme: Box<str>,
    /// The prefix of its paths. It answers without it, too.
    pub url_prefix: Arc<str>,
    /// The admin token. Without one, the admin API refuses every request.
    pub token: Option<Secret>,
    /// Accepted host names, in addition to IP addresses and `localhost`.
    pub allowed_hosts: Vec<String>,
    /// Wrong tokens that one peer may present per minute; 0 is no limit.
    pub failures_per_peer: u32,
    /// Whether API keys may be registered without the admin token.
    pub open_key_registration: bool,
    /// How long an API key is valid if a request does not say.
    pub api_key_lifetime: Duration,
}

impl AdminDoor {
    /// Serves on `listener`, with one thread.
    pub fn serve(
        self,
        listener: Listener,
        tls: Option<&ServerTls>,
        listening: Listening,
    ) -> Result<Served, ListenError> {
        listen::serve(listener, 1, tls.map(ServerTls::for_http).as_ref(), &self, listening)
    }

    fn routes(&self) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        let (prefix, is_open) = (Arc::clone(&self.url_prefix), self.open_key_registration);
        let entrance = Entrance::new(
            self.token.as_ref(),
            Hosts::new(&self.allowed_hosts),
            self.failures_per_peer,
        );
        let entrance = web::Data::new(entrance);
        move |config| {
            config.app_data(entrance);
            health::routes(config, "");
            api(config, "");
            registration::routes(config, "", is_open);
            if !prefix.is_empty() {
                health::routes(config, &prefix);
                api(config, &prefix);
                registration::routes(config, &prefix, is_open);
            }
        }
    }

    /// The registry, with the sender of `request` as the actor of changes.
    fn registry_for(&self, request: &HttpRequest) -> Registry {
        self.registry.as_actor(&Self::actor(request))
    }

    /// The sender of `request`, as audit events name it.
    fn actor(request: &HttpRequest) -> String {
        format!("admin-api@{}", peer::name(request))
    }
}

impl Protocol for AdminDoor {
    type Ready = Bridge;

    async fn prepare(self) -> Bridge {
        let routes = self.routes();
        Bridge::to(app!(self, routes)).await
    }

    fn serve<S: Stream>(
        app: &Bridge,
        stream: Watched<S>,
        peer: Peer,
        activity: &Rc<Activity>,
    ) -> impl Connection {
        let (app, serving) = (app.clone(), Rc::clone(activity));
        listen::serve_http1(stream, activity, move |request| {
            let (app, activity) = (app.clone(), Rc::clone(&serving));
            async move { app.answer(request, peer, &activity).await }
        })
    }

    fn refusal() -> Vec<u8> {
        listen::too_many_connections()
    }
}

/// The admin API under `prefix`. Without the token, a client learns nothing from it, not even which
/// paths exist.
fn api(config: &mut web::ServiceConfig, prefix: &str) {
    let mount = Mount::under(prefix);
    let scope = web::scope(mount.as_str())
        .app_data(web::Data::new(mount.clone()))
        .service(resource(
            "/principals",
            [get().to(principals::list), web::post().to(principals::create)],
            "GET, HEAD, POST",
        ))
        .service(resource(
            "/principals/{username}",
            [
                get().to(principals::show),
                web::patch().to(principals::change),
                web::delete().to(principals::remove),
            ],
            "GET, HEAD, PATCH, DELETE",
        ))
        .service(resource(
            "/principals/{username}/keys",
            [get().to(keys::list_of_principal), web::post().to(keys::create)],
            "GET, HEAD, POST",
        ))
        .service(resource(
            "/principals/{username}/jwks-trusts",
            [get().to(trusts::list_of_principal), web::post().to(trusts::create)],
            "GET, HEAD, POST",
        ))
        .service(resource(
            "/principals/{username}/api-keys",
            [get().to(api_keys::list_of_principal), web::post().to(api_keys::create)],
            "GET, HEAD, POST",
        ))
        .service(resource(
            "/principals/{username}/tokens",
            [get().to(tokens::list_of_principal), web::post().to(tokens::create)],
            "GET, HEAD, POST",
        ))
        .service(resource("/keys", [get().to(keys::list)], "GET, HEAD"))
        .service(resource(
            "/keys/{id}",
            [get().to(keys::show), web::patch().to(keys::change), web::delete().to(keys::revoke)],
            "GET, HEAD, PATCH, DELETE",
        ))
        .service(resource("/jwks-trusts", [get().to(trusts::list)], "GET, HEAD"))
        .service(resource(
            "/jwks-trusts/{id}",
            [get().to(trusts::show), web::delete().to(trusts::remove)],
            "GET, HEAD, DELETE",
        ))
        .service(resource("/jwks-trusts/{id}/refresh", [web::post().to(trusts::refresh)], "POST"))
        .service(resource("/api-keys", [get().to(api_keys::list)], "GET, HEAD"))
        .service(resource(
            "/api-keys/{id}",
            [get().to(api_keys::show), web::delete().to(api_keys::revoke)],
            "GET, HEAD, DELETE",
        ))
        .service(resource("/tokens", [get().to(tokens::list)], "GET, HEAD"))
        .service(resource(
            "/tokens/{id}",
            [get().to(tokens::show), web::delete().to(tokens::revoke)],
            "GET, HEAD, DELETE",
        ))
        .service(resource("/audit", [get().to(audit::list)], "GET, HEAD"))
        .service(resource("/explain", [web::post().to(explain::explain)], "POST"))
        .service(resource(
            "/log",
            [get().to(log::show), web::patch().to(log::change)],
            "GET, HEAD, PATCH",
        ))
        .service(resource("/openapi.json", [get().to(openapi::show)], "GET, HEAD"))
        .default_service(web::to(no_such_path))
        .wrap(from_fn(auth::check));
    config.service(scope);
}

/// The resource at `path`; `allow` names the methods of `routes`, for `Allow` in a 405.
fn resource<const N: usize>(path: &str, routes: [Route; N], allow: &'static str) -> Resource {
    let resource = routes.into_iter().fold(web::resource(path), Resource::route);
    resource.default_service(web::to(move || async move {
        HttpResponse::from_error(Problem::method_not_allowed(allow))
    }))
}

async fn no_such_path() -> HttpResponse {
    HttpResponse::from_error(Problem::not_found(
        "there is nothing at this path; `openapi.json` lists what there is",
    ))
}
