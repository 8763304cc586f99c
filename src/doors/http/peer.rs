//! Who sends a request, for the routes that actix-web serves.

use actix_web::{HttpMessage, HttpRequest};

use crate::doors::listen::{Origin, Peer};

/// The other end of the connection.
pub(super) fn of(request: &HttpRequest) -> Option<Peer> {
    request.peer_addr().map(Peer::Address).or_else(|| request.extensions().get::<Peer>().copied())
}

/// The origin that its failures count against.
pub(super) fn origin(request: &HttpRequest) -> Option<Origin> {
    of(request).map(Peer::origin)
}

/// The name in the log and in audit events: an IP address, or `uid:` and the uid of a local user.
pub(super) fn name(request: &HttpRequest) -> String {
    origin(request).map_or_else(|| "unknown".to_owned(), |origin| origin.to_string())
}
