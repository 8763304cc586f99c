//! Public keys.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    body, etag,
    fields::{self, Moment, Name, ScopeList, ScopeToken},
    paging::{List, Page, PageQuery},
    path::{self, Mount},
    principals::UsernameInPath,
    problem::Problem,
};
use crate::{
    domain::{
        principal::{KeyId, Username},
        time::UnixMillis,
    },
    doors::http::AdminDoor,
    engine::ports::{KeyChange, KeyRecord, KeyTerms},
};

/// A public key of a principal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Key)]
pub(super) struct KeyView {
    /// Unique id.
    #[schema(minimum = 1)]
    id: i64,
    /// Username of the owning principal.
    #[schema(value_type = Name)]
    username: String,
    /// The key as it was registered.
    key: String,
    /// SHA-256 of the key's SPKI PEM, in lowercase hexadecimal: the `kid` of tokens.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    fingerprint: String,
    /// The kind of key.
    #[schema(example = "Ed25519")]
    family: String,
    /// A note by the owner; null if there is none.
    #[schema(required = true)]
    comment: Option<String>,
    /// The scopes that it is limited to; null for all scopes of its principal.
    #[schema(required = true)]
    scopes: Option<Vec<String>>,
    /// When it becomes valid; null if it has no start.
    #[schema(required = true, format = DateTime)]
    not_before: Option<String>,
    /// When it expires; null if it never does.
    #[schema(required = true, format = DateTime)]
    expires_at: Option<String>,
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

impl From<KeyRecord> for KeyView {
    fn from(record: KeyRecord) -> Self {
        let KeyTerms { comment, scopes, not_before, expires_at } = record.terms;
        Self {
            id: record.id.0,
            username: record.username.to_string(),
            key: record.key,
            fingerprint: record.fingerprint,
            family: record.family,
            comment,
            scopes: scopes.as_ref().map(fields::scope_list),
            not_before: not_before.map(UnixMillis::to_rfc3339),
            expires_at: expires_at.map(UnixMillis::to_rfc3339),
            revoked_at: record.revoked_at.map(UnixMillis::to_rfc3339),
            last_used_on: record.last_used_on.map(UnixMillis::to_rfc3339),
            created_at: record.created_at.to_rfc3339(),
        }
    }
}

/// A public key to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOnF2D9qlqw/wWjbqWoMmNwTHyYkgJOYdCZar1n/Ke9c alice@desk",
    "scopes": ["orders:read"],
    "not_before": "2026-01-01T00:00:00Z",
    "expires_at": "2096-01-01T00:00:00Z"
}))]
pub(super) struct NewKey {
    /// The public key, as PEM, OpenSSH line, JWK (as text) or X.509 certificate.
    #[schema(min_length = 1, max_length = 16000)]
    key: String,
    /// A note by the owner; defaults to the comment of an OpenSSH key.
    #[schema(min_length = 1, max_length = 1000, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    comment: Option<String>,
    /// The scopes that it is limited to; all scopes of its principal if absent.
    #[schema(value_type = Option<Vec<ScopeToken>>, max_items = 100)]
    scopes: Option<ScopeList>,
    /// When it becomes valid; at once if absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    not_before: Option<Moment>,
    /// When it expires, later than `not_before` and than now; never if absent.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Moment>,
}

impl NewKey {
    /// The key as text, and its comment, scopes and validity.
    pub(super) fn into_terms(self) -> (String, KeyTerms) {
        let terms = KeyTerms {
            comment: self.comment,
            scopes: self.scopes.map(|scopes| scopes.0),
            not_before: self.not_before.map(|moment| moment.0),
            expires_at: self.expires_at.map(|moment| moment.0),
        };
        (self.key, terms)
    }
}

/// Changes to a key (RFC 7396): absent members stay as they are, `null` removes a value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = KeyChange, example = json!({ "comment": "the old laptop", "expires_at": "2095-01-01T00:00:00Z", "scopes": null }))]
#[expect(clippy::option_option, reason = "a merge patch tells null from what is not there")]
pub(super) struct Change {
    /// A note by the owner.
    #[serde(default, deserialize_with = "fields::present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 1000, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    comment: Option<Option<String>>,
    /// The scopes that it is limited to; `null` allows all scopes of its principal.
    #[serde(default, deserialize_with = "fields::present")]
    #[schema(value_type = Option<Vec<ScopeToken>>, max_items = 100)]
    scopes: Option<Option<ScopeList>>,
    /// When it becomes valid; `null` removes the start.
    #[serde(default, deserialize_with = "fields::present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    not_before: Option<Option<Moment>>,
    /// When it expires; `null` means never.
    #[serde(default, deserialize_with = "fields::present")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Option<Moment>>,
}

