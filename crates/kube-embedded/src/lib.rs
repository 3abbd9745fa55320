//! A Kubernetes in one process: API server, controllers, scheduler, kubelet and edge.
//!
//! For tests of whatever speaks to Kubernetes: a cluster is there in milliseconds, needs neither
//! Docker nor root nor a network, and is gone when its handle is dropped. There is no global state, so
//! every test has a cluster of its own.
//!
//! ```
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use kube::{Api, api::PostParams, runtime::wait::await_condition};
//! use kube_embedded::{Cluster, Config};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Without nodes no pods run, which is all that most controllers need.
//! let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
//! // In the process, without a socket. `cluster.kubeconfig()` is for everybody else.
//! let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
//!
//! let map: ConfigMap = serde_json::from_value(serde_json::json!({
//!     "metadata": { "name": "settings" },
//!     "data": { "colour": "red" },
//! }))?;
//! maps.create(&PostParams::default(), &map).await?;
//! let red = |map: Option<&ConfigMap>| {
//!     map.and_then(|map| map.data.as_ref()).is_some_and(|data| data["colour"] == "red")
//! };
//! await_condition(maps, "settings", red).await?;
//! cluster.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! A plain `#[tokio::test]` will do; with pods, `flavor = "multi_thread"` is quicker. Whole examples that
//! run as tests are in `tests/it/library.rs`: a controller with a CustomResourceDefinition, a finalizer
//! and events; clusters side by side; a reflector; leader election.
//!
//! # What is real
//!
//! - The API: all verbs, four kinds of patches, server-side apply with managed fields, watches,
//!   pages, tables, discovery, OpenAPI v3, and every refusal as Kubernetes words it.
//! - CustomResourceDefinitions: structural schemas with validation, defaults and pruning, `status` and
//!   `scale`, several versions. They are served as soon as they are created.
//! - Controllers: those of Deployments, ReplicaSets, Jobs, EndpointSlices, namespaces, garbage
//!   collection; a scheduler.
//! - Pods, where there are nodes and images ([`Config::images`]): sandboxed processes with probes, logs
//!   and `exec`. Services, node ports, load balancers and Ingresses carry traffic.
//!
//! What is accepted and not acted upon, and what is refused, `kube-embedded explain-limits` lists. RBAC
//! is not there: who has a client can do everything.
//!
//! # How it is made
//!
//! The parts speak only the Kubernetes API to each other, through an in-process [`kube::Client`];
//! `kubectl` and every other client speak to the same service over TLS. Addresses are of a free block
//! `127.A.0.0/16` of the loopback range, so that clusters do not meet; Linux only.

pub mod cluster;

pub use cluster::{Cluster, Config, StartError};
pub use kube_embedded_core::network::Sandbox;
