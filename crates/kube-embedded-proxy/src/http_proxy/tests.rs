//! The HTTP data plane with real sockets, without an API: clients write bytes or speak HTTP/2,
//! endpoints are on loopback.

use super::HttpListener;
use crate::{
    data_plane::{BoundPort, DataPlane, ListenerHandle},
    http_proxy::{
        certificates::self_signed,
        frontend::{Frontend, Timeouts},
        route_table::{Backend, Path, RouteTable, Rule},
    },
    route::{Affinity, Route},
    testing::{
        self, check_pattern, endpoint, eventually, is_refused, loopback_network, routing,
        send_pattern, within,
    },
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time,
};
use tokio_rustls::client::TlsStream;

mod direct;
mod framing;
mod heads;
mod http2;
mod limits;
mod many_fields;
mod responses;
mod streams;

/// An address at which no process listens.
const CLOSED: &str = "127.0.0.1:1";

/// One address whose frontend routes `foo.bar` to one backend, and nothing else.
struct HttpFixture {
    data_plane: DataPlane,
    route: Arc<Route>,
    address: SocketAddr,
    listener: Option<ListenerHandle>,
}

impl HttpFixture {
    fn new(endpoints: &[SocketAddr]) -> Self {
        Self::with(endpoints, false)
    }

    fn with(endpoints: &[SocketAddr], tls: bool) -> Self {
        Self::with_timeouts(endpoints, tls, Timeouts::default())
    }

    /// Has short timeouts: tests wait for a timeout, never for less than one.
    fn impatient(endpoints: &[SocketAddr], tls: bool) -> Self {
        let [idle, response] = [300, 500].map(Duration::from_millis);
        Self::with_timeouts(endpoints, tls, Timeouts { idle, stalled_periods: 8, response })
    }

    fn with_timeouts(endpoints: &[SocketAddr], tls: bool, timeouts: Timeouts) -> Self {
        let (errors, _) = mpsc::channel(8);
        let data_plane = DataPlane::start(errors).unwrap();
        let route = Arc::new(Route::new(routing(endpoints), Arc::new(Affinity::default())));
        let backend = Arc::new(Backend::plain("default/app:80".into(), route.clone()));
        let path = Path::new("Prefix", "/");
        let rule = Rule { host: Some("foo.bar".into()), path, backend };
        let mut frontend = Frontend::new(Some(self_signed().unwrap())).unwrap();
        frontend.timeouts = timeouts;
        frontend.set_route_table(RouteTable::new([rule], None));
        let port = BoundPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.address().unwrap();
        let handler = HttpListener::new(Arc::new(frontend), loopback_network(), tls, address);
        let listener = Some(data_plane.serve(port, Arc::new(handler)));
        Self { data_plane, route, address, listener }
    }

    async fn connect(&self) -> TcpStream {
        eventually("a connection", async || TcpStream::connect(self.address).await.ok()).await
    }

    async fn connect_tls(&self, protocol: &str) -> TlsStream<TcpStream> {
        testing::handshake(self.connect().await, "foo.bar", &[protocol]).await.unwrap()
    }

    /// Sends a request and returns what is received until the proxy closes.
    async fn ask(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_ref()).await.unwrap();
        rest(&mut stream).await
    }

    /// Requests `/` once, and returns the status.
    async fn get(&self) -> u16 {
        status(&self.ask("GET / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n").await)
    }
}

/// A client, with or without TLS.
trait ClientStream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> ClientStream for T {}

/// Reads until the end or an error.
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

/// Returns the status of a response, or 0 if there is none.
fn status(response: &str) -> u16 {
    response.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// Responds to each request with its head, as received, and its body.
async fn mirror(mut stream: TcpStream) {
    let _ = mirror_while(&mut stream, |_| true).await;
}

/// Mirrors requests up to the first one for which `go_on` is false.
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
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        stream.write_all(response.as_bytes()).await?;
        if !more {
            return Ok(());
        }
    }
}

