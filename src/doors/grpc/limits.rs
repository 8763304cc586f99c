//! What one connection, one message and all of them together may take of this door.
//!
//! What a gateway sends is bounded at each level: a connection by its windows and streams, a message by its size and the time that it
//! takes, and all messages that are in parts by the bytes that they hold. A check that came in one piece is bounded by the number of
//! requests in flight alone, so nobody who keeps pieces back can shut it out.

use std::{sync::Arc, time::Duration};

use tonic::transport::Server;

use crate::doors::in_flight::InFlight;

/// How many streams one connection may have open. A gateway that needs more opens another connection.
pub(super) const CONCURRENT_STREAMS_MAX: u32 = 200;
/// How many bytes of one stream may be on their way, unread. They are read as they come, so this costs nothing but round trips for
/// large bodies, and bounds what is in memory before it can be counted.
pub(super) const STREAM_WINDOW: u32 = 128 * 1024;
/// How many bytes of one connection may be.
pub(super) const CONNECTION_WINDOW: u32 = 256 * 1024;
/// How many bytes the headers of one stream may have. The headers of the original request are in the message, not here.
pub(super) const HEADER_LIST_MAX: u32 = 16 * 1024;
/// How often an idle connection is tried, so that one whose gateway is gone does not stay.
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_mins(1);

/// How long a message may take to arrive after its headers.
pub(super) const ARRIVAL: Duration = Duration::from_secs(5);
/// What a message counts for that has begun and not ended, besides its bytes: about what its stream takes.
pub(super) const PENDING_MESSAGE: usize = 4 * 1024;
/// How many bytes all messages that came in parts may hold.
const BYTES_IN_FLIGHT_MAX: usize = 64 * 1024 * 1024;
/// How large a question to health and reflection may be.
pub(super) const SMALL_MESSAGE_MAX: usize = 16 * 1024;
/// How many streams of reflection there may be at once: people ask it now and then, and each keeps what it has not answered.
const REFLECTIONS_MAX: usize = 16;

/// The limits of one door, with what is taken of them.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// How large a check may be.
    pub(super) max_message: usize,
    /// Decisions, and messages that came in parts.
    pub(super) decisions: Arc<InFlight>,
    /// Streams of reflection.
    pub(super) reflections: Arc<InFlight>,
}

impl Limits {
    /// For checks of up to `max_message` bytes, of which `max_in_flight` may be decided at once.
    pub(super) fn new(max_message: usize, max_in_flight: usize) -> Self {
        Self {
            max_message,
            decisions: InFlight::new(max_in_flight, BYTES_IN_FLIGHT_MAX),
            reflections: InFlight::new(REFLECTIONS_MAX, 0),
        }
    }
}

/// `server` with the limits of a connection.
pub(super) fn limited(server: Server) -> Server {
    server
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADER_LIST_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
}
