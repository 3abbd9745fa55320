//! The data plane with the TCP handler and real sockets, without an API.

use super::*;
use crate::{
    route::{Affinity, Route},
    testing::{
        check_pattern, endpoint, eventually, is_refused, loopback_network, routing, send_pattern,
        within,
    },
};
use futures::{FutureExt, future::BoxFuture};
use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time,
};

/// An address at which no process listens.
const CLOSED: &str = "127.0.0.1:1";

/// One port that is proxied along a route.
struct TcpFixture {
    data_plane: DataPlane,
    route: Arc<Route>,
    address: SocketAddr,
    listener: Option<ListenerHandle>,
    _errors: mpsc::Receiver<(SocketAddr, ListenerError)>,
}

impl TcpFixture {
    fn new(endpoints: &[SocketAddr]) -> Self {
        let route = Arc::new(Route::new(routing(endpoints), Arc::new(Affinity::default())));
        let proxy = TcpProxy::new(loopback_network(), route.clone());
        Self::with_handler(Arc::new(proxy), route)
    }

    fn with_handler(handler: Arc<dyn Handler>, route: Arc<Route>) -> Self {
        let (sender, errors) = mpsc::channel(8);
        // Three, so that connections are handed over even on one core.
        let data_plane = DataPlane::with_workers(3, 1024, sender).unwrap();
        let port = BoundPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.address().unwrap();
        let listener = Some(data_plane.serve(port, handler));
        Self { data_plane, route, address, listener, _errors: errors }
    }

    /// Returns the first connection that is not refused.
    async fn connect(&self) -> TcpStream {
        eventually("a connection", async || TcpStream::connect(self.address).await.ok()).await
    }
}

