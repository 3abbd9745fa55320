//! Interruption of a run: by signal, or by the end of standard input.

use crate::run::Exit;
use anyhow::Context as _;
use std::future::Future;
use std::io::Write as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Returns a future that completes on SIGINT, SIGTERM or SIGHUP, or with `with_stdin` at the end of
/// standard input. The next one exits the process at once, without cleaning up.
pub(super) fn interruption(with_stdin: bool) -> anyhow::Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).context("failed to listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let (first, interrupted) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut first = Some(first);
        let mut stdin = with_stdin.then(stdin_closed);
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                () = closed_once(&mut stdin) => {}
            }
            // Dropping the sender completes the receiver.
            if first.take().is_none() {
                std::process::exit(Exit::Interrupted as i32);
            }
            tracing::warn!("interrupted");
            _ = writeln!(
                std::io::stderr(),
                "interrupted; cleaning up (press Ctrl-C again to skip)"
            );
        }
    });
    Ok(async move { _ = interrupted.await })
}

/// Returns a receiver that closes at the end of standard input. Reads on a thread of its own, because a
/// pending read of the runtime would keep the process from exiting.
fn stdin_closed() -> oneshot::Receiver<()> {
    let (open, closed) = oneshot::channel();
    std::thread::spawn(move || {
        _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop::<oneshot::Sender<()>>(open);
    });
    closed
}

/// Completes once, when the receiver closes; never if there is none.
async fn closed_once(stdin: &mut Option<oneshot::Receiver<()>>) {
    match stdin {
        Some(receiver) => {
            _ = receiver.await;
            *stdin = None;
        }
        None => std::future::pending().await,
    }
}
