//! The labs: one file a phase of the article, and what they share: claims and their verdicts, the
//! statistics behind them, traffic samples, events and the reports made of events.
//!
//! A lab speaks only the Kubernetes API, and HTTP to what the cluster publishes. What differs
//! between clusters comes from [`lab_environment::Environment`].

pub mod archive;
pub mod claim;
pub mod command;
pub mod context;
pub mod elf;
pub mod event;
pub mod failure;
pub mod kubernetes;
pub mod lab;
pub mod lock;
pub mod namespace;
pub mod phases;
pub mod process;
pub mod report;
pub mod run;
pub mod sample;
pub mod statistics;
pub mod traffic;
