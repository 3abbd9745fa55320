//! The switch of protocols: to a WebSocket with one of Kubernetes' sub-protocols, or to SPDY, within a WebSocket
//! (kubectl's port-forward) or bare (older clients).

use crate::{
    http::{
        body::Body,
        status::{ApiError, ApiResult},
    },
    subresources::stream::lifetime::stopped,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{
    Sink, SinkExt, StreamExt,
    future::{BoxFuture, ready},
    sink,
    stream::{self, BoxStream},
};
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{
        CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
    },
    request::Parts,
};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use kube_embedded_core::task::spawn_named;
use std::{convert::Infallible, io, pin::Pin};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// The maximum size of a client's message; kubectl's are 32 KiB.
const MAX_MESSAGE: usize = 1 << 20;
const BUFFER: usize = 16 << 10;
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const BARE: &str = "SPDY/3.1";
/// Names the protocol on top of bare SPDY.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// The protocol after the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Bytes one way, without channels.
    Bytes(Encoding),
    /// Messages with the number of a channel and its data.
    Channels(Version),
    /// SPDY streams, the purpose of which is in their headers; the version is that of the protocol on top.
    Spdy(Version),
}

/// The form of bytes in the messages of a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Binary,
    /// Text, for clients that have no binary messages.
    Base64,
}

/// The subresource that a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `exec` and `attach`.
    Process,
    PortForward,
    /// `log`.
    Read,
}

/// The version of Kubernetes' remote command protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Errors are plain text.
    First,
    /// Errors are a `Status`.
    Fourth,
    /// Clients can half-close a channel, too.
    Fifth,
}

/// An outgoing message.
pub(crate) enum Out {
    Message(Bytes),
    /// Detects a client that has disconnected.
    Ping,
    Close,
}

/// The outgoing half of a connection.
pub(crate) type OutSink = Pin<Box<dyn Sink<Out, Error = io::Error> + Send>>;

/// A connection as messages in and out. Over bare SPDY, messages are chunks of a byte stream.
pub(crate) struct Wire {
    pub(crate) source: BoxStream<'static, Bytes>,
    pub(crate) sink: OutSink,
    pub(crate) protocol: Protocol,
}

/// A request whose protocol can be switched.
pub(crate) struct Upgrade {
    pub(crate) protocol: Protocol,
    response_headers: HeaderMap,
    websocket: bool,
    on: OnUpgrade,
}

impl Upgrade {
    /// Chooses the first protocol of the client that is supported here.
    pub(crate) fn find(parts: &Parts, purpose: Purpose) -> ApiResult<Self> {
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let on = parts.extensions.get::<OnUpgrade>().cloned();
        let requested = header("upgrade").unwrap_or_default().to_ascii_lowercase();
        let Some(on) = on.filter(|_| !requested.is_empty()) else {
            return Err(ApiError::bad_request("Upgrade request required"));
        };
        let mut response_headers = HeaderMap::new();
        response_headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let mut add = |name: http::HeaderName, text: &str| match HeaderValue::from_str(text) {
            Ok(value) => {
                response_headers.insert(name, value);
                Ok(())
            }
            Err(_) => Err(ApiError::bad_request(format!("the header {name} is malformed"))),
        };
        match &*requested {
            "websocket" => {
                let Some(key) = parts.headers.get(SEC_WEBSOCKET_KEY) else {
                    return Err(ApiError::bad_request("the header Sec-WebSocket-Key is missing"));
                };
                add(UPGRADE, "websocket")?;
                add(SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key.as_bytes()))?;
                let offered = list(&parts.headers, "sec-websocket-protocol");
                let protocol = match (offered.is_empty(), purpose) {
                    (true, Purpose::Read) => Protocol::Bytes(Encoding::Binary),
                    (true, _) => Protocol::Channels(Version::First),
                    (false, _) => {
                        let (name, protocol) = choose(&offered, |name| websocket(name, purpose))?;
                        add(SEC_WEBSOCKET_PROTOCOL, name)?;
                        protocol
                    }
                };
                Ok(Self { protocol, response_headers, websocket: true, on })
            }
            "spdy/3.1" => {
                let offered = list(&parts.headers, STREAM_PROTOCOL);
                let (name, version) = choose(&offered, |name| bare(name, purpose))?;
                add(UPGRADE, BARE)?;
                add(http::HeaderName::from_static(STREAM_PROTOCOL), name)?;
                Ok(Self {
                    protocol: Protocol::Spdy(version),
                    response_headers,
                    websocket: false,
                    on,
                })
            }
            other => Err(ApiError::bad_request(format!(
                "unable to upgrade: unknown protocol {other:?}; expected websocket or SPDY/3.1"
            ))),
        }
    }

    /// Returns the response that switches protocols; `serve` then gets the connection, until the server stops.
    pub(crate) fn accept(
        self,
        stopping: watch::Receiver<bool>,
        serve: impl FnOnce(Wire) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Response<Body> {
        let Self { protocol, response_headers, websocket, on } = self;
        spawn_named("stream", async move {
            let served = async {
                // The client has disconnected.
                let Ok(upgraded) = on.await else { return };
                let wire = if websocket {
                    Wire::websocket(upgraded, protocol).await
                } else {
                    Wire::bare(upgraded, protocol)
                };
                serve(wire).await;
            };
            tokio::select! {
                () = served => {}
                () = stopped(stopping) => {}
            }
        })
        .detach();
        let mut response = Response::new(Body::from(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = response_headers;
        response
    }
}

/// Returns the values of a header that may be repeated and have several each.
fn list<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
}

fn choose<'a, T>(
    offered: &[&'a str],
    known: impl Fn(&str) -> Option<T>,
) -> ApiResult<(&'a str, T)> {
    let found = offered.iter().find_map(|name| Some((*name, known(name)?)));
    found.ok_or_else(|| {
        ApiError::bad_request(format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}"
        ))
    })
}

