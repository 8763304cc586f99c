//! HTTP/1 or HTTP/2 on a connection, depending on what the client sends first (RFC 9113 section
//! 3.3).

use std::{
    convert::Infallible,
    future::Future,
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::{Either, ready as at_once};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header::HOST, service::service_fn};

use super::{
    Connection,
    deadlines::{Activity, Held},
    http1, http2,
    stream::{Stream, Version, Watched},
};
use crate::telemetry::connections::Malformed;

/// Largest header list of a request over HTTP/2, in bytes. HTTP/2 counts 32 more per header, so
/// this allows as much as HTTP/1.
#[allow(clippy::cast_possible_truncation, reason = "some tens of kilobytes")]
const HEADER_LIST_BYTES_MAX: u32 = (http1::HEAD_BYTES_MAX + PER_HEADER * http1::HEADERS_MAX) as u32;

/// Serves `stream` in the HTTP version that the client speaks; `answer` responds to every request.
pub(in crate::doors) fn serve<S, F, A>(
    stream: Watched<S>,
    activity: &Rc<Activity>,
    answer: F,
) -> impl Connection
where
    S: Stream,
    F: Fn(Request<Incoming>) -> A + 'static,
    A: Future<Output = Response<Full<Bytes>>> + 'static,
{
    Versions {
        state: State::Unknown(stream, answer),
        activity: Rc::clone(activity),
        is_closing: false,
    }
}

struct Versions<S, F> {
    state: State<S, F>,
    activity: Rc<Activity>,
    is_closing: bool,
}

enum State<S, F> {
    /// The client's version is not known yet.
    Unknown(Watched<S>, F),
    /// The version is known.
    Known(Pin<Box<dyn Connection>>),
    /// Placeholder while switching between the two.
    Between,
}

// Only the boxed connection is pinned.
impl<S, F> Unpin for Versions<S, F> {}

impl<S, F, A> Connection for Versions<S, F>
where
    S: Stream,
    F: Fn(Request<Incoming>) -> A + 'static,
    A: Future<Output = Response<Full<Bytes>>> + 'static,
{
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        let this = &mut *self;
        let version = match &mut this.state {
            State::Known(connection) => return connection.as_mut().poll(context),
            State::Unknown(..) | State::Between if this.is_closing => return Poll::Ready(Ok(())),
            State::Unknown(stream, _) => match ready!(stream.poll_version(context)) {
                Ok(version) => version,
                Err(error) => {
                    tracing::debug!(error = %error, "a connection ended before its first request");
                    return Poll::Ready(Ok(()));
                }
            },
            State::Between => return Poll::Ready(Ok(())),
        };
        let State::Unknown(stream, answer) = mem::replace(&mut this.state, State::Between) else {
            return Poll::Ready(Ok(()));
        };
        let mut connection: Pin<Box<dyn Connection>> = match version {
            Version::Http1 => Box::pin(http1::serve(stream, &this.activity, answer)),
            Version::Http2 => Box::pin(serve_http2(stream, &this.activity, answer)),
        };
        let ended = connection.as_mut().poll(context);
        this.state = State::Known(connection);
        ended
    }

    fn close(mut self: Pin<&mut Self>) {
        self.is_closing = true;
        if let State::Known(connection) = &mut self.state {
            connection.as_mut().close();
        }
    }
}

/// With the same limits as requests over HTTP/1.
fn serve_http2<S, F, A>(
    stream: Watched<S>,
    activity: &Rc<Activity>,
    answer: F,
) -> impl Connection + 'static
where
    S: Stream,
    F: Fn(Request<Incoming>) -> A + 'static,
    A: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let requests = Rc::clone(activity);
    let service = service_fn(move |request: Request<Incoming>| {
        // Reserve memory before anything else of the connection is polled: many requests may arrive
        // at once.
        match check(&request, &requests) {
            Ok(held) => {
                let answer = answer(request);
                Either::Left(async move {
                    let answer = answer.await;
                    drop(held);
                    Ok::<_, Infallible>(answer)
                })
            }
            Err(problem) => Either::Right(at_once(Ok(problem.into()))),
        }
    });
    http2::serve(stream, activity, service, HEADER_LIST_BYTES_MAX)
}

/// Reserves memory for the head of `request`, if the head is acceptable.
fn check(request: &Request<Incoming>, activity: &Rc<Activity>) -> Result<Held, http1::Problem> {
    if request.headers().len() > http1::HEADERS_MAX {
        activity.count_malformed(Malformed::HeadersTooLarge);
        return Err(http1::not_a_request(Malformed::HeadersTooLarge));
    }
    // RFC 9113 section 8.3.1: a request that names two hosts is malformed.
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let is_other =
        |host: &[u8]| authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(host));
    if request.headers().get_all(HOST).iter().any(|host| is_other(host.as_bytes())) {
        activity.count_malformed(Malformed::Syntax);
        return Err(http1::not_a_request(Malformed::Syntax));
    }
    let headers: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + PER_HEADER)
        .sum();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    activity.hold(headers + target).ok_or_else(http1::too_many_requests)
}

/// Bytes that HTTP/2 counts per header, in addition to its name and value.
const PER_HEADER: usize = 32;
