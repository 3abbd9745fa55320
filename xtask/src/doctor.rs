//! Checks of this machine: what a cluster provider needs and whether it is there, with a fix for each
//! problem. A provider lists its checks; `cargo xtask doctor` runs them all, and a preflight runs them
//! before anything is built or created, so that a problem is reported in the first second.

pub(crate) mod check;
pub(crate) mod engine;
pub(crate) mod machine;
pub(crate) mod report;
pub(crate) mod tools;
