//! One thread for each core, with a runtime of its own.
//!
//! A decision stays on the thread that read its request, and so does its claim on the way to Redis and back: no other thread is
//! woken for either. Connections are handed out in turns. Leaving that to the kernel (`SO_REUSEPORT`) would put the few that a
//! gateway has, one for each of its own threads, on the same core now and then, and keep them there.

use std::{io, net, thread};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{mpsc, oneshot, watch},
    time::Duration,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Server;

use super::{GrpcError, limits::limited, service::DoorService};
use crate::doors::tls::ServerTls;

/// How long nothing is accepted after that failed: mostly for want of files, which others have to give back first.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);

/// Threads that serve connections. Dropping this cuts those that are left.
pub(super) struct Workers {
    queues: Vec<mpsc::UnboundedSender<net::TcpStream>>,
    /// Whether connections are to be finished. Closed where they are to be cut.
    drain: watch::Sender<bool>,
}

/// What comes of each worker.
pub(super) struct Ends(FuturesUnordered<oneshot::Receiver<Result<(), GrpcError>>>);

impl Workers {
    /// Starts one for each core that this process may use. Each serves `service`.
    pub(super) fn start(service: &DoorService, tls: Option<&ServerTls>) -> Result<(Self, Ends), GrpcError> {
        let count = thread::available_parallelism().map_or(1, Into::into);
        let (drain, draining) = watch::channel(false);
        let (mut workers, ends) = (Self { queues: Vec::with_capacity(count), drain }, FuturesUnordered::new());
        for number in 0..count {
            let (queue, accepted) = mpsc::unbounded_channel();
            let (ended, end) = oneshot::channel();
            let worker = Worker { accepted, service: service.clone(), tls: tls.cloned(), draining: draining.clone() };
            let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(GrpcError::Thread)?;
            let work = move || drop(ended.send(runtime.block_on(worker.run())));
            thread::Builder::new().name(format!("grpc-{number}")).spawn(work).map_err(GrpcError::Thread)?;
            workers.queues.push(queue);
            ends.push(end);
        }
        Ok((workers, Ends(ends)))
    }

    /// Hands out every connection that `listener` accepts. Does not end.
    pub(super) async fn accept_all(&self, listener: &TcpListener) {
        for queue in self.queues.iter().cycle() {
            let accepted = loop {
                match accept(listener).await {
                    Ok(stream) => break stream,
                    Err(error) => {
                        tracing::warn!(error = %error, "a gRPC connection could not be accepted");
                        tokio::time::sleep(AFTER_FAILED_ACCEPT).await;
                    }
                }
            };
            // A worker that has ended ends the server, so the connection is not missed.
            drop(queue.send(accepted));
        }
    }

    /// Finishes what is in flight, and takes nothing new.
    pub(super) fn drain(&self) {
        self.drain.send_replace(true);
    }
}

impl Ends {
    /// Is done when every worker has ended, or the first has failed.
    pub(super) async fn all(&mut self) -> Result<(), GrpcError> {
        while let Some(end) = self.0.next().await {
            end.map_err(|_| GrpcError::WorkerPanicked)??;
        }
        Ok(())
    }
}

/// The connection, free to move to another runtime.
async fn accept(listener: &TcpListener) -> io::Result<net::TcpStream> {
    let (stream, _) = listener.accept().await?;
    // Answers are small and waited for.
    stream.set_nodelay(true)?;
    stream.into_std()
}

struct Worker {
    accepted: mpsc::UnboundedReceiver<net::TcpStream>,
    service: DoorService,
    tls: Option<ServerTls>,
    draining: watch::Receiver<bool>,
}

impl Worker {
    async fn run(self) -> Result<(), GrpcError> {
        let Self { accepted, service, tls, draining } = self;
        let (mut is_told, mut is_cut) = (draining.clone(), draining);
        let told = async move { drop(is_told.wait_for(|drain| *drain).await) };
        let cut = async move { while is_cut.changed().await.is_ok() {} };

        let accepted = UnboundedReceiverStream::new(accepted).map(TcpStream::from_std);
        let server = limited(Server::builder());
        let serving = async {
            match tls {
                None => server.serve_with_incoming_shutdown(service, accepted, told).await,
                Some(tls) => server.serve_with_incoming_shutdown(service, tls.handshake_all(accepted), told).await,
            }
        };
        tokio::select! {
            ended = serving => ended.map_err(GrpcError::Server),
            () = cut => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise every answer but the first waits for the gateway to acknowledge the one before, which it puts off by 40 ms.
    #[tokio::test]
    async fn answers_wait_for_no_acknowledgement() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _gateway = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(accept(&listener).await.unwrap().nodelay().unwrap());
    }
}
