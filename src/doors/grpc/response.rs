//! Responses to Envoy.

use std::time::SystemTime;

use bytestring::ByteString;
use envoy_types::{
    ext_authz::v3::pb::{
        CheckResponse, DeniedHttpResponse, HeaderAppendAction, HeaderValue, HeaderValueOption,
        HttpResponse, HttpStatus, HttpStatusCode, OkHttpResponse,
    },
    pb::google::{
        protobuf::{Struct, Value, value::Kind},
        rpc,
    },
};
use tonic::Code;

use crate::{
    domain::decision::Identity,
    doors::response::{Refusal, RefusalKind, ResponseConfig, identity_values, name, to_response},
    engine::verify::Verdict,
};

/// The key in `dynamic_metadata` under which our values are.
const METADATA: &str = "countersign";
/// The metadata names of the values in the identity headers, in the order of [`identity_values`].
const IDENTITY: [&str; 7] =
    ["username", "principal_id", "method", "key_id", "scopes", "content_digest", DECISION_ID];
const DECISION_ID: &str = "decision_id";
/// For how many seconds an allow may be cached; absent if there is no limit. For gateways that
/// cache responses by an expression.
const CACHEABLE_FOR: &str = "cacheable_for";
/// Denial code, as the client sees it.
const CODE: &str = "code";

/// The whole response, always with a status and an HTTP response of the same kind. Envoy would read
/// an empty `CheckResponse` as OK.
pub(super) fn respond(verdict: &Verdict, responses: &ResponseConfig) -> CheckResponse {
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    let id: &str = verdict.id.0.hyphenated().encode_lower(&mut id);
    match to_response(verdict, responses) {
        Ok(identity) => allow(identity, id, responses),
        Err(refusal) => deny(&refusal, id),
    }
}

fn allow(identity: &Identity, id: &str, responses: &ResponseConfig) -> CheckResponse {
    let values = identity_values(identity, id);
    let said = IDENTITY.into_iter().zip(values.iter().map(|value| text(value)));
    let cacheable_for =
        identity.method().is_single_use().then_some((CACHEABLE_FOR, Kind::NumberValue(0.0)));
    let response = OkHttpResponse {
        headers: name::IDENTITY
            .into_iter()
            .zip(&values)
            .map(|(name, value)| overwrite(name, value))
            .collect(),
        // Must not contain a header that is set above: Envoy removes after setting.
        headers_to_remove: responses
            .header_to_remove(identity)
            .map(str::to_owned)
            .into_iter()
            .collect(),
        ..OkHttpResponse::default()
    };
    CheckResponse {
        status: Some(rpc::Status {
            code: Code::Ok as i32,
            message: String::new(),
            details: Vec::new(),
        }),
        dynamic_metadata: Some(metadata(said.chain(cacheable_for))),
        http_response: Some(HttpResponse::OkResponse(response)),
    }
}

fn deny(refusal: &Refusal<'_>, id: &str) -> CheckResponse {
    let (code, status) = match refusal.kind() {
        RefusalKind::Unauthenticated => (Code::Unauthenticated, HttpStatusCode::Unauthorized),
        RefusalKind::Forbidden => (Code::PermissionDenied, HttpStatusCode::Forbidden),
        RefusalKind::Unavailable => (Code::Unavailable, HttpStatusCode::ServiceUnavailable),
        RefusalKind::Misconfigured => (Code::Internal, HttpStatusCode::InternalServerError),
    };
    let headers = refusal
        .headers(id)
        .chain([("date", date())])
        .map(|(name, value)| overwrite(name, &value))
        .collect();
    let response = DeniedHttpResponse {
        status: Some(HttpStatus { code: status as i32 }),
        headers,
        body: refusal.body(id),
    };
    CheckResponse {
        status: Some(rpc::Status {
            code: code as i32,
            message: refusal.code().to_owned(),
            details: Vec::new(),
        }),
        dynamic_metadata: Some(metadata(
            [(CODE, text(refusal.code())), (DECISION_ID, text(id))].into_iter(),
        )),
        http_response: Some(HttpResponse::DeniedResponse(response)),
    }
}

/// Over HTTP the server adds it. Clients correct their clocks by it.
pub(super) fn date() -> ByteString {
    httpdate::fmt_http_date(SystemTime::now()).into()
}

/// The append action is never left unset: the default has changed between Envoy versions, and in
/// one of them it appended to what the client sent.
fn overwrite(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        keep_empty_value: true,
        ..HeaderValueOption::default()
    }
}

/// `{"countersign": {"username": ..., ...}}`.
fn metadata(said: impl Iterator<Item = (&'static str, Kind)>) -> Struct {
    let fields = said.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) })).collect();
    let inner = Value { kind: Some(Kind::StructValue(Struct { fields })) };
    Struct { fields: [(METADATA.to_owned(), inner)].into() }
}

fn text(value: &str) -> Kind {
    Kind::StringValue(value.to_owned())
}