fn websocket(name: &str, purpose: Purpose) -> Option<Protocol> {
    Some(match (name, purpose) {
        ("binary.k8s.io", Purpose::Read) => Protocol::Bytes(Encoding::Binary),
        ("base64.binary.k8s.io", Purpose::Read) => Protocol::Bytes(Encoding::Base64),
        (_, Purpose::Read) => return None,
        (TUNNEL, Purpose::PortForward) => Protocol::Spdy(Version::First),
        ("v5.channel.k8s.io", _) => Protocol::Channels(Version::Fifth),
        ("v4.channel.k8s.io", _) => Protocol::Channels(Version::Fourth),
        ("channel.k8s.io", _) => Protocol::Channels(Version::First),
        _ => return None,
    })
}

fn bare(name: &str, purpose: Purpose) -> Option<Version> {
    Some(match (name, purpose) {
        ("portforward.k8s.io", Purpose::PortForward) => Version::First,
        ("v5.channel.k8s.io", Purpose::Process) => Version::Fifth,
        ("v4.channel.k8s.io", Purpose::Process) => Version::Fourth,
        _ => return None,
    })
}

impl Wire {
    async fn websocket(upgraded: Upgraded, protocol: Protocol) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let (sink, source) = socket.split();
        let source = source
            .take_while(|message| ready(matches!(message, Ok(m) if !m.is_close())))
            .filter_map(|message| {
                ready(match message {
                    Ok(Message::Binary(bytes)) => Some(bytes),
                    // Some clients send text frames.
                    Ok(Message::Text(text)) => Some(text.into()),
                    _ => None,
                })
            });
        let sink = sink.sink_map_err(io::Error::other).with(move |out| {
            ready(Ok::<_, io::Error>(match out {
                Out::Message(bytes) if protocol == Protocol::Bytes(Encoding::Base64) => {
                    Message::Text(BASE64_STANDARD.encode(bytes).into())
                }
                Out::Message(bytes) => Message::Binary(bytes),
                Out::Ping => Message::Ping(Bytes::new()),
                Out::Close => {
                    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                    Message::Close(Some(normal))
                }
            }))
        });
        Self { source: source.boxed(), sink: Box::pin(sink), protocol }
    }

    fn bare(upgraded: Upgraded, protocol: Protocol) -> Self {
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        let source = stream::unfold(read, |mut read| async move {
            let mut chunk = bytes::BytesMut::with_capacity(BUFFER);
            match read.read_buf(&mut chunk).await {
                Ok(1..) => Some((chunk.freeze(), read)),
                _ => None,
            }
        });
        let sink = sink::unfold(write, |mut write, out| async move {
            match out {
                Out::Message(bytes) => {
                    write.write_all(&bytes).await?;
                    write.flush().await?;
                }
                Out::Ping => {}
                Out::Close => write.shutdown().await?,
            }
            Ok::<_, io::Error>(write)
        });
        Self { source: source.boxed(), sink: Box::pin(sink), protocol }
    }
}

