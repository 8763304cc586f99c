//! `ANY /validate_request[/...]` and `/decide/...`: a gateway asks, the engine answers. The body is
//! not read.

use std::{mem, net::IpAddr};

use bytes::Bytes;
use bytestring::ByteString;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    http::request::Parts,
};

use super::{
    HttpDoor,
    original::{self, text},
    route::Route,
};
use crate::{
    domain::{
        auth_request::{AuthRequest, Credentials, Door, TraceHeaders},
        decision::DenialReason,
    },
    doors::{
        listen::TurnRecord,
        response::{NO_STORE, identity_values, name, to_response},
    },
    engine::verify::Verdict,
};

const HEADERS_TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");
const REQUIRED_SCOPE: HeaderName = HeaderName::from_static(name::REQUIRED_SCOPE);
const TRACEPARENT: HeaderName = HeaderName::from_static(name::TRACEPARENT);
const TRACESTATE: HeaderName = HeaderName::from_static(name::TRACESTATE);
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// The names of [`identity_values`], in the same order.
const IDENTITY: [HeaderName; 7] = [
    HeaderName::from_static(name::IDENTITY[0]),
    HeaderName::from_static(name::IDENTITY[1]),
    HeaderName::from_static(name::IDENTITY[2]),
    HeaderName::from_static(name::IDENTITY[3]),
    HeaderName::from_static(name::IDENTITY[4]),
    HeaderName::from_static(name::IDENTITY[5]),
    HeaderName::from_static(name::IDENTITY[6]),
];

/// The names of [`Refusal::values`](crate::doors::response::Refusal::values), in the same order.
const REFUSAL: [HeaderName; 5] = [
    HeaderName::from_static(name::REFUSAL[0]),
    HeaderName::from_static(name::REFUSAL[1]),
    HeaderName::from_static(name::REFUSAL[2]),
    HeaderName::from_static(name::REFUSAL[3]),
    HeaderName::from_static(name::REFUSAL[4]),
];

/// Decides about `request` and answers; if `is_overloaded`, refuses it without looking at it.
pub(super) async fn answer(
    mut request: Parts,
    door: &HttpDoor,
    standing: &TurnRecord,
    is_overloaded: bool,
) -> Response<Full<Bytes>> {
    let verdict = {
        let route = Route::of(door.url_prefix.len(), &request.uri);
        let auth_request =
            auth_request(&request, &route, &door.credentials_header, door.attempt_header.as_ref());
        if is_overloaded {
            door.verifier.refuse(&auth_request, DenialReason::Overloaded)
        } else {
            door.verifier.decide(&auth_request).await
        }
    };
    standing.note(&verdict);
    // The response reuses the request's header map and its memory.
    let mut headers = mem::take(&mut request.headers);
    headers.clear();
    render(&verdict, door, headers)
}

/// The authorization request in `request`, whose target was parsed into `route`.
pub(super) fn auth_request<'a>(
    request: &'a Parts,
    route: &'a Route<'a>,
    credentials_header: &HeaderName,
    attempt_header: Option<&HeaderName>,
) -> AuthRequest<'a> {
    let (headers, host) = (&request.headers, original::own_host(request));
    let original = match route.tail {
        None => original::from_headers(request, host),
        Some(tail) => original::from_request_line(request, host, tail),
    };
    let authorization = if credentials_header == header::AUTHORIZATION {
        Credentials::None
    } else {
        credentials(values(headers, &header::AUTHORIZATION))
    };
    let mut required_scopes: Vec<&str> = route.scopes.iter().map(AsRef::as_ref).collect();
    required_scopes.extend(
        headers
            .get_all(&REQUIRED_SCOPE)
            .iter()
            .map(|value| text(value).unwrap_or(UNREADABLE_SCOPE)),
    );
    AuthRequest {
        door: Door::Http,
        credentials: credentials(values(headers, credentials_header)),
        authorization,
        request: original,
        required_scopes,
        attempt: attempt_header.and_then(|name| only(headers, name)),
        peer: headers.get(&REAL_IP).and_then(text).and_then(|text| text.parse::<IpAddr>().ok()),
        trace: trace(headers),
        misconfiguration: route.misconfiguration.clone(),
    }
}

/// The only value of a header. If the header occurs twice, one value may come from the client, so
/// neither is used.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { text(value) }
}

/// The trace that the question belongs to. The other headers are of no use without `traceparent`.
fn trace(headers: &HeaderMap) -> TraceHeaders<'_> {
    let Some(traceparent) = headers.get(&TRACEPARENT).and_then(text) else {
        return TraceHeaders::default();
    };
    TraceHeaders {
        traceparent: Some(traceparent),
        tracestate: headers.get(&TRACESTATE).and_then(text),
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes)
}

/// The credentials from every occurrence of a header.
pub(super) fn credentials<'a>(values: impl Iterator<Item = &'a [u8]>) -> Credentials<'a> {
    values.fold(Credentials::None, |known, value| match std::str::from_utf8(value) {
        Ok(value) => known.and_another(value),
        Err(_) => Credentials::Unusable,
    })
}

/// Stands for a scope that cannot be read. Nobody can hold it: a requirement must not be skipped.
const UNREADABLE_SCOPE: &str = "\"";

fn render(verdict: &Verdict, door: &HttpDoor, mut headers: HeaderMap) -> Response<Full<Bytes>> {
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    let id: &str = verdict.id.0.hyphenated().encode_lower(&mut id);
    let mut response = match to_response(verdict, &door.responses) {
        Ok(identity) => {
            for (name, value) in IDENTITY.into_iter().zip(identity_values(identity, id)) {
                headers.insert(name, header_value(value));
            }
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
            if door.responses.header_to_remove(identity).is_some() {
                headers.insert(HEADERS_TO_REMOVE, door.headers_to_remove.clone());
            }
            Response::new(Full::default())
        }
        Err(refusal) => {
            let mut response = Response::new(Full::from(refusal.body(id)));
            *response.status_mut() =
                StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            for (name, value) in REFUSAL.into_iter().zip(refusal.values(id)) {
                headers.insert(name, header_value(value));
            }
            if let Some(retry_after) = refusal.retry_after() {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(retry_after));
            }
            response
        }
    };
    *response.headers_mut() = headers;
    response
}

/// Values are visible ASCII by now. If one were not, the header would be empty, never the client's
/// value.
fn header_value(value: ByteString) -> HeaderValue {
    HeaderValue::from_maybe_shared(value.into_bytes())
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}
