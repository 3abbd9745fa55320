//! The copy, polled by hand: only so can a test see what TLS holds back.

use super::*;
use std::{future::poll_fn, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpListener,
    task, time,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, rustls};

/// The size of one write of the endpoint; TLS accepts several of these beyond what its socket does.
const PART: usize = 8 * 1024;

/// An endpoint without a kernel in between: what is written can be read at once.
impl ProxyStream for DuplexStream {
    fn reset(&self) {}

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Returns both ends of a TLS connection, the client's first.
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
async fn bytes_buffered_by_tls_are_flushed_when_the_client_reads_on() {
    let (mut client, ours) = tls_pair().await;
    let (mut endpoint, theirs) = tokio::io::duplex(PART);
    let mut copy = BidirectionalCopy::new(ours, theirs);
    let mut sent = Vec::new();
    // The client does not read, and the endpoint stops as soon as the socket does not accept all that
    // TLS accepted: no further write will flush the rest.
    while !copy.client.get_ref().1.wants_write() {
        let part: Vec<u8> = (0..PART).map(|n| ((sent.len() + n) % 251) as u8).collect();
        endpoint.write_all(&part).await.unwrap();
        sent.extend_from_slice(&part);
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut copy).poll(cx))).await;
        assert!(polled.is_pending(), "the copy ended although both sides are open");
        assert!(sent.len() < 64 << 20, "the socket is never full");
        // Tokio makes a task that runs for long wait as if the socket were full.
        task::yield_now().await;
    }
    assert!(copy.download.left.is_empty(), "some bytes are not written");
    let copying = tokio::spawn(copy);
    let mut got = vec![0; sent.len()];
    let arrived = time::timeout(Duration::from_secs(20), client.read_exact(&mut got)).await;
    arrived.expect("the bytes that TLS held were never sent").unwrap();
    assert!(got == sent, "wrong bytes");
    drop((client, endpoint));
    time::timeout(Duration::from_secs(20), copying).await.expect("the copy did not end").unwrap();
}
