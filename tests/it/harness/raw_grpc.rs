//! A call of which the test says what is sent: a part, too much, nothing.

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
    /// Whether that is all; otherwise it is silent from then on.
    ends: bool,
}

impl RawGrpc {
    pub async fn connect(server: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{server}")).unwrap();
        Self { channel: endpoint.connect().await.unwrap() }
    }

    /// Calls the method at `path`, and yields the one message that is answered.
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
        // Decoding would make an allow of nothing.
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

    /// What says that it is a message of `length` bytes and goes on with `beginning`, and nothing
    /// after it.
    pub fn part(length: usize, beginning: &[u8]) -> Self {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        bytes.extend_from_slice(beginning);
        // As large as a frame may be.
        let pieces = bytes.chunks(16 * 1024).map(Bytes::copy_from_slice).collect();
        Self { pieces, ends: false }
    }

    /// Headers alone.
    pub fn nothing() -> Self {
        Self { pieces: VecDeque::new(), ends: false }
    }

    /// The same, and that this is all.
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
