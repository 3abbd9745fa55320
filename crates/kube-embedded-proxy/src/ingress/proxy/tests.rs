//! The proxy beside real sockets, without any API: clients write bytes or speak HTTP/2, endpoints
//! are on loopback.

use super::super::{
    front::{Front, Limits, self_signed},
    table::{Backend, Path, Rule, Table},
};
use crate::{
    plane::{Listening, Plane, Port},
    route::{Affinity, Backends, Route, Routing},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    future::Future,
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls};

mod framing;
mod heads;
mod http2;
mod limits;
mod streams;

const NOBODY: &str = "127.0.0.1:1";

/// One address whose front sends `foo.bar` to one backend, and nothing else anywhere.
struct World {
    plane: Plane,
    route: Arc<Route>,
    address: SocketAddr,
    listening: Option<Listening>,
}

impl World {
    fn new(endpoints: &[SocketAddr]) -> Self {
        Self::with(endpoints, false)
    }

    fn with(endpoints: &[SocketAddr], tls: bool) -> Self {
        Self::limited(endpoints, tls, Limits::default())
    }

    /// One whose patience ends soon: tests wait for the end, never for less than it.
    fn impatient(endpoints: &[SocketAddr], tls: bool) -> Self {
        let (idle, response) = (Duration::from_millis(300), Duration::from_millis(500));
        Self::limited(endpoints, tls, Limits { idle, stalled: 8, response })
    }

    fn limited(endpoints: &[SocketAddr], tls: bool, limits: Limits) -> Self {
        let (tell, _) = mpsc::channel(8);
        let plane = Plane::start(Arc::default(), tell).unwrap();
        let route = Arc::new(Route::new(routing(endpoints), Arc::new(Affinity::default())));
        let backend = Arc::new(Backend { name: "default/app:80".into(), route: route.clone() });
        let path = Path::new("Prefix", "/");
        let rule = Rule { host: Some("foo.bar".into()), path, backend };
        let mut front = Front::new(self_signed().unwrap()).unwrap();
        front.limits = limits;
        front.set_table(Table::new([rule], None));
        let port = Port::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.address().unwrap();
        let listening = Some(match tls {
            true => plane.serve_https(port, Arc::new(front)),
            false => plane.serve_http(port, Arc::new(front)),
        });
        Self { plane, route, address, listening }
    }

    /// The first connection that is not refused: listening starts on another thread.
    async fn connect(&self) -> TcpStream {
        eventually(async || TcpStream::connect(self.address).await.ok()).await
    }

    async fn connect_tls(&self, protocol: &str) -> TlsStream<TcpStream> {
        tls(self.connect().await, protocol).await
    }

    /// All that comes back until the proxy closes.
    async fn ask(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_ref()).await.unwrap();
        rest(&mut stream).await
    }

    /// Asks for `/` once, and returns the status.
    async fn get(&self) -> u16 {
        status(&self.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n").await)
    }
}

fn routing(endpoints: &[SocketAddr]) -> Routing {
    Routing { backends: Backends::alike(endpoints.iter().copied()), ..Routing::default() }
}

async fn eventually<T>(mut check: impl AsyncFnMut() -> Option<T>) -> T {
    within(async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    time::timeout(Duration::from_secs(20), work).await.expect("it never happened")
}

/// A client, with or without TLS.
trait Both: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

/// What comes until the end, whichever end that is.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut all = Vec::new();
    let _ = within(stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads a head and nothing after it.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match within(stream.read_u8()).await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    String::from_utf8(head).unwrap()
}

/// Of the last answer if there were several; 0 if there was none.
fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0)
}

async fn tls(stream: TcpStream, protocol: &str) -> TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.into()];
    let name = "foo.bar".try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// The certificate is another module's business.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
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

/// Answers each request with its head, as it came, and then its body.
async fn mirror(mut stream: TcpStream) {
    let _ = mirror_while(&mut stream, |_| true).await;
}

