//! Sizes and counts of the HTTP data plane.

use std::time::Duration;

/// The interval of keep-alive pings to HTTP/2 clients.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(60);
/// The timeout of a TLS handshake.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head, in HTTP/1.1 and HTTP/2 alike: as many as ingress-nginx accepts. That of a
/// response has to fit into the buffer of its body.
pub(super) const HEAD_BYTES: usize = 32 * 1024;
/// Fields of a head. Peers limit the bytes alone, of which so many fields have no less.
pub(super) const HEAD_FIELDS: usize = 1024;
/// Fields of a head up to which hyper's own limit is enough: with any other one hyper fills two arrays of that length for
/// every head. Also a limit of the trailers of a response, and of its informational ones that are passed on.
pub(super) const USUAL_FIELDS: usize = 100;
/// Bytes buffered of a body, each way of each request.
pub(super) const BODY_BUFFER: usize = 64 * 1024;
/// Concurrent requests on one HTTP/2 connection.
pub(super) const MAX_STREAMS: u32 = 128;
/// HTTP/2 flow control: what a client may send ahead of its endpoint in one request.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
/// HTTP/2 flow control: what a client may send ahead in all requests of a connection.
pub(super) const CONNECTION_WINDOW: u32 = 1024 * 1024;
