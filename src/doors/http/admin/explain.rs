//! Explains what a decision would be, and why.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use url::Url;
use utoipa::ToSchema;

use super::{
    body,
    fields::{self, Name, ScopeList, ScopeToken},
    problem::Problem,
};
use crate::{
    config::self_signed::credentials,
    domain::{
        auth_request::{AuthRequest, Credentials, Door},
        decision::{DenialReason, Identity, Used},
    },
    doors::http::AdminDoor,
    engine::verify::{AskedUrl, ExplainFrom, Explanation, Step, StepOutcome},
};

/// A token, and the request that it is sent with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ExplainRequest, example = json!({
    "token": "JWT eyJhbGciOiJFZERTQSJ9.eyJ1c2VybmFtZSI6ImFsaWNlIiwidGltZSI6MCwibm9uY2UiOiJuIn0.c2lnbmF0dXJl",
    "method": "GET",
    "url": "https://api.example.com/orders",
    "required_scopes": ["orders:read"]
}))]
struct Asked {
    /// The token, with or without its scheme in front.
    token: String,
    /// The method of the request; unknown if absent.
    #[serde(default, deserialize_with = "method")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 100, pattern = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
    method: Option<String>,
    /// The URL of the request; unknown if absent.
    #[serde(default, deserialize_with = "url")]
    #[schema(value_type = Option<String>, format = "uri", pattern = "^https?://")]
    url: Option<Url>,
    /// The scopes that the route requires.
    #[schema(value_type = Option<Vec<ScopeToken>>, max_items = 100)]
    required_scopes: Option<ScopeList>,
}

/// What the decision would be now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Explanation)]
struct Explained {
    /// The time that the decision is explained for.
    #[schema(format = DateTime)]
    now: String,
    /// The result of the decision.
    verdict: Verdict,
    /// The error code for the client; null if the request would pass.
    #[schema(required = true, example = "invalid_token")]
    code: Option<&'static str>,
    /// The exact reason of the denial; null if there is none.
    #[schema(required = true, example = "unknown_principal")]
    reason: Option<&'static str>,
    /// The identity that would be passed on; null if the request would not pass.
    #[schema(required = true)]
    identity: Option<Passing>,
    /// Every step of the decision, in order.
    steps: Vec<ShownStep>,
}

/// The result of a decision.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Allow,
    Deny,
    Unavailable,
}

/// The identity that would be passed on.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Identity)]
struct Passing {
    /// Username of the principal.
    #[schema(value_type = Name)]
    username: String,
    /// Unique id of the principal.
    #[schema(minimum = 1)]
    principal_id: i64,
    /// How the identity was proven.
    #[schema(example = "self_signed")]
    method: &'static str,
    /// Id of the registered key that verifies the token; null if the key is in a trusted key set.
    #[schema(required = true, minimum = 1)]
    key_id: Option<i64>,
    /// Id of the trust whose key set has the key; null if the key is a registered one.
    #[schema(required = true, minimum = 1)]
    jwks_trust_id: Option<i64>,
    /// The scopes of the identity.
    scopes: Vec<String>,
}

/// A step of a decision.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Step)]
struct ShownStep {
    /// The name of the step.
    #[schema(example = "principal")]
    step: &'static str,
    /// The result of the step.
    outcome: StepResult,
    /// The exact reason of the denial; null if there is none.
    #[schema(required = true, example = "unknown_principal")]
    reason: Option<&'static str>,
    /// The value that the step found.
    seen: String,
    /// The value that the step requires.
    expected: String,
}

/// The result of a step.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum StepResult {
    Passed,
    Denied,
    Unavailable,
    Skipped,
}

/// Explain what would be decided about a token, step by step. No nonce is claimed, so the token can
/// still be used afterwards.
#[utoipa::path(post, path = "/admin/v1/explain", operation_id = "explain", tag = "explain", request_body = Asked,
    responses((status = 200, description = "What would be decided now, and why.", body = Explained)))]
pub(super) async fn explain(
    door: web::Data<AdminDoor>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let asked: Asked = body::json(&request, payload).await?;
    let credentials = credentials(&door.scheme, &asked.token);
    let url = asked.url.as_ref().map(AskedUrl::of);
    let scopes = asked.required_scopes.unwrap_or_default();
    let auth_request = AuthRequest {
        request: AskedUrl::request(url.as_ref(), asked.method.as_deref()),
        required_scopes: scopes.0.iter().collect(),
        ..AuthRequest::alone(Door::Http, Credentials::One(&credentials))
    };
    let explanation = door.verifier.explain(&auth_request, ExplainFrom::Inside).await;
    Ok(HttpResponse::Ok().json(Explained::from(&explanation)))
}

impl From<&Explanation> for Explained {
    fn from(explanation: &Explanation) -> Self {
        let verdict = match explanation.failure().map(|step| step.outcome) {
            None => Verdict::Allow,
            Some(StepOutcome::Unavailable) => Verdict::Unavailable,
            Some(StepOutcome::Denied(_) | StepOutcome::Passed | StepOutcome::Skipped) => {
                Verdict::Deny
            }
        };
        Self {
            now: explanation.now.to_rfc3339(),
            verdict,
            code: explanation.told(),
            reason: explanation.reason(),
            identity: explanation.identity.as_ref().map(Passing::from),
            steps: explanation.steps.iter().map(ShownStep::from).collect(),
        }
    }
}

impl From<&Identity> for Passing {
    fn from(identity: &Identity) -> Self {
        let (key_id, jwks_trust_id) = match identity.used() {
            Some(Used::Key(id)) => (Some(id.0), None),
            Some(Used::Trust(id)) => (None, Some(id.0)),
            Some(Used::ApiKey(_)) | None => (None, None),
        };
        let principal = identity.principal();
        Self {
            username: principal.username.to_string(),
            principal_id: principal.id.0,
            method: identity.method().name(),
            key_id,
            jwks_trust_id,
            scopes: fields::scope_list(identity.scopes()),
        }
    }
}

impl From<&Step> for ShownStep {
    fn from(step: &Step) -> Self {
        let outcome = match step.outcome {
            StepOutcome::Passed => StepResult::Passed,
            StepOutcome::Denied(_) => StepResult::Denied,
            StepOutcome::Unavailable => StepResult::Unavailable,
            StepOutcome::Skipped => StepResult::Skipped,
        };
        let reason = step.outcome.reason().map(DenialReason::name);
        Self {
            step: step.name,
            outcome,
            reason,
            seen: step.seen.clone(),
            expected: step.expected.clone(),
        }
    }
}

/// A method is a token (RFC 9110 section 5.6.2).
fn method<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let method = Option::<String>::deserialize(deserializer)?;
    let is_token_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_good =
        |method: &String| (1..=100).contains(&method.len()) && method.bytes().all(is_token_byte);
    if method.as_ref().is_none_or(is_good) {
        Ok(method)
    } else {
        Err(D::Error::custom("not a method; accepted is one such as GET"))
    }
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let is_uri = (text.starts_with("https://") || text.starts_with("http://"))
        && text.bytes().all(is_uri_byte);
    let url = if is_uri { Url::parse(&text).ok() } else { None };
    url.map(Some).ok_or_else(|| {
        D::Error::custom("not a URL; accepted is one such as https://api.example.com/orders?page=2")
    })
}

/// Characters that RFC 3986 allows in a URI; all of them are ASCII.
fn is_uri_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte)
}
