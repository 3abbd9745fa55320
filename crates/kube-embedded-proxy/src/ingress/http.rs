//! The HTTP data plane of the Ingress controller: requests in over HTTP/1.1 or HTTP/2, with or
//! without TLS; out to a ready endpoint over HTTP/1.1.
//!
//! An endpoint is chosen for each request. Bodies are streamed, never buffered as a whole: hyper
//! holds one chunk each way, and backpressure passes from end to end. hyper parses messages and
//! writes them again, so that an endpoint never sees framing that a client made up; what hyper is
//! lenient about and a proxy must not be is refused in [`head`].

mod client;
mod client_io;
mod forward;
pub(crate) mod fuzzing;
mod head;
mod hints;
mod limits;
mod listener;
mod outbox;
mod pool;
mod refusal;
mod request_body;
mod response;
mod signals;
mod target_encoder;
mod tunnel;

pub(super) use listener::HttpListener;

#[cfg(test)]
mod tests;
