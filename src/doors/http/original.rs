//! Which request a gateway asks about, from what it sends over HTTP.

use hyper::{
    header::{HOST, HeaderMap, HeaderName, HeaderValue},
    http::{request::Parts, uri::Authority},
};

use crate::{
    domain::auth_request::{Body, OriginalRequest, Reported},
    doors::response::name,
};

const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static(name::FORWARDED_PROTO);
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// From headers. nginx sets `X-Original-*`; Traefik, Caddy and others set `X-Forwarded-*`; and each
/// passes the other's through from the client. So if they differ, one is forged, and neither is
/// believed. What no header names is unknown. The method of the question itself means nothing,
/// since gateways always ask with GET. The host is that of the question if no header names another:
/// a gateway that forwards the original host sends it there.
pub(super) fn from_headers<'a>(request: &'a Parts, host: Option<&'a str>) -> OriginalRequest<'a> {
    let headers = &request.headers;
    let from = |names: [HeaderName; 2]| {
        names.iter().fold(Reported::Missing, |known, name| told(known, headers, name))
    };
    OriginalRequest {
        method: from([ORIGINAL_METHOD, FORWARDED_METHOD]),
        scheme: only(headers, &FORWARDED_PROTO),
        host: only(headers, &FORWARDED_HOST).or(host.into()),
        path: from([ORIGINAL_URI, FORWARDED_URI]),
        body: Body::Unseen,
    }
}

/// From the request line: `path` is what follows our own path. Headers are ignored, since here they
/// come from the client. The scheme is an exception, since the request line has none: without the
/// header any scheme matches, so a client can only hurt itself with it.
pub(super) fn from_request_line<'a>(
    request: &'a Parts,
    host: Option<&'a str>,
    path: &'a str,
) -> OriginalRequest<'a> {
    OriginalRequest {
        method: Reported::Value(request.method.as_str()),
        scheme: only(&request.headers, &FORWARDED_PROTO),
        host: host.into(),
        path: Reported::Value(path),
        body: Body::Unseen,
    }
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Reported<'a> {
    told(Reported::Missing, headers, name)
}

/// A header that occurs twice with different values, or is not text, counts as contradictory.
fn told<'a>(known: Reported<'a>, headers: &'a HeaderMap, name: &HeaderName) -> Reported<'a> {
    headers.get_all(name).iter().fold(known, |known, value| match text(value) {
        Some(value) => known.and(Some(value)),
        None => Reported::Conflicting,
    })
}

/// A header value as text. Validates words at a time; `HeaderValue::to_str` goes byte by byte.
pub(super) fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// The host that the question itself was sent to.
pub(super) fn own_host(request: &Parts) -> Option<&str> {
    let header = request.headers.get(HOST).and_then(text);
    header.or_else(|| request.uri.authority().map(Authority::as_str))
}
