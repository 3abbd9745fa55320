//! The data plane beside real sockets, without any API.

use super::super::route::{Affinity, Backends, Routing};
use super::*;
use std::{collections::HashMap, future::Future};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NOBODY: &str = "127.0.0.1:1";

struct World {
    plane: Plane,
    route: Arc<Route>,
    address: SocketAddr,
    listening: Option<Listening>,
    _troubles: mpsc::Receiver<(SocketAddr, Trouble)>,
}

impl World {
    fn new(endpoints: &[SocketAddr]) -> Self {
        let (tell, troubles) = mpsc::channel(8);
        // Three, so that connections are handed over also where there is one core.
        let plane = Plane::with_threads(3, Arc::default(), tell).unwrap();
        let route = Arc::new(Route::new(routing(endpoints), Arc::new(Affinity::default())));
        let port = Port::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.address().unwrap();
        let listening = Some(plane.serve(port, route.clone()));
        Self { plane, route, address, listening, _troubles: troubles }
    }

    /// The first connection that is not refused: listening starts on another thread.
    async fn connect(&self) -> TcpStream {
        eventually(async || TcpStream::connect(self.address).await.ok()).await
    }
}

fn routing(endpoints: &[SocketAddr]) -> Routing {
    Routing { backends: Backends::alike(endpoints.iter().copied()), ..Routing::default() }
}

async fn eventually<T>(mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    time::timeout(Duration::from_secs(10), wait).await.expect("it never happened")
}

/// An endpoint that does `work` with each connection.
async fn endpoint<F>(work: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(work(stream));
        }
    });
    address
}

