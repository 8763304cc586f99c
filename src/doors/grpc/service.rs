//! Entry point of this door: every request arrives here, and is passed to its service once it is
//! complete and within the limits.
//!
//! A check that is refused is passed on as well, without its message and with the reason, so that
//! the service of checks answers it in the same way as any other denial. To Envoy, an RPC error
//! would not be a denial.

use std::{
    convert::Infallible,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::AuthorizationServer;
use http_body::Frame;
use tokio::time::Instant;
use tonic::{
    Extensions, Status,
    body::Body as Answer,
    codegen::{
        Body, BoxFuture, Service, StdError,
        http::{Request, Response, request::Parts},
    },
    service::Routes,
};

use super::{
    EXT_AUTHZ, VERIFICATION,
    arriving::{Arriving, Lacking, Message},
    ext_authz::ExtAuthz,
    generated::verification_server::VerificationServer,
    limits::{ARRIVAL, Limits, SMALL_MESSAGE_MAX},
    pending::Held,
    verification::PluginVerification,
};
use crate::{
    domain::decision::DenialReason,
    doors::{in_flight::Served, listen::TurnRecord},
};

/// The service that is called in streams.
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
/// An empty message, not compressed.
const NO_MESSAGE: Bytes = Bytes::from_static(&[0; 5]);

/// All services of this door, for one connection.
#[derive(Clone)]
pub(super) struct DoorService {
    pub(super) authorization: AuthorizationServer<ExtAuthz>,
    pub(super) verification: VerificationServer<PluginVerification>,
    /// Health and reflection.
    pub(super) others: Routes,
    pub(super) limits: Limits,
    /// The turn record of the connection.
    pub(super) standing: TurnRecord,
}

/// An extension that marks a check to be refused, whatever it contains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused(DenialReason);

impl Refused {
    /// Why the request with these extensions is refused; `None` if it should be decided.
    pub(super) fn reason(extensions: &Extensions) -> Option<DenialReason> {
        extensions.get::<Self>().map(|refused| refused.0)
    }
}

/// The service that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    ExtAuthz,
    Verification,
    Reflection,
    Other,
}

impl Asked {
    /// From the path of a request, `/service/method`.
    fn at(path: &str) -> Self {
        match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((EXT_AUTHZ, _)) => Self::ExtAuthz,
            Some((VERIFICATION, _)) => Self::Verification,
            Some((REFLECTION, _)) => Self::Reflection,
            Some(_) | None => Self::Other,
        }
    }
}

/// The body of an incoming request.
pub(super) trait Incoming:
    Body<Data = Bytes, Error: Into<StdError> + Send> + Send + Unpin + 'static
{
}

impl<B: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + Unpin + 'static> Incoming for B {}

impl<B: Incoming> Service<Request<B>> for DoorService {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering<B> {
        self.standing.begin();
        let (head, body) = request.into_parts();
        let asked = Asked::at(head.uri.path());
        let max = match asked {
            Asked::ExtAuthz | Asked::Verification => self.limits.max_message,
            Asked::Other => SMALL_MESSAGE_MAX,
            Asked::Reflection => {
                return match self.limits.reflections.enter() {
                    Some(served) => {
                        self.serve_others(Request::from_parts(head, Handed::Streamed(body, served)))
                    }
                    None => Answering::with(Status::resource_exhausted(
                        "too many streams of reflection are open",
                    )),
                };
            }
        };
        let arriving =
            Arriving::new(body, max, Arc::clone(&self.limits.pending), Instant::now() + ARRIVAL);
        Answering::Arriving(Box::new(Asking { head, arriving, asked, service: self.clone() }))
    }
}

impl DoorService {
    fn serve_others<B: Incoming>(&mut self, request: Request<Handed<B>>) -> Answering<B> {
        Answering::Serving {
            answer: Box::pin(self.others.call(request)),
            _served: None,
            _held: None,
        }
    }

