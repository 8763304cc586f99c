//! API keys.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    body, etag,
    fields::{Moment, Name},
    paging::{List, Page, PageQuery},
    path::{self, Mount},
    principals::UsernameInPath,
    problem::Problem,
};
use crate::{
    domain::{
        principal::{ApiKeyId, Username},
        time::UnixMillis,
    },
    doors::http::AdminDoor,
    engine::{
        ports::ApiKeyRecord,
        registry::{ApiKeyTerms, Expiry},
    },
};

/// An API key of a principal. The key itself is not stored.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(super) struct ApiKeyView {
    /// Unique id.
    #[schema(minimum = 1)]
    id: i64,
    /// Username of the owning principal.
    #[schema(value_type = Name)]
    username: String,
    /// The identifier that must be sent together with the key.
    #[schema(format = "uuid")]
    identifier: String,
    /// A note by the owner; null if there is none.
    #[schema(required = true)]
    comment: Option<String>,
    /// When it expires.
    #[schema(format = DateTime)]
    expires_at: String,
    /// When it was revoked; null if it was not.
    #[schema(required = true, format = DateTime)]
    revoked_at: Option<String>,
    /// When it was last used, to within some seconds; null if never used.
    #[schema(required = true, format = DateTime)]
    last_used_on: Option<String>,
    /// When it was added.
    #[schema(format = DateTime)]
    created_at: String,
}

impl From<ApiKeyRecord> for ApiKeyView {
    fn from(record: ApiKeyRecord) -> Self {
        Self {
            id: record.id.0,
            username: record.username.to_string(),
            identifier: record.identifier.to_string(),
            comment: record.comment,
            expires_at: record.expires_at.to_rfc3339(),
            revoked_at: record.revoked_at.map(UnixMillis::to_rfc3339),
            last_used_on: record.last_used_on.map(UnixMillis::to_rfc3339),
            created_at: record.created_at.to_rfc3339(),
        }
    }
}

/// An API key to create. All members are optional.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApiKey, example = json!({ "comment": "nightly import", "expires_at": "2096-01-01T00:00:00Z" }))]
struct New {
    /// The identifier that must be sent together with the key; a new one by default.
    #[schema(value_type = Option<String>, format = "uuid")]
    identifier: Option<Uuid>,
    /// A note by the owner.
    #[schema(min_length = 1, max_length = 1000, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    comment: Option<String>,
    /// When it expires, later than now; `issuer.api_key_lifetime` from now by default.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Moment>,
}

/// An API key that was just created.
#[derive(Serialize, ToSchema)]
#[schema(as = IssuedApiKey)]
struct Issued {
    /// The stored record.
    #[serde(flatten)]
    record: ApiKeyView,
    /// The key. It is shown only once, and cannot be recovered.
    #[schema(pattern = "^csk_[0-9A-Za-z]{49}$")]
    key: String,
}

/// The API key in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
struct ApiKeyIdInPath {
    /// Id of the API key.
    #[param(minimum = 1)]
    #[expect(dead_code, reason = "it is here for its schema")]
    id: i64,
}

/// List the API keys of all principals, including revoked ones, in the order in which they were
/// added.
#[utoipa::path(get, path = "/admin/v1/api-keys", operation_id = "list_api_keys", tag = "api-keys", params(PageQuery),
    responses((status = 200, description = "A page of API keys.", body = Page<ApiKeyView>)))]
pub(super) async fn list(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    page(&door, &request, None).await
}

/// List the API keys of a principal, including revoked ones, in the order in which they were added.
#[utoipa::path(get, path = "/admin/v1/principals/{username}/api-keys", operation_id = "list_api_keys_of_principal",
    tag = "api-keys", params(UsernameInPath, PageQuery),
    responses((status = 200, description = "A page of API keys.", body = Page<ApiKeyView>)))]
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
    let query = PageQuery::of(request, List::ApiKeys)?;
    let rows = door.registry.api_keys_page(of, query.cursor.map(ApiKeyId), query.rows()).await?;
    Ok(HttpResponse::Ok()
        .json(query.page::<_, ApiKeyView>(List::ApiKeys, rows, |record| record.id.0)))
}

/// Create an API key for a principal. Only this response ever shows the key.
#[utoipa::path(post, path = "/admin/v1/principals/{username}/api-keys", operation_id = "issue_api_key", tag = "api-keys",
    params(UsernameInPath), request_body = New,
    responses((status = 201, description = "It was made.", body = Issued, headers(
        ("Location" = String, description = "Where its record is."), ("ETag" = String, description = "The tag of its state.")))))]
pub(super) async fn create(
    door: web::Data<AdminDoor>,
    mount: web::Data<Mount>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let username = path::username(&request)?;
    let new: New = body::json_if_any(&request, payload).await?;
    let expiry =
        new.expires_at.map_or(Expiry::In(door.api_key_lifetime), |moment| Expiry::At(moment.0));
    let terms = ApiKeyTerms { identifier: new.identifier, comment: new.comment, expiry };
    let (record, key) = door.registry_for(&request).issue_api_key(&username, terms).await?;
    let (location, version) = (mount.api_key(record.id.0), record.version());
    Ok(etag::created(
        &location,
        &Issued { record: record.into(), key: key.expose().to_owned() },
        version,
    ))
}

/// Show an API key, without the key itself.
#[utoipa::path(get, path = "/admin/v1/api-keys/{id}", operation_id = "show_api_key", tag = "api-keys", params(ApiKeyIdInPath),
    responses((status = 200, description = "The API key.", body = ApiKeyView,
        headers(("ETag" = String, description = "The tag of its state, which its use does not change.")))))]
pub(super) async fn show(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Ok(shown(door.registry.api_key(ApiKeyId(path::id(&request)?)).await?))
}

/// Revoke an API key, and every token that it was exchanged for, permanently. It stays listed, with
/// the time of its revocation.
#[utoipa::path(delete, path = "/admin/v1/api-keys/{id}", operation_id = "revoke_api_key", tag = "api-keys",
    params(ApiKeyIdInPath, etag::IfMatch),
    responses((status = 200, description = "The API key as it is now.", body = ApiKeyView,
        headers(("ETag" = String, description = "The tag of its state.")))))]
pub(super) async fn revoke(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let id = ApiKeyId(path::id(&request)?);
    let current = async { Ok(door.registry.api_key(id).await?.version()) };
    let expected = etag::expected(&request, current).await?;
    Ok(shown(door.registry_for(&request).revoke_api_key(id, expected).await?))
}

fn shown(record: ApiKeyRecord) -> HttpResponse {
    let version = record.version();
    etag::tagged(StatusCode::OK, &ApiKeyView::from(record), version)
}
