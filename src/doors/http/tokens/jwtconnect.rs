//! `/token/refresh`, `/token/introspection` and `/token/revoke`, for clients of
//! django-jwtconnect-auth, and of RFC 7662 and RFC 7009.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{AUTHORIZATION, HeaderValue},
    web,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    TokenApi,
    body::{self, Format},
    fresh, jwthenticator,
    problem::{Failure, TokenProblem},
};
use crate::{
    domain::{
        auth_request::Credentials,
        decision::{Decision, Identity},
        secret_token::OpaqueToken,
    },
    doors::http::{decision::credentials, peer},
    engine::{
        issue::{Introspection, IssueError, Revoked, TokenKind, TokenName},
        verify::Verdict,
    },
};

/// Other members, such as `token_type_hint`, are ignored.
#[derive(Deserialize)]
pub(super) struct Named {
    token: Option<String>,
    jti: Option<String>,
}

#[derive(Serialize)]
struct Pair<'a> {
    access_token: &'a str,
    refresh_token: &'a str,
}

/// The answer to an introspection (RFC 7662 section 2.2), with some values repeated under the names
/// that django-jwtconnect-auth uses.
#[derive(Serialize)]
struct Told<'a> {
    active: bool,
    jti: Uuid,
    iat: i64,
    issued_at: String,
    exp: i64,
    expire_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    iss: &'a str,
    sub: &'a str,
    aud: &'a [String],
    username: &'a str,
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<&'a str>,
}

#[derive(Serialize)]
struct Inactive {
    active: bool,
}

#[derive(Serialize)]
struct Nothing {}

/// `POST /token/refresh`
pub(super) async fn refresh(
    request: HttpRequest,
    payload: web::Payload,
    api: web::Data<TokenApi>,
) -> Result<HttpResponse, TokenProblem> {
    let expected = "send the refresh token as `token`, a text";
    let (Named { token, .. }, _) = Named::read(&request, payload, expected).await?;
    let token = token.ok_or_else(|| TokenProblem::invalid_request(expected))?;
    let attempt = api.throttle.admit(&request, None)?;
    let issued = match api.issuer.rotate(&token, None).await {
        Ok(issued) => issued,
        Err(error) => return Err(jwthenticator::refused(&error, || attempt.failed())),
    };
    let refresh_token = issued.refresh_token.as_ref().map_or("", OpaqueToken::expose);
    Ok(fresh(HttpResponse::Created())
        .json(Pair { access_token: &issued.access_token, refresh_token }))
}

/// `POST /token/introspection`
pub(super) async fn introspect(
    request: HttpRequest,
    payload: web::Payload,
    api: web::Data<TokenApi>,
) -> Result<HttpResponse, TokenProblem> {
    let attempt = api.throttle.admit(&request, None)?;
    let is_admin = api.admin_token.is_in(request.headers());
    let asker = if is_admin {
        None
    } else {
        let auth_request =
            credentials(request.headers().get_all(AUTHORIZATION).map(HeaderValue::as_bytes));
        let verdict = api.issuer.caller(auth_request).await;
        let refuse = || match (auth_request, attempt.failed()) {
            (Credentials::One(_) | Credentials::Unusable, Err(too_many)) => too_many.into(),
            _ => TokenProblem::forbidden("invalid_request", ASKER),
        };
        Some(caller(verdict, refuse)?.principal().id)
    };
    let (named, format) = Named::read(&request, payload, NAMED).await?;
    let name = named.name()?;
    match api.issuer.introspect(name, asker).await {
        Ok(Some(introspection)) => Ok(fresh(HttpResponse::Ok()).json(Told::from(&introspection))),
        Ok(None) => {
            // Ids can be guessed, so a failed look-up counts against a client that asks in the way
            // of django-jwtconnect-auth. A resource server that asks as in RFC 7662 only passes on
            // what its clients sent it, and must not be locked out for that.
            if !is_admin && (format != Format::Form || matches!(name, TokenName::Jti(_))) {
                attempt.failed()?;
            }
            match format {
                Format::Json | Format::Multipart => Err(TokenProblem::unauthorized(
                    "invalid_token",
                    "the token is unknown, not yours, or it ended",
                )),
                // RFC 7662 section 2.2: "not active" is a regular answer.
                Format::Form => Ok(fresh(HttpResponse::Ok()).json(Inactive { active: false })),
            }
        }
        Err(error) => Err(TokenProblem::failed(&error)),
    }
}

