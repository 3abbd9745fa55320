//! Parts that need an API: they run against the real API server, in process.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking; helpers are no exception"
)]

mod api;
mod informer;
mod lease;
