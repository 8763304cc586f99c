//! One connection, from accept to end.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::net::{TcpStream, UnixStream};

use super::{
    Protocol,
    accept::Accepted,
    deadlines::{Activity, Command},
    peer::Peer,
    socket::AcceptedStream,
    stream::Watched,
};
use crate::{
    doors::tls::{self, Acceptor},
    telemetry::connections::ConnectionCounts,
};

/// A connection as the HTTP library drives it.
pub(in crate::doors) trait Connection {
    /// Ready when the connection has ended.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>>;

    /// Closes gracefully: finishes requests in flight, and takes no new ones.
    fn close(self: Pin<&mut Self>);
}

/// What a worker serves connections with.
pub(super) struct Serving<P: Protocol> {
    pub(super) ready: P::Ready,
    pub(super) tls: Option<Acceptor>,
    pub(super) counts: Arc<ConnectionCounts>,
}

impl<P: Protocol> Serving<P> {
    /// Serves `accepted` until it ends or is cut.
    pub(super) async fn serve(&self, accepted: Accepted, activity: Rc<Activity>) {
        let Accepted { stream, peer, place } = accepted;
        let served = async {
            let stream = match stream {
                AcceptedStream::Tcp(stream) => TcpStream::from_std(stream)?,
                AcceptedStream::Unix(stream) => {
                    let stream = UnixStream::from_std(stream)?;
                    self.speak_when_spoken_to(stream, peer, &activity).await;
                    return Ok(());
                }
            };
            match &self.tls {
                None => self.speak_when_spoken_to(stream, peer, &activity).await,
                Some(tls) => match unless_cut(&activity, pin!(tls.accept(stream))).await {
                    Some(Ok(stream)) => {
                        activity.connected();
                        self.speak(stream, peer, &activity).await;
                    }
                    Some(Err(error)) => {
                        self.counts.handshake_failed(
                            tls::failure(&error),
                            &peer,
                            error.to_string(),
                            Instant::now(),
                        );
                    }
                    None => {}
                },
            }
            Ok::<_, io::Error>(())
        };
        if let Err(error) = served.await {
            tracing::warn!(error = %error, "a connection could not be used");
        }
        drop(place);
    }

    /// Serves HTTP without TLS, once the client has sent something.
    async fn speak_when_spoken_to<S: super::Stream + Readable>(
        &self,
        stream: S,
        peer: Peer,
        activity: &Rc<Activity>,
    ) {
        activity.connected();
        if has_something(&stream, activity).await {
            self.speak(stream, peer, activity).await;
        }
    }

    async fn speak<S: super::Stream>(&self, stream: S, peer: Peer, activity: &Rc<Activity>) {
        let stream = Watched::new(stream, Rc::clone(activity), Arc::clone(&self.counts));
        let mut connection = pin!(P::serve(&self.ready, stream, peer, activity));
        let mut is_closing = false;
        let ended = poll_fn(|context| {
            activity.listen(context.waker());
            if activity.command() == Command::Cut {
                return Poll::Ready(Ok(()));
            }
            // What has arrived by now is answered, even when closing.
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended);
            }
            if activity.command() == Command::Close && !is_closing && activity.may_close() {
                is_closing = true;
                activity.told_to_close();
                connection.as_mut().close();
                return connection.as_mut().poll(context);
            }
            Poll::Pending
        });
        if let Err(error) = ended.await {
            tracing::debug!(error = %error, "a connection ended with an error");
        }
    }
}

/// Waits until the client sends something, which it does first in every protocol here, or is gone.
/// Until then a connection needs no read buffer. False if the connection should end before.
async fn has_something(stream: &impl Readable, activity: &Activity) -> bool {
    poll_fn(|context| {
        activity.listen(context.waker());
        match (stream.poll_readable(context), activity.command()) {
            (_, Command::Cut) | (Poll::Pending, Command::Close) => Poll::Ready(false),
            (Poll::Ready(_), Command::GoOn | Command::Close) => Poll::Ready(true),
            (Poll::Pending, Command::GoOn) => Poll::Pending,
        }
    })
    .await
}

/// A socket that reports whether there is something to read, without reading it.
trait Readable {
    /// Ready when there is something to read, or the other side has closed.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Readable for TcpStream {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(context)
    }
}

impl Readable for UnixStream {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(context)
    }
}

/// The output of `future`; `None` if the connection should be cut before.
async fn unless_cut<F: Future>(activity: &Activity, mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| {
        activity.listen(context.waker());
        if activity.command() == Command::Cut {
            return Poll::Ready(None);
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}