/// Returns the value of a field in a head.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").skip(1).take_while(|line| !line.is_empty());
    let fields = lines.filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Starts an endpoint that responds to every request with these bytes, and then closes if `once`.
async fn responds(response: impl Into<Vec<u8>>, once: bool) -> SocketAddr {
    let response = response.into();
    endpoint(move |mut stream| {
        let response = response.clone();
        async move {
            let mut seen = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                seen.push(byte);
                if seen.ends_with(b"\r\n\r\n") {
                    let _ = stream.write_all(&response).await;
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
async fn refused_request_gets_status_and_reason() {
    let refused: SocketAddr = CLOSED.parse().unwrap();
    let invalid = responds("this is no HTTP\r\n\r\n", true).await;
    let silent = responds("", true).await;
    let cases: &[(&[SocketAddr], &str, u16, &str)] = &[
        (&[], "foo.bar", 503, "no endpoint of default/app:80 is ready"),
        (&[refused], "foo.bar", 502, "none of 1 endpoints of default/app:80"),
        (&[invalid], "foo.bar", 502, "sent an invalid response"),
        (&[silent], "foo.bar", 502, "closed the connection without a response"),
        (&[], "other", 404, "no rule matches"),
    ];
    for (endpoints, host, code, text) in cases {
        let fixture = HttpFixture::new(endpoints);
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let response = fixture.ask(&request).await;
        assert_eq!(status(&response), *code, "{response}");
        assert!(response.contains(text), "{response}");
        assert_eq!(field(&response, "content-type"), Some("text/plain; charset=utf-8"));
    }
}

#[tokio::test]
async fn removed_endpoints_cost_no_request() {
    let gone = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let fixture = HttpFixture::new(&[gone[0], gone[1], endpoint(mirror).await, gone[2]]);
    for _ in 0..50 {
        assert_eq!(fixture.get().await, 200);
    }
    let post =
        "POST / HTTP/1.1\r\nHost: foo.bar\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    for _ in 0..50 {
        assert_eq!(status(&fixture.ask(post).await), 200);
    }
}

/// Starts an endpoint that counts its connections and reports the end of each.
async fn counting(
    go_on: impl Fn(&str) -> bool + Clone + Send + 'static,
) -> (SocketAddr, Arc<Mutex<usize>>, mpsc::UnboundedReceiver<()>) {
    let (report, ended) = mpsc::unbounded_channel();
    let count = Arc::<Mutex<usize>>::default();
    let counted = count.clone();
    let address = endpoint(move |mut stream| {
        *counted.lock().unwrap() += 1;
        let (report, go_on) = (report.clone(), go_on.clone());
        async move {
            let _ = mirror_while(&mut stream, go_on).await;
            drop(stream);
            let _ = report.send(());
        }
    })
    .await;
    (address, count, ended)
}

#[tokio::test]
async fn upstream_connection_is_reused_until_its_endpoint_is_not_ready() {
    let (address, count, mut ended) = counting(|_| true).await;
    let fixture = HttpFixture::new(&[address]);
    let mut client = fixture.connect().await;
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
    // The client is still connected: it is enough that the endpoint is not ready.
    fixture.route.set(routing(&[]));
    within(ended.recv()).await;
}

#[tokio::test]
async fn stale_upstream_connection_costs_no_request() {
    // Each connection ends after a response that does not announce it, while or before the next
    // request is in transit.
    let (address, count, _) = counting(|head| head.starts_with("GET /more")).await;
    let fixture = HttpFixture::new(&[address]);
    let mut client = fixture.connect().await;
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
async fn request_waits_for_the_successor_of_an_endpoint_that_is_gone() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (fixture, successor) = (HttpFixture::new(&[gone]), endpoint(mirror).await);
    // A request waits for half a second only: on a busy machine the successor may come too late for one.
    eventually("a request waits for the successor", async || {
        fixture.route.set(routing(&[gone]));
        let mut client = fixture.connect().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: foo.bar\r\n\r\n").await.unwrap();
        let waits = eventually("the request waits or has its response", async || {
            let has_response = client.try_read(&mut [0; 4]).is_ok();
            (has_response || fixture.route.subscribers() > 0).then_some(!has_response)
        });
        let is_in_time = waits.await;
        fixture.route.set(routing(&[successor]));
        (is_in_time && status(&head(&mut client).await) == 200).then_some(())
    })
    .await;
    // Without a successor the response is the refusal.
    fixture.route.set(routing(&[gone]));
    assert_eq!(fixture.get().await, 502);
}

#[tokio::test]
async fn request_that_may_have_been_processed_is_not_retried() {
    // Reads the request and closes without a response.
    let (report, mut reports) = mpsc::unbounded_channel();
    let fixture = HttpFixture::new(&[endpoint(move |mut stream| {
        let report = report.clone();
        async move {
            let mut seen = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                seen.push(byte);
                if seen.ends_with(b"\r\n\r\n") {
                    let _ = report.send(String::from_utf8(seen).unwrap());
                    return;
                }
            }
        }
    })
    .await]);
    for (method, times) in [("POST", 1), ("PATCH", 1), ("GET", 1)] {
        let request = format!("{method} / HTTP/1.1\r\nHost: foo.bar\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&fixture.ask(&request).await), 502);
        for _ in 0..times {
            assert!(reports.try_recv().unwrap().starts_with(method));
        }
        assert!(reports.try_recv().is_err(), "{method} came more than {times} times");
    }
    // A GET is, if there is another endpoint.
    let live = endpoint(mirror).await;
    let broken = fixture.route.choose([127, 0, 0, 1].into(), &[]).unwrap();
    fixture.route.set(routing(&[live, broken]));
    for _ in 0..30 {
        assert_eq!(fixture.get().await, 200);
    }
}

#[tokio::test]
async fn closed_listener_completes_requests_and_closes_idle_connections() {
    let (go, released) = tokio::sync::watch::channel(false);
    let (report, mut arrived) = mpsc::unbounded_channel();
    let mut fixture = HttpFixture::new(&[endpoint(move |mut stream| {
        let (mut released, report) = (released.clone(), report.clone());
        async move {
            head(&mut stream).await;
            let _ = report.send(());
            let _ = released.wait_for(|go| *go).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await]);
    let mut idle = fixture.connect().await;
    let mut busy = fixture.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: foo.bar\r\n\r\n").await.unwrap();
    within(arrived.recv()).await.unwrap();
    fixture.listener.take().unwrap().close().await;
    assert_eq!(rest(&mut idle).await, "");
    is_refused(fixture.address).await;
    go.send(true).unwrap();
    let response = rest(&mut busy).await;
    assert!(response.ends_with("\r\n\r\nok"), "{response}");
}

#[tokio::test]
async fn dropped_data_plane_closes_everything() {
    let (report, mut arrived) = mpsc::unbounded_channel();
    let (address, ..) = counting(|_| true).await;
    let hangs = endpoint(move |mut stream| {
        let report = report.clone();
        async move {
            head(&mut stream).await;
            let _ = report.send("arrived");
            rest(&mut stream).await;
            let _ = report.send("ended");
        }
    })
    .await;
    let fixture = HttpFixture::new(&[hangs]);
    let mut busy = fixture.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: foo.bar\r\n\r\n").await.unwrap();
    assert_eq!(within(arrived.recv()).await, Some("arrived"));
    fixture.route.set(routing(&[address]));
    let mut idle = fixture.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: foo.bar\r\n\r\n").await.unwrap();
    head(&mut idle).await;
    drop(fixture.data_plane);
    assert_eq!(within(arrived.recv()).await, Some("ended"));
    rest(&mut busy).await;
    rest(&mut idle).await;
}