/// The same, until after a head that `go_on` says no to.
async fn mirror_while(stream: &mut TcpStream, go_on: impl Fn(&str) -> bool) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let mut text = String::from_utf8(head).unwrap();
        let length = field(&text, "content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if field(&text, "transfer-encoding").is_some() {
            while !body.ends_with(b"0\r\n\r\n") {
                body.push(stream.read_u8().await?);
            }
        }
        let more = go_on(&text);
        text.push_str(&String::from_utf8_lossy(&body));
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        stream.write_all(answer.as_bytes()).await?;
        if !more {
            return Ok(());
        }
    }
}

/// The value of a header field in the text of a head.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").skip(1).take_while(|line| !line.is_empty());
    let fields = lines.filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// An endpoint that answers every request with these bytes, and then closes if `once`.
async fn says(answer: impl Into<Vec<u8>>, once: bool) -> SocketAddr {
    let answer = answer.into();
    endpoint(move |mut stream| {
        let answer = answer.clone();
        async move {
            let mut seen = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                seen.push(byte);
                if seen.ends_with(b"\r\n\r\n") {
                    let _ = stream.write_all(&answer).await;
                    if once {
                        return;
                    }
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn who_cannot_be_answered_is_told_why() {
    let refused: SocketAddr = NOBODY.parse().unwrap();
    let invalid = says("this is no HTTP\r\n\r\n", true).await;
    let silent = says("", true).await;
    let cases: &[(&[SocketAddr], &str, u16, &str)] = &[
        (&[], "foo.bar", 503, "no endpoint of default/app:80 is ready"),
        (&[refused], "foo.bar", 502, "none of 1 endpoints of default/app:80"),
        (&[invalid], "foo.bar", 502, "sent no valid answer"),
        (&[silent], "foo.bar", 502, "closed the connection without an answer"),
        (&[], "other", 404, "no rule matches"),
    ];
    for (endpoints, host, code, text) in cases {
        let world = World::new(endpoints);
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = world.ask(&request).await;
        assert_eq!(status(&answer), *code, "{answer}");
        assert!(answer.contains(text), "{answer}");
        assert_eq!(field(&answer, "content-type"), Some("text/plain; charset=utf-8"));
    }
}

#[tokio::test]
async fn endpoints_that_are_gone_cost_no_request() {
    let gone = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let world = World::new(&[gone[0], gone[1], endpoint(mirror).await, gone[2]]);
    for _ in 0..50 {
        assert_eq!(world.get().await, 200);
    }
    let post =
        "POST / HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    for _ in 0..50 {
        assert_eq!(status(&world.ask(post).await), 200);
    }
}

/// An endpoint that counts its connections and says when one has ended.
async fn counting(
    go_on: impl Fn(&str) -> bool + Clone + Send + 'static,
) -> (SocketAddr, Arc<Mutex<usize>>, mpsc::UnboundedReceiver<()>) {
    let (tell, ended) = mpsc::unbounded_channel();
    let count = Arc::<Mutex<usize>>::default();
    let counted = count.clone();
    let address = endpoint(move |mut stream| {
        *counted.lock().unwrap() += 1;
        let (tell, go_on) = (tell.clone(), go_on.clone());
        async move {
            let _ = mirror_while(&mut stream, go_on).await;
            drop(stream);
            let _ = tell.send(());
        }
    })
    .await;
    (address, count, ended)
}

#[tokio::test]
async fn connections_to_endpoints_are_used_again_and_closed_with_readiness() {
    let (address, count, mut ended) = counting(|_| true).await;
    let world = World::new(&[address]);
    let mut client = world.connect().await;
    for n in 0..100 {
        let request = format!("PUT /{n} HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 1\r\n\r\nx");
        client.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut client).await;
        let mut body = vec![0; field(&head, "content-length").unwrap().parse().unwrap()];
        client.read_exact(&mut body).await.unwrap();
        assert!(body.starts_with(format!("PUT /{n} ").as_bytes()));
    }
    assert_eq!(*count.lock().unwrap(), 1);
    assert!(ended.try_recv().is_err());
    // The client is still there: that the endpoint is not ready is enough.
    world.route.set(routing(&[]));
    within(ended.recv()).await;
}

#[tokio::test]
async fn a_stale_connection_costs_no_request() {
    // Each connection ends after an answer that does not say so, while or before the next request
    // is on its way.
    let (address, count, _) = counting(|head| head.starts_with("GET /more")).await;
    let world = World::new(&[address]);
    let mut client = world.connect().await;
    for n in 0..200 {
        let path = if n % 3 == 0 { "more" } else { "last" };
        let request = format!("GET /{path} HTTP/1.1\r\nHost: foo.bar\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut client).await;
        assert_eq!(status(&head), 200, "{head}");
        let mut body = vec![0; field(&head, "content-length").unwrap().parse().unwrap()];
        client.read_exact(&mut body).await.unwrap();
    }
    assert!(*count.lock().unwrap() > 1);
}

#[tokio::test]
async fn what_may_have_happened_is_not_done_again() {
    // Reads the whole request and closes without an answer.
    let (tell, mut told) = mpsc::unbounded_channel();
    let world = World::new(&[endpoint(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut seen = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                seen.push(byte);
                if seen.ends_with(b"\r\n\r\n") {
                    let _ = tell.send(String::from_utf8(seen).unwrap());
                    return;
                }
            }
        }
    })
    .await]);
    for (method, times) in [("POST", 1), ("PATCH", 1), ("GET", 1)] {
        let request = format!("{method} / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&world.ask(&request).await), 502);
        for _ in 0..times {
            assert!(told.try_recv().unwrap().starts_with(method));
        }
        assert!(told.try_recv().is_err(), "{method} came more than {times} times");
    }
    // With another endpoint there, a GET is.
    let live = endpoint(mirror).await;
    let broken = world.route.choose([127, 0, 0, 1].into(), &[]).unwrap();
    world.route.set(routing(&[live, broken]));
    for _ in 0..30 {
        assert_eq!(world.get().await, 200);
    }
}

#[tokio::test]
async fn a_closed_listener_lets_requests_end_and_idle_connections_go() {
    let (go, answered) = tokio::sync::watch::channel(false);
    let (tell, mut arrived) = mpsc::unbounded_channel();
    let mut world = World::new(&[endpoint(move |mut stream| {
        let (mut answered, tell) = (answered.clone(), tell.clone());
        async move {
            head(&mut stream).await;
            let _ = tell.send(());
            let _ = answered.wait_for(|go| *go).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await]);
    let mut idle = world.connect().await;
    let mut busy = world.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: foo.bar\r\n\r\n").await.unwrap();
    within(arrived.recv()).await.unwrap();
    world.listening.take().unwrap().close().await;
    assert_eq!(rest(&mut idle).await, "");
    let refused = TcpStream::connect(world.address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    go.send(true).unwrap();
    let answer = rest(&mut busy).await;
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn dropping_the_plane_closes_everything() {
    let (tell, mut arrived) = mpsc::unbounded_channel();
    let (address, ..) = counting(|_| true).await;
    let hangs = endpoint(move |mut stream| {
        let tell = tell.clone();
        async move {
            head(&mut stream).await;
            let _ = tell.send("arrived");
            rest(&mut stream).await;
            let _ = tell.send("ended");
        }
    })
    .await;
    let world = World::new(&[hangs]);
    let mut busy = world.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: foo.bar\r\n\r\n").await.unwrap();
    assert_eq!(within(arrived.recv()).await, Some("arrived"));
    world.route.set(routing(&[address]));
    let mut idle = world.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: foo.bar\r\n\r\n").await.unwrap();
    head(&mut idle).await;
    drop(world.plane);
    assert_eq!(within(arrived.recv()).await, Some("ended"));
    rest(&mut busy).await;
    rest(&mut idle).await;
}
