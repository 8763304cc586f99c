//! What Envoy is answered.

use std::time::SystemTime;

use bytestring::ByteString;
use envoy_types::{
    ext_authz::v3::pb::{
        CheckResponse, DeniedHttpResponse, HeaderAppendAction, HeaderValue, HeaderValueOption, HttpResponse, HttpStatus,
        HttpStatusCode, OkHttpResponse,
    },
    pb::google::{
        protobuf::{Struct, Value, value::Kind},
        rpc,
    },
};
use tonic::Code;

use crate::{
    domain::decision::Identity,
    doors::answer::{Language, Refusal, RefusalKind, identity_values, name, spoken},
    engine::verify::Verdict,
};

/// Where `dynamic_metadata` holds the identity.
const METADATA: &str = "countersign";

/// The whole answer, always with a status and a response of the same kind. An empty `CheckResponse` would mean OK.
pub(super) fn respond(verdict: &Verdict, language: &Language) -> CheckResponse {
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    let id: &str = verdict.id.0.hyphenated().encode_lower(&mut id);
    match spoken(verdict, language) {
        Ok(identity) => allow(identity, id, language),
        Err(refusal) => deny(&refusal, id),
    }
}

fn allow(identity: &Identity, id: &str, language: &Language) -> CheckResponse {
    let values = identity_values(identity, id);
    let headers = || name::IDENTITY.into_iter().zip(&values);
    let response = OkHttpResponse {
        headers: headers().map(|(name, value)| overwrite(name, value)).collect(),
        // None of the headers set above may be in this list: removing comes after setting.
        headers_to_remove: language.header_to_remove(identity).map(str::to_owned).into_iter().collect(),
        ..OkHttpResponse::default()
    };
    CheckResponse {
        status: Some(rpc::Status { code: Code::Ok as i32, message: String::new(), details: Vec::new() }),
        dynamic_metadata: Some(metadata(headers())),
        http_response: Some(HttpResponse::OkResponse(response)),
    }
}

fn deny(refusal: &Refusal<'_>, id: &str) -> CheckResponse {
    let (code, status) = match refusal.kind() {
        RefusalKind::Unauthenticated => (Code::Unauthenticated, HttpStatusCode::Unauthorized),
        RefusalKind::Forbidden => (Code::PermissionDenied, HttpStatusCode::Forbidden),
        RefusalKind::Unavailable => (Code::Unavailable, HttpStatusCode::ServiceUnavailable),
    };
    let headers = refusal.headers(id).chain([("date", date())]).map(|(name, value)| overwrite(name, &value)).collect();
    let response = DeniedHttpResponse { status: Some(HttpStatus { code: status as i32 }), headers, body: refusal.body(id) };
    CheckResponse {
        status: Some(rpc::Status { code: code as i32, message: refusal.code().to_owned(), details: Vec::new() }),
        dynamic_metadata: None,
        http_response: Some(HttpResponse::DeniedResponse(response)),
    }
}

/// Over HTTP the server would add it. A client corrects its clock by it.
pub(super) fn date() -> ByteString {
    httpdate::fmt_http_date(SystemTime::now()).into()
}

/// Never unset: what Envoy then does has changed between versions, and one of them appended to what the client sent.
fn overwrite(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value: value.to_owned(), raw_value: Vec::new() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        keep_empty_value: true,
        ..HeaderValueOption::default()
    }
}

/// `{"countersign": {"username": ..., ...}}`, the names without the `x-auth-` of the headers and with underscores.
fn metadata<'a>(headers: impl Iterator<Item = (&'static str, &'a ByteString)>) -> Struct {
    let text = |value: &ByteString| Value { kind: Some(Kind::StringValue(value.to_string())) };
    let fields = headers.map(|(name, value)| (name.trim_start_matches("x-auth-").replace('-', "_"), text(value))).collect();
    let inner = Value { kind: Some(Kind::StructValue(Struct { fields })) };
    Struct { fields: [(METADATA.to_owned(), inner)].into() }
}
