//! Endpoints and clients on loopback.

use super::{eventually, within};
use crate::route::{Backends, Routing};
use kube_embedded_core::network::{HostSockets, Network};
use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::ring,
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

/// Returns a network in which the host's loopback address is a pod's.
pub(crate) fn loopback_network() -> Arc<Network> {
    let network = Network::default();
    network.attach(Ipv4Addr::LOCALHOST.into(), Arc::new(HostSockets));
    Arc::new(network)
}

pub(crate) fn routing(endpoints: &[SocketAddr]) -> Routing {
    Routing { backends: Backends::uniform(endpoints.iter().copied()), ..Routing::default() }
}

/// Starts an endpoint that does `work` with each connection.
pub(crate) async fn endpoint<F>(work: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
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

/// Waits until connections are refused.
pub(crate) async fn is_refused(at: SocketAddr) {
    eventually(&format!("{at} to refuse"), async || {
        let error = TcpStream::connect(at).await.err()?;
        (error.kind() == io::ErrorKind::ConnectionRefused).then_some(())
    })
    .await;
}

/// Bytes with a period that is no power of two, so that a lost or repeated chunk shows.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|n| (n % 251) as u8).collect()
}

pub(crate) async fn send_pattern(to: &mut (impl AsyncWrite + Unpin), len: usize) {
    for from in (0..len).step_by(100_003) {
        to.write_all(&pattern(from, 100_003.min(len - from))).await.unwrap();
    }
}

/// Reads `len` bytes of the pattern; a `slow` reader yields after each chunk.
pub(crate) async fn check_pattern(from: &mut (impl AsyncRead + Unpin), len: usize, slow: bool) {
    let mut chunk = vec![0; 37_000];
    let mut got = 0;
    while got < len {
        let most = chunk.len().min(len - got);
        let n = within(from.read(&mut chunk[..most])).await.unwrap();
        assert!(n > 0, "the stream ended after {got} bytes");
        assert!(chunk[..n] == pattern(got, n), "wrong bytes after {got}");
        got += n;
        if slow {
            tokio::task::yield_now().await;
        }
    }
}

/// Connects over TLS for a name, accepting any certificate.
pub(crate) async fn connect_tls(at: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
    handshake(TcpStream::connect(at).await?, name, &[]).await
}

/// Does a TLS handshake for a name, offering these protocols and accepting any certificate.
pub(crate) async fn handshake(
    stream: TcpStream,
    name: &str,
    protocols: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().into()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Tests compare the certificate themselves.
#[derive(Debug)]
struct AcceptAnyCertificate;

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
