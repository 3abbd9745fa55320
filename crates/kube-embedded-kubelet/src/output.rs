//! The output of a running container, copied to the clients that are attached to it.

use kube_embedded_core::node_api::Reader;
use std::time::Duration;
use tokio::{
    io::{AsyncWriteExt, DuplexStream, duplex},
    sync::Mutex,
    time::timeout,
};

/// The output that is buffered for an attached client.
pub(crate) const BUFFER: usize = 64 << 10;
/// Disconnect a client that has not read for this long, so that it cannot block the container: a
/// full pipe would stop the program.
pub(crate) const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// One stream of a container's output, and the attached clients that receive it.
#[derive(Default)]
pub(crate) struct OutputBroadcast(Mutex<Vec<DuplexStream>>);

impl OutputBroadcast {
    /// Adds a client, which receives all output from now on.
    pub(crate) async fn subscribe(&self) -> Reader {
        let (ours, theirs) = duplex(BUFFER);
        self.0.lock().await.push(ours);
        Box::new(theirs)
    }

    /// Sends output to all clients, and drops those that have disconnected or do not read.
    pub(crate) async fn send(&self, bytes: &[u8]) {
        let mut clients = self.0.lock().await;
        for n in (0..clients.len()).rev() {
            let Some(client) = clients.get_mut(n) else { continue };
            if !matches!(timeout(CLIENT_TIMEOUT, client.write_all(bytes)).await, Ok(Ok(()))) {
                clients.swap_remove(n);
            }
        }
    }

    /// Ends the stream for all clients.
    pub(crate) async fn close(&self) {
        self.0.lock().await.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn disconnected_client_is_dropped_and_others_get_all_output() {
        let output = OutputBroadcast::default();
        let (mut reader, disconnected) = (output.subscribe().await, output.subscribe().await);
        drop(disconnected);
        let read = tokio::spawn(async move {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await.map(|_| all)
        });
        let chunk = vec![b'x'; BUFFER];
        for _ in 0..3 {
            output.send(&chunk).await;
        }
        assert_eq!(output.0.lock().await.len(), 1);
        output.close().await;
        assert_eq!(read.await.unwrap().unwrap().len(), 3 * BUFFER);
    }
    #[tokio::test(start_paused = true)]
    async fn client_that_does_not_read_is_dropped_after_the_timeout() {
        let output = OutputBroadcast::default();
        let _idle = output.subscribe().await;
        let begin = tokio::time::Instant::now();
        output.send(&vec![b'x'; 2 * BUFFER]).await;
        assert_eq!(begin.elapsed(), CLIENT_TIMEOUT);
        assert!(output.0.lock().await.is_empty());
    }
}
