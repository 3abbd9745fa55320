//! The pump polled by hand: here a test can see what TLS holds back, which no peer of a real
//! connection can.

use super::*;
use std::{future::poll_fn, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpListener,
    task, time,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, rustls};

/// What the endpoint writes at a time; TLS takes several of these beyond what the socket takes.
const PART: usize = 8 * 1024;

/// An endpoint without a kernel in between: what is written is there to be read at once.
impl Side for DuplexStream {
    fn reset(&self) {}

    fn poll_goodbye(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Both ends of a connection over TLS, the client's first.
async fn tls_pair() -> (client::TlsStream<TcpStream>, TlsStream<TcpStream>) {
    let names = ["foo.bar".to_owned()];
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(names).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let accepting = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let connecting = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let name = "foo.bar".try_into().unwrap();
    let (connector, acceptor) =
        (TlsConnector::from(Arc::new(connecting)), TlsAcceptor::from(Arc::new(accepting)));
    let (client, ours) = tokio::join!(connector.connect(name, stream), async {
        acceptor.accept(listener.accept().await.unwrap().0).await
    });
    (client.unwrap(), ours.unwrap())
}

#[tokio::test]
async fn what_tls_holds_goes_out_when_the_client_reads_on_and_nothing_else_happens() {
    let (mut client, ours) = tls_pair().await;
    let (mut endpoint, theirs) = tokio::io::duplex(PART);
    let mut pump = Pump::new(ours, theirs);
    let mut sent = Vec::new();
    // The client does not read, and the endpoint stops as soon as the socket does not take all that
    // TLS took of it: no further write will push the rest out.
    while !pump.client.get_ref().1.wants_write() {
        let part: Vec<u8> = (0..PART).map(|n| ((sent.len() + n) % 251) as u8).collect();
        endpoint.write_all(&part).await.unwrap();
        sent.extend_from_slice(&part);
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut pump).poll(cx))).await;
        assert!(polled.is_pending(), "it ended although both sides are open");
        assert!(sent.len() < 64 << 20, "the socket is never full");
        // A task that goes on for long is made to wait as if a full socket did.
        task::yield_now().await;
    }
    assert!(pump.downward.left.is_empty(), "something is left to be written");
    let pumping = tokio::spawn(pump);
    let mut got = vec![0; sent.len()];
    let arrived = time::timeout(Duration::from_secs(20), client.read_exact(&mut got)).await;
    arrived.expect("what TLS held was never sent").unwrap();
    assert!(got == sent, "other bytes arrived");
    drop((client, endpoint));
    time::timeout(Duration::from_secs(20), pumping).await.expect("it did not end").unwrap();
}
