//! A stream that records its activity, and replaces the HTTP library's own error responses with
//! ours.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{deadlines::Activity, http1};
use crate::telemetry::connections::{ConnectionCounts, Malformed, Overdue};

/// The transport of a connection.
pub(in crate::doors) trait Stream:
    AsyncRead + AsyncWrite + Unpin + 'static
{
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Stream for S {}

/// A stream whose activity is recorded.
#[derive(Debug)]
pub(in crate::doors) struct Watched<S> {
    inner: S,
    activity: Rc<Activity>,
    counts: Arc<ConnectionCounts>,
    /// What is left to send of an error response of ours.
    own_answer: Bytes,
    ahead: Ahead,
}

/// The HTTP version, by what the client sends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// What an HTTP/2 client sends before anything else, and no other client does (RFC 9113 section
/// 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes read to detect the HTTP version.
#[derive(Debug, Default)]
struct Ahead {
    bytes: [u8; PREFACE.len()],
    received: usize,
    taken: usize,
}

impl<S: Stream> Watched<S> {
    pub(super) fn new(inner: S, activity: Rc<Activity>, counts: Arc<ConnectionCounts>) -> Self {
        Self { inner, activity, counts, own_answer: Bytes::new(), ahead: Ahead::default() }
    }

    /// Reads until the client's HTTP version is known. The same bytes are then read again by the
    /// implementation of that version.
    pub(super) fn poll_version(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Version>> {
        loop {
            let Ahead { bytes, received, .. } = &self.ahead;
            if !PREFACE.starts_with(&bytes[..*received]) {
                return Poll::Ready(Ok(Version::Http1));
            }
            let mut rest = [0; PREFACE.len()];
            let mut buffer = ReadBuf::new(&mut rest[*received..]);
            if buffer.capacity() == 0 {
                return Poll::Ready(Ok(Version::Http2));
            }
            ready!(self.poll_more(cx, &mut buffer))?;
            let more = buffer.filled();
            if more.is_empty() {
                // The client has closed its side without sending the preface.
                return Poll::Ready(Ok(Version::Http1));
            }
            let Ahead { bytes, received, .. } = &mut self.ahead;
            bytes[*received..*received + more.len()].copy_from_slice(more);
            *received += more.len();
        }
    }

    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.activity.is_late() {
            // No head may contain this byte, so the HTTP library takes it for a syntax error, and
            // answers.
            buffer.put_slice(&[0]);
            return Poll::Ready(Ok(()));
        }
        ready!(self.activity.poll_turn(cx));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let received = buffer.filled().len() - before;
        if received > 0 && !self.activity.received(received) {
            self.counts.given_up(Overdue::Memory);
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        Poll::Ready(Ok(()))
    }

    /// Replaces the HTTP library's response `head` to something that is not a request, or not all
    /// of one.
    fn replace(&mut self, head: &[u8]) {
        if self.activity.is_late() {
            self.own_answer = http1::too_slow().last_answer().into();
            self.activity.malformed();
            return;
        }
        let status: &[u8] =
            head.get("HTTP/1.1 ".len()..).and_then(|rest| rest.get(..3)).unwrap_or_default();
        let kind = match status {
            b"431" => Malformed::HeadersTooLarge,
            b"414" => Malformed::TargetTooLong,
            _ => Malformed::Syntax,
        };
        self.counts.malformed(kind);
        self.own_answer = http1::not_a_request(kind).last_answer().into();
        self.activity.malformed();
    }

    fn poll_own_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.own_answer.has_remaining() {
            let written = Pin::new(&mut self.inner).poll_write(cx, &self.own_answer);
            match ready!(self.note(written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.own_answer.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        if written.is_ready() {
            self.activity.sent();
        } else {
            self.activity.blocked();
        }
        written
    }
}

impl<S: Stream> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Ahead { bytes, received, taken } = &mut self.ahead;
        if taken < received {
            let length = buffer.remaining().min(*received - *taken);
            buffer.put_slice(&bytes[*taken..*taken + length]);
            *taken += length;
            return Poll::Ready(Ok(()));
        }
        self.poll_more(cx, buffer)
    }
}

impl<S: Stream> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.activity.is_answering() && !bytes.is_empty() {
            self.replace(bytes);
        }
        if self.own_answer.has_remaining() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own_answer(cx))?;
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        match &flushed {
            Poll::Ready(_) => self.activity.flushed(),
            Poll::Pending => self.activity.blocked(),
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own_answer(cx))?;
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        if !self.activity.closing() {
            return Poll::Ready(Ok(()));
        }
        // Data that the client is still sending is read and discarded, so that it gets to read the
        // response: the kernel resets a connection that is closed with unread data. The worker's
        // deadline ends this.
        let mut discarded = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut discarded);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Ok(())),
                Ok(()) => {}
                Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.activity.is_answering()
            && let Some(first) = slices.iter().find(|slice| !slice.is_empty())
        {
            self.replace(first);
        }
        if self.own_answer.has_remaining() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.note(written)
    }
}