/// Serves a request of a client within the process over a connection in memory, since only hyper makes the upgrade
/// that such a client expects.
pub(crate) async fn in_process<H, F>(
    handle: H,
    request: Request<kube::client::Body>,
) -> Response<Body>
where
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let service = hyper::service::service_fn(move |request| {
        let response = handle(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let server = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(ours), service)
        .with_upgrades();
    let serve = async move {
        let _ = server.await;
    };
    spawn_named("stream server", serve).detach();
    let response = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(theirs)).await?;
        let connect = async move {
            let _ = connection.with_upgrades().await;
        };
        spawn_named("stream client", connect).detach();
        let (mut parts, body) = sender.send_request(request).await?.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Response::from_parts(parts, Body::from(Bytes::new())));
        }
        parts.extensions.clear();
        let body = body.collect().await?.to_bytes();
        Ok::<_, hyper::Error>(Response::from_parts(parts, Body::from(body)))
    };
    response.await.unwrap_or_else(|error| {
        ApiError::internal(format!("the connection broke off: {error}")).into_response()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(headers: &[(&str, &str)], purpose: Purpose) -> Result<(Protocol, String), String> {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        let on = hyper::upgrade::on(&mut request);
        request.extensions_mut().insert(on);
        let upgrade = Upgrade::find(&request.into_parts().0, purpose)
            .map_err(|error| error.to_value()["message"].as_str().unwrap_or_default().to_owned())?;
        let name = upgrade
            .response_headers
            .get(SEC_WEBSOCKET_PROTOCOL)
            .or(upgrade.response_headers.get(STREAM_PROTOCOL));
        Ok((upgrade.protocol, name.map_or(String::new(), |n| n.to_str().unwrap().to_owned())))
    }

    #[test]
    fn first_common_protocol_is_chosen() {
        let socket = |protocols| {
            [
                ("upgrade", "WebSocket"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-protocol", protocols),
            ]
        };
        let both = found(
            &socket("v9.channel.k8s.io, v5.channel.k8s.io,v4.channel.k8s.io"),
            Purpose::Process,
        );
        assert_eq!(both.unwrap(), (Protocol::Channels(Version::Fifth), "v5.channel.k8s.io".into()));
        let tunnel = found(&socket(TUNNEL), Purpose::PortForward).unwrap();
        assert_eq!(tunnel, (Protocol::Spdy(Version::First), TUNNEL.into()));
        assert_eq!(
            found(&socket(TUNNEL), Purpose::Process).unwrap_err(),
            "unable to upgrade: unable to negotiate protocol: client supports \
             [\"SPDY/3.1+portforward.k8s.io\"]"
        );
        let read = |protocols| found(&socket(protocols), Purpose::Read);
        let binary = Protocol::Bytes(Encoding::Binary);
        assert_eq!(read("binary.k8s.io").unwrap(), (binary, "binary.k8s.io".into()));
        assert_eq!(read("base64.binary.k8s.io").unwrap().0, Protocol::Bytes(Encoding::Base64));
        assert!(read("v4.channel.k8s.io").is_err());
        assert_eq!(found(&socket("")[..2], Purpose::Read).unwrap().0, binary);
        let bare = [("upgrade", BARE), (STREAM_PROTOCOL, "portforward.k8s.io")];
        assert_eq!(found(&bare, Purpose::PortForward).unwrap().0, Protocol::Spdy(Version::First));
        assert!(found(&bare, Purpose::Process).is_err());
        assert_eq!(found(&[], Purpose::Process).unwrap_err(), "Upgrade request required");
        assert!(
            found(&[("upgrade", "h2c")], Purpose::Process)
                .unwrap_err()
                .contains("unknown protocol")
        );
    }
}
