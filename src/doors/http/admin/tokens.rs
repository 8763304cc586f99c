//! Tokens that we issue: access tokens, with their refresh tokens.

use actix_web::{HttpRequest, HttpResponse, http::header::LOCATION, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    body,
    fields::{self, AudienceToken, Name, ScopeList, ScopeToken},
    paging::{List, Page, PageQuery},
    path::{self, Mount},
    principals::UsernameInPath,
    problem::Problem,
};
use crate::{
    domain::{
        principal::{GrantId, Username},
        time::UnixMillis,
    },
    doors::http::AdminDoor,
    engine::{
        issue::{self, MintTerms},
        ports::GrantRecord,
    },
};

/// An access token that was issued, with its refresh token. The tokens themselves are not stored.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TokenGrant)]
pub(super) struct TokenView {
    /// Unique id.
    #[schema(minimum = 1)]
    id: i64,
    /// Username of the owning principal.
    #[schema(value_type = Name)]
    username: String,
    /// All tokens that go back to the same login have the same family, and are revoked together.
    #[schema(format = "uuid")]
    family: String,
    /// The `jti` of the access token.
    #[schema(format = "uuid")]
    access_jti: String,
    /// The `jti` of the refresh token; null if there is none.
    #[schema(required = true, format = "uuid")]
    refresh_jti: Option<String>,
    /// The `aud` of the access token.
    audience: Vec<String>,
    /// The session at the back end that asked for it; null if none was named.
    #[schema(required = true)]
    sid: Option<String>,
    /// The scopes of the access token.
    scopes: Vec<String>,
    /// Id of the API key that was exchanged for it; null if there was none.
    #[schema(required = true, minimum = 1)]
    api_key_id: Option<i64>,
    /// Id of the key that the client signed its assertion with; null if there was none.
    #[schema(required = true, minimum = 1)]
    key_id: Option<i64>,
    /// Id of the trust whose key set had that key; null if there was none.
    #[schema(required = true, minimum = 1)]
    trust_id: Option<i64>,
    /// When it was issued.
    #[schema(format = DateTime)]
    issued_at: String,
    /// When the access token expires.
    #[schema(format = DateTime)]
    access_expires_at: String,
    /// When the refresh token expires; null if there is none.
    #[schema(required = true, format = DateTime)]
    refresh_expires_at: Option<String>,
    /// When the refresh token was exchanged for the next one; null if it was not.
    #[schema(required = true, format = DateTime)]
    rotated_at: Option<String>,
    /// When it was revoked; null if it was not.
    #[schema(required = true, format = DateTime)]
    revoked_at: Option<String>,
}

impl From<GrantRecord> for TokenView {
    fn from(record: GrantRecord) -> Self {
        let (api_key, key, trust) = (record.api_key(), record.key(), record.trust());
        let refresh = record.refresh.as_ref();
        Self {
            id: record.id.0,
            username: record.username.to_string(),
            family: record.family.to_string(),
            access_jti: record.access_jti.to_string(),
            refresh_jti: refresh.map(|refresh| refresh.jti.to_string()),
            sid: record.sid,
            scopes: fields::scope_list(&record.scopes),
            api_key_id: api_key.map(|id| id.0),
            key_id: key.map(|id| id.0),
            trust_id: trust.map(|id| id.0),
            issued_at: record.issued_at.to_rfc3339(),
            access_expires_at: record.access_expires_at.to_rfc3339(),
            refresh_expires_at: refresh.map(|refresh| refresh.expires_at.to_rfc3339()),
            rotated_at: refresh.and_then(|refresh| refresh.rotated_at).map(UnixMillis::to_rfc3339),
            revoked_at: record.revoked_at.map(UnixMillis::to_rfc3339),
            audience: record.audience,
        }
    }
}

/// Tokens to issue. All members are optional.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewToken, example = json!({ "audience": ["orders"], "scopes": ["orders:read"], "sid": "9f1c0c5d" }))]
struct New {
    /// The `aud` of the access token; defaults to `issuer.audience`. An empty list leaves it out.
    #[schema(value_type = Option<Vec<AudienceToken>>, max_items = 20)]
    audience: Option<Vec<String>>,
    /// The scopes of the access token, limited to those of the principal; all of them by default.
    #[schema(value_type = Option<Vec<ScopeToken>>, max_items = 100)]
    scopes: Option<ScopeList>,
    /// The session at the back end that they are for.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    sid: Option<String>,
}

