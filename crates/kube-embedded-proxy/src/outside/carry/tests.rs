//! Pods as the far end of a pipe.

use super::*;
use crate::outside::dialler::pair;
use std::future::{pending, ready};
use tokio::{
    io::{DuplexStream, duplex},
    task::JoinHandle,
};

const LONG: Duration = Duration::from_secs(60);

/// Client, pod, and what carries between them.
async fn carried(
    failed: impl Future<Output = Option<String>> + Send + 'static,
    quiet: Duration,
) -> (TcpStream, DuplexStream, JoinHandle<()>) {
    let (near, far) = pair().await.unwrap();
    let (ours, pod) = duplex(1 << 20);
    (near, pod, tokio::spawn(carry(far, ours, failed, quiet)))
}

async fn rest(client: &mut TcpStream) -> (String, Option<io::ErrorKind>) {
    let mut text = Vec::new();
    let ended = client.read_to_end(&mut text).await;
    (String::from_utf8(text).unwrap(), ended.err().map(|error| error.kind()))
}

#[tokio::test]
async fn an_answer_ends_as_it_does_in_the_pod() {
    let (mut client, mut pod, carrying) = carried(pending(), LONG).await;
    client.write_all(b"question").await.unwrap();
    let mut asked = [0; 8];
    pod.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"question");
    pod.write_all(b"answer").await.unwrap();
    drop(pod);
    // The client has not read it yet, and goes on sending.
    client.write_all(b"more").await.unwrap();
    assert_eq!(rest(&mut client).await, ("answer".into(), None));
    drop(client);
    carrying.await.unwrap();
}

#[tokio::test]
async fn who_has_said_all_gets_the_answer_still() {
    let (mut client, mut pod, _carrying) = carried(pending(), LONG).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut asked = [0; 8];
    pod.read_exact(&mut asked).await.unwrap();
    pod.write_all(b"answer").await.unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).await.unwrap();
    pod.write_all(b", and more").await.unwrap();
    drop(pod);
    assert_eq!(rest(&mut client).await, (", and more".into(), None));
}

#[tokio::test]
async fn a_pod_that_says_nothing_to_who_has_said_all_is_left() {
    let (mut client, mut pod, carrying) = carried(pending(), Duration::from_millis(10)).await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.1, Some(io::ErrorKind::ConnectionReset));
    carrying.await.unwrap();
    assert_eq!(pod.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_breaks_off_is_a_reset() {
    for failed in [Some("error forwarding port 80".to_owned()), None] {
        let (mut client, pod, carrying) = carried(ready(failed), LONG).await;
        drop(pod);
        carrying.await.unwrap();
        assert_eq!(rest(&mut client).await, (String::new(), Some(io::ErrorKind::ConnectionReset)));
    }
}

#[tokio::test]
async fn a_client_that_resets_leaves_the_pod_at_once() {
    let (client, mut pod, carrying) = carried(pending(), LONG).await;
    client.set_zero_linger().unwrap();
    drop(client);
    carrying.await.unwrap();
    assert_eq!(pod.read(&mut [0]).await.unwrap(), 0);
}
