//! The labs: one file per phase of the article, and what they share: claims and verdicts, the statistics
//! behind them, the load generator, the runner, events and the reports made of them.
//!
//! Labs speak only the Kubernetes API, and HTTP to the addresses that the cluster publishes. What differs
//! between clusters comes from [`lab_environment::Environment`]. The library exists for the binary
//! `labs` and for this crate's tests; [`analysis`] is of use elsewhere too.

pub mod analysis;
mod archive;
pub mod broken;
mod calibration;
pub mod check;
pub mod claim;
pub mod cli;
mod context;
mod diagnosis;
mod document;
mod elf;
pub mod event;
mod expectation;
pub mod fault;
#[cfg(test)]
mod fixture;
mod increments;
pub mod kubernetes;
pub mod lab;
mod lease;
pub mod names;
pub mod namespace;
mod observer;
pub mod phases;
mod process;
mod record;
mod report;
mod reset;
mod room;
pub mod run;
pub mod sampler;
pub mod selection;
mod signature;
mod statistics;
pub mod step;
mod stepping;
mod ui;
mod verdicts;
pub mod watch;
mod wrap;
