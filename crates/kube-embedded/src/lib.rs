//! A Kubernetes cluster in one process: API server, controllers, scheduler, kubelet and service proxy.
//!
//! For tests of anything that speaks to Kubernetes. A cluster starts in milliseconds, needs neither Docker
//! nor root nor a network, and ends when its handle is dropped. There is no global state, so every test
//! has a cluster of its own.
//!
//! ```
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use kube::{Api, api::PostParams, runtime::wait::await_condition};
//! use kube_embedded::{Cluster, Config};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Without nodes no pods run, which is all that most tests of a controller need.
//! let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
//! // A client in the process, without a socket. `cluster.kubeconfig()` is for other processes.
//! let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
//!
//! let map: ConfigMap = serde_json::from_value(serde_json::json!({
//!     "metadata": { "name": "settings" },
//!     "data": { "color": "red" },
//! }))?;
//! maps.create(&PostParams::default(), &map).await?;
//! let red = |map: Option<&ConfigMap>| {
//!     map.and_then(|map| map.data.as_ref()).is_some_and(|data| data["color"] == "red")
//! };
//! await_condition(maps, "settings", red).await?;
//! cluster.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! [`Cluster::apply`] applies manifests, [`Cluster::wait_for_rollout`] waits for a Deployment,
//! [`Cluster::connect`] reaches pods, and [`Cluster::dump_on_panic`] prints what a failed test leaves.
//!
//! # Features
//!
//! `cli`, on by default, is the program `kube-embedded`; a test wants none of it. `kubelet` runs pods, `proxy`
//! carries traffic; a test of a controller needs neither, and compiles less:
//!
//! ```toml
//! [dev-dependencies]
//! kube-embedded = { version = "0.1", default-features = false }
//! k8s-openapi = { version = "0.29", features = ["v1_36"] }
//! ```
//!
//! The version of Kubernetes whose types and fields the cluster knows is the one that your crate enables in
//! `k8s-openapi`: 1.33 to 1.36. What the cluster does, and what `GET /version` says, is that of 1.36.
//!
//! A plain `#[tokio::test]` is enough; with pods, `flavor = "multi_thread"` is faster. `examples/` shows a
//! controller under test, two clusters side by side, and kubectl alongside a test.
//!
//! # What is real
//!
//! - The API: all verbs, four kinds of patches, server-side apply with managed fields, watches,
//!   pagination, tables, discovery, OpenAPI, and every error as Kubernetes words it.
//! - CustomResourceDefinitions: structural schemas with validation, defaulting and pruning, `status` and
//!   `scale`, several versions. They are served as soon as they are created.
//! - Controllers: Deployments, ReplicaSets, Jobs, EndpointSlices, namespaces, garbage collection; a
//!   scheduler.
//! - Pods, where there are nodes and images ([`Config::images`]): sandboxed processes with probes, logs
//!   and `exec`. Services, node ports, load balancers and Ingresses carry traffic, and pods
//!   find them by name.
//! - RBAC with the default roles of Kubernetes. [`Cluster::client`] and [`Cluster::kubeconfig`] are the
//!   administrator's; a service account may do what its bindings say.
//!
//! `kube-embedded explain-limits` lists what is accepted but ignored, and what is refused.
//!
//! # Logs
//!
//! Components log with [`tracing`]: requests (`kube_embedded_apiserver`), reconciles
//! (`kube_embedded_controllers`), pods (`kube_embedded_kubelet`), traffic (`kube_embedded_proxy`). Install
//! a subscriber in your test to see why a cluster does what it does.
//!
//! # How it works
//!
//! The components speak only the Kubernetes API to each other, through an in-process [`kube::Client`];
//! `kubectl` and every other client use the same service over TLS. Addresses come from a free block
//! `127.A.0.0/16` of the loopback range, so clusters do not collide. Linux only.

#![forbid(unsafe_code)]

mod apply;
mod bootstrap;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod cluster;
mod config;
mod dump;
mod rollout;
mod state_dir;

pub use apply::ApplyError;
pub use cluster::Cluster;
pub use config::{Config, StartError};
pub use kube_embedded_apiserver::credentials::CredentialsError;
pub use kube_embedded_core::network::Sandbox;
pub use rollout::RolloutError;
