//! Requests to shut down: signals and, on request, the end of stdin.

use tokio::{
    io::AsyncReadExt,
    signal::unix::{Signal, SignalKind, signal},
};

/// Listens for SIGTERM, SIGINT and SIGHUP.
pub(super) struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` if the caller ignores it, as `nohup` does: then the end of the terminal is no request.
    hangup: Option<Signal>,
}

/// The source of a shutdown request.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Source {
    Signal,
    Stdin,
}

impl ShutdownSignals {
    /// Installs the handlers. Call before anything is started that needs cleaning up.
    pub(super) fn listen() -> Result<Self, String> {
        let listen =
            |kind| signal(kind).map_err(|error| format!("failed to listen for signals: {error}"));
        let (terminate, interrupt) =
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let hangup = match is_ignored(SignalKind::hangup()) {
            true => None,
            false => Some(listen(SignalKind::hangup())?),
        };
        Ok(Self { terminate, interrupt, hangup })
    }

    /// Resolves on the next signal.
    pub(super) async fn signal(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = received(&mut self.hangup) => {}
        }
    }

    /// Resolves on the first request to shut down.
    pub(super) async fn first(&mut self, watch_stdin: bool) -> Source {
        tokio::select! {
            () = self.signal() => Source::Signal,
            () = end_of_stdin(), if watch_stdin => Source::Stdin,
        }
    }

    /// Resolves on a second request, which means "exit immediately". A parent that holds stdin closes it
    /// and sends a signal, and means only one request, so after stdin two signals are needed.
    pub(super) async fn again(&mut self, first: Source) {
        if first == Source::Stdin {
            self.signal().await;
        }
        self.signal().await;
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Returns true if the process that started this one ignores the signal.
fn is_ignored(signal: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal.as_raw_value() - 1)) != 0
}

async fn end_of_stdin() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 256];
    while matches!(stdin.read(&mut buffer).await, Ok(read) if read > 0) {}
}
