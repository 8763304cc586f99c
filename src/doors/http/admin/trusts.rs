//! Trusted key sets.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    body, etag,
    fields::{JwksUrl, Name},
    paging::{List, Page, PageQuery},
    path::{self, Mount},
    principals::UsernameInPath,
    problem::Problem,
};
use crate::{
    domain::{
        key_set::{KeySetContents, LeftOutKey},
        principal::{TrustId, Username},
        time::UnixMillis,
    },
    doors::http::AdminDoor,
    engine::ports::TrustRecord,
};

/// A trust: the keys of the set at `jwks_url` count as keys of the principal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JwksTrust)]
pub(super) struct TrustView {
    /// Unique id.
    #[schema(minimum = 1)]
    id: i64,
    /// Username of the owning principal.
    #[schema(value_type = Name)]
    username: String,
    /// The URL of the key set.
    #[schema(example = "https://id.example.com/jwks.json")]
    jwks_url: String,
    /// When a key of the set was last used, to within some seconds; null if never used.
    #[schema(required = true, format = DateTime)]
    last_used_on: Option<String>,
    /// When any replica last fetched the set; null if never fetched.
    #[schema(required = true, format = DateTime)]
    last_fetched_at: Option<String>,
    /// Why the last fetch failed; null if it did not.
    #[schema(required = true)]
    last_error: Option<String>,
    /// Number of usable keys in the set, as last fetched; null if never fetched.
    #[schema(required = true)]
    usable_keys: Option<usize>,
    /// The entries of the set that are not used; null if never fetched.
    #[schema(required = true)]
    left_out: Option<Vec<LeftOut>>,
    /// When it was added.
    #[schema(format = DateTime)]
    created_at: String,
}

/// An entry of a key set that is not used.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LeftOutKey)]
struct LeftOut {
    /// Its `kid` in the set; null if it has none.
    #[schema(required = true)]
    kid: Option<String>,
    /// Its `kty` and `crv`.
    #[schema(example = "RSA")]
    kind: String,
    /// Why it is not used.
    reason: String,
}

impl From<LeftOutKey> for LeftOut {
    fn from(LeftOutKey { kid, kind, reason, is_alarming: _ }: LeftOutKey) -> Self {
        Self { kid, kind, reason }
    }
}

fn left_out(contents: KeySetContents) -> Vec<LeftOut> {
    contents.left_out.into_iter().map(LeftOut::from).collect()
}

impl From<TrustRecord> for TrustView {
    fn from(record: TrustRecord) -> Self {
        Self {
            usable_keys: record.contents.as_ref().map(|contents| contents.usable_keys),
            left_out: record.contents.map(left_out),
            id: record.id.0,
            username: record.username.to_string(),
            jwks_url: record.jwks_url,
            last_used_on: record.last_used_on.map(UnixMillis::to_rfc3339),
            last_fetched_at: record.last_fetched_at.map(UnixMillis::to_rfc3339),
            last_error: record.last_error,
            created_at: record.created_at.to_rfc3339(),
        }
    }
}

/// A trust to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewJwksTrust, example = json!({ "jwks_url": "https://id.example.com/jwks.json" }))]
struct New {
    /// The URL of the key set.
    jwks_url: JwksUrl,
}

/// A trust whose key set was just fetched.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RefreshedJwksTrust)]
struct Refreshed {
    /// The trust.
    jwks_trust: TrustView,
    /// Number of usable keys in the set.
    usable_keys: usize,
    /// The entries of the set that are not used.
    left_out: Vec<LeftOut>,
}

/// The trust in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
struct TrustIdInPath {
    /// Id of the trust.
    #[param(minimum = 1)]
    #[expect(dead_code, reason = "it is here for its schema")]
    id: i64,
}

/// List the trusts of all principals, in the order in which they were added.
#[utoipa::path(get, path = "/admin/v1/jwks-trusts", operation_id = "list_jwks_trusts", tag = "jwks-trusts", params(PageQuery),
    responses((status = 200, description = "A page of trusts.", body = Page<TrustView>)))]
