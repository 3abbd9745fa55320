//! Proves that the labs can fail: each plays a phase on an embedded cluster that is wrong on purpose,
//! and demands that precisely the claims which speak of that fault fail. One plays them on a cluster
//! that is right.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "what these helpers cannot do is a failure of the test that uses them"
)]

mod archives;
mod docker;
mod fake;
mod faults;
mod meddle;
mod pull_secret;
mod world;
mod worlds;
