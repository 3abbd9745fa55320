//! The HTTP server, with a graceful shutdown that loses no request.
//!
//! Kubernetes removes a pod from the endpoints and sends SIGTERM at the same time, so connections still arrive
//! for a while. After the first signal, the pod is no longer ready, responds with `Connection: close`, and
//! accepts connections until none has arrived for [`QUIET`]. Only then does it close the listener, finish the
//! requests in flight, wait for those of connections that have sent none, and exit. A second signal makes it exit
//! immediately.

use crate::routes::{App, FullResponse};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::Signal,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

/// The limit of open connections. Further ones wait in the kernel's queue.
const CONNECTIONS: u32 = 1024;
/// The timeout for the head of a request, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// After this long without a new connection, the load balancers no longer use this pod.
const QUIET: Duration = Duration::from_millis(100);
/// The maximum time to wait for [`QUIET`].
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The time for the request of a connection that has sent none when the listener is closed. On a busy machine, a client
/// may be slow to send it.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// The time for requests in flight once the listener is closed: below the grace period of 30 seconds.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// The signals that stop the app.
pub(crate) struct Stop {
    /// From the kubelet.
    pub(crate) terminate: Signal,
    /// From a terminal.
    pub(crate) interrupt: Signal,
}

impl Stop {
    /// Returns true if a stop is requested within this time.
    pub(crate) async fn requested_within(&mut self, time: Duration) -> bool {
        timeout(time, self.requested()).await.is_ok()
    }

    async fn requested(&mut self) {
        race(self.terminate.recv(), self.interrupt.recv()).await;
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Serving,
    /// Not ready, still serving.
    Draining,
    /// Connections are closed when they are idle after a request, or have sent none for a while.
    Closing,
}

/// Serves until a signal, then drains. Returns a description of the shutdown for the log.
pub(crate) async fn run(listener: TcpListener, app: App, mut stop: Stop) -> &'static str {
    let server = Server {
        app: Arc::new(app),
        stage: watch::Sender::new(Stage::Serving),
        free: Arc::new(Semaphore::new(CONNECTIONS as usize)),
    };
    race(server.serve(&listener), stop.requested()).await;
    if !server.app.drains() {
        return "at once";
    }
    match race(server.drain(listener), stop.requested()).await {
        Either::Left(true) => "all requests served",
        Either::Left(false) => "some requests took too long and were dropped",
        Either::Right(()) => "immediately, after a second signal",
    }
}

struct Server {
    app: Arc<App>,
    stage: watch::Sender<Stage>,
    free: Arc<Semaphore>,
}

impl Server {
    async fn serve(&self, listener: &TcpListener) {
        loop {
            let Ok(slot) = self.free.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => self.spawn_connection(stream, slot),
                Err(error) => back_off(&error).await,
            }
        }
    }

    /// Returns whether all requests were served.
    async fn drain(&self, listener: TcpListener) -> bool {
        self.stage.send_replace(Stage::Draining);
        let end = Instant::now() + DRAIN_TIMEOUT;
        let next = || timeout_at(end.min(Instant::now() + QUIET), listener.accept());
        while let Ok(accepted) = next().await {
            match accepted {
                Ok((stream, _)) => self.try_spawn_connection(stream),
                Err(error) => back_off(&error).await,
            }
        }
        // Closing the listener would reset the connections in the kernel's queue.
        if let Ok(listener) = listener.into_std() {
            while let Ok((stream, _)) = listener.accept() {
                if let Ok(stream) =
                    stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream))
                {
                    self.try_spawn_connection(stream);
                }
            }
        }
        self.stage.send_replace(Stage::Closing);
        timeout(FINISH_TIMEOUT, self.wait_until_idle()).await.is_ok()
    }

    /// Waits until no connection is open.
    async fn wait_until_idle(&self) {
        let _ = self.free.acquire_many(CONNECTIONS).await;
    }

    /// Serves a connection unless the limit is reached: waiting for a free slot could outlast the drain.
    fn try_spawn_connection(&self, stream: TcpStream) {
        if let Ok(slot) = self.free.clone().try_acquire_owned() {
            self.spawn_connection(stream, slot);
        }
    }

    fn spawn_connection(&self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        let (app, mut stage) = (self.app.clone(), self.stage.subscribe());
        let current_stage = self.stage.subscribe();
        let requested = Arc::new(AtomicBool::new(false));
        tokio::spawn(async move {
            let _slot = slot;
            // A response is one small segment; waiting to fill it would only delay it.
            let _ = stream.set_nodelay(true);
            let has_requested = requested.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                has_requested.store(true, Ordering::Relaxed);
                let response = app.respond(&request, *current_stage.borrow() != Stage::Serving);
                let delay = app.delay(request.uri().path());
                async move {
                    if !delay.is_zero() {
                        sleep(delay).await;
                    }
                    Ok::<FullResponse, Infallible>(response)
                }
            });
            let mut connection = pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service)
            );
            // Errors are ignored: hyper has sent a response to an invalid request where that is possible.
            let closing =
                async move { drop(stage.wait_for(|stage| *stage == Stage::Closing).await) };
            if let Either::Left(_) = race(connection.as_mut(), closing).await {
                return;
            }
            // hyper closes a connection that has sent nothing yet as idle. Its response ends it by itself.
            if requested.load(Ordering::Relaxed)
                || timeout(FIRST_REQUEST_TIMEOUT, connection.as_mut()).await.is_err()
            {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        });
    }
}

/// Delays the next `accept` after errors that may persist, such as a lack of file descriptors. A broken
/// connection concerns only its client.
async fn back_off(error: &io::Error) {
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        sleep(Duration::from_millis(10)).await;
    }
}

enum Either<L, R> {
    Left(L),
    Right(R),
}

/// Returns the output of the future that completes first. `tokio::select!` would need the procedural macros.
async fn race<L: Future, R: Future>(left: L, right: R) -> Either<L::Output, R::Output> {
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(|context| match left.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Either::Left(output)),
        Poll::Pending => right.as_mut().poll(context).map(Either::Right),
    })
    .await
}
