//! HTTP/2 connections.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Request, Response,
    body::{Body, Incoming},
    rt::{Executor, bounds::Http2ServerConnExec},
    server::conn::http2::{self, Builder},
    service::{HttpService, Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{
    Connection,
    deadlines::Activity,
    stream::{Stream, Watched},
};

/// How often an idle connection is pinged, so that one whose gateway is gone does not stay.
const KEEPALIVE_INTERVAL: Duration = Duration::from_mins(1);
/// How long the gateway may take to answer a ping.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Concurrent requests on a connection. A gateway opens another connection for more.
const STREAMS_MAX: u32 = 256;
/// Unread bytes of one request, and of all requests of a connection, that may be in transit: the
/// initial window of HTTP/2. They are read as they arrive, so this only costs round trips for large
/// bodies; and it limits what is in memory before it can be counted.
const WINDOW: u32 = 64 * 1024 - 1;
/// Requests that a client may reset before they were looked at; with more, the connection is closed
/// (CVE-2023-44487).
const RESETS_PENDING_MAX: usize = 64;

/// Serves HTTP/2 on `stream` with `service`. The headers of a request may have up to
/// `header_list_bytes_max` bytes, as HTTP/2 counts them.
pub(in crate::doors) fn serve<S, R, B>(
    stream: Watched<S>,
    activity: &Rc<Activity>,
    service: R,
    header_list_bytes_max: u32,
) -> impl Connection + use<S, R, B>
where
    S: Stream,
    R: Service<Request<Incoming>, Response = Response<B>> + 'static,
    R::Future: 'static,
    R::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    activity.multiplexed();
    let activity = Rc::clone(activity);
    let service = service_fn(move |request| {
        activity.opened();
        service.call(request)
    });
    Builder::new(ThisThread)
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_header_list_size(header_list_bytes_max)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .serve_connection(TokioIo::new(stream), service)
}

/// Runs requests on the thread of their connection.
#[derive(Clone, Copy, Debug)]
struct ThisThread;

impl<F> Executor<F> for ThisThread
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

impl<I, S, B, E> Connection for http2::Connection<I, S, E>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    E: Http2ServerConnExec<S::Future, B>,
{
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Future::poll(self, context)
    }

    fn close(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// What a client receives if there are too many connections: our settings, which must come first,
/// and a GOAWAY saying that no request was processed (RFC 9113 section 6.8).
pub(in crate::doors) fn goaway() -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: [u8; 9] = [0, 0, 8, 7, 0, 0, 0, 0, 0];
    const NO_STREAM: [u8; 4] = [0; 4];
    const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];
    [&SETTINGS[..], &GOAWAY, &NO_STREAM, &ENHANCE_YOUR_CALM].concat()
}
