//! HTTP: decisions for nginx, Envoy's HTTP mode and every forward-auth gateway; liveness; and, on a listener of its own, what
//! operators look at.

mod admin;
mod decision;
mod original;
pub mod probe;

use std::{future::Future, net::TcpListener, sync::Arc, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, http::header, web};

pub use super::answer::Language;
use super::{answer::PROBLEM_JSON, tls::ServerTls};
use crate::{
    engine::{readiness::Readiness, verify::Verifier},
    telemetry::decisions::DecisionObserver,
};

/// How long an idle connection of a gateway is kept. Longer than the gateways' own limits in `examples/`, so that it is they
/// who close it, and never in the moment in which they send a request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to send the head of a request.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// A factory of applications with `$door` as their state. A macro, because actix-web has no name for what it returns.
macro_rules! app {
    ($door:expr, $routes:expr) => {{
        let (door, routes) = (web::Data::new($door), $routes);
        move || App::new().app_data(door.clone()).configure(routes.clone()).default_service(web::to(not_found))
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

/// What the HTTP doors need.
#[derive(Clone, Debug)]
pub struct HttpDoor {
    /// Decides.
    pub verifier: Arc<Verifier>,
    /// Counts decisions.
    pub observer: Arc<DecisionObserver>,
    /// Knows whether decisions can be made.
    pub readiness: Readiness,
    /// How to speak.
    pub language: Arc<Language>,
    /// What stands before every path.
    pub url_prefix: Arc<str>,
}

/// A server that is running, and how to stop it.
pub struct RunningServer {
    /// Stops the server.
    pub handle: ServerHandle,
    /// Is done when the server has stopped.
    pub done: std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>,
}

impl HttpDoor {
    /// Serves decisions on `listener`.
    pub fn serve(self, listener: TcpListener, tls: Option<&ServerTls>, drain: Duration) -> std::io::Result<RunningServer> {
        let prefix = Arc::clone(&self.url_prefix);
        let routes = move |config: &mut web::ServiceConfig| {
            let scope = web::scope(&prefix)
                .service(web::resource("/validate_request").to(decision::exact))
                .service(web::resource("/validate_request{tail:/.*}").to(decision::with_tail))
                .service(web::resource(vec!["", "/", "/livez", "/health"]).get(alive));
            config.service(scope);
        };
        let server = HttpServer::new(app!(self, routes)).shutdown_timeout(drain.as_secs());
        run!(server, listener, tls)
    }

    /// Serves what operators look at on `listener`. It answers under the prefix and without it.
    pub fn serve_admin(self, listener: TcpListener, drain: Duration) -> std::io::Result<RunningServer> {
        let prefix = Arc::clone(&self.url_prefix);
        let routes = move |config: &mut web::ServiceConfig| {
            admin::routes(config, "");
            if !prefix.is_empty() {
                admin::routes(config, &prefix);
            }
        };
        let server = HttpServer::new(app!(self, routes)).shutdown_timeout(drain.as_secs()).workers(1);
        run!(server, listener, None::<&ServerTls>)
    }
}

async fn alive() -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(serde_json::json!({ "result": true }))
}

async fn not_found() -> HttpResponse {
    let problem = serde_json::json!({ "type": "about:blank", "title": "Not Found", "status": 404 });
    HttpResponse::NotFound().content_type(PROBLEM_JSON).body(problem.to_string())
}