async fn echo() -> SocketAddr {
    endpoint(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

/// Starts an endpoint that sends a letter and closes.
async fn letter_endpoint(letter: u8) -> SocketAddr {
    endpoint(move |mut stream| async move {
        let _ = stream.write_all(&[letter]).await;
    })
    .await
}

async fn one_byte(stream: &mut TcpStream) -> io::Result<u8> {
    within(stream.read_u8()).await
}

async fn round_trip(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.unwrap();
    let mut response = [0; 4];
    stream.read_exact(&mut response).await.unwrap();
    assert_eq!(&response, b"ping");
}

#[tokio::test]
async fn connections_are_spread_evenly_over_endpoints() {
    let endpoints =
        [letter_endpoint(b'a').await, letter_endpoint(b'b').await, letter_endpoint(b'c').await];
    let fixture = TcpFixture::new(&endpoints);
    let mut counts: HashMap<u8, f64> = HashMap::new();
    for _ in 0..3000 {
        let mut stream = fixture.connect().await;
        *counts.entry(one_byte(&mut stream).await.unwrap()).or_default() += 1.0;
    }
    let chi: f64 = counts.values().map(|o| (o - 1000.0).powi(2) / 1000.0).sum();
    assert_eq!(counts.len(), 3);
    // 2 degrees of freedom: beyond 36.8 once in a hundred million.
    assert!(chi < 36.8, "chi-squared {chi} of {counts:?}");
}

#[tokio::test]
async fn removed_endpoint_costs_no_connection() {
    let gone = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(|a| a.parse().unwrap());
    let fixture = TcpFixture::new(&[gone[0], gone[1], echo().await, gone[2]]);
    for _ in 0..100 {
        round_trip(&mut fixture.connect().await).await;
    }
}

#[tokio::test]
async fn client_is_reset_if_no_endpoint_accepts() {
    let fixture = TcpFixture::new(&[CLOSED.parse().unwrap()]);
    let mut stream = fixture.connect().await;
    let error = one_byte(&mut stream).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn clients_are_refused_until_there_is_an_endpoint() {
    let fixture = TcpFixture::new(&[]);
    let live = echo().await;
    for _ in 0..3 {
        is_refused(fixture.address).await;
        fixture.route.set(routing(&[live]));
        round_trip(&mut fixture.connect().await).await;
        fixture.route.set(routing(&[]));
    }
    is_refused(fixture.address).await;
}

#[tokio::test]
async fn client_that_half_closes_gets_its_response() {
    let counts = endpoint(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(format!("got {}", all.len()).as_bytes()).await.unwrap();
    })
    .await;
    let fixture = TcpFixture::new(&[counts]);
    let mut stream = fixture.connect().await;
    stream.write_all(&[7; 100_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert_eq!(response, "got 100000");
}

#[tokio::test]
async fn endpoint_that_half_closes_gets_the_request() {
    let (report, mut reports) = mpsc::channel(1);
    let listens = endpoint(move |mut stream| {
        let report = report.clone();
        async move {
            stream.write_all(b"bye").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut all = String::new();
            stream.read_to_string(&mut all).await.unwrap();
            report.send(all).await.unwrap();
        }
    })
    .await;
    let fixture = TcpFixture::new(&[listens]);
    let mut stream = fixture.connect().await;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert_eq!(response, "bye");
    stream.write_all(b"after the end").await.unwrap();
    drop(stream);
    assert_eq!(reports.recv().await.unwrap(), "after the end");
}

#[tokio::test]
async fn established_connection_outlives_its_endpoint_and_listener() {
    let mut fixture = TcpFixture::new(&[echo().await]);
    let mut first = fixture.connect().await;
    round_trip(&mut first).await;
    fixture.route.set(routing(&[echo().await]));
    round_trip(&mut first).await;
    let mut second = fixture.connect().await;
    round_trip(&mut second).await;
    fixture.route.set(routing(&[]));
    round_trip(&mut first).await;
    fixture.listener.take().unwrap().close().await;
    round_trip(&mut first).await;
    round_trip(&mut second).await;
    let port = BoundPort::bind(fixture.address).unwrap();
    let proxy = TcpProxy::new(loopback_network(), fixture.route.clone());
    fixture.route.set(routing(&[echo().await]));
    fixture.listener = Some(fixture.data_plane.serve(port, Arc::new(proxy)));
    // A closed listener releases its port at once.
    round_trip(&mut TcpStream::connect(fixture.address).await.unwrap()).await;
}

#[tokio::test]
async fn dropped_data_plane_closes_everything() {
    let fixture = TcpFixture::new(&[echo().await]);
    let mut stream = fixture.connect().await;
    round_trip(&mut stream).await;
    let address = fixture.address;
    drop(fixture);
    assert!(one_byte(&mut stream).await.is_err());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn connections_are_spread_over_workers() {
    let fixture = TcpFixture::new(&[echo().await]);
    let mut open = Vec::new();
    for _ in 0..9 {
        let mut stream = fixture.connect().await;
        round_trip(&mut stream).await;
        open.push(stream);
    }
    assert_eq!(fixture.data_plane.worker_handles().loads(), [3, 3, 3]);
    open.clear();
    eventually("the connections to end", async || {
        (fixture.data_plane.worker_handles().loads() == [0, 0, 0]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn large_transfers_are_complete_in_both_directions() {
    const LEN: usize = 24 << 20;
    let both = endpoint(|stream| async move {
        let (mut read, mut write) = stream.into_split();
        let send = async {
            send_pattern(&mut write, LEN).await;
            write.shutdown().await.unwrap();
        };
        tokio::join!(check_pattern(&mut read, LEN, true), send);
        assert_eq!(read.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
    let fixture = TcpFixture::new(&[both]);
    let (mut read, mut write) = fixture.connect().await.into_split();
    let send = async {
        send_pattern(&mut write, LEN).await;
        write.shutdown().await.unwrap();
    };
    tokio::join!(check_pattern(&mut read, LEN, false), send);
    assert_eq!(read.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn backpressure_stops_only_the_sender() {
    let fixture = TcpFixture::new(&[endpoint(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await]);
    let stuck = fixture.connect().await;
    let mut sent = 0;
    // Until it is no longer writable: the kernel's buffers and one chunk of ours are full.
    while time::timeout(Duration::from_millis(300), stuck.writable()).await.is_ok() {
        match stuck.try_write(&[1; 65_536]) {
            Ok(n) => sent += n,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(sent < 64 << 20, "the sender is never stopped");
    }
    fixture.route.set(routing(&[echo().await]));
    round_trip(&mut fixture.connect().await).await;
}

#[tokio::test]
async fn idle_connections_do_not_delay_others() {
    let fixture = TcpFixture::new(&[echo().await]);
    let mut idle = Vec::new();
    for _ in 0..150 {
        idle.push(fixture.connect().await);
    }
    for _ in 0..20 {
        round_trip(&mut fixture.connect().await).await;
    }
    for stream in &mut idle {
        round_trip(stream).await;
    }
}

#[tokio::test]
async fn client_reset_reaches_the_endpoint() {
    let (report, mut reports) = mpsc::channel(1);
    let hears = endpoint(move |mut stream| {
        let report = report.clone();
        async move {
            stream.write_all(b"hello").await.unwrap();
            let error = one_byte(&mut stream).await.unwrap_err();
            report.send(error.kind()).await.unwrap();
        }
    })
    .await;
    let fixture = TcpFixture::new(&[hears]);
    let mut stream = fixture.connect().await;
    stream.read_exact(&mut [0; 5]).await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert_eq!(reports.recv().await.unwrap(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn endpoint_reset_reaches_the_client() {
    let breaks = endpoint(|mut stream| async move {
        stream.write_all(b"half an ans").await.unwrap();
        stream.read_exact(&mut [0; 2]).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let fixture = TcpFixture::new(&[breaks]);
    let mut stream = fixture.connect().await;
    stream.read_exact(&mut [0; 11]).await.unwrap();
    stream.write_all(b"ok").await.unwrap();
    let error = one_byte(&mut stream).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn early_response_is_delivered_although_the_request_is_unread() {
    let early = endpoint(|mut stream| async move {
        stream.write_all(b"413").await.unwrap();
    })
    .await;
    let fixture = TcpFixture::new(&[early]);
    for _ in 0..20 {
        let mut stream = fixture.connect().await;
        // Fails once the endpoint's reset has come back.
        let _ = stream.write_all(&[0; 1 << 20]).await;
        let mut response = [0; 3];
        if stream.read_exact(&mut response).await.is_ok() {
            assert_eq!(&response, b"413");
        }
    }
    round_trip_still_works(&fixture).await;
}

async fn round_trip_still_works(fixture: &TcpFixture) {
    fixture.route.set(routing(&[echo().await]));
    round_trip(&mut fixture.connect().await).await;
}

/// A handler that panics for the first byte `!`, and echoes any other.
struct PanicOnRequest;

impl Handler for PanicOnRequest {
    fn handle(&self, connection: AcceptedConnection) -> BoxFuture<'static, ()> {
        let AcceptedConnection { mut stream, .. } = connection;
        async move {
            while let Ok(byte) = stream.read_u8().await {
                assert_ne!(byte, b'!', "on request");
                stream.write_u8(byte).await.unwrap();
            }
        }
        .boxed()
    }
}

fn panicking() -> TcpFixture {
    let route = Arc::new(Route::new(routing(&[]), Arc::default()));
    TcpFixture::with_handler(Arc::new(PanicOnRequest), route)
}

#[tokio::test]
async fn panicking_handler_ends_only_its_connection() {
    let fixture = panicking();
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(fixture.connect().await);
    }
    for _ in 0..6 {
        let mut stream = fixture.connect().await;
        stream.write_u8(b'!').await.unwrap();
        assert!(one_byte(&mut stream).await.is_err());
    }
    for stream in &mut others {
        round_trip(stream).await;
    }
    drop(others);
    let loads = || fixture.data_plane.worker_handles().loads();
    eventually("the connections to end", async || (loads() == [0, 0, 0]).then_some(())).await;
    assert_eq!(fixture.data_plane.failed().now_or_never(), None);
}

#[tokio::test]
async fn panicking_worker_is_restarted() {
    let fixture = panicking();
    let loads = || fixture.data_plane.worker_handles().loads();
    for _ in 0..2 {
        eventually("idle workers", async || (loads() == [0, 0, 0]).then_some(())).await;
        // One on each worker; those of the two that panic are lost.
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut stream = fixture.connect().await;
            round_trip(&mut stream).await;
            streams.push(stream);
        }
        assert_eq!(loads(), [1, 1, 1]);
        fixture.data_plane.worker_handles().panic();
        for stream in &mut streams[1..] {
            assert!(one_byte(stream).await.is_err());
        }
        round_trip(&mut streams[0]).await;
    }
    assert_eq!(fixture.data_plane.failed().now_or_never(), None);
}
