//! `/oauth2/token`: the token endpoint of RFC 6749, for clients that authenticate with a signed
//! assertion (RFC 7523), and for anyone who holds a refresh token.

use std::borrow::Cow;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{AUTHORIZATION, PRAGMA},
    web,
};
use serde::Serialize;

use super::{
    TokenApi,
    body::{self, Form},
    fresh,
    problem::{Failure, TokenProblem},
};
use crate::{
    domain::{
        principal::Username,
        scope::Scopes,
        secret_token::OpaqueToken,
        token::{TokenFault, UntrustedToken},
    },
    doors::http::throttle::{Claimant, SecretAttempt},
    engine::issue::{IssueError, Issued},
};

/// RFC 7523 section 2.2.
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// RFC 6749 section 5.1.
#[derive(Serialize)]
struct AccessTokenResponse<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

/// `POST /oauth2/token`
pub(super) async fn token(
    request: HttpRequest,
    payload: web::Payload,
    api: web::Data<TokenApi>,
) -> Result<HttpResponse, TokenProblem> {
    answer(&request, payload, &api).await.map_err(TokenProblem::in_plain_json)
}

async fn answer(
    request: &HttpRequest,
    payload: web::Payload,
    api: &TokenApi,
) -> Result<HttpResponse, TokenProblem> {
    let form = body::form(request, payload).await?;
    let grant = match form.parameter("grant_type") {
        Some("client_credentials") => Grant::ClientCredentials,
        Some("refresh_token") => Grant::Refresh,
        Some(_) => {
            let accepted = "accepted as `grant_type` are client_credentials and refresh_token";
            return Err(TokenProblem::token_endpoint("unsupported_grant_type", accepted));
        }
        None => return Err(TokenProblem::invalid_request("there is no `grant_type`")),
    };
    let client = Client::read(request, &form)?;
    let asked = form.parameter("scope").map(Scopes::parse).transpose().map_err(|_| {
        TokenProblem::token_endpoint(
            "invalid_scope",
            "a scope is made of visible ASCII characters other than '\"' and '\\'",
        )
    })?;
    let claimant = client
        .as_ref()
        .and_then(|client| client.unverified_username.clone().ok())
        .map(Claimant::Username);
    let attempt = api.throttle.admit(request, claimant)?;
    let issued = match grant {
        Grant::ClientCredentials => {
            let client = client
                .ok_or_else(|| invalid_client("prove who you are with a `client_assertion`"))?;
            match api.issuer.client_credentials(client.assertion, asked.as_ref()).await {
                Ok(issued) => issued,
                Err(error) => return Err(refused(&error, client.not_verified(), &attempt)),
            }
        }
        Grant::Refresh => refresh(api, &form, client.as_ref(), &attempt).await?,
    };
    Ok(given(&issued))
}

#[derive(Clone, Copy)]
enum Grant {
    ClientCredentials,
    Refresh,
}

const NOT_VERIFIED: &str = "the client assertion does not verify: it needs a fresh `jti`, a fresh time, and this service as its `aud`";

/// A refresh token needs no client authentication, but if there is a client, the token must belong
/// to it. A narrower `scope` than the one granted first is ignored, and the response says so (RFC
/// 6749 section 3.3).
async fn refresh(
    api: &TokenApi,
    form: &Form,
    client: Option<&Client<'_>>,
    attempt: &SecretAttempt<'_>,
) -> Result<Issued, TokenProblem> {
    let token = form
        .parameter("refresh_token")
        .ok_or_else(|| TokenProblem::invalid_request("there is no `refresh_token`"))?;
    let only = match client {
        None => None,
        Some(client) => {
            let identity = api.issuer.client(client.assertion).await;
            Some(identity.map_err(|error| refused(&error, client.not_verified(), attempt))?)
        }
    };
    let only = only.as_ref().map(|identity| identity.principal().id);
    let ended = TokenProblem::token_endpoint(
        "invalid_grant",
        "the refresh token is unknown, or it ended, or it is not yours",
    );
    api.issuer.rotate(token, only).await.map_err(|error| refused(&error, ended, attempt))
}

/// The response if no token is issued: `denied` if the credentials are at fault, which counts as a
/// failure.
fn refused(error: &IssueError, denied: TokenProblem, attempt: &SecretAttempt<'_>) -> TokenProblem {
    match Failure::from(error) {
        Failure::Refused => attempt.failed().err().map_or(denied, Into::into),
        Failure::ScopeNotHeld => TokenProblem::token_endpoint(
            "invalid_scope",
            "a scope was asked for that the client does not hold",
        ),
        Failure::Unavailable => TokenProblem::unavailable(),
    }
}

/// A client, not authenticated yet.
struct Client<'a> {
    assertion: &'a str,
    /// The client's username, or why it cannot be read.
    unverified_username: Result<Username, TokenFault>,
}

impl<'a> Client<'a> {
    /// `None` if the request names no client.
    fn read(request: &HttpRequest, form: &'a Form) -> Result<Option<Self>, TokenProblem> {
        let only_assertions = "clients prove who they are with a `client_assertion` of the type jwt-bearer, and in no other way";
        if form.parameter("client_secret").is_some()
            || request.headers().contains_key(AUTHORIZATION)
        {
            return Err(invalid_client(only_assertions));
        }
        let assertion =
            match (form.parameter("client_assertion_type"), form.parameter("client_assertion")) {
                (None, None) => return Ok(None),
                (Some(JWT_BEARER), Some(assertion)) => assertion,
                (Some(_), Some(_)) => return Err(invalid_client(only_assertions)),
                (None, Some(_)) | (Some(_), None) => {
                    return Err(TokenProblem::invalid_request(
                        "`client_assertion` and `client_assertion_type` go together",
                    ));
                }
            };
        let token = UntrustedToken::parse(assertion);
        let unverified_username = token.map(|token| token.unverified_claims().username.clone());
        // RFC 7521 section 4.2: if there is a `client_id`, too, it must name the same client. An
        // assertion that cannot be read names nobody, and is refused for that reason.
        let named = form.parameter("client_id");
        if named
            .zip(unverified_username.as_ref().ok())
            .is_some_and(|(named, username)| username.as_str() != named)
        {
            return Err(invalid_client("the `client_id` is not who signed the assertion"));
        }
        Ok(Some(Self { assertion, unverified_username }))
    }

    /// The response if the assertion is refused. Details are given only for faults that do not
    /// depend on whom it names.
    fn not_verified(&self) -> TokenProblem {
        match &self.unverified_username {
            Ok(_) => invalid_client(NOT_VERIFIED),
            Err(fault) => invalid_client(format!("the client assertion cannot be read: {fault}")),
        }
    }
}

fn invalid_client(detail: impl Into<Cow<'static, str>>) -> TokenProblem {
    TokenProblem::unauthorized("invalid_client", detail)
}

fn given(issued: &Issued) -> HttpResponse {
    fresh(HttpResponse::Ok()).insert_header((PRAGMA, "no-cache")).json(AccessTokenResponse {
        access_token: &issued.access_token,
        token_type: "Bearer",
        expires_in: issued.expires_in.as_secs(),
        scope: issued.grant.scopes.as_str(),
        refresh_token: issued.refresh_token.as_ref().map(OpaqueToken::expose),
    })
}
