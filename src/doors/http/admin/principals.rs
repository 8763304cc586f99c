//! Principals.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    body, etag,
    fields::{self, JwksUrl, Name, ScopeList, ScopeToken},
    keys::NewKey,
    paging::{List, Page, PageQuery},
    path::{self, Mount},
    problem::Problem,
};
use crate::{
    domain::{
        json::Object,
        principal::{PrincipalId, Username},
    },
    doors::http::AdminDoor,
    engine::{
        ports::{NewPrincipal, PrincipalChange, PrincipalRecord, Profile},
        registry,
    },
};

/// Most keys, and most trusts, that can be added together with a principal; more can be added
/// later.
const TOGETHER_MAX: usize = 100;

/// A principal: a user or service that can authenticate.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Principal)]
pub(super) struct PrincipalView {
    /// Unique id. It is never reused.
    #[schema(minimum = 1)]
    id: i64,
    /// Unique username.
    #[schema(value_type = Name)]
    username: String,
    /// Whether it may authenticate.
    is_active: bool,
    /// The scopes that it holds.
    scopes: Vec<String>,
    /// Given name. Decisions do not depend on it.
    #[schema(required = true)]
    given_name: Option<String>,
    /// Family name. Decisions do not depend on it.
    #[schema(required = true)]
    family_name: Option<String>,
    /// E-mail address. Decisions do not depend on it.
    #[schema(required = true)]
    email: Option<String>,
    /// When it was added.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was last changed.
    #[schema(format = DateTime)]
    updated_at: String,
}

impl From<PrincipalRecord> for PrincipalView {
    fn from(record: PrincipalRecord) -> Self {
        let Profile { given_name, family_name, email } = record.profile;
        Self {
            id: record.id.0,
            username: record.username.to_string(),
            is_active: record.is_active,
            scopes: fields::scope_list(&record.scopes),
            given_name,
            family_name,
            email,
            created_at: record.created_at.to_rfc3339(),
            updated_at: record.updated_at.to_rfc3339(),
        }
    }
}

/// A principal to add, together with its first keys and trusts: all of them, or nothing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPrincipal, example = json!({
    "username": "carol",
    "scopes": ["orders:read", "orders:write"],
    "given_name": "Carol",
    "keys": [{
        "key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPpuMuEy2ncaNcd7X2v7BcA+6u4H4qRV7DX9f5OreSEZ carol@laptop",
        "expires_at": "2096-01-01T00:00:00Z"
    }],
    "jwks_trusts": ["https://id.example.com/jwks.json"]
}))]
pub(super) struct New {
    /// Unique username; must not be in use.
    #[serde(deserialize_with = "fields::username")]
    #[schema(value_type = Name)]
    username: Username,
    /// Whether it may authenticate; true by default.
    is_active: Option<bool>,
    /// The scopes that it holds; none by default.
    #[schema(value_type = Option<Vec<ScopeToken>>, max_items = 100)]
    scopes: Option<ScopeList>,
    /// Given name.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    given_name: Option<String>,
    /// Family name.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    family_name: Option<String>,
    /// E-mail address.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    email: Option<String>,
    /// Its first keys.
    #[schema(value_type = Option<Vec<NewKey>>, max_items = 100)]
    keys: Option<Vec<Object<NewKey>>>,
    /// The URLs of the key sets that it trusts.
    #[schema(max_items = 100)]
    jwks_trusts: Option<Vec<JwksUrl>>,
}

impl TryFrom<New> for NewPrincipal {
    type Error = Problem;

    fn try_from(new: New) -> Result<Self, Problem> {
        let (keys, jwks_trusts) =
            (new.keys.unwrap_or_default(), new.jwks_trusts.unwrap_or_default());
        for (member, count) in [("keys", keys.len()), ("jwks_trusts", jwks_trusts.len())] {
            if count > TOGETHER_MAX {
                return Err(Problem::bad_member(
                    member,
                    format!(
                        "accepted are up to {TOGETHER_MAX} at once; more can be added one by one"
                    ),
                ));
            }
        }
        let read = |(index, Object(key)): (usize, Object<NewKey>)| {
            let (text, terms) = key.into_terms();
            registry::new_key(&text, terms)
                .map_err(|error| Problem::from(error).within(&format!("keys[{index}]")))
        };
        Ok(Self {
            username: new.username,
            is_active: new.is_active.unwrap_or(true),
            scopes: new.scopes.unwrap_or_default().0,
            profile: Profile {
                given_name: new.given_name,
                family_name: new.family_name,
                email: new.email,
            },
            keys: keys.into_iter().enumerate().map(read).collect::<Result<_, _>>()?,
            jwks_urls: jwks_trusts.into_iter().map(|url| url.0).collect(),
        })
    }
}