pub(super) async fn list(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    page(&door, &request, None).await
}

/// List the trusts of a principal, in the order in which they were added.
#[utoipa::path(get, path = "/admin/v1/principals/{username}/jwks-trusts", operation_id = "list_jwks_trusts_of_principal",
    tag = "jwks-trusts", params(UsernameInPath, PageQuery),
    responses((status = 200, description = "A page of trusts.", body = Page<TrustView>)))]
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
    let query = PageQuery::of(request, List::Trusts)?;
    let rows = door.registry.trusts_page(of, query.cursor.map(TrustId), query.rows()).await?;
    Ok(HttpResponse::Ok()
        .json(query.page::<_, TrustView>(List::Trusts, rows, |record| record.id.0)))
}

/// Let a principal trust a key set. The set is fetched soon, and the trust then shows its state.
#[utoipa::path(post, path = "/admin/v1/principals/{username}/jwks-trusts", operation_id = "add_jwks_trust", tag = "jwks-trusts",
    params(UsernameInPath), request_body = New,
    responses(
        (status = 201, description = "It was added.", body = TrustView, headers(
            ("Location" = String, description = "Where it is."), ("ETag" = String, description = "The tag of its state."))),
        (status = 409, description = "The principal trusts that key set already.", body = Problem,
            content_type = "application/problem+json")))]
pub(super) async fn create(
    door: web::Data<AdminDoor>,
    mount: web::Data<Mount>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let username = path::username(&request)?;
    let new: New = body::json(&request, payload).await?;
    let record = door.registry_for(&request).add_trust(&username, &new.jwks_url.0).await?;
    let (location, version) = (mount.trust(record.id.0), record.version());
    Ok(etag::created(&location, &TrustView::from(record), version))
}

/// Show a trust.
#[utoipa::path(get, path = "/admin/v1/jwks-trusts/{id}", operation_id = "show_jwks_trust", tag = "jwks-trusts",
    params(TrustIdInPath),
    responses((status = 200, description = "The trust.", body = TrustView,
        headers(("ETag" = String, description = "The tag of its state, which fetches and use do not change.")))))]
pub(super) async fn show(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let record = door.registry.trust(TrustId(path::id(&request)?)).await?;
    let version = record.version();
    Ok(etag::tagged(StatusCode::OK, &TrustView::from(record), version))
}

/// Remove a trust: the principal no longer trusts the key set.
#[utoipa::path(delete, path = "/admin/v1/jwks-trusts/{id}", operation_id = "remove_jwks_trust", tag = "jwks-trusts",
    params(TrustIdInPath, etag::IfMatch), responses((status = 204, description = "It was removed.")))]
pub(super) async fn remove(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let id = TrustId(path::id(&request)?);
    let current = async { Ok(door.registry.trust(id).await?.version()) };
    let expected = etag::expected(&request, current).await?;
    door.registry_for(&request).remove_trust(id, expected).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Fetch the key set of a trust now, on every replica.
#[utoipa::path(post, path = "/admin/v1/jwks-trusts/{id}/refresh", operation_id = "refresh_jwks_trust", tag = "jwks-trusts",
    params(TrustIdInPath),
    responses(
        (status = 200, description = "The key set was fetched.", body = Refreshed),
        (status = 502, description = "The key set could not be fetched; the one before, if any, is still in use.", body = Problem,
            content_type = "application/problem+json")))]
pub(super) async fn refresh(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let id = TrustId(path::id(&request)?);
    let (record, fetched) = door.registry_for(&request).refresh_trust(id).await?;
    let contents = fetched.map_err(|failure| Problem::not_fetched(&failure))?;
    let usable_keys = contents.usable_keys;
    Ok(HttpResponse::Ok().json(Refreshed {
        jwks_trust: record.into(),
        usable_keys,
        left_out: left_out(contents),
    }))
}
