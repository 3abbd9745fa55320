//! The HTTP client of probes and hooks: GET requests, and redirects on the same host.

use super::url::{Redirect, Url};
use crate::tls;
use kube_embedded_core::kubernetes_minor_version;
use kube_embedded_core::network::Network;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// The most of a response that is read.
const MAX_RESPONSE: usize = 10 << 10;
/// The timeout of the rest of a response after its head.
const BODY_TIMEOUT: Duration = Duration::from_millis(100);
/// The most requests of one probe, as in Go's client.
const MAX_REQUESTS: usize = 10;

/// A response, as much of it as came soon.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    location: Option<String>,
    pub(crate) body: String,
}

/// Sends a GET request, and follows redirects on the same host. A redirect to another host is returned.
pub(crate) async fn get(
    network: &Network,
    url: &Url,
    headers: &[(&str, &str)],
) -> io::Result<Response> {
    let (mut url, mut headers) = (url.clone(), headers.to_vec());
    for _ in 0..MAX_REQUESTS {
        let response = get_once(network, &url, &headers).await?;
        let location = response.location.as_deref().unwrap_or_default();
        if !matches!(response.status, 301 | 302 | 303 | 307 | 308) || location.is_empty() {
            return Ok(response);
        }
        match url.redirect(location).map_err(io::Error::other)? {
            Redirect::Elsewhere => return Ok(response),
            Redirect::Local { url: next, relative } => {
                url = next;
                if !relative {
                    headers.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
                }
            }
        }
    }
    Err(io::Error::other(format!("stopped after {MAX_REQUESTS} redirects")))
}

async fn get_once(network: &Network, url: &Url, headers: &[(&str, &str)]) -> io::Result<Response> {
    let stream = network.connect(url.to).await?;
    let request = request(url, headers);
    let response = if url.https {
        exchange(tls::connect(stream, url.to.ip()).await?, &request).await?
    } else {
        exchange(stream, &request).await?
    };
    parse(&response)
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut response = Vec::new();
    let mut buffer = [0; 1024];
    // Read to the end where it comes soon: closing a connection with a response under way resets it,
    // which looks like an error to the program. But only the head counts.
    loop {
        let limit = if split(&response).is_some() { BODY_TIMEOUT } else { Duration::MAX };
        let Ok(read) = timeout(limit, stream.read(&mut buffer)).await else { break };
        let read = match read {
            Ok(read) => read,
            // A TLS connection that is closed without notice.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof && !response.is_empty() => 0,
            Err(error) => return Err(error),
        };
        response.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if read == 0 || response.len() > MAX_RESPONSE {
            break;
        }
    }
    Ok(response)
}

fn request(url: &Url, headers: &[(&str, &str)]) -> String {
    let mut request = format!("GET {} HTTP/1.1\r\n", url.path);
    let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, value) in [
        ("Host", url.to.to_string().as_str()),
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

/// Splits a response into its head and its body; `None` if the head is not complete.
fn split(response: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = response.windows(4).position(|w| w == b"\r\n\r\n").map(|at| (at, 4));
    let end = end.or_else(|| response.windows(2).position(|w| w == b"\n\n").map(|at| (at, 2)));
    let (at, length) = end?;
    Some((response.get(..at)?, response.get(at + length..)?))
}

/// Parses a response. Errors are worded as Go does.
fn parse(response: &[u8]) -> io::Result<Response> {
    let (head, body) = split(response).unwrap_or((response, b""));
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split('\n');
    let line = lines.next().unwrap_or_default();
    let code =
        line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.trim().parse().ok());
    let Some(status) = code else {
        return Err(io::Error::other(if line.is_empty() {
            "EOF".to_owned()
        } else {
            format!("malformed HTTP response {line:?}")
        }));
    };
    let header = |(name, value): (&str, &str)| {
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    };
    let location = lines.filter_map(|line| line.split_once(':')).find_map(header);
    Ok(Response { status, location, body: String::from_utf8_lossy(body).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube_embedded_core::network::HostSockets;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    /// Serves one response per connection, and returns the heads of the requests.
    async fn serve(listener: TcpListener, responses: Vec<String>) -> Vec<String> {
        let mut requests = Vec::new();
        for response in responses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).await.unwrap();
            requests.push(String::from_utf8_lossy(&buffer[..read]).into_owned());
            stream.write_all(response.as_bytes()).await.unwrap();
        }
        requests
    }

    #[tokio::test]
    async fn get_returns_the_status_or_gos_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::new(false, listener.local_addr().unwrap(), Some("/health"));
        let responses =
            ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 503 Busy\r\n\r\n", "nonsense\r\n", ""];
        let served = tokio::spawn(serve(listener, responses.map(str::to_owned).to_vec()));
        let network = Network::default();
        network.attach(url.to.ip(), Arc::new(HostSockets));
        let get = async || {
            let response = get(&network, &url, &[("Host", "x")]).await;
            response.map(|r| r.status).map_err(|e| e.to_string())
        };
        assert_eq!(get().await, Ok(204));
        assert_eq!(get().await, Ok(503));
        assert_eq!(get().await.unwrap_err(), "malformed HTTP response \"nonsense\\r\"");
        assert_eq!(get().await.unwrap_err(), "EOF");
        for request in served.await.unwrap() {
            assert!(
                request.starts_with("GET /health HTTP/1.1\r\nUser-Agent:")
                    && request.contains("\r\nHost: x\r\n"),
                "{request}"
            );
        }
    }

    #[tokio::test]
    async fn redirect_is_followed_on_the_same_host_only() {
        let to = |location: &str| {
            format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 2\r\n\r\nhi")
        };
        let failed = || "HTTP/1.1 500 No\r\n\r\n".to_owned();
        for (responses, expected, requests) in [
            (vec![to("/login"), failed()], Ok(500), vec!["/", "/login"]),
            (vec![to("http://SELF/b"), to("c"), failed()], Ok(500), vec!["/", "/b", "/c"]),
            (vec![to("http://example.com/")], Ok(302), vec!["/"]),
            (vec!["HTTP/1.1 302 Found\r\n\r\n".to_owned()], Ok(302), vec!["/"]),
            (vec![to("/"); 10], Err("stopped after 10 redirects".to_owned()), vec!["/"; 10]),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = Url::new(false, listener.local_addr().unwrap(), None);
            let own = url.to.to_string();
            let responses = responses.iter().map(|r| r.replace("SELF", &own)).collect();
            let served = tokio::spawn(serve(listener, responses));
            let network = Network::default();
            network.attach(url.to.ip(), Arc::new(HostSockets));
            let response = get(&network, &url, &[("Host", "x")]).await;
            let status = response.map(|r| r.status).map_err(|e| e.to_string());
            assert_eq!(status, expected);
            let served = served.await.unwrap();
            let paths: Vec<_> = served.iter().map(|r| r.split(' ').nth(1).unwrap()).collect();
            assert_eq!(paths, requests);
            // The header of the probe goes along with a relative redirect, not with an absolute one.
            if requests.len() == 3 {
                assert!(served[0].contains("Host: x\r\n") && served[1].contains(&own));
            }
        }
    }
}
