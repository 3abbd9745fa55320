//! Mutation tests of the labs: each runs a phase on an embedded cluster with a fault, and asserts that
//! exactly the claims about that fault fail. One per phase runs without a fault.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails is a failure of its test"
)]

mod archives;
mod claims;
mod docker;
mod fake_app;
mod fault_injection;
mod faults;
mod fixture;
mod mistakes;
#[macro_use]
mod mutant_tests;
mod mutants;
mod page;
mod pull_secret;
mod schema;
mod stalls;
mod terminal;
mod workshop;
