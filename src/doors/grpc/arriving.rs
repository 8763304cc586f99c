//! Receives a message: collects it completely before anything decodes it, within limits on size,
//! time and memory.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::codegen::Body;

use super::{
    limits::{PENDING_MESSAGE, READ_IN_VAIN_MAX},
    pending::{Held, Pending},
};

/// Prefix of each message: one byte that says whether it is compressed, and its length in four
/// bytes.
const PREFIX: usize = 5;

/// Why a message was not received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// Its announced length exceeds the limit.
    TooLarge,
    /// The memory for all messages is used up.
    NoRoom,
    /// It ended too early, or took too long.
    Incomplete,
    /// The sender is gone.
    Sender,
}

/// A message with its prefix, and the memory that it holds of the shared limit.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Bytes,
    /// `None` for a message that arrived in one piece.
    pub(super) held: Option<Held>,
}

/// One message, while it arrives. Anything after it in the same stream is ignored.
#[derive(Debug)]
pub(super) struct Arriving<B> {
    body: B,
    max: usize,
    room: Arc<Pending>,
    until: Instant,
    piece: Option<Bytes>,
    parts: Option<Parts>,
    /// Why the message is rejected, and how many bytes were discarded since then.
    in_vain: Option<(Lacking, usize)>,
}

/// A message that arrives in more than one piece. Pieces are copied: a small one may be part of a
/// large buffer, and would keep all of it alive.
#[derive(Debug)]
struct Parts {
    bytes: Vec<u8>,
    held: Held,
    end: Pin<Box<Sleep>>,
}

impl<B: Body<Data = Bytes> + Unpin> Arriving<B> {
    /// Receives the message in `body`, of up to `max` bytes, until the deadline `until`; if it
    /// arrives in parts, it takes memory from `room`.
    pub(super) fn new(body: B, max: usize, room: Arc<Pending>, until: Instant) -> Self {
        Self { body, max, room, until, piece: None, parts: None, in_vain: None }
    }

    /// Ready with the message when the stream has ended, or with the reason for rejecting it. A
    /// message that is too large is still read up to a limit, and discarded: answering a stream
    /// before it has ended resets it, and too many resets end a connection.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, Lacking>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are ignored.
                    if let Ok(piece) = frame.into_data() {
                        self.take(piece)?;
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Lacking::Sender)),
                Poll::Ready(None) => return Poll::Ready(self.end()),
                Poll::Pending => {
                    let in_vain = self.in_vain.map(|(lacking, _)| lacking);
                    let parts = self.parts()?;
                    if parts.held.is_given_up(context.waker()) {
                        return Poll::Ready(Err(in_vain.unwrap_or(Lacking::NoRoom)));
                    }
                    return parts
                        .end
                        .as_mut()
                        .poll(context)
                        .map(|()| Err(in_vain.unwrap_or(Lacking::Incomplete)));
                }
            }
        }
    }

    fn take(&mut self, piece: Bytes) -> Result<(), Lacking> {
        if let Some((lacking, read)) = &mut self.in_vain {
            *read += piece.len();
            return if *read > READ_IN_VAIN_MAX { Err(*lacking) } else { Ok(()) };
        }
        let Err(lacking) = self.keep(piece) else { return Ok(()) };
        self.in_vain = Some((lacking, 0));
        self.piece = None;
        let Some(parts) = &mut self.parts else { return Ok(()) };
        parts.bytes = Vec::new();
        parts.held.keep(PENDING_MESSAGE);
        Ok(())
    }

    fn keep(&mut self, piece: Bytes) -> Result<(), Lacking> {
        if self.parts.is_none() && self.piece.is_none() {
            if length(&piece).is_some_and(|length| length > self.max) {
                return Err(Lacking::TooLarge);
            }
            self.piece = Some(piece);
            return Ok(());
        }
        let max = self.max;
        self.parts()?.add(&piece, max)
    }

    /// Switches to collecting parts, starting with what has arrived so far.
    fn parts(&mut self) -> Result<&mut Parts, Lacking> {
        match &mut self.parts {
            Some(parts) => Ok(parts),
            none => {
                let parts = none.insert(Parts::new(&self.room, self.until)?);
                parts.add(&self.piece.take().unwrap_or_default(), self.max)?;
                Ok(parts)
            }
        }
    }

    fn end(&mut self) -> Result<Message, Lacking> {
        if let Some((lacking, _)) = self.in_vain {
            return Err(lacking);
        }
        let message = match (self.piece.take(), self.parts.take()) {
            (Some(bytes), _) => Message { bytes, held: None },
            (None, Some(parts)) => Message { bytes: parts.bytes.into(), held: Some(parts.held) },
            (None, None) => return Err(Lacking::Incomplete),
        };
        let is_whole =
            length(&message.bytes).is_some_and(|length| message.bytes.len() - PREFIX >= length);
        if is_whole { Ok(message) } else { Err(Lacking::Incomplete) }
    }
}

