//! Running other programs: command lines as data, a runner that logs and times out, long-running
//! children, and the signals that end a run.

pub(crate) mod command_line;
pub(crate) mod daemon;
pub(crate) mod inherited;
pub(crate) mod install;
mod pre_exec;
pub(crate) mod process;
pub(crate) mod runner;
pub(crate) mod watchdog;

pub(crate) use pre_exec::enter_pod_namespaces;
