//! Reads the authorization request from a `CheckRequest`.

use envoy_types::{
    ext_authz::v3::pb::{Address, CheckRequest},
    pb::envoy::service::auth::v3::attribute_context::HttpRequest,
};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::{
    domain::auth_request::{
        AuthRequest, Body, Credentials, Door, Misconfiguration, OriginalRequest, Reported,
        TraceHeaders,
    },
    doors::response::{AUTHORIZATION, ResponseConfig, name},
};

/// The key in a route's `context_extensions` that lists the required scopes.
const SCOPE_EXTENSION: &str = "scope";

/// Envoy sets this header when it passes a body on: `true` if it is only the beginning. Without a
/// body, the header comes from the client.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// A field that the `CheckRequest` leaves out counts as absent; leaving something out can never
/// lead to an allow.
pub(super) fn auth_request<'a>(
    request: &'a CheckRequest,
    metadata: &'a MetadataMap,
    responses: &ResponseConfig,
) -> AuthRequest<'a> {
    let attributes = request.attributes.as_ref();
    let http = attributes.and_then(|attributes| attributes.request.as_ref()?.http.as_ref());
    let source = attributes
        .and_then(|attributes| attributes.source.as_ref()?.address.as_ref()?.address.as_ref());
    let extensions = attributes.map(|attributes| &attributes.context_extensions);
    let scope = extensions.and_then(|extensions| extensions.get(SCOPE_EXTENSION));
    let mut required_scopes: Vec<&str> = scope.map(String::as_str).into_iter().collect();
    let misspelt =
        extensions.and_then(|extensions| extensions.keys().find(|name| is_misspelt(name)));
    let misconfiguration = misspelt.map(|name| Misconfiguration::UnknownExtension(name));
    let peer = match source {
        Some(Address::SocketAddress(socket)) => socket.address.parse().ok(),
        _ => None,
    };
    let Some(http) = http else {
        let nothing = AuthRequest::alone(Door::Grpc, Credentials::None);
        return AuthRequest {
            required_scopes,
            peer,
            trace: trace(metadata),
            misconfiguration,
            ..nothing
        };
    };
    let headers = Headers(http);
    // Envoy joins repeated headers with commas. A token contains none, so joined credentials are
    // refused as two.
    required_scopes.extend(
        headers.all(name::REQUIRED_SCOPE).flat_map(|value| value.unwrap_or("\"").split(',')),
    );
    AuthRequest {
        door: Door::Grpc,
        credentials: headers.credentials(&responses.credentials_header),
        authorization: if responses.uses_authorization() {
            Credentials::None
        } else {
            headers.credentials(AUTHORIZATION)
        },
        request: OriginalRequest {
            method: stated(&http.method),
            scheme: headers.scheme(),
            host: stated(&http.host),
            path: stated(&http.path),
            body: headers.body(),
        },
        required_scopes,
        attempt: stream_number(&http.id),
        peer,
        // If Envoy traces, the call has a span of its own. If not, the original request may still
        // be part of a trace.
        trace: match trace(metadata) {
            TraceHeaders { traceparent: None, .. } => headers.trace(),
            told => told,
        },
        misconfiguration,
    }
}

/// Envoy's id of the stream, 64 random bits in decimal. The client cannot influence it, and it
/// stays the same when Envoy asks again. Other gateways put the trace id of the request here
/// (agentgateway up to 1.4.1 at least), 32 hexadecimal digits that a client can choose through
/// `traceparent`. That must not count as an attempt: anyone who saw the request could use its token
/// again.
fn stream_number(id: &str) -> Option<&str> {
    const DIGITS_MAX: usize = 20;
    let is_decimal =
        (1..=DIGITS_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
    is_decimal.then_some(id)
}

/// Whether an extension is probably meant to require scopes but has the wrong name: `scopes`,
/// `Scope`, `required_scope`. Other names are ignored, since control planes add some of their own.
fn is_misspelt(name: &str) -> bool {
    let scope = SCOPE_EXTENSION.as_bytes();
    name != SCOPE_EXTENSION
        && name.as_bytes().windows(scope.len()).any(|part| part.eq_ignore_ascii_case(scope))
}

/// The trace that a call belongs to.
pub(super) fn trace(metadata: &MetadataMap) -> TraceHeaders<'_> {
    let value =
        |name| metadata.get(name).and_then(|value: &MetadataValue<Ascii>| value.to_str().ok());
    TraceHeaders { traceparent: value(name::TRACEPARENT), tracestate: value(name::TRACESTATE) }
}

