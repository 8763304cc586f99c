//! HTTP: decisions for nginx, Envoy's HTTP mode and every forward-auth gateway; tokens; liveness; and, on a listener of its own,
//! what operators look at.

/// A factory of applications with `$door` as their state. A macro, because actix-web has no name for what it returns.
macro_rules! app {
    ($door:expr, $routes:expr) => {{
        let (door, routes) = ($door, $routes);
        // A count of references for each worker, so that they do not contend for one.
        move || App::new().app_data(web::Data::new(door.clone())).configure(routes.clone()).default_service(web::to(not_found))
    }};
}

/// Starts `$server` on `$listener`. A macro for the same reason.
macro_rules! run {
    ($server:expr, $listener:expr, $tls:expr) => {{
        let server = $server.keep_alive(KEEP_ALIVE).client_request_timeout(REQUEST_HEAD_TIMEOUT).disable_signals();
        let server = match $tls {
            None => server.listen($listener)?,
            Some(tls) => server.listen_rustls_0_23($listener, tls.for_http())?,
        };
        let server = server.run();
        Ok(RunningServer { handle: server.handle(), done: Box::pin(server) })
    }};
}

mod admin;
mod decision;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod health;
mod original;
pub mod probe;
mod reading;
mod throttle;
mod tokens;

use std::{future::Future, net::TcpListener, sync::Arc, time::Duration};

use actix_web::{
    App, HttpResponse, HttpServer, Route,
    dev::ServerHandle,
    guard::{Any, Get, Head},
    http::header::{HeaderName, HeaderValue},
    web,
};

use self::tokens::TokenApi;
pub use self::{
    admin::AdminDoor,
    tokens::{TokenDoor, token_endpoint},
};
pub use super::answer::Language;
use super::{answer::PROBLEM_JSON, tls::ServerTls};
use crate::engine::verify::Verifier;

/// How long an idle connection of a gateway is kept. Longer than the gateways' own limits in `examples/`, so that it is they
/// who close it, and never in the moment in which they send a request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to send the head of a request.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The door for decisions, and for tokens.
#[derive(Clone, Debug)]
pub struct HttpDoor {
    verifier: Arc<Verifier>,
    tokens: Arc<TokenApi>,
    language: Arc<Language>,
    url_prefix: Arc<str>,
    /// What `language` says, as actix takes it.
    credentials_header: HeaderName,
    attempt_header: Option<HeaderName>,
    headers_to_remove: HeaderValue,
}

/// A name in the settings is not one for a header.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} cannot be the name of a header")]
pub struct BadHeaderName {
    name: Box<str>,
}

/// A server that is running, and how to stop it.
pub struct RunningServer {
    /// Stops the server.
    pub handle: ServerHandle,
    /// Is done when the server has stopped.
    pub done: std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>,
}

impl HttpDoor {
    /// A door to `verifier` and `tokens`, with `url_prefix` before every path.
    pub fn new(
        verifier: Arc<Verifier>,
        tokens: TokenDoor,
        language: Arc<Language>,
        url_prefix: Arc<str>,
    ) -> Result<Self, BadHeaderName> {
        let name = |name: &str| HeaderName::try_from(name).map_err(|_| BadHeaderName { name: name.into() });
        let credentials_header = name(&language.credentials_header)?;
        let attempt_header = language.attempt_header.as_deref().map(name).transpose()?;
        let headers_to_remove = HeaderValue::from(credentials_header.clone());
        let tokens = Arc::new(TokenApi::new(tokens, &url_prefix));
        Ok(Self { verifier, tokens, language, url_prefix, credentials_header, attempt_header, headers_to_remove })
    }

    /// Serves decisions and tokens on `listener`.
    pub fn serve(self, listener: TcpListener, tls: Option<&ServerTls>, drain: Duration) -> std::io::Result<RunningServer> {
        let (prefix, tokens) = (Arc::clone(&self.url_prefix), Arc::clone(&self.tokens));
        // Full paths instead of a scope, which would be one more service to go through for each decision.
        let routes = move |config: &mut web::ServiceConfig| {
            let at = |path: &str| format!("{prefix}{path}");
            let mut alive_at = vec![at("/"), at("/livez"), at("/health")];
            if !prefix.is_empty() {
                alive_at.push(at(""));
            }
            config
                .service(web::resource(at("/validate_request")).to(decision::exact))
                .service(web::resource(at("/validate_request{tail:/.*}")).to(decision::with_tail))
                .service(web::resource(alive_at).get(health::alive));
            // Last, so that a decision does not go past all of these.
            tokens::routes(config, &prefix, &tokens);
        };
        let server = HttpServer::new(app!(self, routes)).shutdown_timeout(drain.as_secs());
        run!(server, listener, tls)
    }
}

/// What can be read can be asked about without its body.
fn get() -> Route {
    web::route().guard(Any(Get()).or(Head()))
}

async fn not_found() -> HttpResponse {
    let problem = serde_json::json!({ "type": "about:blank", "title": "Not Found", "status": 404 });
    HttpResponse::NotFound().content_type(PROBLEM_JSON).body(problem.to_string())
}
