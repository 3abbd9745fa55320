//! The HTTP client of probes and hooks: one GET request and the status of its response.

use kube_embedded_core::kubernetes_minor_version;
use kube_embedded_core::network::Network;
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// The most of a response that is read.
const MAX_RESPONSE: usize = 10 << 10;
/// The timeout of the rest of a response after its status line.
const BODY_TIMEOUT: Duration = Duration::from_millis(100);

/// Sends a GET request and returns the status code of the response.
pub(crate) async fn get(
    network: &Network,
    to: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> io::Result<u16> {
    let mut stream = network.connect(to).await?;
    stream.write_all(request(to, path, headers).as_bytes()).await?;
    let mut response = Vec::new();
    let mut buffer = [0; 1024];
    // Read to the end where it comes soon: closing a connection with a response under way resets it,
    // which looks like an error to the program. But only the status counts.
    loop {
        let limit = if response.contains(&b'\n') { BODY_TIMEOUT } else { Duration::MAX };
        let Ok(read) = timeout(limit, stream.read(&mut buffer)).await else { break };
        let read = read?;
        response.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if read == 0 || response.len() > MAX_RESPONSE {
            break;
        }
    }
    status(&response)
}

fn request(to: SocketAddr, path: &str, headers: &[(&str, &str)]) -> String {
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, value) in [
        ("Host", to.to_string().as_str()),
        ("User-Agent", concat!("kube-probe/", kubernetes_minor_version!())),
        ("Accept", "*/*"),
    ] {
        if !given(name) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in headers {
        // A line break in a value would start another header.
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("Connection: close\r\n\r\n");
    request
}

/// Parses the status line. Errors are worded as Go does.
fn status(response: &[u8]) -> io::Result<u16> {
    let line = response.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let code =
        line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.trim().parse().ok());
    code.ok_or_else(|| {
        io::Error::other(if line.is_empty() {
            "EOF".to_owned()
        } else {
            format!("malformed HTTP response {line:?}")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube_embedded_core::network::HostSockets;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn get_returns_the_status_or_gos_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for response in
                ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 503 Busy\r\n\r\n", "nonsense\r\n", ""]
            {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).await.unwrap();
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                assert!(
                    text.starts_with("GET /health HTTP/1.1\r\nUser-Agent:")
                        && text.contains("\r\nHost: x\r\n"),
                    "{text}"
                );
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        });
        let network = Network::default();
        network.attach(to.ip(), Arc::new(HostSockets));
        let get = async || {
            get(&network, to, "/health", &[("Host", "x")]).await.map_err(|e| e.to_string())
        };
        assert_eq!(get().await, Ok(204));
        assert_eq!(get().await, Ok(503));
        assert_eq!(get().await.unwrap_err(), "malformed HTTP response \"nonsense\\r\"");
        assert_eq!(get().await.unwrap_err(), "EOF");
    }
}