    fn serve<B: Incoming>(
        &mut self,
        asked: Asked,
        mut head: Parts,
        arrived: Result<Message, Lacking>,
    ) -> Answering<B> {
        if asked == Asked::Other {
            return match arrived {
                Ok(message) => {
                    self.serve_others(Request::from_parts(head, Handed::whole(message.bytes)))
                }
                Err(lacking) => Answering::with(lacking.into()),
            };
        }
        let admitted = arrived.and_then(|message| {
            Ok((message, self.limits.decisions.enter().ok_or(Lacking::NoRoom)?))
        });
        let (bytes, room, served) = match admitted {
            Ok((message, place)) => (message.bytes, message.held, Some(place)),
            Err(lacking) => {
                let Some(reason) = lacking.reason() else { return Answering::with(lacking.into()) };
                head.extensions.insert(Refused(reason));
                (NO_MESSAGE, None, None)
            }
        };
        let request = Request::from_parts(head, Handed::<B>::whole(bytes));
        let answer = match asked {
            Asked::Verification => self.verification.call(request),
            Asked::ExtAuthz | Asked::Reflection | Asked::Other => self.authorization.call(request),
        };
        Answering::Serving { answer, _served: served, _held: room }
    }
}

impl Lacking {
    /// Why a check without its message is refused; `None` if the sender is gone.
    const fn reason(self) -> Option<DenialReason> {
        match self {
            Self::TooLarge => Some(DenialReason::RequestTooLarge),
            Self::NoRoom => Some(DenialReason::Overloaded),
            Self::Incomplete => Some(DenialReason::RequestIncomplete),
            Self::Sender => None,
        }
    }
}

impl From<Lacking> for Status {
    fn from(lacking: Lacking) -> Self {
        match lacking {
            Lacking::TooLarge => Self::resource_exhausted("the message is too large"),
            Lacking::NoRoom => Self::unavailable("too much is asked at once"),
            Lacking::Incomplete => Self::deadline_exceeded("the message did not arrive"),
            Lacking::Sender => Self::cancelled("the request was given up"),
        }
    }
}

/// A request whose message is still arriving.
pub(super) struct Asking<B> {
    head: Parts,
    arriving: Arriving<B>,
    asked: Asked,
    service: DoorService,
}

/// The response to a request, in progress.
pub(super) enum Answering<B> {
    /// The message is still arriving.
    Arriving(Box<Asking<B>>),
    /// A service is answering. The request keeps its share of the door's limits until then.
    Serving {
        answer: BoxFuture<Response<Answer>, Infallible>,
        _served: Option<Served>,
        _held: Option<Held>,
    },
    /// The response is ready; `None` once it was taken.
    Answered(Option<Response<Answer>>),
}

impl<B> Answering<B> {
    fn with(status: Status) -> Self {
        Self::Answered(Some(status.into_http()))
    }
}

impl<B: Incoming> Future for Answering<B> {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut *self {
                Self::Arriving(asking) => {
                    let arrived = ready!(asking.arriving.poll(context));
                    if let Self::Arriving(asking) = mem::replace(&mut *self, Self::Answered(None)) {
                        let Asking { head, arriving, asked, mut service } = *asking;
                        // The rest of the stream is not needed.
                        drop(arriving);
                        *self = service.serve(asked, head, arrived);
                    }
                }
                Self::Serving { answer, .. } => return answer.as_mut().poll(context),
                Self::Answered(answer) => {
                    return answer.take().map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer)));
                }
            }
        }
    }
}

/// The body that is passed to a service.
pub(super) enum Handed<B> {
    /// A whole message; `None` once it was taken.
    Whole(Option<Bytes>),
    /// A stream of messages, which counts towards the limit as long as it is open.
    Streamed(B, #[allow(dead_code, reason = "its place is given back when it is dropped")] Served),
}

impl<B> Handed<B> {
    const fn whole(message: Bytes) -> Self {
        Self::Whole(Some(message))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Handed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut *self {
            Self::Whole(message) => {
                Poll::Ready(message.take().map(|message| Ok(Frame::data(message))))
            }
            Self::Streamed(body, _) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(message) => message.is_none(),
            Self::Streamed(body, _) => body.is_end_stream(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_for_one() {
        for (path, asked) in [
            ("/envoy.service.auth.v3.Authorization/Check", Asked::ExtAuthz),
            ("/countersign.v1.Verification/Verify", Asked::Verification),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Asked::Reflection),
            ("/grpc.health.v1.Health/Watch", Asked::Other),
            ("/countersign.v1.Verification", Asked::Other),
            ("countersign.v1.Verification/Verify", Asked::Other),
            ("/", Asked::Other),
            ("", Asked::Other),
        ] {
            assert_eq!(Asked::at(path), asked, "{path}");
        }
    }
}
