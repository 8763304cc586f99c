//! Tokens of our own: access tokens, with the refresh tokens that go with them.

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

/// An access token that was given out, with the refresh token that goes with it. The tokens
/// themselves are not kept.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TokenGrant)]
pub(super) struct TokenView {
    /// Its number.
    #[schema(minimum = 1)]
    id: i64,
    /// Whose it is.
    #[schema(value_type = Name)]
    username: String,
    /// All that goes back to the same login has the same family, and is revoked together.
    #[schema(format = "uuid")]
    family: String,
    /// The `jti` of the access token.
    #[schema(format = "uuid")]
    access_jti: String,
    /// The name of the refresh token; null where there is none.
    #[schema(required = true, format = "uuid")]
    refresh_jti: Option<String>,
    /// The `aud` of the access token.
    audience: Vec<String>,
    /// The session at the back end that asked for it; null where none was named.
    #[schema(required = true)]
    sid: Option<String>,
    /// What the access token may be used for.
    scopes: Vec<String>,
    /// The number of the API key that was exchanged for it; null where none was.
    #[schema(required = true, minimum = 1)]
    api_key_id: Option<i64>,
    /// The number of the key that the client signed its assertion with; null if there was none.
    #[schema(required = true, minimum = 1)]
    key_id: Option<i64>,
    /// The number of the trust whose key set had that key; null if there was none.
    #[schema(required = true, minimum = 1)]
    trust_id: Option<i64>,
    /// When it was given out.
    #[schema(format = DateTime)]
    issued_at: String,
    /// Until when the access token may be used.
    #[schema(format = DateTime)]
    access_expires_at: String,
    /// Until when the refresh token may be used; null where there is none.
    #[schema(required = true, format = DateTime)]
    refresh_expires_at: Option<String>,
    /// When the refresh token was exchanged for the next one; null where it was not.
    #[schema(required = true, format = DateTime)]
    rotated_at: Option<String>,
    /// When it was revoked; null where it was not.
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

/// Tokens to be given out. Everything may be left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewToken, example = json!({ "audience": ["orders"], "scopes": ["orders:read"], "sid": "9f1c0c5d" }))]
struct New {
    /// Whom they are meant for; `issuer.audience` where nothing is said, and nobody in particular
    /// with an empty list.
    #[schema(value_type = Option<Vec<AudienceToken>>, max_items = 20)]
    audience: Option<Vec<String>>,
    /// What they may be used for, as far as the principal may do it; all of that where nothing is
    /// said.
    #[schema(value_type = Option<Vec<ScopeToken>>, max_items = 100)]
    scopes: Option<ScopeList>,
    /// The session at the back end that they are for.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    sid: Option<String>,
}

/// Tokens that were given out just now.
#[derive(Serialize, ToSchema)]
#[schema(as = IssuedToken)]
struct Issued {
    /// What is kept of them.
    #[serde(flatten)]
    record: TokenView,
    /// The access token, a JWT. It is shown this once.
    access_token: String,
    /// The refresh token. It is shown this once.
    #[schema(required = true)]
    refresh_token: Option<String>,
    /// What stands before the access token in `Authorization`.
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// For how many seconds the access token may be used.
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

/// Which grant.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
struct TokenIdInPath {
    /// The number of the grant.
    #[param(minimum = 1)]
    #[expect(dead_code, reason = "it is here for its schema")]
    id: i64,
}

/// List the tokens of all principals, revoked and expired ones too, in the order in which they were
/// given out. A day after they expired they are forgotten.
#[utoipa::path(get, path = "/admin/v1/tokens", operation_id = "list_tokens", tag = "tokens", params(PageQuery),
    responses((status = 200, description = "A page of tokens.", body = Page<TokenView>)))]
pub(super) async fn list(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    page(&door, &request, None).await
}

/// List the tokens of a principal, revoked and expired ones too, in the order in which they were
/// given out.
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

/// Give an access token and a refresh token to a principal. The answer is the only one that ever
/// shows them.
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

/// Show what is kept of a token.
#[utoipa::path(get, path = "/admin/v1/tokens/{id}", operation_id = "show_token", tag = "tokens", params(TokenIdInPath),
    responses((status = 200, description = "What is kept of it.", body = TokenView)))]
pub(super) async fn show(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let record = door.issuer.grant(GrantId(path::id(&request)?)).await?;
    Ok(HttpResponse::Ok().json(TokenView::from(record)))
}

/// Revoke a token, and with it its whole family, for good. What is revoked already keeps its date.
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
