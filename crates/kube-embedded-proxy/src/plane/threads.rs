//! Threads with a runtime each. A connection stays on the thread it was given to, so nothing it does
//! wakes another thread; with one connection at a time, all of it happens on the thread that
//! accepts, and the others sleep.

use super::Arrival;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{
    runtime::{Builder, Handle},
    sync::{mpsc, oneshot},
    time,
};

/// Running threads. Dropping it ends them and all of their tasks, and so closes their sockets.
#[derive(Debug)]
pub(super) struct Threads {
    first: Handle,
    running: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    stop: Option<oneshot::Sender<()>>,
    thread: thread::JoinHandle<()>,
}

/// Where the first thread puts connections.
#[derive(Clone)]
pub(super) struct Lanes(Arc<[Lane]>);

struct Lane {
    carries: Arc<AtomicUsize>,
    /// None for the first thread, which needs no hand-over.
    inbox: Option<mpsc::UnboundedSender<(Arrival, Carried)>>,
}

/// Counts as a connection of a thread while it exists.
struct Carried(Arc<AtomicUsize>);

impl Threads {
    /// Starts at least one thread; `tick` is shorter than any timer of a connection.
    ///
    /// # Errors
    /// The process may have no more threads or descriptors.
    pub(super) fn start(count: usize, tick: Duration) -> io::Result<(Self, Lanes)> {
        let (first, thread) = Thread::start(tick)?;
        let mut threads = Self { first, running: vec![thread] };
        let mut lanes = vec![Lane { carries: Arc::default(), inbox: None }];
        for _ in 1..count {
            let (handle, thread) = Thread::start(tick)?;
            threads.running.push(thread);
            let (inbox, mut arrivals) = mpsc::unbounded_channel();
            handle.spawn(async move {
                while let Some((arrival, carried)) = arrivals.recv().await {
                    carry(arrival, carried);
                }
            });
            lanes.push(Lane { carries: Arc::default(), inbox: Some(inbox) });
        }
        Ok((threads, Lanes(lanes.into())))
    }

    /// The thread that has the listeners, and puts connections into lanes.
    pub(super) fn first(&self) -> &Handle {
        &self.first
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.running.iter_mut().for_each(|thread| drop(thread.stop.take()));
        for thread in self.running.drain(..) {
            // It only panics if a task did in a way that tokio could not catch.
            let _ = thread.thread.join();
        }
    }
}

impl Thread {
    fn start(tick: Duration) -> io::Result<(Handle, Self)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        // While a sooner timer is pending, the deadline of a connect is set without waking the
        // thread from within, which costs a system call each time.
        handle.spawn(async move {
            loop {
                time::sleep(tick).await;
            }
        });
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("edge".into()).spawn(move || {
            // Ends when the sender is dropped; all tasks, and so all sockets, end with the runtime.
            let _ = runtime.block_on(stopped);
        })?;
        Ok((handle, Self { stop: Some(stop), thread }))
    }
}

impl Lanes {
    /// Gives the connection to the thread with the fewest, the first one if others have no fewer.
    pub(super) fn put(&self, arrival: Arrival) {
        let least = self.0.iter().min_by_key(|lane| lane.carries.load(Ordering::Relaxed));
        let Some(lane) = least else { return };
        let carried = Carried::new(&lane.carries);
        match &lane.inbox {
            None => carry(arrival, carried),
            // Without a receiver the threads are ending, and the connection ends with them.
            Some(inbox) => drop(inbox.send((arrival, carried))),
        }
    }

    #[cfg(test)]
    pub(super) fn loads(&self) -> Vec<usize> {
        self.0.iter().map(|lane| lane.carries.load(Ordering::Relaxed)).collect()
    }
}

fn carry(arrival: Arrival, carried: Carried) {
    tokio::spawn(async move {
        let _carried = carried;
        arrival.carry().await;
    });
}

impl Carried {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