/// `POST /token/revoke`
pub(super) async fn revoke(
    request: HttpRequest,
    payload: web::Payload,
    api: web::Data<TokenApi>,
) -> Result<HttpResponse, TokenProblem> {
    let attempt = api.throttle.admit(&request, None)?;
    let is_admin = api.admin_token.is_in(request.headers());
    let only = if is_admin {
        None
    } else {
        let auth_request =
            credentials(request.headers().get_all(AUTHORIZATION).map(HeaderValue::as_bytes));
        let verdict = api.issuer.caller(auth_request).await;
        let refuse = || match (auth_request, attempt.failed()) {
            (Credentials::None, _) => TokenProblem::no_credentials(CALLER),
            (Credentials::One(_) | Credentials::Unusable, Ok(())) => {
                TokenProblem::unauthorized("invalid_token", CALLER)
            }
            (Credentials::One(_) | Credentials::Unusable, Err(too_many)) => too_many.into(),
        };
        Some(caller(verdict, refuse)?.principal().id)
    };
    let (named, _) = Named::read(&request, payload, NAMED).await?;
    let peer = peer::name(&request);
    let actor = if is_admin { format!("admin-api@{peer}") } else { format!("token-api@{peer}") };
    match api.issuer.revoke(named.name()?, only, &actor).await {
        Ok(Revoked::Done | Revoked::NoSuchToken) => Ok(fresh(HttpResponse::Ok()).json(Nothing {})),
        Ok(Revoked::AnotherPrincipal) => {
            Err(TokenProblem::forbidden("unauthorized_client", "the token is not yours"))
        }
        Err(error) => not_revoked(&error),
    }
}

const NAMED: &str = "name a token as `token` or as `jti`, a text";
const ASKER: &str =
    "send an access token of your own, or the admin token, as `Authorization: Bearer TOKEN`";
const CALLER: &str = "send an access token of the same principal, or the admin token, as `Authorization: Bearer TOKEN`";

/// A token that was deleted in the meantime counts as revoked.
fn not_revoked(error: &IssueError) -> Result<HttpResponse, TokenProblem> {
    match Failure::from(error) {
        Failure::Refused | Failure::ScopeNotHeld => Ok(fresh(HttpResponse::Ok()).json(Nothing {})),
        Failure::Unavailable => Err(TokenProblem::failed(error)),
    }
}

/// Who calls, if that is proven.
fn caller(
    verdict: Verdict,
    refuse: impl FnOnce() -> TokenProblem,
) -> Result<Identity, TokenProblem> {
    match verdict.result {
        Ok(Decision::Allow(identity)) => Ok(identity),
        Ok(Decision::Deny(_)) => Err(refuse()),
        Err(_) => Err(TokenProblem::unavailable()),
    }
}

impl Named {
    async fn read(
        request: &HttpRequest,
        payload: web::Payload,
        expected: &'static str,
    ) -> Result<(Self, Format), TokenProblem> {
        let parameter = |form: &body::Form, name| form.parameter(name).map(str::to_owned);
        let from_form = |form: &body::Form| Self {
            token: parameter(form, "token"),
            jti: parameter(form, "jti"),
        };
        let (Self { token, jti }, format) =
            body::either(request, payload, expected, from_form).await?;
        let given = |text: &String| !text.is_empty();
        Ok((Self { token: token.filter(given), jti: jti.filter(given) }, format))
    }

    /// The token or its `jti`, in whichever member it is: no token looks like a `jti`.
    fn name(&self) -> Result<TokenName<'_>, TokenProblem> {
        let text = self
            .token
            .as_deref()
            .or(self.jti.as_deref())
            .ok_or_else(|| TokenProblem::invalid_request(NAMED))?;
        Ok(if Uuid::parse_str(text).is_ok() {
            TokenName::Jti(text)
        } else {
            TokenName::Token(text)
        })
    }
}

impl<'a> From<&'a Introspection> for Told<'a> {
    fn from(told: &'a Introspection) -> Self {
        let is_access = told.kind == TokenKind::Access;
        let issued_at = told.issued_at.seconds();
        Self {
            active: true,
            jti: told.jti,
            iat: issued_at,
            issued_at: told.issued_at.to_rfc3339(),
            exp: told.expires_at.seconds(),
            expire_at: told.expires_at.to_rfc3339(),
            nbf: is_access.then_some(issued_at),
            iss: &told.issuer,
            sub: &told.subject,
            aud: &told.audience,
            username: told.username.as_str(),
            scope: told.scopes.as_str(),
            token_type: is_access.then_some("Bearer"),
            sid: told.sid.as_deref(),
        }
    }
}
