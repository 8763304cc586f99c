//! Liveness, readiness and metrics. None needs a token.

use std::{error::Error, iter::successors};

use actix_web::{HttpResponse, http::header, web};
use serde_json::{Map, Value, json};

use super::{AdminDoor, get};
use crate::engine::ports::RegistryTrouble;

/// The text format of Prometheus.
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Routes for operators: liveness, readiness and metrics.
pub(super) fn routes(config: &mut web::ServiceConfig, prefix: &str) {
    config
        .route(&format!("{prefix}/readyz"), get().to(ready))
        .route(&format!("{prefix}/livez"), get().to(alive))
        .route(&format!("{prefix}/metrics"), get().to(metrics));
}

/// Liveness: depends on nothing.
pub(super) async fn alive() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(json!({ "result": true }))
}

/// Readiness: 200 if decisions can be made and the service is not shutting down, else 503. Either
/// way the body has the state of each dependency, and why one is missing. Without the registry,
/// decisions continue for a while, but logins and changes do not. If nobody reads the log, that is
/// only a warning: decisions do not wait for it.
async fn ready(door: web::Data<AdminDoor>) -> HttpResponse {
    let states = door.readiness.check().await;
    let registry = door.readiness.registry();
    let is_draining = door.readiness.is_draining();
    let is_ready = !is_draining && states.iter().all(|(_, state)| state.is_ok());
    let mut dependencies: Map<String, Value> = states
        .iter()
        .map(|(dependency, state)| {
            (dependency.name().to_owned(), json!(if state.is_ok() { "ok" } else { "unavailable" }))
        })
        .collect();
    let mut reasons: Map<String, Value> = states
        .iter()
        .filter_map(|(dependency, state)| {
            Some((dependency.name().to_owned(), json!(causes(state.as_ref().err()?))))
        })
        .collect();
    // Only if there is an error: decisions do not depend on the registry right away.
    if let Err(trouble) = registry {
        let state = match &trouble {
            RegistryTrouble::ReadOnly(_) => "read_only",
            RegistryTrouble::Away(_) => "unavailable",
        };
        dependencies.insert("registry".to_owned(), json!(state));
        reasons.insert("registry".to_owned(), json!(trouble.to_string()));
    }
    if is_draining {
        reasons.insert("service".to_owned(), json!("it was told to stop"));
    }
    let mut body = json!({ "result": is_ready, "dependencies": dependencies });
    if !reasons.is_empty() {
        body["reasons"] = Value::Object(reasons);
    }
    let lost = door.log.lines_being_lost();
    if lost > 0 {
        body["warnings"] = json!({ "log": format!("nobody reads standard error: {lost} lines were dropped so far") });
    }
    let mut response =
        if is_ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.insert_header((header::CACHE_CONTROL, "no-store")).json(body)
}

/// An error and its causes, on one line.
fn causes(error: &dyn Error) -> String {
    successors(Some(error), |&error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

async fn metrics(door: web::Data<AdminDoor>) -> HttpResponse {
    match door.metrics.render() {
        Ok(text) => HttpResponse::Ok().content_type(METRICS_TEXT).body(text),
        Err(error) => {
            tracing::error!(error = %error, "the metrics cannot be written");
            HttpResponse::InternalServerError().finish()
        }
    }
}
