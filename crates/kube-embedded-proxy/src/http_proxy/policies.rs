//! What a rule of a route says beyond its matches: timeouts, retries and sessions. Only data.

use http::HeaderName;
use ring::hmac;
use std::time::Duration;

/// How failed requests are sent again (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Retry {
    /// Statuses after which a request is sent again; after a failed connection it always is.
    pub(crate) codes: Vec<u16>,
    /// Retries, without the first attempt.
    pub(crate) attempts: u32,
    pub(crate) backoff: Option<Duration>,
}

/// The times that a rule allows. Zero, in the API, is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleTimeouts {
    /// Until the head of the response has arrived, over all attempts.
    pub(crate) request: Option<Duration>,
    /// The same for one attempt.
    pub(crate) backend_request: Option<Duration>,
}

/// How sessions of a rule persist.
#[derive(Debug)]
pub(crate) struct SessionPersistence {
    pub(super) name: String,
    pub(super) carrier: Carrier,
    /// The lifetime of a session from its first request on.
    pub(super) timeout: Option<Duration>,
    /// The same in every proxy and after a restart, so that sessions outlive both.
    pub(super) key: hmac::Key,
}

/// Where a token is.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// One that is permanent outlives the client.
    Cookie {
        permanent: bool,
    },
    Header(HeaderName),
}