impl Parts {
    fn new(room: &Arc<Pending>, until: Instant) -> Result<Self, Lacking> {
        let held = room.begin(PENDING_MESSAGE).ok_or(Lacking::NoRoom)?;
        Ok(Self { bytes: Vec::new(), held, end: Box::pin(sleep_until(until)) })
    }

    fn add(&mut self, mut piece: &[u8], max: usize) -> Result<(), Lacking> {
        if self.bytes.len() < PREFIX {
            let (prefix, rest) = piece.split_at(piece.len().min(PREFIX - self.bytes.len()));
            self.append(prefix, PREFIX)?;
            piece = rest;
        }
        let Some(length) = length(&self.bytes) else { return Ok(()) };
        if length > max {
            return Err(Lacking::TooLarge);
        }
        let whole = PREFIX + length;
        self.append(&piece[..piece.len().min(whole - self.bytes.len())], whole)
    }

    /// Memory grows with what has arrived, not with the announced length, which costs a sender
    /// nothing.
    fn append(&mut self, piece: &[u8], whole: usize) -> Result<(), Lacking> {
        let (length, capacity) = (self.bytes.len() + piece.len(), self.bytes.capacity());
        if length > capacity {
            let wanted = length.max(capacity * 2).min(whole.max(length));
            if !self.held.add(wanted - capacity) {
                return Err(Lacking::NoRoom);
            }
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

/// The length of the message that begins with `bytes`; `None` if its prefix is incomplete.
fn length(bytes: &[u8]) -> Option<usize> {
    let [_, length @ ..] = bytes.first_chunk::<PREFIX>()?;
    Some(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::Waker;
    use std::time::Duration;

    use http_body::Frame;

    use super::*;

    /// Yields its pieces one by one, `None` being a pause, and then ends or stays open.
    struct Pieces {
        left: VecDeque<Option<Bytes>>,
        ends: bool,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.left.pop_front() {
                Some(Some(piece)) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                Some(None) => {
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                None if self.ends => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    const MAX: usize = 1_000;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        bytes.extend((0..=250).cycle().take(length));
        bytes
    }

    fn arriving_until(
        until: Instant,
        pieces: impl IntoIterator<Item = Option<Vec<u8>>>,
        ends: bool,
        room: &Arc<Pending>,
    ) -> Arriving<Pieces> {
        let left = pieces.into_iter().map(|piece| piece.map(Bytes::from)).collect();
        Arriving::new(Pieces { left, ends }, MAX, Arc::clone(room), until)
    }

    fn arriving(
        pieces: impl IntoIterator<Item = Option<Vec<u8>>>,
        ends: bool,
        room: &Arc<Pending>,
    ) -> Arriving<Pieces> {
        arriving_until(Instant::now() + Duration::from_mins(1), pieces, ends, room)
    }

    async fn arrived(mut arriving: Arriving<Pieces>) -> Result<Message, Lacking> {
        std::future::poll_fn(|context| arriving.poll(context)).await
    }

    #[tokio::test]
    async fn a_message_is_the_same_in_whatever_pieces_it_comes() {
        let whole = message(MAX);
        for size in [1, 2, 4, 5, 6, 100, MAX + 4, MAX + 5] {
            for waits in [false, true] {
                let room = Pending::new(64 * 1024);
                let pieces = whole.chunks(size).flat_map(|piece| [Some(piece.to_vec()), None]);
                let pieces: Vec<_> = pieces.filter(|piece| waits || piece.is_some()).collect();
                let message = arrived(arriving(pieces, true, &room)).await.unwrap();
                assert_eq!(message.bytes, whole, "in pieces of {size}");
                drop(message);
                assert!(room.begin(64 * 1024).is_some(), "all is given back");
            }
        }
    }

    #[tokio::test]
    async fn what_follows_a_message_is_not_kept() {
        let room = Pending::new(PENDING_MESSAGE + 20);
        let pieces = [Some(message(10)), None, Some(vec![0; 10_000]), Some(vec![0; 10_000])];
        assert_eq!(arrived(arriving(pieces, true, &room)).await.unwrap().bytes, message(10));
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_is_known_by_its_prefix() {
        let room = Pending::new(64 * 1024);
        let prefix = &message(MAX + 1)[..5];
        for pieces in [
            vec![Some(prefix.to_vec())],
            prefix.chunks(1).map(|byte| Some(byte.to_vec())).collect::<Vec<_>>(),
        ] {
            for ends in [false, true] {
                let arriving = arriving_until(Instant::now(), pieces.clone(), ends, &room);
                assert_eq!(arrived(arriving).await.unwrap_err(), Lacking::TooLarge);
            }
        }
    }

    #[tokio::test]
    async fn a_message_that_does_not_come_is_incomplete() {
        let room = Pending::new(64 * 1024);
        let whole = message(10);
        for (pieces, ends) in [
            (vec![], true),
            (vec![], false),
            (vec![Some(whole[..4].to_vec())], true),
            (vec![Some(whole[..14].to_vec())], true),
            (vec![Some(whole[..14].to_vec())], false),
            // The sender has not ended the stream.
            (vec![Some(whole.clone())], false),
        ] {
            let arriving = arriving_until(Instant::now(), pieces.clone(), ends, &room);
            assert_eq!(
                arrived(arriving).await.unwrap_err(),
                Lacking::Incomplete,
                "{pieces:?} {ends}"
            );
        }
    }

    /// The rest is read and discarded, so that the sender gets to read the response.
    #[tokio::test]
    async fn a_message_that_is_too_large_is_read_to_its_end() {
        let room = Pending::new(PENDING_MESSAGE);
        let whole = message(MAX + 1);
        let pieces: Vec<_> =
            whole.chunks(100).flat_map(|piece| [Some(piece.to_vec()), None]).collect();
        let mut arriving = arriving(pieces, true, &room);
        let lacking = std::future::poll_fn(|context| arriving.poll(context)).await.unwrap_err();
        assert_eq!((lacking, arriving.body.left.len()), (Lacking::TooLarge, 0));
        let endless = std::iter::repeat_n(Some(vec![0; 1024 * 1024]), 20);
        let mut arriving = arriving_until(
            Instant::now() + Duration::from_mins(1),
            [Some(whole)].into_iter().chain(endless),
            false,
            &room,
        );
        let lacking = std::future::poll_fn(|context| arriving.poll(context)).await.unwrap_err();
        assert_eq!((lacking, arriving.body.left.is_empty()), (Lacking::TooLarge, false));
    }

    #[test]
    fn parts_take_room_and_one_piece_takes_none() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let room = Pending::new(2 * PENDING_MESSAGE);
        let mut context = Context::from_waker(Waker::noop());
        let mut begun: Vec<_> = (0..2)
            .map(|_| arriving([Some(message(500)[..400].to_vec()), None, None], false, &room))
            .collect();
        assert!(begun[0].poll(&mut context).is_pending());
        let mut at_once = arriving([Some(message(MAX))], true, &room);
        assert!(matches!(at_once.poll(&mut context), Poll::Ready(Ok(Message { held: None, .. }))));
        // There is no room for both, so the older one is dropped.
        assert!(begun[1].poll(&mut context).is_pending());
        assert!(matches!(begun[0].poll(&mut context), Poll::Ready(Err(Lacking::NoRoom))));
        assert!(begun[1].poll(&mut context).is_pending());
    }

    #[test]
    fn a_long_announcement_takes_no_room() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let room = Pending::new(10 * (PENDING_MESSAGE + 5));
        let mut context = Context::from_waker(Waker::noop());
        let mut begun: Vec<_> = (0..10)
            .map(|_| arriving([Some(message(MAX)[..5].to_vec()), None], false, &room))
            .collect();
        for arriving in &mut begun {
            assert!(arriving.poll(&mut context).is_pending());
        }
    }
}
