//! `/authenticate`, `/refresh` and `/validate`, as jwthenticator's clients use them. Its schemas
//! refuse unknown members, and so do we.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    TokenApi, body, fresh,
    problem::{Failure, TokenProblem},
};
use crate::{
    domain::{decision::Decision, secret_token::OpaqueToken},
    doors::http::throttle::{Claimant, TooManyFailures},
    engine::issue::{IssueError, Issued},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthenticateRequest {
    key: String,
    identifier: Uuid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefreshRequest {
    refresh_token: String,
    identifier: Uuid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ValidateRequest {
    jwt: String,
}

#[derive(Serialize)]
struct TokenResponse<'a> {
    jwt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

#[derive(Serialize)]
struct BoolResponse {
    result: bool,
}

/// `POST /authenticate`
pub(super) async fn authenticate(
    request: HttpRequest,
    payload: web::Payload,
    api: web::Data<TokenApi>,
) -> Result<HttpResponse, TokenProblem> {
    let expected = "send a JSON object of exactly `key`, a text, and `identifier`, a UUID";
    let AuthenticateRequest { key, identifier } = body::json(&request, payload, expected).await?;
    let attempt = api.throttle.admit(&request, Some(Claimant::Identifier(identifier)))?;
    match api.issuer.authenticate(&key, identifier).await {
        Ok(issued) => Ok(given(&issued)),
        Err(error) => Err(match Failure::from(&error) {
            Failure::Refused | Failure::ScopeNotHeld => {
                attempt.failed()?;
                TokenProblem::unauthorized(
                    "invalid_token",
                    "the key earns no token: it is not registered for this identifier, or it ended",
                )
            }
            Failure::Unavailable => TokenProblem::unavailable(),
        }),
    }
}

/// `POST /refresh`
pub(super) async fn refresh(
    request: HttpRequest,
    payload: web::Payload,
    api: web::Data<TokenApi>,
) -> Result<HttpResponse, TokenProblem> {
    let expected =
        "send a JSON object of exactly `refresh_token`, a text, and `identifier`, a UUID";
    let RefreshRequest { refresh_token, identifier } =
        body::json(&request, payload, expected).await?;
    let attempt = api.throttle.admit(&request, Some(Claimant::Identifier(identifier)))?;
    match api.issuer.refresh(&refresh_token, identifier).await {
        Ok(issued) => Ok(given(&issued)),
        Err(error) => Err(refused(&error, || attempt.failed())),
    }
}

/// `POST /validate`
pub(super) async fn validate(
    request: HttpRequest,
    payload: web::Payload,
    api: web::Data<TokenApi>,
) -> Result<HttpResponse, TokenProblem> {
    let expected = "send a JSON object of exactly `jwt`, a text";
    let ValidateRequest { jwt } = body::json(&request, payload, expected).await?;
    match api.issuer.validate(&jwt).await.result {
        Ok(Decision::Allow(_)) => Ok(fresh(HttpResponse::Ok()).json(BoolResponse { result: true })),
        Ok(Decision::Deny(_)) => Err(TokenProblem::unauthorized(
            "invalid_token",
            "the token may not be used, or not any more",
        )),
        Err(_) => Err(TokenProblem::unavailable()),
    }
}

/// The response when a refresh token was not accepted. `failed` counts the failure if it is the
/// client's fault.
pub(super) fn refused(
    error: &IssueError,
    failed: impl FnOnce() -> Result<(), TooManyFailures>,
) -> TokenProblem {
    match Failure::from(error) {
        Failure::Refused | Failure::ScopeNotHeld => failed().err().map_or_else(
            || {
                TokenProblem::unauthorized(
                    "invalid_token",
                    "the refresh token earns no token: it is unknown, or it ended",
                )
            },
            Into::into,
        ),
        Failure::Unavailable => TokenProblem::unavailable(),
    }
}

fn given(issued: &Issued) -> HttpResponse {
    let refresh_token = issued.refresh_token.as_ref().map(OpaqueToken::expose);
    fresh(HttpResponse::Ok()).json(TokenResponse { jwt: &issued.access_token, refresh_token })
}
