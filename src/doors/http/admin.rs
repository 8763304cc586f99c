//! The door for operators: the admin API, readiness and metrics.

use std::{net::TcpListener, sync::Arc, time::Duration};

use actix_web::{App, HttpServer, web};

use super::{KEEP_ALIVE, REQUEST_HEAD_TIMEOUT, RunningServer, health, not_found};
use crate::{
    config::Secret,
    doors::tls::ServerTls,
    engine::{readiness::Readiness, registry::Registry, verify::Verifier},
    telemetry::decisions::DecisionObserver,
};

/// What operators reach.
#[derive(Clone, Debug)]
pub struct AdminDoor {
    /// What they change.
    pub registry: Registry,
    /// What explains decisions.
    pub verifier: Arc<Verifier>,
    /// What has counted them.
    pub observer: Arc<DecisionObserver>,
    /// Whether decisions can be made.
    pub readiness: Readiness,
    /// The scheme in front of self-signed tokens.
    pub scheme: Box<str>,
    /// It answers under this prefix, and without it.
    pub url_prefix: Arc<str>,
    /// What opens the admin API; nothing does where there is none.
    pub token: Option<Secret>,
}

impl AdminDoor {
    /// Serves on `listener`.
    pub fn serve(self, listener: TcpListener, drain: Duration) -> std::io::Result<RunningServer> {
        let prefix = Arc::clone(&self.url_prefix);
        let routes = move |config: &mut web::ServiceConfig| {
            health::routes(config, "");
            if !prefix.is_empty() {
                health::routes(config, &prefix);
            }
        };
        let server = HttpServer::new(app!(self, routes)).shutdown_timeout(drain.as_secs()).workers(1);
        run!(server, listener, None::<&ServerTls>)
    }
}
