//! Worker threads, each with a single-threaded runtime.
//!
//! A connection stays on the worker that it was assigned to, so nothing it does wakes another
//! thread. With one connection at a time, everything happens on the worker that accepts, and the
//! others sleep.

use super::{
    handler::{AcceptedConnection, Handler},
    slots::SlotGuard,
};
use kube_embedded_core::task::{catch, catch_blocking};
use std::{
    io,
    net::{self, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle, Runtime},
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    time,
};

/// The running worker threads. Dropping them ends all of their tasks, and so closes their sockets.
#[derive(Debug)]
pub(super) struct Workers {
    first: Handle,
    threads: Vec<WorkerThread>,
    first_failed: watch::Receiver<bool>,
}

#[derive(Debug)]
struct WorkerThread {
    /// Dropping it stops the worker.
    stop: Option<oneshot::Sender<()>>,
    thread: thread::JoinHandle<()>,
}

/// Assigns connections to workers.
#[derive(Clone)]
pub(super) struct WorkerHandles(Arc<[WorkerHandle]>);

struct WorkerHandle {
    connections: Arc<AtomicUsize>,
    /// `None` for the first worker: it assigns, so it needs no hand-over.
    inbox: Option<mpsc::UnboundedSender<Message>>,
}

/// A connection that no runtime knows yet: the worker that serves it registers it.
pub(super) struct Assignment {
    pub(super) stream: net::TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) handler: Arc<dyn Handler>,
    /// Counts against the connection limit of the listener.
    pub(super) permit: OwnedSemaphorePermit,
    /// Counts against that of all listeners.
    pub(super) slot: SlotGuard,
}

enum Message {
    Serve(Assignment, ConnectionCount),
    #[cfg(test)]
    Panic,
}

/// Counts as one connection of a worker while it exists.
struct ConnectionCount(Arc<AtomicUsize>);

impl Workers {
    /// Starts at least one worker. `tick` must be shorter than any timer of a connection.
    ///
    /// # Errors
    /// Fails if the process can have no more threads or descriptors.
    pub(super) fn start(count: usize, tick: Duration) -> io::Result<(Self, WorkerHandles)> {
        let (failed, first_failed) = watch::channel(false);
        let (first, thread) = start_first(tick, failed)?;
        let mut workers = Self { first, threads: vec![thread], first_failed };
        let mut handles = vec![WorkerHandle { connections: Arc::default(), inbox: None }];
        for number in 1..count {
            let (inbox, messages) = mpsc::unbounded_channel();
            workers.threads.push(start_other(number, tick, messages)?);
            handles.push(WorkerHandle { connections: Arc::default(), inbox: Some(inbox) });
        }
        Ok((workers, WorkerHandles(handles.into())))
    }

    /// Returns the runtime of the worker that owns the listeners and assigns connections.
    pub(super) fn first(&self) -> &Handle {
        &self.first
    }

    /// Resolves if the worker that owns the listeners has panicked: all of them are closed.
    pub(super) async fn failed(&self) {
        let mut failed = self.first_failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            // It was stopped, which is no failure.
            std::future::pending().await
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // All at once first, so that they end side by side.
        self.threads.iter_mut().for_each(|worker| drop(worker.stop.take()));
        for worker in self.threads.drain(..) {
            if worker.thread.join().is_err() {
                tracing::error!("proxy worker panicked while stopping");
            }
        }
    }
}

/// Starts the worker that owns the listeners. They cannot be restored where they were, so a panic
/// of this worker ends the proxy.
fn start_first(tick: Duration, failed: watch::Sender<bool>) -> io::Result<(Handle, WorkerThread)> {
    let runtime = new_runtime(tick)?;
    let handle = runtime.handle().clone();
    let thread = spawn(0, move |worker, stopped| {
        if catch_blocking(worker, || runtime.block_on(stopped)).is_err() {
            failed.send_replace(true);
        }
    })?;
    Ok((handle, thread))
}

