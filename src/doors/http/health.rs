//! Liveness, readiness and metrics. None needs a token.

use actix_web::{HttpResponse, http::header, web};
use serde_json::{Map, Value, json};

use super::AdminDoor;

/// What operators look at.
pub(super) fn routes(config: &mut web::ServiceConfig, prefix: &str) {
    config
        .route(&format!("{prefix}/readyz"), web::get().to(ready))
        .route(&format!("{prefix}/livez"), web::get().to(alive))
        .route(&format!("{prefix}/metrics"), web::get().to(metrics));
}

/// Depends on nothing.
pub(super) async fn alive() -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(json!({ "result": true }))
}

/// 200 where decisions can be made, else 503; either way with what each dependency is like.
async fn ready(door: web::Data<AdminDoor>) -> HttpResponse {
    let states = door.readiness.check().await;
    let is_ready = states.iter().all(|(_, state)| state.is_ok());
    let dependencies: Map<String, Value> = states
        .into_iter()
        .map(|(dependency, state)| (dependency.name().to_owned(), json!(if state.is_ok() { "ok" } else { "unavailable" })))
        .collect();
    let mut response = if is_ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.insert_header((header::CACHE_CONTROL, "no-store")).json(json!({ "result": is_ready, "dependencies": dependencies }))
}

async fn metrics(door: web::Data<AdminDoor>) -> HttpResponse {
    let text = door.observer.render() + &door.token_observer.render();
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(text)
}
