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

/// Told by headers. nginx sets `X-Original-*`, Traefik, Caddy and others `X-Forwarded-*`, and each
/// passes the other's through from the client: where they differ, one is forged, and neither is
/// believed. What no header tells is not known; the method of the question itself says nothing,
/// since gateways ask with GET about everything. The host is the question's own where no
/// other is told: a gateway that passes the original one along does so there.
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

/// Told by the request line: `path` is what stands behind our own. Headers are ignored, since here
/// they are the client's; but for the scheme, which the request line does not have: without the
/// header any scheme fits, so that a client can only hurt itself with it.
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

/// A header that is there twice with different values, or is not text, contradicts itself.
fn told<'a>(known: Reported<'a>, headers: &'a HeaderMap, name: &HeaderName) -> Reported<'a> {
    headers.get_all(name).iter().fold(known, |known, value| match text(value) {
        Some(value) => known.and(Some(value)),
        None => Reported::Conflicting,
    })
}

/// A header value as text. Reads words at a time, where `HeaderValue::to_str` reads bytes.
pub(super) fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// The host that the request itself names.
pub(super) fn own_host(request: &Parts) -> Option<&str> {
    let header = request.headers.get(HOST).and_then(text);
    header.or_else(|| request.uri.authority().map(Authority::as_str))
}