/// Changes to a principal (RFC 7396): absent members stay as they are, `null` removes a value.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PrincipalChange, example = json!({ "is_active": false, "email": null }))]
#[expect(clippy::option_option, reason = "a merge patch tells null from what is not there")]
pub(super) struct Change {
    /// Whether it may authenticate.
    #[serde(default, deserialize_with = "fields::present")]
    #[schema(value_type = bool, required = false)]
    is_active: Option<bool>,
    /// The scopes that it holds; `null` removes all.
    #[serde(default, deserialize_with = "fields::present")]
    #[schema(value_type = Option<Vec<ScopeToken>>, max_items = 100)]
    scopes: Option<Option<ScopeList>>,
    /// Given name.
    #[serde(default, deserialize_with = "fields::present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    given_name: Option<Option<String>>,
    /// Family name.
    #[serde(default, deserialize_with = "fields::present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    family_name: Option<Option<String>>,
    /// E-mail address.
    #[serde(default, deserialize_with = "fields::present")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    email: Option<Option<String>>,
}

impl From<Change> for PrincipalChange {
    fn from(change: Change) -> Self {
        Self {
            is_active: change.is_active,
            scopes: change.scopes.map(|scopes| scopes.unwrap_or_default().0),
            given_name: change.given_name,
            family_name: change.family_name,
            email: change.email,
        }
    }
}

/// The principal in the path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct UsernameInPath {
    /// The username, percent-encoded: `/` is `%2F`, `%` is `%25`, `?` is `%3F`.
    #[param(value_type = Name)]
    #[expect(dead_code, reason = "it is here for its schema")]
    username: String,
}

/// List principals, in the order in which they were added.
#[utoipa::path(get, path = "/admin/v1/principals", operation_id = "list_principals", tag = "principals", params(PageQuery),
    responses((status = 200, description = "A page of principals.", body = Page<PrincipalView>)))]
pub(super) async fn list(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let query = PageQuery::of(&request, List::Principals)?;
    let rows = door.registry.principals_page(query.cursor.map(PrincipalId), query.rows()).await?;
    Ok(HttpResponse::Ok()
        .json(query.page::<_, PrincipalView>(List::Principals, rows, |record| record.id.0)))
}

/// Add a principal, with its first keys and trusts.
#[utoipa::path(post, path = "/admin/v1/principals", operation_id = "add_principal", tag = "principals", request_body = New,
    responses(
        (status = 201, description = "It was added.", body = PrincipalView, headers(
            ("Location" = String, description = "Where it is."), ("ETag" = String, description = "The tag of its state."))),
        (status = 409, description = "The username is taken, or a key or trust is given twice.", body = Problem,
            content_type = "application/problem+json")))]
pub(super) async fn create(
    door: web::Data<AdminDoor>,
    mount: web::Data<Mount>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let new: New = body::json(&request, payload).await?;
    let added = door.registry_for(&request).add_principal(new.try_into()?).await;
    let record = added
        .map_err(|error| Problem::from(error).with_member_renamed("jwks_url", "jwks_trusts"))?;
    let (location, version) = (mount.principal(&record.username), record.version());
    Ok(etag::created(&location, &PrincipalView::from(record), version))
}

/// Show a principal.
#[utoipa::path(get, path = "/admin/v1/principals/{username}", operation_id = "show_principal", tag = "principals",
    params(UsernameInPath, etag::IfNoneMatch),
    responses(
        (status = 200, description = "The principal.", body = PrincipalView, headers(("ETag" = String, description = "The tag of its state."))),
        (status = 304, description = "It is as `If-None-Match` names it.", headers(("ETag" = String, description = "The tag of its state.")))))]
pub(super) async fn show(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let record = door.registry.principal(&path::username(&request)?).await?;
    let version = record.version();
    if etag::is_known(&request, version)? {
        return Ok(etag::not_modified(version));
    }
    Ok(etag::tagged(StatusCode::OK, &PrincipalView::from(record), version))
}

/// Change a principal.
#[utoipa::path(patch, path = "/admin/v1/principals/{username}", operation_id = "change_principal", tag = "principals",
    params(UsernameInPath, etag::IfMatch),
    request_body(content((Change = "application/merge-patch+json"), (Change = "application/json"))),
    responses((status = 200, description = "The principal as it is now.", body = PrincipalView,
        headers(("ETag" = String, description = "The tag of its state.")))))]
pub(super) async fn change(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let username = path::username(&request)?;
    let change: Change = body::merge_patch(&request, payload).await?;
    let current = async { Ok(door.registry.principal(&username).await?.version()) };
    let expected = etag::expected(&request, current).await?;
    let record =
        door.registry_for(&request).change_principal(&username, change.into(), expected).await?;
    let version = record.version();
    Ok(etag::tagged(StatusCode::OK, &PrincipalView::from(record), version))
}

/// Remove a principal, with its keys and trusts.
#[utoipa::path(delete, path = "/admin/v1/principals/{username}", operation_id = "remove_principal", tag = "principals",
    params(UsernameInPath, etag::IfMatch), responses((status = 204, description = "It was removed.")))]
pub(super) async fn remove(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let username = path::username(&request)?;
    let current = async { Ok(door.registry.principal(&username).await?.version()) };
    let expected = etag::expected(&request, current).await?;
    door.registry_for(&request).remove_principal(&username, expected).await?;
    Ok(HttpResponse::NoContent().finish())
}
