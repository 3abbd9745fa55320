//! The containers of a pod: images, starts, runs, restarts.
//!
//! [`runner`] drives the others: [`image`] waits for the image, [`start`] starts the program,
//! [`supervise`] follows the run to its end. [`context`] is what they share; [`target`] is a running
//! container for probes, hooks and exec.

pub(crate) mod context;
mod fs_group;
mod image;
pub(crate) mod network_files;
pub(crate) mod runner;
mod security;
mod start;
mod supervise;
pub(crate) mod target;
