//! The gRPC health checking protocol (`grpc.health.v1.Health/Check`), without TLS, as the kubelet uses it.

use super::go_error::go_error;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube_embedded_core::{kubernetes_minor_version, network::Network, task::spawn_named};
use std::{error::Error, net::SocketAddr, time::Duration};
use tokio::time::timeout;

/// The most of a response that is read: the message is two bytes.
const MAX_RESPONSE: usize = 16 << 10;
const UNIMPLEMENTED: u32 = 12;
const SERVING: u64 = 1;

/// Asks for the health of `service`.
///
/// # Errors
/// The kubelet's message where the service is not serving, or does not respond within `limit`.
pub(super) async fn check(
    network: &Network,
    to: SocketAddr,
    service: &str,
    limit: Duration,
) -> Result<(), String> {
    let connected = timeout(limit, network.connect(to)).await;
    let stream = match connected {
        Err(_) => {
            return Err(format!(
                "timeout: failed to connect service {:?} within {}s: context deadline exceeded",
                to.to_string(),
                limit.as_secs()
            ));
        }
        Ok(Err(e)) => {
            let error = go_error(to, &e);
            return Err(format!(
                "error: failed to connect service at {:?}: {error}",
                to.to_string()
            ));
        }
        Ok(Ok(stream)) => stream,
    };
    let call = call(TokioIo::new(stream), to, service);
    let reply = timeout(limit, call)
        .await
        .map_err(|_| format!("timeout: health rpc did not complete within {}s", limit.as_secs()))?;
    match reply.map_err(|e| format!("error: health rpc probe failed: {e}"))? {
        // Five bytes precede the message: not compressed, and its length.
        Reply::Message(message) => match status(message.get(5..).unwrap_or_default()) {
            SERVING => Ok(()),
            status => Err(format!("service unhealthy (responded with {:?})", name(status))),
        },
        Reply::Failed(UNIMPLEMENTED, message) => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        )),
        Reply::Failed(code, message) => Err(format!(
            "error: health rpc probe failed: rpc error: code = {} desc = {message}",
            code_name(code)
        )),
    }
}

/// The outcome of a call that the server has responded to.
enum Reply {
    Message(Bytes),
    /// The status code and message of gRPC.
    Failed(u32, String),
}

async fn call(
    io: TokioIo<tokio::net::TcpStream>,
    to: SocketAddr,
    service: &str,
) -> Result<Reply, Box<dyn Error + Send + Sync>> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    // Ends when it is dropped with this call.
    let _connection = spawn_named("gRPC probe", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection of a gRPC probe failed");
        }
    });
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{to}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", concat!("kube-probe/", kubernetes_minor_version!()))
        .body(Full::new(frame(service)))?;
    let response = sender.send_request(request).await?;
    if response.status() != 200 {
        let status = response.status();
        return Err(format!("unexpected HTTP status code received from server: {status}").into());
    }
    let headers = response.headers().clone();
    let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await?;
    // A failed call may have its status in the head.
    let trailers = body.trailers().cloned().unwrap_or(headers);
    match trailer(&trailers, "grpc-status").parse() {
        Ok(0) => Ok(Reply::Message(body.to_bytes())),
        Ok(code) => Ok(Reply::Failed(code, trailer(&trailers, "grpc-message").to_owned())),
        Err(_) => Err("server closed the stream without sending trailers".into()),
    }
}

fn trailer<'a>(trailers: &'a HeaderMap, name: &str) -> &'a str {
    trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Returns the request: field 1, the name of the service, with the prefix of gRPC.
fn frame(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.extend_from_slice(&message);
    frame.freeze()
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

/// Returns field 1 of the response, a varint; the default is 0. Other fields do not exist.
fn status(message: &[u8]) -> u64 {
    let Some((0x08, rest)) = message.split_first() else { return 0 };
    let mut value = 0;
    for (n, byte) in rest.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn name(status: u64) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        1 => "SERVING".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    }
}

fn code_name(code: u32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES.get(code as usize).map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, Response};
    use http_body_util::StreamBody;
    use hyper::{body::Frame, server::conn::http2 as server, service::service_fn};
    use kube_embedded_core::network::HostSockets;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    /// Responds as a health server does that knows the service `web`.
    async fn respond(
        request: Request<hyper::body::Incoming>,
    ) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = hyper::Error>>, hyper::Error>
    {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let asked = request.into_body().collect().await?.to_bytes();
        let (code, message) = match &asked[5..] {
            b"" => ("0", &b"\0\0\0\0\x02\x08\x01"[..]),
            b"\n\x03web" => ("0", &b"\0\0\0\0\x02\x08\x02"[..]),
            b"\n\x03old" => ("12", &b""[..]),
            _ => ("5", &b""[..]),
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(code));
        trailers.insert("grpc-message", HeaderValue::from_static("why"));
        let frames = [Ok(Frame::data(Bytes::from_static(message))), Ok(Frame::trailers(trailers))];
        Ok(Response::new(StreamBody::new(futures::stream::iter(frames))))
    }

    #[tokio::test]
    async fn service_is_healthy_only_if_it_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = server::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(respond));
                tokio::spawn(connection);
            }
        });
        let network = Network::default();
        network.attach(to.ip(), Arc::new(HostSockets));
        let limit = Duration::from_secs(20);
        for (service, expected) in [
            ("", Ok(())),
            ("web", Err("service unhealthy (responded with \"NOT_SERVING\")")),
            (
                "old",
                Err(
                    "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): why",
                ),
            ),
            ("none", Err("error: health rpc probe failed: rpc error: code = NotFound desc = why")),
        ] {
            let checked = check(&network, to, service, limit).await;
            assert_eq!(checked, expected.map_err(str::to_owned), "{service}");
        }
        serving.abort();
        let _ = serving.await;
        let refused = check(&network, to, "", limit).await.unwrap_err();
        assert!(refused.starts_with("error: failed to connect service at "), "{refused}");
    }

    #[test]
    fn messages_have_lengths_beyond_one_byte() {
        let long = "s".repeat(200);
        let frame = frame(&long);
        assert_eq!(frame[..8], [0, 0, 0, 0, 203, 10, 0xc8, 1]);
        assert_eq!((status(b""), status(b"\x08\x03"), status(b"\x08\xac\x02")), (0, 3, 300));
    }
}
