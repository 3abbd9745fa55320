//! Clients that hold connections, over real sockets. They write bytes, so that they can stop anywhere.

use super::*;
use crate::store::Store;
use kube_embedded_core::network::{Addresses, Sandbox};
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{
    TlsConnector, client,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// The deadline of everything that a test waits for.
const DEADLINE: Duration = Duration::from_secs(60);

struct Fixture {
    _server: Server,
    address: SocketAddr,
    credentials: Credentials,
}

impl Fixture {
    async fn new(timeouts: Timeouts, connections: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let credentials = Credentials::generate(&[Ipv4Addr::LOCALHOST]).unwrap();
        let addresses = Addresses { block: 9, sandbox: Sandbox::Plain };
        let api = Api::new(Store::default(), addresses);
        let server =
            Server::with_limits(listener, api, &credentials, timeouts, connections).unwrap();
        Self { _server: server, address, credentials }
    }

    /// Tries again where the server's timeout for the handshake, which a test makes short, was too short for a busy
    /// machine.
    async fn connect(&self, protocol: &str) -> client::TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        let authority = self.credentials.authority().as_bytes();
        roots.add(CertificateDer::from_pem_slice(authority).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().into()];
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        let connector = TlsConnector::from(Arc::new(config));
        let attempts = async {
            loop {
                let stream = TcpStream::connect(self.address).await.unwrap();
                if let Ok(stream) = connector.connect(name.clone(), stream).await {
                    return stream;
                }
            }
        };
        timeout(DEADLINE, attempts).await.expect("the server takes no connection")
    }

    /// A watch of which the head of the response was read, and nothing yet of its body.
    async fn watch_pods(&self) -> client::TlsStream<TcpStream> {
        let request = self.request("/api/v1/pods?watch=true", "");
        let attempts = async {
            loop {
                let mut watch = self.connect("http/1.1").await;
                if watch.write_all(request.as_bytes()).await.is_ok()
                    && let Ok(head) = head(&mut watch).await
                {
                    assert!(head.contains("200 OK"), "{head}");
                    return watch;
                }
            }
        };
        timeout(DEADLINE, attempts).await.expect("no watch begins")
    }

    fn request(&self, path: &str, more: &str) -> String {
        let token = self.credentials.token();
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{more}\r\n")
    }

    /// Makes a request with credentials over a new connection, and returns the status.
    async fn get(&self, path: &str) -> String {
        let mut stream = self.connect("http/1.1").await;
        let request = self.request(path, "Connection: close\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        rest(&mut stream).await.lines().next().unwrap_or_default().to_owned()
    }
}

fn short() -> Timeouts {
    let [handshake, head, idle, stalled] = [300, 300, 300, 300].map(Duration::from_millis);
    Timeouts { handshake, head, idle, stalled }
}

/// Reads until the end or an error.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut all = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut all)).await;
    let _ = read.expect("the connection stays open");
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads up to the end of a head, or fails where the connection ends before.
async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(DEADLINE, stream.read_u8()).await.unwrap()?);
    }
    Ok(String::from_utf8(head).unwrap())
}

#[tokio::test]
async fn connection_that_waits_for_its_client_is_closed() {
    let fixture = Fixture::new(short(), 64).await;
    let mut silent = TcpStream::connect(fixture.address).await.unwrap();
    rest(&mut silent).await;
    for (protocol, sent) in [
        ("http/1.1", ""),
        ("http/1.1", "GET /version HTTP/1.1\r\nHost: x\r\n"),
        ("http/1.1", "GET /version HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("http/1.1", "GET /version HTTP/1.1\r\nHost: x\r\n\r\nGET /version HT"),
        ("http/1.1", "POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"),
        ("http/1.1", "GET /version HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"),
        ("http/1.1", "POST /version HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("h2", ""),
        ("h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("h2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    ] {
        let mut stream = fixture.connect(protocol).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        rest(&mut stream).await;
    }
    assert!(fixture.get("/version").await.contains("200"));
}

#[tokio::test]
async fn watch_is_not_ended_by_the_timeouts_of_others() {
    let fixture = Fixture::new(short(), 64).await;
    let mut watch = fixture.watch_pods().await;
    // Longer than every timeout, by connections that are ended by theirs.
    for _ in 0..3 {
        rest(&mut fixture.connect("http/1.1").await).await;
    }
    let ended = timeout(Duration::from_millis(1), watch.read_u8()).await;
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test]
async fn anonymous_connections_are_closed_before_others_are_refused() {
    let fixture = Fixture::new(Timeouts::default(), 8).await;
    let mut watch = fixture.watch_pods().await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(fixture.address).await.unwrap());
        if idle.len() % 10 == 0 {
            assert!(fixture.get("/api/v1/pods").await.contains("200"));
        }
    }
    // The oldest ones were closed for the later ones.
    for stream in &mut idle[..32] {
        rest(stream).await;
    }
    assert!(timeout(Duration::from_millis(1), watch.read_u8()).await.is_err());
}

#[tokio::test]
async fn head_may_have_many_fields_but_a_limited_size() {
    let fixture = Fixture::new(Timeouts::default(), 8).await;
    for (fields, bytes, status) in [(300, 10, "200"), (600, 10, "431"), (3, 60_000, "431")] {
        let value = "v".repeat(bytes);
        let fields: String = (0..fields).map(|n| format!("X-{n}: {value}\r\n")).collect();
        let mut stream = fixture.connect("http/1.1").await;
        let request = fixture.request("/version", &format!("Connection: close\r\n{fields}"));
        // The server may close before it has read all.
        let _ = stream.write_all(request.as_bytes()).await;
        let response = rest(&mut stream).await;
        assert_eq!(response.get(9..12), Some(status), "{fields:.40}");
    }
}
