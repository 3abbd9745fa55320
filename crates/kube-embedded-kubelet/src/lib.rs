//! The kubelets of `kube-embedded`: nodes, and the pods on them, as sandboxed processes.
//!
//! This crate stands for the kubelet of each node and for its container runtime. One task watches the
//! pods of all nodes and gives each bound one a worker. Each worker owns its pod's processes;
//! dropping the worker kills them.
//!
//! Files, from the top down: `kubelet` starts and stops everything, `pod_workers` runs a worker per
//! pod, `pod` and `container` are the life of a pod, `probe`, `volumes`, `env`, `logs` and `status`
//! are what it needs, `runtime` starts processes, and `server` serves logs, exec, attach and
//! port-forward. `image_store` unpacks image archives.
//!
//! This crate is internal to the workspace: use `kube-embedded`.

#![warn(clippy::undocumented_unsafe_blocks)]

mod cgroups;
mod container;
mod env;
mod error;
mod exec_attach;
mod host_path;
mod host_port;
pub mod image_store;
mod ip_pool;
mod kubelet;
mod logs;
mod node;
mod node_lease;
mod node_runtime;
mod output;
mod pod;
mod pod_workers;
mod probe;
mod resources;
mod rlimit;
mod root_path;
mod runtime;
mod safe_dir;
mod server;
mod status;
mod sysctls;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod volumes;

pub use error::KubeletError;
pub use kubelet::{Config, Kubelet};
pub use resources::ResourceLimits;
pub use runtime::ContainerRuntime;

use kube_embedded_core::network::Sandbox;

/// Returns the strongest sandbox that works on this machine, found by trying, and the reason why it
/// is not a stronger one. It starts processes, so it blocks; where everything works, only the first call does.
pub fn detect() -> (Sandbox, String) {
    runtime::detect()
}

/// Returns memory that was freed to the system: glibc keeps it, in an arena for each of several threads. Takes about a
/// millisecond, in which other threads may wait to allocate.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a plain value, and may be called at any time on any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns how the resource limits of containers are enforced on this machine.
pub fn resource_limits() -> ResourceLimits {
    resources::enforcement()
}
