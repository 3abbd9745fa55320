//! Serving, and stopping so that no request is lost.
//!
//! Kubernetes takes a pod out of the endpoints and tells it to stop at the same moment, so
//! connections still arrive for a while. On the first signal the pod is no longer ready, answers
//! on with `Connection: close`, and listens until no connection has come for [`QUIET`]. Only then
//! does it close the door, finish what is in flight and end. A second signal ends it at once.

use crate::routes::{Answer, App};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible, future::poll_fn, io, pin::pin, sync::Arc, task::Poll, time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::Signal,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

/// Connections at a time. More wait in the kernel's queue.
const CONNECTIONS: u32 = 1024;
/// For a client to send its request's head; also how long a connection may idle.
const HEAD: Duration = Duration::from_secs(15);
/// Without a new connection for so long, the load balancers have forgotten this pod.
const QUIET: Duration = Duration::from_millis(100);
/// The longest wait for that.
const DRAIN: Duration = Duration::from_secs(2);
/// For requests in flight when the door is closed: below Kubernetes' grace period of 30 seconds.
const FINISH: Duration = Duration::from_secs(10);

/// The signals that end the app.
pub(crate) struct Stop {
    /// From the kubelet.
    pub(crate) terminate: Signal,
    /// From a terminal.
    pub(crate) interrupt: Signal,
}

impl Stop {
    async fn requested(&mut self) {
        race(self.terminate.recv(), self.interrupt.recv()).await;
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Serving,
    /// Not ready, still serving.
    Leaving,
    /// Connections without a request are let go.
    Closing,
}

/// Serves until a signal, then leaves. Answers how that went, for the log.
pub(crate) async fn run(listener: TcpListener, app: App, mut stop: Stop) -> &'static str {
    let door = Door {
        app: Arc::new(app),
        stage: watch::Sender::new(Stage::Serving),
        free: Arc::new(Semaphore::new(CONNECTIONS as usize)),
    };
    race(door.serve(&listener), stop.requested()).await;
    match race(door.leave(listener), stop.requested()).await {
        Either::Left(true) => "all requests served",
        Either::Left(false) => "some requests took too long and were dropped",
        Either::Right(()) => "at once, as asked twice",
    }
}

struct Door {
    app: Arc<App>,
    stage: watch::Sender<Stage>,
    free: Arc<Semaphore>,
}

impl Door {
    async fn serve(&self, listener: &TcpListener) {
        loop {
            let Ok(slot) = self.free.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => self.open(stream, slot),
                Err(error) => recover(&error).await,
            }
        }
    }

    /// True when nothing was dropped.
    async fn leave(&self, listener: TcpListener) -> bool {
        self.stage.send_replace(Stage::Leaving);
        let end = Instant::now() + DRAIN;
        let next = || timeout_at(end.min(Instant::now() + QUIET), listener.accept());
        while let Ok(accepted) = next().await {
            match accepted {
                Ok((stream, _)) => self.open_anyway(stream),
                Err(error) => recover(&error).await,
            }
        }
        // Whoever is already in the kernel's queue would be reset by closing the door.
        if let Ok(listener) = listener.into_std() {
            while let Ok((stream, _)) = listener.accept() {
                if let Ok(stream) =
                    stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream))
                {
                    self.open_anyway(stream);
                }
            }
        }
        // The last to come have sent nothing yet: hyper would take them for idle and hang up.
        if timeout(QUIET, self.empty()).await.is_ok() {
            return true;
        }
        self.stage.send_replace(Stage::Closing);
        timeout(FINISH, self.empty()).await.is_ok()
    }

    async fn empty(&self) {
        let _ = self.free.acquire_many(CONNECTIONS).await;
    }

    /// While leaving, waiting for a free slot could outlast the drain; one too many is dropped.
    fn open_anyway(&self, stream: TcpStream) {
        if let Ok(slot) = self.free.clone().try_acquire_owned() {
            self.open(stream, slot);
        }
    }

    fn open(&self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        let (app, mut stage) = (self.app.clone(), self.stage.subscribe());
        let answering = self.stage.subscribe();
        tokio::spawn(async move {
            let _slot = slot;
            // A response is one small segment; waiting to fill it would only delay it.
            let _ = stream.set_nodelay(true);
            let answer = service_fn(move |request: Request<Incoming>| {
                let answer = app.answer(&request, *answering.borrow() != Stage::Serving);
                async move { Ok::<Answer, Infallible>(answer) }
            });
            let mut connection = pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .serve_connection(TokioIo::new(stream), answer)
            );
            // A client that breaks off or talks nonsense has had its answer from hyper, if any.
            let closing =
                async move { drop(stage.wait_for(|stage| *stage == Stage::Closing).await) };
            if let Either::Right(_) = race(connection.as_mut(), closing).await {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        });
    }
}

/// A broken connection concerns one client. Anything else (no file descriptors, no memory) gets
/// time to pass.
async fn recover(error: &io::Error) {
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        sleep(Duration::from_millis(10)).await;
    }
}

enum Either<L, R> {
    Left(L),
    Right(R),
}

/// The first of two to end. `tokio::select!` would bring the procedural macros' parser along.
async fn race<L: Future, R: Future>(left: L, right: R) -> Either<L::Output, R::Output> {
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(|context| match left.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Either::Left(output)),
        Poll::Pending => right.as_mut().poll(context).map(Either::Right),
    })
    .await
}
