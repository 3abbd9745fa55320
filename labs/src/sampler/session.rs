//! A client with a persistent connection, as a browser has it: request after request on one connection
//! until the server closes it.

use super::{
    deadline::within,
    http1::{self, Message},
    response::{Failure, Reply},
    sample::{Observation, Sample},
    target::Target,
};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// A client that keeps its connection.
pub struct Session {
    target: Target,
    bytes: Vec<u8>,
    timeout: Duration,
    connection: Option<Box<dyn Connection>>,
    connections: u64,
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

impl Session {
    pub(super) fn new(target: Target, timeout: Duration) -> Self {
        let bytes = target.request(true);
        Self { target, bytes, timeout, connection: None, connections: 0 }
    }

    /// The number of connections opened so far.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// Sends `n` requests, one after the other.
    pub async fn take(&mut self, n: u64) -> Sample {
        let started = Instant::now();
        let mut observations = Vec::new();
        for _ in 0..n {
            let sent = Instant::now();
            let result = within(self.timeout, self.request()).await.unwrap_or_else(|| {
                self.connection = None;
                Err(Failure::Timeout)
            });
            let at = sent.duration_since(started).as_secs_f64();
            observations.push(Observation { at, latency: sent.elapsed().as_secs_f64(), result });
        }
        Sample { observations, seconds: started.elapsed().as_secs_f64() }
    }

    async fn request(&mut self) -> Result<Reply, Failure> {
        let mut bytes = Vec::with_capacity(1024);
        if let Some(kept) = self.connection.take() {
            match self.round_trip(kept, &mut bytes).await {
                // A server may close an idle connection just as a request arrives. No byte was received
                // then, and clients retry once (RFC 9112, section 9.3.1).
                Err(Failure::Broken(_)) if bytes.is_empty() => {}
                result => return result,
            }
        }
        let stream = self.target.dial().await?;
        self.connections += 1;
        let connection: Box<dyn Connection> = match &self.target.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.over(stream).await?),
        };
        self.round_trip(connection, &mut bytes).await
    }

    async fn round_trip(
        &mut self,
        mut connection: Box<dyn Connection>,
        bytes: &mut Vec<u8>,
    ) -> Result<Reply, Failure> {
        let mut last = true;
        let result = http1::round_trip(&mut connection, &self.bytes, bytes, |message: Message| {
            last = message.last;
            http1::reply(message)
        })
        .await;
        if !last {
            self.connection = Some(connection);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use crate::sampler::Sampler;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Starts a server that closes each connection after three responses, announced in the third
    /// (`polite`) or not.
    async fn server(polite: bool) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                for nth in 1..=3 {
                    let mut request = [0; 1024];
                    let n = stream.read(&mut request).await.unwrap();
                    let request = String::from_utf8_lossy(&request[..n]).into_owned();
                    assert!(request.contains("Connection: keep-alive\r\n"), "{request}");
                    let close = if polite && nth == 3 { "Connection: close\r\n" } else { "" };
                    let response =
                        format!("HTTP/1.1 200 OK\r\n{close}content-length: 4\r\n\r\n1.0\n");
                    stream.write_all(response.as_bytes()).await.unwrap();
                }
            }
        });
        address
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn session_reuses_its_connection_until_the_server_closes_it() {
        for polite in [true, false] {
            let address = server(polite).await;
            let sampler = Sampler::new(address, "foo.bar", "/version", Duration::from_secs(10));
            let mut session = sampler.session();
            let sample = session.take(7).await;
            assert_eq!((sample.total(), sample.hits("1.0")), (7, 7), "{:?}", sample.observations);
            assert_eq!(session.connections(), 3);
        }
    }
}
