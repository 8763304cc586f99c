//! jwthenticator's internal API: a user of a service registers an API key of their choice.
//! Responses have exactly the members that its client knows, which rejects any other.

use actix_web::{HttpRequest, HttpResponse, middleware::from_fn, web};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{auth, body, problem::Problem, resource};
use crate::doors::http::AdminDoor;

/// The routes under `prefix`, which require the admin token unless registration `is_open`.
pub(super) fn routes(config: &mut web::ServiceConfig, prefix: &str, is_open: bool) {
    let at = |name: &str| format!("{prefix}/{name}");
    let resources = [
        resource(&at("register_key"), [web::post().to(register)], "POST"),
        resource(&at("is_key_registered"), [web::post().to(is_registered)], "POST"),
    ];
    for resource in resources {
        if is_open {
            config.service(resource.wrap(from_fn(auth::let_in)));
        } else {
            config.service(resource.wrap(from_fn(auth::check)));
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    key: String,
    identifier: Uuid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    key: String,
}

/// Registers a key for an identifier, or extends its validity.
async fn register(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let Registration { key, identifier } = body::json_of_any_type(&request, payload).await?;
    door.registry_for(&request).register_api_key(&key, identifier, door.api_key_lifetime).await?;
    Ok(HttpResponse::Created().json(json!({ "result": true })))
}

async fn is_registered(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let Question { key } = body::json_of_any_type(&request, payload).await?;
    let is_registered = door.issuer.is_api_key_registered(&key).await?;
    Ok(HttpResponse::Ok().json(json!({ "result": is_registered })))
}
