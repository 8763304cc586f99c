//! gRPC calls whose bytes the test chooses: part of a message, too much, or nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http_body::{Body as _, Frame};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::{HeaderMap, Request};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// One connection to a gRPC door.
#[derive(Clone)]
pub struct RawGrpc {
    channel: Channel,
}

/// What a client sends after its headers.
#[derive(Debug)]
pub struct Sent {
    pieces: VecDeque<Bytes>,
    /// Whether the stream ends after that; if not, the client stays silent.
    ends: bool,
}

impl RawGrpc {
    pub async fn connect(server: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap();
        Self { channel: endpoint.connect().await.unwrap() }
    }

    /// Calls the method at `path`, and returns the only message of the answer.
    pub async fn call<M: Message + Default>(&self, path: &str, sent: Sent) -> Result<M, Status> {
        let mut channel = self.channel.clone();
        poll_fn(|context| channel.poll_ready(context))
            .await
            .map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let request = Request::post(format!("http://door{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(sent))
            .unwrap();
        let response = channel
            .call(request)
            .await
            .map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let (head, body) = response.into_parts();
        check(&head.headers)?;
        let (mut body, mut message) = (pin!(body), Vec::new());
        while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
            match frame?.into_data() {
                Ok(data) => message.extend_from_slice(&data),
                Err(frame) => check(&frame.into_trailers().unwrap())?,
            }
        }
        let mut message = Bytes::from(message);
        assert_eq!(message.get_u8(), 0, "it is compressed");
        let length = message.get_u32() as usize;
        assert_eq!(message.len(), length, "not one message");
        // Decoding would turn an empty message into an allow.
        assert!(!message.is_empty(), "an empty answer");
        Ok(M::decode(message).unwrap())
    }
}

fn check(headers: &HeaderMap) -> Result<(), Status> {
    let status = Status::from_header_map(headers).filter(|status| status.code() != Code::Ok);
    status.map_or(Ok(()), Err)
}

impl Sent {
    /// A whole message.
    pub fn whole(message: &impl Message) -> Self {
        let message = message.encode_to_vec();
        Self { ends: true, ..Self::part(message.len(), &message) }
    }

    /// A header that announces a message of `length` bytes, followed by `beginning` and nothing
    /// else.
    pub fn part(length: usize, beginning: &[u8]) -> Self {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        bytes.extend_from_slice(beginning);
        // The largest size of a frame.
        let pieces = bytes.chunks(16 * 1024).map(Bytes::copy_from_slice).collect();
        Self { pieces, ends: false }
    }

    /// Only headers.
    pub fn nothing() -> Self {
        Self { pieces: VecDeque::new(), ends: false }
    }

    /// The same, with the end of the stream.
    #[must_use]
    pub fn ended(self) -> Self {
        Self { ends: true, ..self }
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.pieces.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