async fn echo() -> SocketAddr {
    endpoint(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

/// An endpoint that says a letter and closes.
async fn says(letter: u8) -> SocketAddr {
    endpoint(move |mut stream| async move {
        let _ = stream.write_all(&[letter]).await;
    })
    .await
}

async fn one_byte(stream: &mut TcpStream) -> io::Result<u8> {
    stream.read_u8().await
}

async fn round_trip(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");
}

#[tokio::test]
async fn connections_spread_evenly_over_endpoints() {
    let endpoints = [says(b'a').await, says(b'b').await, says(b'c').await];
    let world = World::new(&endpoints);
    let mut counts: HashMap<u8, f64> = HashMap::new();
    for _ in 0..3000 {
        let mut stream = world.connect().await;
        *counts.entry(one_byte(&mut stream).await.unwrap()).or_default() += 1.0;
    }
    let chi: f64 = counts.values().map(|o| (o - 1000.0).powi(2) / 1000.0).sum();
    assert_eq!(counts.len(), 3);
    // 2 degrees of freedom: beyond 36.8 once in a hundred million.
    assert!(chi < 36.8, "chi-squared {chi} of {counts:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_gone_costs_no_connection() {
    let gone = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"].map(|a| a.parse().unwrap());
    let world = World::new(&[gone[0], gone[1], echo().await, gone[2]]);
    for _ in 0..100 {
        round_trip(&mut world.connect().await).await;
    }
}

#[tokio::test]
async fn a_client_of_dead_endpoints_is_reset() {
    let world = World::new(&[NOBODY.parse().unwrap()]);
    let mut stream = world.connect().await;
    let error = one_byte(&mut stream).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn without_endpoints_clients_are_refused_until_there_is_one() {
    let world = World::new(&[]);
    let live = echo().await;
    let refused = async || {
        let error = TcpStream::connect(world.address).await.err()?;
        (error.kind() == io::ErrorKind::ConnectionRefused).then_some(())
    };
    for _ in 0..3 {
        eventually(refused).await;
        world.route.set(routing(&[live]));
        round_trip(&mut world.connect().await).await;
        world.route.set(routing(&[]));
    }
    eventually(refused).await;
}

#[tokio::test]
async fn a_client_may_end_first_and_still_be_answered() {
    let counts = endpoint(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(format!("got {}", all.len()).as_bytes()).await.unwrap();
    })
    .await;
    let world = World::new(&[counts]);
    let mut stream = world.connect().await;
    stream.write_all(&[7; 100_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "got 100000");
}

#[tokio::test]
async fn an_endpoint_may_end_first_and_still_hear_the_client() {
    let (tell, mut told) = mpsc::channel(1);
    let listens = endpoint(move |mut stream| {
        let tell = tell.clone();
        async move {
            stream.write_all(b"bye").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut all = String::new();
            stream.read_to_string(&mut all).await.unwrap();
            tell.send(all).await.unwrap();
        }
    })
    .await;
    let world = World::new(&[listens]);
    let mut stream = world.connect().await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "bye");
    stream.write_all(b"after the end").await.unwrap();
    drop(stream);
    assert_eq!(told.recv().await.unwrap(), "after the end");
}

#[tokio::test]
async fn established_connections_outlive_their_endpoint_and_their_listener() {
    let mut world = World::new(&[echo().await]);
    let mut first = world.connect().await;
    round_trip(&mut first).await;
    world.route.set(routing(&[echo().await]));
    round_trip(&mut first).await;
    let mut second = world.connect().await;
    round_trip(&mut second).await;
    world.route.set(routing(&[]));
    round_trip(&mut first).await;
    world.listening.take().unwrap().close().await;
    round_trip(&mut first).await;
    round_trip(&mut second).await;
    let port = Port::bind(world.address).unwrap();
    assert!(port.0.listen(1).is_ok(), "a closed listener gives its port back at once");
}

#[tokio::test]
async fn dropping_the_plane_closes_everything() {
    let world = World::new(&[echo().await]);
    let mut stream = world.connect().await;
    round_trip(&mut stream).await;
    let address = world.address;
    drop(world);
    assert!(one_byte(&mut stream).await.is_err());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn accepted_sockets_inherit_that_nothing_is_held_back() {
    let port = Port::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = port.address().unwrap();
    let listener = listener_of(port.0.listen(1).unwrap()).unwrap();
    let client = TcpStream::connect(address).await.unwrap();
    let (accepted, peer) = listener.async_io(Interest::READABLE, accept_one).await.unwrap();
    assert!(accepted.nodelay().unwrap());
    assert_eq!(peer, client.local_addr().unwrap());
    let error = io::Read::read(&mut &accepted, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn connections_are_spread_over_the_threads() {
    let world = World::new(&[echo().await]);
    let mut open = Vec::new();
    for _ in 0..9 {
        let mut stream = world.connect().await;
        round_trip(&mut stream).await;
        open.push(stream);
    }
    assert_eq!(world.plane.shared.lanes.loads(), [3, 3, 3]);
    open.clear();
    eventually(async || (world.plane.shared.lanes.loads() == [0, 0, 0]).then_some(())).await;
}

/// Bytes that repeat with no power of two, so that a lost or doubled chunk shows.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|n| (n % 251) as u8).collect()
}

async fn send_pattern(mut to: impl AsyncWriteExt + Unpin, len: usize) {
    for from in (0..len).step_by(100_003) {
        to.write_all(&pattern(from, 100_003.min(len - from))).await.unwrap();
    }
    to.shutdown().await.unwrap();
}

async fn check_pattern(mut from: impl AsyncReadExt + Unpin, len: usize, slow: bool) {
    let mut got = 0;
    let mut chunk = vec![0; 37_000];
    loop {
        let n = from.read(&mut chunk).await.unwrap();
        if n == 0 {
            break;
        }
        assert!(chunk[..n] == pattern(got, n), "wrong bytes after {got}");
        got += n;
        if slow {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(got, len);
}

#[tokio::test]
async fn large_transfers_arrive_whole_in_both_directions_at_once() {
    const LEN: usize = 24 << 20;
    let both = endpoint(|stream| async move {
        let (read, write) = stream.into_split();
        tokio::join!(check_pattern(read, LEN, true), send_pattern(write, LEN));
    })
    .await;
    let world = World::new(&[both]);
    let (read, write) = world.connect().await.into_split();
    tokio::join!(check_pattern(read, LEN, false), send_pattern(write, LEN));
}

#[tokio::test]
async fn a_receiver_that_does_not_read_stops_the_sender_and_nobody_else() {
    let world = World::new(&[endpoint(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await]);
    let stuck = world.connect().await;
    let mut sent = 0;
    // Writable no more: the kernel's buffers and one chunk of ours are full.
    while time::timeout(Duration::from_millis(300), stuck.writable()).await.is_ok() {
        match stuck.try_write(&[1; 65_536]) {
            Ok(n) => sent += n,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(sent < 64 << 20, "the sender is never stopped");
    }
    world.route.set(routing(&[echo().await]));
    round_trip(&mut world.connect().await).await;
}

#[tokio::test]
async fn idle_connections_keep_nobody_waiting() {
    let world = World::new(&[echo().await]);
    let mut idle = Vec::new();
    for _ in 0..150 {
        idle.push(world.connect().await);
    }
    for _ in 0..20 {
        round_trip(&mut world.connect().await).await;
    }
    for stream in &mut idle {
        round_trip(stream).await;
    }
}

#[tokio::test]
async fn a_reset_of_the_client_reaches_the_endpoint() {
    let (tell, mut told) = mpsc::channel(1);
    let hears = endpoint(move |mut stream| {
        let tell = tell.clone();
        async move {
            stream.write_all(b"hello").await.unwrap();
            let error = one_byte(&mut stream).await.unwrap_err();
            tell.send(error.kind()).await.unwrap();
        }
    })
    .await;
    let world = World::new(&[hears]);
    let mut stream = world.connect().await;
    stream.read_exact(&mut [0; 5]).await.unwrap();
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert_eq!(told.recv().await.unwrap(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_of_the_endpoint_reaches_the_client() {
    let breaks = endpoint(|mut stream| async move {
        stream.write_all(b"half an ans").await.unwrap();
        stream.read_exact(&mut [0; 2]).await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let world = World::new(&[breaks]);
    let mut stream = world.connect().await;
    stream.read_exact(&mut [0; 11]).await.unwrap();
    stream.write_all(b"ok").await.unwrap();
    let error = one_byte(&mut stream).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_early_answer_counts_although_the_request_was_not_read() {
    let early = endpoint(|mut stream| async move {
        stream.write_all(b"413").await.unwrap();
    })
    .await;
    let world = World::new(&[early]);
    for _ in 0..20 {
        let mut stream = world.connect().await;
        // Fails once the endpoint's reset has come back.
        let _ = stream.write_all(&[0; 1 << 20]).await;
        let mut answer = [0; 3];
        if stream.read_exact(&mut answer).await.is_ok() {
            assert_eq!(&answer, b"413");
        }
    }
    round_trip_still_works(&world).await;
}

async fn round_trip_still_works(world: &World) {
    world.route.set(routing(&[echo().await]));
    round_trip(&mut world.connect().await).await;
}
