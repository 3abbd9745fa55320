//! The container runtime: processes in a pod's sandbox. It stands for containerd and runc.
//!
//! There are two sandboxes behind one interface: namespaces of the pod's own, created as an ordinary
//! user and without any helper program, or plain child processes of the host.
//!
//! Every process is a child of one dedicated thread ([`spawner`]), because the kernel delivers
//! `PR_SET_PDEATHSIG` when the *thread* that forked exits, not the process: that thread has to live
//! as long as its children. No child starts as a copy of the cluster process, whose page tables grow
//! with the cluster and whose memory is full of secrets: programs of the host are started in its
//! memory, as `vfork` does ([`clone`]), and everything that enters namespaces is forked from a small
//! [`zygote`], which is this program executed again.
//!
//! Files, from the bottom up: [`syscalls`], [`privileges`], [`mounts`], [`in_root`], [`clone`], [`fd`],
//! [`scm_rights`] and [`stdio`] wrap the kernel; [`capabilities`], [`ids`], [`seccomp`] and [`launch`]
//! hold the types that callers fill in; [`wire`], [`exec_plan`], [`socket_request`] and [`netlink`] are
//! messages; [`zygote_process`], [`pause_process`], [`router_process`] with [`socket_server`], and
//! [`child`] with [`container_root`] run in forked processes; [`own_program`], [`zygote`], [`reports`], [`pause`],
//! [`router`], [`starting`], [`process`] and [`pod_sockets`] with [`socket_client`] are the cluster's side;
//! [`spawner`] ties them together; [`detect`] starts it all for a cluster, and finds out what works.

mod capabilities;
mod child;
mod clone;
mod container_root;
mod detect;
mod exec_plan;
mod fd;
mod ids;
mod in_root;
mod launch;
mod mounts;
mod netlink;
mod own_program;
mod pause;
mod pause_process;
mod pod_sockets;
mod privileges;
mod process;
mod reports;
mod router;
mod router_process;
mod scm_rights;
mod seccomp;
mod socket_client;
mod socket_request;
mod socket_server;
mod spawner;
mod starting;
mod stdio;
mod syscalls;
#[cfg(test)]
mod tests;
mod wire;
mod zygote;
mod zygote_process;

pub(crate) use capabilities::Capabilities;
pub use detect::ContainerRuntime;
pub(crate) use detect::detect;
pub(crate) use ids::IdMapping;
pub(crate) use launch::{Container, Launch, LaunchError, LaunchTarget, Mount, RootFs, Security};
pub(crate) use pause::{Pause, PauseConfig};
pub(crate) use pod_sockets::NamespaceSockets;
pub(crate) use process::{Exit, Process};
pub(crate) use router::Router;
pub(crate) use seccomp::{Filters, localhost, runtime_default};
pub(crate) use spawner::Spawner;
pub(crate) use stdio::{Stdio, Streams, Terminal};
