//! Which request a gateway asks about, from what it sends over HTTP.

use actix_web::{HttpRequest, http::header::HeaderMap};

use crate::domain::presented::{OriginalRequest, Stated};

/// Told by headers. nginx sets `X-Original-*`, Traefik, Caddy and others `X-Forwarded-*`, and each passes the other's through
/// from the client: where they differ, one is forged, and neither is believed. What no header tells is not known; the method of
/// the question itself says nothing, since gateways ask with GET about everything. The host is the question's own where no
/// other is told: a gateway that passes the original one along does so there.
pub(super) fn from_headers<'a>(request: &'a HttpRequest, host: Option<&'a str>) -> OriginalRequest<'a> {
    let headers = request.headers();
    let from = |names: [&str; 2]| names.into_iter().fold(Stated::Nowhere, |known, name| told(known, headers, name));
    let only = |name| told(Stated::Nowhere, headers, name);
    OriginalRequest {
        method: from(["x-original-method", "x-forwarded-method"]),
        scheme: only("x-forwarded-proto"),
        host: only("x-forwarded-host").or(host.into()),
        path: from(["x-original-uri", "x-forwarded-uri"]),
    }
}

/// Told by the request line: `path` is what stands behind our own. Headers are ignored, since here they are the client's.
pub(super) fn from_request_line<'a>(request: &'a HttpRequest, host: Option<&'a str>, path: &'a str) -> OriginalRequest<'a> {
    OriginalRequest {
        method: Stated::As(request.method().as_str()),
        scheme: Stated::Nowhere,
        host: host.into(),
        path: Stated::As(path),
    }
}

/// A header that is there twice with different values, or is not text, contradicts itself.
fn told<'a>(known: Stated<'a>, headers: &'a HeaderMap, name: &str) -> Stated<'a> {
    headers.get_all(name).fold(known, |known, value| match value.to_str() {
        Ok(value) => known.and(Some(value)),
        Err(_) => Stated::Contradictory,
    })
}

/// The host that the request itself names.
pub(super) fn own_host(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get(actix_web::http::header::HOST).and_then(|value| value.to_str().ok());
    header.or_else(|| request.uri().authority().map(actix_web::http::uri::Authority::as_str))
}
