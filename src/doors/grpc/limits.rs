//! What one message and all of them together may take of this door.
//!
//! What a gateway sends is bounded at each level: a connection by its windows and streams
//! (`listen/http2.rs`), a message by its size and the time that it takes, and all messages that are
//! in parts by the bytes that they hold. A check that came in one piece is bounded by the number of
//! requests in flight alone, so nobody who keeps pieces back can shut it out.

use std::{sync::Arc, time::Duration};

use super::pending::Pending;
use crate::doors::in_flight::InFlight;

/// How long a message may take to arrive after its headers.
pub(super) const ARRIVAL: Duration = Duration::from_secs(5);
/// What a message counts for that has begun and not ended, besides its bytes: what its stream
/// takes, with its headers.
pub(super) const PENDING_MESSAGE: usize = 20 * 1024;
/// How much of a message is read to no purpose that is too large, so that whoever sends it reads
/// the answer.
pub(super) const READ_IN_VAIN_MAX: usize = 16 * 1024 * 1024;
/// How many bytes all messages that came in parts may hold.
const BYTES_IN_FLIGHT_MAX: usize = 64 * 1024 * 1024;
/// How large a question to health and reflection may be.
pub(super) const SMALL_MESSAGE_MAX: usize = 16 * 1024;
/// How many streams of reflection there may be at once: people ask it now and then, and each keeps
/// what it has not answered.
const REFLECTIONS_MAX: usize = 16;

/// The limits of one door, with what is taken of them.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// How large a check may be.
    pub(super) max_message: usize,
    /// Decisions.
    pub(super) decisions: Arc<InFlight>,
    /// Messages that came in parts.
    pub(super) pending: Arc<Pending>,
    /// Streams of reflection.
    pub(super) reflections: Arc<InFlight>,
}

impl Limits {
    /// For checks of up to `max_message` bytes, of which `max_in_flight` may be decided at once.
    pub(super) fn new(max_message: usize, max_in_flight: usize) -> Self {
        Self {
            max_message,
            decisions: InFlight::new(max_in_flight),
            pending: Pending::new(BYTES_IN_FLIGHT_MAX),
            reflections: InFlight::new(REFLECTIONS_MAX),
        }
    }
}
