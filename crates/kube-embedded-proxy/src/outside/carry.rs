//! Carries one connection to a pod through the API.
//!
//! The protocol (`v4.channel.k8s.io`) has no half-open connections: a client that has said all
//! cannot tell the pod so without giving up the answer, too.

use futures::FutureExt;
use std::{future, io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time,
};

/// How long a pod may be silent once its client has said all. Then the client has gone, or what it
/// waits for is not coming.
pub(super) const QUIET: Duration = Duration::from_secs(2);

/// What one read takes at most.
const CHUNK: usize = 16 * 1024;

/// Carries until both sides are done. `failed` resolves when the API says what is wrong, or has
/// gone without a word; an answer that ends so must not look complete, and becomes a reset.
pub(super) async fn carry(
    mut client: TcpStream,
    pod: impl AsyncRead + AsyncWrite,
    failed: impl Future<Output = Option<String>>,
    quiet: Duration,
) {
    let (mut from_client, to_client) = client.split();
    let (from_pod, mut to_pod) = tokio::io::split(pod);
    let (tell, said) = watch::channel(false);
    let up = async {
        let copied = tokio::io::copy(&mut from_client, &mut to_pod).await;
        if copied.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
            return;
        }
        tell.send_replace(true);
        future::pending().await
    };
    let whole = tokio::select! {
        ended = down(from_pod, to_client, said, quiet) => {
            ended.is_ok() && failed.now_or_never().is_none()
        }
        () = up => false,
    };
    if !whole {
        // A socket that is gone already needs no reset.
        let _ = client.set_zero_linger();
        return;
    }
    // Closed with something unread, the socket would take back what the client has not read.
    let end = async {
        client.shutdown().await?;
        tokio::io::copy(&mut client, &mut tokio::io::sink()).await
    };
    let _ = time::timeout(quiet, end).await;
}

async fn down(
    mut from_pod: impl AsyncRead + Unpin,
    mut to_client: impl AsyncWrite + Unpin,
    mut said: watch::Receiver<bool>,
    quiet: Duration,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let silence = async {
            // The sender lives as long as this does.
            let _ = said.wait_for(|said| *said).await;
            time::sleep(quiet).await;
        };
        let read = tokio::select! {
            read = from_pod.read(&mut chunk) => read?,
            () = silence => return Err(io::ErrorKind::TimedOut.into()),
        };
        match chunk.get(..read) {
            Some(data) if read > 0 => to_client.write_all(data).await?,
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
