//! The sampler against a server that resets connections.

use super::{Counts, Sampler};
use std::net::SocketAddr;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Starts a server that resets every fifth connection; returns its address, the number of connections
/// and the maximum open at a time.
async fn server() -> (SocketAddr, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (all, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (counted, highest) = (all.clone(), most.clone());
    tokio::spawn(async move {
        let now = Arc::new(AtomicUsize::new(0));
        while let Ok((mut stream, _)) = listener.accept().await {
            let nth = counted.fetch_add(1, Ordering::SeqCst);
            highest.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let now = now.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                match nth % 5 {
                    0 => drop(stream.set_zero_linger()),
                    _ => {
                        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n1.0\n";
                        let _ = stream.write_all(response).await;
                    }
                }
            });
        }
    });
    (address, all, most)
}

#[tokio::test(flavor = "multi_thread")]
async fn sample_sends_exactly_n_requests() {
    for (n, in_flight) in [(0, 8), (1, 8), (7, 1), (250, 8), (251, 3)] {
        let (address, all, most) = server().await;
        let deadline = Duration::from_secs(10);
        let sampler = Sampler::new(address, "host", "/", deadline).in_flight(in_flight);
        let mut last = Counts::default();
        let sample = sampler.take(n, |counts| last = counts.clone()).await.unwrap();
        assert_eq!(sample.total(), n);
        assert_eq!(all.load(Ordering::SeqCst) as u64, n, "none is retried");
        assert!(most.load(Ordering::SeqCst) <= in_flight, "{most:?} at a time");
        assert_eq!(sample.failures().count() as u64, n.div_ceil(5));
        assert_eq!(sample.hits("1.0"), n - n.div_ceil(5));
        assert_eq!(last.failures, n.div_ceil(5), "the last progress is complete");
        assert_eq!(last.by_version, sample.by_version());
        assert!(sample.observations.is_sorted_by(|one, other| one.ended() <= other.ended()));
    }
}

#[tokio::test]
async fn background_traffic_starts_with_first_result_even_a_failure() {
    let (address, all, _) = server().await;
    let sampler = Sampler::new(address, "host", "/", Duration::from_secs(10)).in_flight(1);
    let load = sampler.background(1000, |_| {}).wait_started().await.unwrap();
    assert!(all.load(Ordering::SeqCst) > 0, "the first connection, which is reset");
    assert!(load.stop_after(0).await.unwrap().total() > 0);
}

#[tokio::test]
async fn background_traffic_without_requests_times_out() {
    let (address, ..) = server().await;
    let sampler = Sampler::new(address, "host", "/", Duration::from_millis(50));
    let error = sampler.background(0, |_| {}).wait_started().await.unwrap_err();
    assert!(error.to_string().contains("no request ended"), "{error}");
}
