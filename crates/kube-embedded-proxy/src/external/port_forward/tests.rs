//! Pods as the far end of a pipe.

use super::*;
use crate::external::dialer::socket_pair;
use std::future::{pending, ready};
use tokio::{
    io::{DuplexStream, duplex},
    task::JoinHandle,
};

const LONG: Duration = Duration::from_secs(60);

/// Returns a client, a pod, and the copy between them.
async fn connected(
    failed: impl Future<Output = Option<String>> + Send + 'static,
    idle_timeout: Duration,
) -> (TcpStream, DuplexStream, JoinHandle<()>) {
    let (near, far) = socket_pair().await.unwrap();
    let (ours, pod) = duplex(1 << 20);
    (near, pod, tokio::spawn(copy(far, ours, failed, idle_timeout)))
}

async fn rest(client: &mut TcpStream) -> (String, Option<io::ErrorKind>) {
    let mut text = Vec::new();
    let ended = client.read_to_end(&mut text).await;
    (String::from_utf8(text).unwrap(), ended.err().map(|error| error.kind()))
}

#[tokio::test]
async fn response_ends_as_it_does_in_the_pod() {
    let (mut client, mut pod, copying) = connected(pending(), LONG).await;
    client.write_all(b"question").await.unwrap();
    let mut asked = [0; 8];
    pod.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"question");
    pod.write_all(b"response").await.unwrap();
    drop(pod);
    // The client has not read it yet, and continues sending.
    client.write_all(b"more").await.unwrap();
    assert_eq!(rest(&mut client).await, ("response".into(), None));
    drop(client);
    copying.await.unwrap();
}

#[tokio::test]
async fn response_is_delivered_after_client_half_close() {
    let (mut client, mut pod, _copying) = connected(pending(), LONG).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut asked = [0; 8];
    pod.read_exact(&mut asked).await.unwrap();
    pod.write_all(b"response").await.unwrap();
    let mut response = [0; 8];
    client.read_exact(&mut response).await.unwrap();
    pod.write_all(b", and more").await.unwrap();
    drop(pod);
    assert_eq!(rest(&mut client).await, (", and more".into(), None));
}

#[tokio::test]
async fn idle_pod_is_closed_after_client_half_close() {
    let (mut client, mut pod, copying) = connected(pending(), Duration::from_millis(10)).await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.1, Some(io::ErrorKind::ConnectionReset));
    copying.await.unwrap();
    assert_eq!(pod.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn failed_port_forward_resets_the_client() {
    for failed in [Some("error forwarding port 80".to_owned()), None] {
        let (mut client, pod, copying) = connected(ready(failed), LONG).await;
        drop(pod);
        copying.await.unwrap();
        assert_eq!(rest(&mut client).await, (String::new(), Some(io::ErrorKind::ConnectionReset)));
    }
}

#[tokio::test]
async fn client_reset_closes_the_pod_connection_at_once() {
    let (client, mut pod, copying) = connected(pending(), LONG).await;
    client.set_zero_linger().unwrap();
    drop(client);
    copying.await.unwrap();
    assert_eq!(pod.read(&mut [0]).await.unwrap(), 0);
}
