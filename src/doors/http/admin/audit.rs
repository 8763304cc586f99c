//! The audit log: what was changed, and by whom.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    fields::Name,
    paging::{List, Page, PageQuery, parameters},
    problem::Problem,
};
use crate::{domain::principal::Username, doors::http::AdminDoor, engine::ports::AuditEvent};

/// A change that was made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEvent)]
struct AuditEventView {
    /// Unique id. Later changes have higher ids.
    #[schema(minimum = 1)]
    id: i64,
    /// When the change was made.
    #[schema(format = DateTime)]
    at: String,
    /// Who made the change: `admin-api@` and an address, `cli:` and a local user, or `token-api`.
    #[schema(example = "admin-api@127.0.0.1")]
    actor: String,
    /// The kind of change.
    #[schema(example = "key.revoke")]
    action: String,
    /// Username of the principal that it concerns.
    #[schema(value_type = Name)]
    username: String,
    /// Id of the principal, key, trust, API key or token that was changed, depending on `action`.
    #[schema(minimum = 1)]
    subject_id: i64,
    /// The state before the change; null if it was new.
    #[schema(required = true, value_type = Option<Object>)]
    before: Value,
    /// The state after the change; null if it was removed.
    #[schema(required = true, value_type = Option<Object>)]
    after: Value,
}

impl From<AuditEvent> for AuditEventView {
    fn from(event: AuditEvent) -> Self {
        Self {
            id: event.id,
            at: event.at.to_rfc3339(),
            actor: event.actor,
            action: event.action,
            username: event.username,
            subject_id: event.subject_id,
            before: state(event.before),
            after: state(event.after),
        }
    }
}

/// A recorded state, with its scopes as a list, as everywhere in this API.
fn state(written: Option<String>) -> Value {
    let Some(written) = written else { return Value::Null };
    let Ok(mut state) = serde_json::from_str::<Value>(&written) else {
        return serde_json::json!({ "unreadable": written });
    };
    if let Some(scopes) = state.get_mut("scopes")
        && let Some(list) = scopes.as_str()
    {
        *scopes = list.split_ascii_whitespace().collect();
    }
    state
}

/// Filters changes.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// Only changes that concern a principal with this username at the time.
    #[param(value_type = Option<Name>, nullable = false)]
    #[expect(dead_code, reason = "it is here for its schema")]
    username: Option<String>,
}

/// List changes, newest first.
#[utoipa::path(get, path = "/admin/v1/audit", operation_id = "list_audit_events", tag = "audit", params(AuditQuery, PageQuery),
    responses((status = 200, description = "A page of changes.", body = Page<AuditEventView>)))]
pub(super) async fn list(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let [username, limit, cursor] = parameters(&request, ["username", "limit", "cursor"])?;
    let username = username.map(|name| Username::new(&name)).transpose();
    let username = username.map_err(|error| Problem::bad_member("username", error.to_string()))?;
    let query = PageQuery::read(limit.as_deref(), cursor.as_deref(), List::Audit)?;
    let rows = door
        .registry
        .audit(username.as_ref().map(Username::as_str), query.cursor, query.rows())
        .await?;
    Ok(HttpResponse::Ok()
        .json(query.page::<_, AuditEventView>(List::Audit, rows, |event| event.id)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn states_list_their_scopes() {
        assert_eq!(state(None), Value::Null);
        assert_eq!(
            state(Some(r#"{"id":1,"scopes":"a b"}"#.to_owned())),
            json!({ "id": 1, "scopes": ["a", "b"] })
        );
        assert_eq!(state(Some(r#"{"scopes":null}"#.to_owned())), json!({ "scopes": null }));
        assert_eq!(state(Some("{".to_owned())), json!({ "unreadable": "{" }));
    }
}