impl From<Change> for KeyChange {
    fn from(change: Change) -> Self {
        let millis = |moment: Option<Moment>| moment.map(|moment| moment.0);
        Self {
            comment: change.comment,
            scopes: change.scopes.map(|scopes| scopes.map(|scopes| scopes.0)),
            not_before: change.not_before.map(millis),
            expires_at: change.expires_at.map(millis),
            revoke: false,
        }
    }
}

/// The key in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct KeyIdInPath {
    /// Id of the key.
    #[param(minimum = 1)]
    #[expect(dead_code, reason = "it is here for its schema")]
    id: i64,
}

/// List the keys of all principals, including revoked ones, in the order in which they were added.
#[utoipa::path(get, path = "/admin/v1/keys", operation_id = "list_keys", tag = "keys", params(PageQuery),
    responses((status = 200, description = "A page of keys.", body = Page<KeyView>)))]
pub(super) async fn list(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    page(&door, &request, None).await
}

/// List the keys of a principal, including revoked ones, in the order in which they were added.
#[utoipa::path(get, path = "/admin/v1/principals/{username}/keys", operation_id = "list_keys_of_principal", tag = "keys",
    params(UsernameInPath, PageQuery), responses((status = 200, description = "A page of keys.", body = Page<KeyView>)))]
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
    let query = PageQuery::of(request, List::Keys)?;
    let rows = door.registry.keys_page(of, query.cursor.map(KeyId), query.rows()).await?;
    Ok(HttpResponse::Ok().json(query.page::<_, KeyView>(List::Keys, rows, |record| record.id.0)))
}

/// Add a key to a principal.
#[utoipa::path(post, path = "/admin/v1/principals/{username}/keys", operation_id = "add_key", tag = "keys",
    params(UsernameInPath), request_body = NewKey,
    responses(
        (status = 201, description = "It was added.", body = KeyView, headers(
            ("Location" = String, description = "Where it is."), ("ETag" = String, description = "The tag of its state."))),
        (status = 409, description = "The principal has that key, perhaps revoked.", body = Problem,
            content_type = "application/problem+json")))]
pub(super) async fn create(
    door: web::Data<AdminDoor>,
    mount: web::Data<Mount>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let username = path::username(&request)?;
    let (text, terms) = body::json::<NewKey>(&request, payload).await?.into_terms();
    let record = door.registry_for(&request).add_key(&username, &text, terms).await?;
    let (location, version) = (mount.key(record.id.0), record.version());
    Ok(etag::created(&location, &KeyView::from(record), version))
}

/// Show a key.
#[utoipa::path(get, path = "/admin/v1/keys/{id}", operation_id = "show_key", tag = "keys", params(KeyIdInPath),
    responses((status = 200, description = "The key.", body = KeyView,
        headers(("ETag" = String, description = "The tag of its state, which its use does not change.")))))]
pub(super) async fn show(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Ok(shown(door.registry.key(KeyId(path::id(&request)?)).await?))
}

/// Change the comment, scopes or validity of a key.
#[utoipa::path(patch, path = "/admin/v1/keys/{id}", operation_id = "change_key", tag = "keys",
    params(KeyIdInPath, etag::IfMatch),
    request_body(content((Change = "application/merge-patch+json"), (Change = "application/json"))),
    responses((status = 200, description = "The key as it is now.", body = KeyView,
        headers(("ETag" = String, description = "The tag of its state.")))))]
pub(super) async fn change(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let id = KeyId(path::id(&request)?);
    let change: Change = body::merge_patch(&request, payload).await?;
    let current = async { Ok(door.registry.key(id).await?.version()) };
    let expected = etag::expected(&request, current).await?;
    Ok(shown(door.registry_for(&request).change_key(id, change.into(), expected).await?))
}

/// Revoke a key permanently. It stays listed, with the time of its revocation.
#[utoipa::path(delete, path = "/admin/v1/keys/{id}", operation_id = "revoke_key", tag = "keys",
    params(KeyIdInPath, etag::IfMatch),
    responses((status = 200, description = "The key as it is now.", body = KeyView,
        headers(("ETag" = String, description = "The tag of its state.")))))]
pub(super) async fn revoke(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let id = KeyId(path::id(&request)?);
    let current = async { Ok(door.registry.key(id).await?.version()) };
    let expected = etag::expected(&request, current).await?;
    Ok(shown(door.registry_for(&request).revoke_key(id, expected).await?))
}

fn shown(record: KeyRecord) -> HttpResponse {
    let version = record.version();
    etag::tagged(StatusCode::OK, &KeyView::from(record), version)
}
