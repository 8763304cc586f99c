//! Limits of this door, for one message and for all of them together.
//!
//! What a gateway sends is bounded at each level: a connection by its windows and streams
//! (`listen/http2.rs`), a message by its size and the time it may take, and all partial messages by
//! the bytes they hold. A check that arrives in one piece is bounded only by the number of requests
//! in flight, so nobody can shut it out by withholding parts.

use std::{sync::Arc, time::Duration};

use super::pending::Pending;
use crate::doors::in_flight::InFlight;

/// How long a message may take to arrive after its headers.
pub(super) const ARRIVAL: Duration = Duration::from_secs(5);
/// What an incomplete message counts for in addition to its bytes: the memory of its stream, with
/// its headers.
pub(super) const PENDING_MESSAGE: usize = 20 * 1024;
/// Bytes of a message that is too large that are read and discarded, so that the sender gets to
/// read the response.
pub(super) const READ_IN_VAIN_MAX: usize = 16 * 1024 * 1024;
/// Bytes that all messages that arrived in parts may hold.
const BYTES_IN_FLIGHT_MAX: usize = 64 * 1024 * 1024;
/// Largest request to health and reflection, in bytes.
pub(super) const SMALL_MESSAGE_MAX: usize = 16 * 1024;
/// Concurrent reflection streams. People use reflection now and then, and each stream buffers what
/// it has not answered.
const REFLECTIONS_MAX: usize = 16;

/// The limits of one door, with their current use.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Largest check, in bytes.
    pub(super) max_message: usize,
    /// Decisions in flight.
    pub(super) decisions: Arc<InFlight>,
    /// Messages that arrive in parts.
    pub(super) pending: Arc<Pending>,
    /// Open reflection streams.
    pub(super) reflections: Arc<InFlight>,
}

impl Limits {
    /// For checks of up to `max_message` bytes, with up to `max_in_flight` decisions at once.
    pub(super) fn new(max_message: usize, max_in_flight: usize) -> Self {
        Self {
            max_message,
            decisions: InFlight::new(max_in_flight),
            pending: Pending::new(BYTES_IN_FLIGHT_MAX),
            reflections: InFlight::new(REFLECTIONS_MAX),
        }
    }
}
