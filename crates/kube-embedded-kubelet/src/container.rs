//! The containers of a pod: images, starts, runs, restarts.
//!
//! [`runner`] drives the others: [`image`] waits for the image, [`start`] starts the program,
//! [`supervise`] follows the run to its end, and [`termination_message`] reads what it left; [`mounts`]
//! are its volumes, and [`memory`] enforces its limit. [`context`] is what they share; [`target`] is a running
//! container for probes, hooks and exec.

pub(crate) mod context;
mod image;
mod memory;
mod mounts;
pub(crate) mod network_files;
pub(crate) mod role;
pub(crate) mod runner;
mod security;
mod start;
mod supervise;
pub(crate) mod target;
mod termination_message;