/// Starts a worker that only serves connections, and starts over after a panic without those that
/// it had.
fn start_other(
    number: usize,
    tick: Duration,
    mut inbox: mpsc::UnboundedReceiver<Message>,
) -> io::Result<WorkerThread> {
    let mut runtime = new_runtime(tick)?;
    spawn(number, move |worker, mut stopped| {
        loop {
            let work = async {
                tokio::select! {
                    _ = &mut stopped => {}
                    () = serve_all(&mut inbox) => {}
                }
            };
            if catch_blocking(worker.clone(), || runtime.block_on(work)).is_ok() {
                return;
            }
            tracing::warn!(worker, "restarting proxy worker");
            match new_runtime(tick) {
                Ok(new) => runtime = new,
                Err(error) => {
                    // Without an inbox its share goes to the first worker.
                    tracing::error!(worker, %error, "failed to restart proxy worker");
                    return;
                }
            }
        }
    })
}

fn spawn(
    number: usize,
    run: impl FnOnce(String, oneshot::Receiver<()>) + Send + 'static,
) -> io::Result<WorkerThread> {
    let (stop, stopped) = oneshot::channel();
    let name = format!("proxy-worker-{number}");
    let builder = thread::Builder::new().name(name.clone());
    let thread = builder.spawn(move || run(name, stopped))?;
    Ok(WorkerThread { stop: Some(stop), thread })
}

fn new_runtime(tick: Duration) -> io::Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    // While a sooner timer is pending, setting the deadline of a connect does not wake the thread
    // from within, which would cost a system call for each connection.
    runtime.spawn(async move {
        loop {
            time::sleep(tick).await;
        }
    });
    Ok(runtime)
}

async fn serve_all(inbox: &mut mpsc::UnboundedReceiver<Message>) {
    while let Some(message) = inbox.recv().await {
        match message {
            Message::Serve(assignment, count) => serve(assignment, count),
            #[cfg(test)]
            Message::Panic => panic!("on request"),
        }
    }
}

impl WorkerHandles {
    /// Assigns the connection to the worker with the fewest; the first one wins a tie. Must be
    /// called on the first worker.
    pub(super) fn assign(&self, assignment: Assignment) {
        let least = self.0.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        let Some(worker) = least else { return };
        let message = Message::Serve(assignment, ConnectionCount::new(&worker.connections));
        let message = match &worker.inbox {
            None => message,
            Some(inbox) => match inbox.send(message) {
                Ok(()) => return,
                // The worker could not be restarted.
                Err(mpsc::error::SendError(message)) => message,
            },
        };
        match message {
            Message::Serve(assignment, count) => serve(assignment, count),
            #[cfg(test)]
            Message::Panic => {}
        }
    }

    #[cfg(test)]
    pub(super) fn loads(&self) -> Vec<usize> {
        self.0.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).collect()
    }

    /// Makes every worker but the first panic.
    #[cfg(test)]
    pub(super) fn panic(&self) {
        for worker in self.0.iter() {
            worker.inbox.iter().for_each(|inbox| drop(inbox.send(Message::Panic)));
        }
    }
}

/// Serves a connection on this worker. A panic ends only the connection.
fn serve(assignment: Assignment, count: ConnectionCount) {
    tokio::spawn(catch("proxy-connection", async move {
        let Assignment { stream, peer, handler, permit, slot: guard } = assignment;
        let slot = guard.slot.clone();
        let _held = (permit, guard, count);
        let served = match TcpStream::from_std(stream) {
            Ok(stream) => handler.handle(AcceptedConnection { stream, peer, slot }),
            Err(error) => {
                // Descriptors or memory are short. The client sees the connection end.
                tracing::warn!(%peer, %error, "failed to register an accepted connection");
                return;
            }
        };
        // The connection may outlive its listener, and must not keep the handler.
        drop(handler);
        served.await;
    }));
}

impl ConnectionCount {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
