//! A client as a browser is one: request after request on one connection for as long as the server
//! leaves it open.

use super::{
    Answer, Failure, Reply, Sample,
    http1::{self, Message},
    target::Target,
};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// A client that keeps its connection.
pub struct Session {
    target: Target,
    request: Vec<u8>,
    deadline: Duration,
    connection: Option<Box<dyn Connection>>,
    connections: u64,
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

impl Session {
    pub(super) fn new(target: Target, deadline: Duration) -> Self {
        let request = target.request(true);
        Self { target, request, deadline, connection: None, connections: 0 }
    }

    /// Connections made so far.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// Sends `n` requests, one after the other.
    pub async fn take(&mut self, n: u64) -> Sample {
        let started = Instant::now();
        let mut answers = Vec::new();
        for _ in 0..n {
            let begun = Instant::now();
            let result = match tokio::time::timeout(self.deadline, self.ask()).await {
                Ok(result) => result,
                Err(_) => {
                    self.connection = None;
                    Err(Failure::Timeout)
                }
            };
            let at = begun.duration_since(started).as_secs_f64();
            answers.push(Answer { at, latency: begun.elapsed().as_secs_f64(), result });
        }
        Sample { answers, seconds: started.elapsed().as_secs_f64() }
    }

    async fn ask(&mut self) -> Result<Reply, Failure> {
        let mut bytes = Vec::with_capacity(1024);
        if let Some(kept) = self.connection.take() {
            match self.converse(kept, &mut bytes).await {
                // A server may close a connection that idles just as a request is on its way. Nothing
                // was answered then, and every client asks once more (RFC 9112, section 9.3.1).
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
        self.converse(connection, &mut bytes).await
    }

    async fn converse(
        &mut self,
        mut connection: Box<dyn Connection>,
        bytes: &mut Vec<u8>,
    ) -> Result<Reply, Failure> {
        let mut last = true;
        let result = http1::converse(&mut connection, &self.request, bytes, |message: Message| {
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
    use crate::sample::Sampler;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Answers three times a connection and hangs up: with a word before the third answer, or without.
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
                    let answer =
                        format!("HTTP/1.1 200 OK\r\n{close}content-length: 4\r\n\r\n1.0\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        address
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_session_keeps_its_connection_while_the_server_does() {
        for polite in [true, false] {
            let address = server(polite).await;
            let sampler = Sampler::new(address, "foo.bar", "/version", Duration::from_secs(10));
            let mut session = sampler.session();
            let sample = session.take(7).await;
            assert_eq!((sample.total(), sample.hits("1.0")), (7, 7), "{:?}", sample.answers);
            assert_eq!(session.connections(), 3);
        }
    }
}