/// Tokens that were just issued.
#[derive(Serialize, ToSchema)]
#[schema(as = IssuedToken)]
struct Issued {
    /// The stored record.
    #[serde(flatten)]
    record: TokenView,
    /// The access token, a JWT. It is shown only once.
    access_token: String,
    /// The refresh token; null if there is none. It is shown only once.
    #[schema(required = true)]
    refresh_token: Option<String>,
    /// The scheme in `Authorization` for the access token.
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Lifetime of the access token, in seconds.
    expires_in: u64,
}

impl From<issue::Issued> for Issued {
    fn from(issued: issue::Issued) -> Self {
        Self {
            record: issued.grant.into(),
            access_token: issued.access_token,
            refresh_token: issued.refresh_token.map(|token| token.expose().to_owned()),
            token_type: "Bearer",
            expires_in: issued.expires_in.as_secs(),
        }
    }
}

/// The token record in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
struct TokenIdInPath {
    /// Id of the token record.
    #[param(minimum = 1)]
    #[expect(dead_code, reason = "it is here for its schema")]
    id: i64,
}

/// List the tokens of all principals, including revoked and expired ones, in the order in which
/// they were issued. They are deleted a day after they expired.
#[utoipa::path(get, path = "/admin/v1/tokens", operation_id = "list_tokens", tag = "tokens", params(PageQuery),
    responses((status = 200, description = "A page of tokens.", body = Page<TokenView>)))]
pub(super) async fn list(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    page(&door, &request, None).await
}

/// List the tokens of a principal, including revoked and expired ones, in the order in which they
/// were issued.
#[utoipa::path(get, path = "/admin/v1/principals/{username}/tokens", operation_id = "list_tokens_of_principal", tag = "tokens",
    params(UsernameInPath, PageQuery), responses((status = 200, description = "A page of tokens.", body = Page<TokenView>)))]
pub(super) async fn list_of_principal(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    page(&door, &request, Some(&path::username(&request)?)).await
}

async fn page(
    door: &AdminDoor,
    request: &HttpRequest,
    of: Option<&Username>,
) -> Result<HttpResponse, Problem> {
    let query = PageQuery::of(request, List::Tokens)?;
    let rows = door.issuer.grants_page(of, query.cursor.map(GrantId), query.rows()).await?;
    Ok(HttpResponse::Ok()
        .json(query.page::<_, TokenView>(List::Tokens, rows, |record| record.id.0)))
}

/// Issue an access token and a refresh token to a principal. Only this response ever shows them.
#[utoipa::path(post, path = "/admin/v1/principals/{username}/tokens", operation_id = "issue_token", tag = "tokens",
    params(UsernameInPath), request_body = New,
    responses(
        (status = 201, description = "They were given out.", body = Issued,
            headers(("Location" = String, description = "Where their record is."))),
        (status = 409, description = "The principal is disabled.", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    door: web::Data<AdminDoor>,
    mount: web::Data<Mount>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let username = path::username(&request)?;
    let new: New = body::json_if_any(&request, payload).await?;
    let terms = MintTerms::new(new.audience, new.scopes.map(|scopes| scopes.0), new.sid)?;
    let issued = door.issuer.mint(&username, terms, &AdminDoor::actor(&request)).await?;
    let location = mount.token(issued.grant.id.0);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(Issued::from(issued)))
}

/// Show the record of a token.
#[utoipa::path(get, path = "/admin/v1/tokens/{id}", operation_id = "show_token", tag = "tokens", params(TokenIdInPath),
    responses((status = 200, description = "What is kept of it.", body = TokenView)))]
pub(super) async fn show(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let record = door.issuer.grant(GrantId(path::id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(TokenView::from(record)))
}

/// Revoke a token and its whole family, permanently. Tokens revoked before keep their time of
/// revocation.
#[utoipa::path(delete, path = "/admin/v1/tokens/{id}", operation_id = "revoke_token", tag = "tokens", params(TokenIdInPath),
    responses((status = 200, description = "What is kept of it, as it is now.", body = TokenView)))]
pub(super) async fn revoke(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let id = GrantId(path::id(&request)?);
    let record = door.issuer.grant(id).await?;
    door.issuer.revoke_family(record.family, &AdminDoor::actor(&request)).await?;
    Ok(HttpResponse::Ok().json(TokenView::from(door.issuer.grant(id).await?)))
}