fn stated(value: &str) -> Reported<'_> {
    Reported::from(Some(value))
}

/// The headers of the request, in either of two forms: `headers` or, with `encode_raw_headers`, the
/// entries of `header_map`.
struct Headers<'a>(&'a HttpRequest);

impl<'a> Headers<'a> {
    fn trace(&self) -> TraceHeaders<'a> {
        let value = |name| self.all(name).next().flatten();
        let traceparent = value(name::TRACEPARENT);
        TraceHeaders { traceparent, tracestate: traceparent.and_then(|_| value(name::TRACESTATE)) }
    }

    fn credentials(&self, name: &str) -> Credentials<'a> {
        let plain =
            self.0.headers.get(name).map_or(Credentials::None, |value| Credentials::One(value));
        let raw = self.raw(name).fold(Credentials::None, |known, value| match value {
            Some(value) => known.and_another(value),
            None => Credentials::Unusable,
        });
        plain.or_same(raw)
    }

    /// Over HTTP/2 the attribute is what the client wrote into `:scheme`, however it connected. The
    /// header is set by Envoy, unless its settings leave that to the proxy in front.
    fn scheme(&self) -> Reported<'a> {
        let header =
            self.all(name::FORWARDED_PROTO).fold(Reported::Missing, |known, value| match value {
                Some(value) => known.and(Some(value)),
                None => Reported::Conflicting,
            });
        header.or(stated(&self.0.scheme))
    }

    /// The body, as far as Envoy passes it on.
    fn body(&self) -> Body<'a> {
        let (text, raw) = (self.0.body.as_bytes(), self.0.raw_body.as_slice());
        let mut partial = self.all(PARTIAL_BODY).peekable();
        match (text, raw) {
            ([], []) if partial.peek().is_none() => self.body_that_is_kept(),
            _ if partial.any(|value| value != Some("false")) => Body::Partial,
            ([], whole) | (whole, []) => Body::Whole(whole),
            // Envoy fills only one of the two fields.
            (text, raw) if text == raw => Body::Whole(raw),
            (_, _) => Body::Partial,
        }
    }

    /// No body was passed on, and no field says whether one would have been (`with_request_body`).
    /// So we assume a body only if a length says so. Without a length there is no body, or one in
    /// chunks, or one over HTTP/2 without a length; that one then fails every digest except the
    /// digest of an empty body. The other way round, a client could leave out the body that its
    /// token is bound to; and a client that signs a digest knows the length. Envoy never passes on
    /// what follows an upgrade, and only then leaves `transfer-encoding` in place.
    fn body_that_is_kept(&self) -> Body<'a> {
        let has = |name| self.all(name).next().is_some();
        let is_length = |value: Option<&str>| {
            value.and_then(|value| value.parse().ok()).is_some_and(|length: u64| length > 0)
        };
        let has_length = has("content-length") && self.all("content-length").all(is_length);
        match (has_length, has("upgrade")) {
            _ if has("transfer-encoding") => Body::Partial,
            (true, true) => Body::Partial,
            (true, false) => Body::Unseen,
            (false, _) => Body::Whole(&[]),
        }
    }

    /// Every value of a header; `None` for a value that is not text.
    fn all(&self, name: &str) -> impl Iterator<Item = Option<&'a str>> {
        let plain = self.0.headers.get(name).map(|value| Some(value.as_str()));
        plain.into_iter().chain(self.raw(name))
    }

    fn raw(&self, name: &str) -> impl Iterator<Item = Option<&'a str>> {
        let entries = self.0.header_map.as_ref().map_or(&[][..], |map| &map.headers);
        entries.iter().filter(move |entry| entry.key.eq_ignore_ascii_case(name)).map(|entry| {
            if entry.raw_value.is_empty() {
                Some(entry.value.as_str())
            } else {
                std::str::from_utf8(&entry.raw_value).ok()
            }
        })
    }
}
