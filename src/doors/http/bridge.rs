//! Passes a request from a connection to an actix-web application, and the response back. Decisions
//! do not go through it.

use std::{fmt, io, pin::Pin, rc::Rc, task::Poll};

use actix_http::Request;
use actix_service::{IntoServiceFactory, Service, ServiceFactory};
use actix_web::{
    Error, HttpMessage, HttpResponse,
    body::{BoxBody, to_bytes_limited},
    dev::{AppConfig, Payload, ServiceResponse},
    error::PayloadError,
    http::{Method, Uri, Version, header},
};
use bytes::Bytes;
use futures_util::{StreamExt, future::LocalBoxFuture, stream};
use http_body_util::{BodyStream, Full};
use hyper::{
    Response, StatusCode,
    body::{Body, Incoming},
    header::{HeaderName, HeaderValue},
};
use tokio::time::{Instant, timeout_at};

use crate::doors::listen::{Activity, BODY_PART_TIME, BODY_TIME, Held, Peer};

/// An actix-web application that runs on this thread.
#[derive(Clone)]
pub(in crate::doors) struct Bridge {
    call: Rc<dyn Fn(Request) -> LocalBoxFuture<'static, HttpResponse>>,
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge").finish_non_exhaustive()
    }
}

/// Largest response, in bytes: far more than any response has.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

impl Bridge {
    /// To `app`, whose factory cannot fail.
    pub(super) async fn to<A, F>(app: A) -> Self
    where
        A: IntoServiceFactory<F, Request>,
        F: ServiceFactory<
                Request,
                Config = AppConfig,
                Response = ServiceResponse<BoxBody>,
                Error = Error,
            >,
        F::Service: 'static,
    {
        let Ok(service) = app.into_factory().new_service(AppConfig::default()).await else {
            tracing::error!("an application could not be made");
            return Self {
                call: Rc::new(|_| Box::pin(async { HttpResponse::ServiceUnavailable().finish() })),
            };
        };
        let service = Rc::new(service);
        let call = move |request| -> LocalBoxFuture<'static, HttpResponse> {
            let answer = service.call(request);
            Box::pin(async move {
                match answer.await {
                    Ok(response) => response.into_parts().1,
                    Err(error) => HttpResponse::from_error(error),
                }
            })
        };
        Self { call: Rc::new(call) }
    }

    /// The application's response to `request` from `peer`.
    pub(super) async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        peer: Peer,
        activity: &Rc<Activity>,
    ) -> Response<Full<Bytes>> {
        match translate(request, peer, activity) {
            Some(request) => give_back((self.call)(request).await).await,
            None => empty(StatusCode::BAD_REQUEST),
        }
    }
}

/// The same request in the types of actix-web. `None` if actix-web rejects a part as invalid HTTP,
/// which should not happen.
fn translate(
    request: hyper::Request<Incoming>,
    peer: Peer,
    activity: &Rc<Activity>,
) -> Option<Request> {
    let (parts, body) = request.into_parts();
    let mut translated = Request::with_payload(payload(body, activity));
    let head = translated.head_mut();
    head.method = Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    head.uri = Uri::try_from(parts.uri.to_string()).ok()?;
    head.version = match parts.version {
        hyper::Version::HTTP_10 => Version::HTTP_10,
        hyper::Version::HTTP_2 => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    if let Peer::Address(address) = peer {
        head.peer_addr = Some(address);
    }
    for (name, value) in &parts.headers {
        let name = header::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        head.headers.append(name, header::HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    if let Peer::Process { .. } = peer {
        translated.extensions_mut().insert(peer);
    }
    Some(translated)
}

fn payload(body: Incoming, activity: &Rc<Activity>) -> Payload {
    if body.is_end_stream() {
        return Payload::None;
    }
    let bounds = activity.is_multiplexed().then(|| Bounds::new(activity));
    let activity = Rc::clone(activity);
    let frames = BodyStream::new(body).filter_map(|frame| async {
        match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(PayloadError::Io(io::Error::other(error)))),
        }
    });
    let end = stream::poll_fn(move |_| {
        activity.body_ended();
        Poll::Ready(None)
    });
    let parts = frames.chain(end);
    let payload: Pin<Box<dyn futures_util::Stream<Item = Result<Bytes, PayloadError>>>> =
        match bounds {
            None => Box::pin(parts),
            Some(bounds) => {
                Box::pin(stream::unfold(Some((Box::pin(parts), bounds)), |rest| async {
                    let (mut parts, bounds) = rest?;
                    match bounds.next(&mut parts).await {
                        Ok(Some(part)) => Some((part, Some((parts, bounds)))),
                        Ok(None) => None,
                        Err(error) => Some((Err(PayloadError::Io(error)), None)),
                    }
                }))
            }
        };
    Payload::Stream { payload }
}

/// Limits for the body of an HTTP/2 request. An HTTP/1 body has the limits of its connection
/// instead.
struct Bounds {
    held: Option<Held>,
    until: Instant,
}

impl Bounds {
    fn new(activity: &Rc<Activity>) -> Self {
        Self { held: activity.hold(0), until: Instant::now() + BODY_TIME }
    }

    /// The next of `parts`, if it arrives in time and there is memory for it.
    async fn next<S>(&self, parts: &mut S) -> io::Result<Option<Result<Bytes, PayloadError>>>
    where
        S: futures_util::Stream<Item = Result<Bytes, PayloadError>> + Unpin,
    {
        let until = self.until.min(Instant::now() + BODY_PART_TIME);
        let part = timeout_at(until, parts.next()).await.map_err(|_| io::ErrorKind::TimedOut)?;
        let bytes = if let Some(Ok(part)) = &part { part.len() } else { 0 };
        if !self.held.as_ref().is_some_and(|held| held.grow(bytes)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(part)
    }
}

/// The same response in the types of the connection.
pub(super) async fn give_back(response: HttpResponse) -> Response<Full<Bytes>> {
    let (head, body) = response.into_parts();
    let Ok(Ok(body)) = to_bytes_limited(body, ANSWER_BYTES_MAX).await else {
        tracing::error!("an answer could not be made");
        return empty(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let mut given = Response::new(Full::new(body));
    *given.status_mut() =
        StatusCode::from_u16(head.status().as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in head.headers() {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            given.headers_mut().append(name, value);
        }
    }
    given
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
