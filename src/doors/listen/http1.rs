//! HTTP/1 connections.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue},
    server::conn::http1::{self, Builder},
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;

use super::{
    Connection,
    deadlines::Activity,
    stream::{Stream, Watched},
};
use crate::{
    doors::response::{NO_STORE, PROBLEM_JSON, RETRY_AFTER, name},
    telemetry::connections::Malformed,
};

/// Headers that a request may have; with more, the response is 431. Gateways pass on what clients
/// send, and some accept 200.
pub(super) const HEADERS_MAX: usize = 256;
/// Largest head of a request, in bytes: 64 KiB of headers, and a request line.
pub(super) const HEAD_BYTES_MAX: usize = 80 * 1024;
/// Bytes that are read ahead per connection.
const READ_BYTES_MAX: usize = HEAD_BYTES_MAX + 16 * 1024;

/// Serves HTTP/1 on `stream`; `answer` responds to every request.
pub(in crate::doors) fn serve<S, F, A>(
    stream: Watched<S>,
    activity: &Rc<Activity>,
    answer: F,
) -> impl Connection + use<S, F, A>
where
    S: Stream,
    F: Fn(Request<Incoming>) -> A + 'static,
    A: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let activity = Rc::clone(activity);
    let service = service_fn(move |request: Request<Incoming>| {
        activity.request_begun(!request.body().is_end_stream());
        let version = request.version();
        let (answer, activity) = (answer(request), Rc::clone(&activity));
        async move {
            let mut response = answer.await;
            if activity.is_draining() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                // Otherwise the library promises keep-alive to HTTP/1.0 clients that ask for it.
                *response.version_mut() = version;
            }
            activity.answered();
            Ok::<_, Infallible>(response)
        }
    });
    Builder::new()
        // Some clients close their side after the request, and still expect a response.
        .half_close(true)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(READ_BYTES_MAX)
        // Responses are so small that they are sent in one piece.
        .writev(false)
        .serve_connection(TokioIo::new(stream), service)
}

impl<I, S, B> Connection for http1::Connection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Future::poll(self, context)
    }

    fn close(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// The response to bytes that are not an HTTP request.
pub(super) fn not_a_request(kind: Malformed) -> Problem {
    let (status, title, code, detail) = match kind {
        Malformed::Syntax => {
            (400, "Bad Request", "malformed_request", "What was sent is not an HTTP request.")
        }
        Malformed::HeadersTooLarge => (
            431,
            "Request Header Fields Too Large",
            "request_too_large",
            "The request has more than 256 headers, or more than 64 KiB of them.",
        ),
        Malformed::TargetTooLong => {
            (414, "URI Too Long", "request_too_large", "The target of the request is too long.")
        }
    };
    Problem { status, title, code, detail, is_passing: false }
}

/// The response to a request whose head did not arrive in time.
pub(super) fn too_slow() -> Problem {
    let detail = "The head of the request did not arrive within five seconds.";
    Problem {
        status: 408,
        title: "Request Timeout",
        code: "request_timeout",
        detail,
        is_passing: false,
    }
}

/// The response to a request for which there is no memory.
pub(super) fn too_many_requests() -> Problem {
    Problem {
        status: 503,
        title: "Service Unavailable",
        code: "unavailable",
        detail: "There are too many requests; try again.",
        is_passing: true,
    }
}

/// What a client receives if there are too many connections.
pub(in crate::doors) fn too_many_connections() -> Vec<u8> {
    Problem { detail: "There are too many connections; try again.", ..too_many_requests() }
        .last_answer()
}

/// A problem (RFC 9457).
pub(super) struct Problem {
    status: u16,
    title: &'static str,
    code: &'static str,
    detail: &'static str,
    /// Whether trying again may help.
    is_passing: bool,
}

impl Problem {
    fn body(&self) -> String {
        let Self { status, title, code, detail, .. } = self;
        serde_json::json!({ "type": "about:blank", "title": title, "status": status, "detail": detail, "code": code }).to_string()
    }

    /// The whole response over HTTP/1, after which the connection is closed.
    pub(super) fn last_answer(&self) -> Vec<u8> {
        let Self { status, title, code, .. } = self;
        let body = self.body();
        let retry_after = if self.is_passing {
            format!("{}: {RETRY_AFTER}\r\n", name::RETRY_AFTER)
        } else {
            String::new()
        };
        let head = format!(
            "HTTP/1.1 {status} {title}\r\n{}: {code}\r\ncontent-type: {PROBLEM_JSON}\r\ncache-control: {NO_STORE}\r\n{retry_after}\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            name::ERROR,
            body.len(),
        );
        [head, body].concat().into()
    }
}

impl From<Problem> for Response<Full<Bytes>> {
    /// Over HTTP/2, which keeps the connection open.
    fn from(problem: Problem) -> Self {
        let mut response = Response::new(Full::from(problem.body()));
        *response.status_mut() =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let headers = response.headers_mut();
        headers.insert(name::ERROR, HeaderValue::from_static(problem.code));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
        if problem.is_passing {
            headers.insert(name::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}
