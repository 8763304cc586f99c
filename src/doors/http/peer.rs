//! Who sends a request, for what actix-web serves.

use actix_web::{HttpMessage, HttpRequest};

use crate::doors::listen::{Origin, Peer};

/// At the other end of the connection.
pub(super) fn of(request: &HttpRequest) -> Option<Peer> {
    request.peer_addr().map(Peer::Address).or_else(|| request.extensions().get::<Peer>().copied())
}

/// Whom its failures count for.
pub(super) fn origin(request: &HttpRequest) -> Option<Origin> {
    of(request).map(Peer::origin)
}

/// In the log and in audit events: an IP address, or `uid:` and the number of a user of this host.
pub(super) fn name(request: &HttpRequest) -> String {
    origin(request).map_or_else(|| "unknown".to_owned(), |origin| origin.to_string())
}
