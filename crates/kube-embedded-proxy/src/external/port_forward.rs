//! Copies one connection to a pod through the API's port-forward.
//!
//! The protocol (`v4.channel.k8s.io`) cannot half-close a connection: the end of what the client
//! sends cannot be passed on without giving up the response.

use futures::FutureExt;
use std::{future, io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time,
};

/// The idle timeout after the client half-closes: it has exited, or what it waits for will not come.
pub(super) const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The size of one read.
const CHUNK: usize = 16 * 1024;

/// Copies until both sides are done. `failed` resolves when the API reports an error or is lost. A
/// response that ends this way must not look complete, so the client gets a reset.
pub(super) async fn copy(
    mut client: TcpStream,
    pod: impl AsyncRead + AsyncWrite,
    failed: impl Future<Output = Option<String>>,
    idle_timeout: Duration,
) {
    let (mut from_client, to_client) = client.split();
    let (from_pod, mut to_pod) = tokio::io::split(pod);
    let (half_close, half_closed) = watch::channel(false);
    let upload = async {
        let copied = tokio::io::copy(&mut from_client, &mut to_pod).await;
        if copied.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
            return;
        }
        half_close.send_replace(true);
        future::pending().await
    };
    let complete = tokio::select! {
        ended = download(from_pod, to_client, half_closed, idle_timeout) => {
            match (ended, failed.now_or_never()) {
                (Ok(()), None) => true,
                (ended, failed) => {
                    let (error, reported) = (ended.err(), failed.flatten());
                    tracing::debug!(?error, ?reported, "port-forward cut off");
                    false
                }
            }
        }
        () = upload => false,
    };
    if !complete {
        // Fails for a socket that is closed already, which needs no reset.
        let _ = client.set_zero_linger();
        return;
    }
    // Closing a socket with unread input would reset it, and the client could lose the response.
    let drain = async {
        client.shutdown().await?;
        tokio::io::copy(&mut client, &mut tokio::io::sink()).await
    };
    let _ = time::timeout(idle_timeout, drain).await;
}

async fn download(
    mut from_pod: impl AsyncRead + Unpin,
    mut to_client: impl AsyncWrite + Unpin,
    mut half_closed: watch::Receiver<bool>,
    idle_timeout: Duration,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let idle = async {
            // The sender lives as long as this does.
            let _ = half_closed.wait_for(|half_closed| *half_closed).await;
            time::sleep(idle_timeout).await;
        };
        let read = tokio::select! {
            read = from_pod.read(&mut chunk) => read?,
            () = idle => return Err(io::ErrorKind::TimedOut.into()),
        };
        match chunk.get(..read) {
            Some(data) if read > 0 => to_client.write_all(data).await?,
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
