//! The contract between a cluster provider and the labs: one struct that a provider in `xtask` fills
//! and that the `labs` binary reads as JSON. No phase asks which cluster it runs on; whatever differs
//! between clusters is a field here.
//!
//! A crate of its own so that `xtask` does not link a Kubernetes client to fill it.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The phases in the order of the article. The labs implement them; `xtask` checks names against them
/// before it builds the labs.
pub const PHASES: [&str; 8] =
    ["phase0", "phase1", "phase2", "phase3", "phase4", "phase5", "phase6", "phase7"];

/// The number of files that a run on the embedded cluster must be allowed to open. With fewer, requests
/// fail that have nothing to do with the claims: phase 4 needs more than 512.
pub const OPEN_FILES: u64 = 1024;

/// One cluster, as the labs see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// The provider's name (`embedded`, `kind`, …): for reports, never to branch on.
    pub provider: String,
    /// A kubeconfig of this cluster alone.
    pub kubeconfig: PathBuf,
    /// Seconds from the provider's start until the API server responded; `None` if it already ran.
    pub started_in: Option<f64>,
    /// The folder that holds `lb/`, `ingress/` and `gateway/`.
    pub manifests: PathBuf,
    /// The two versions of the app, stable first.
    pub images: Vec<Image>,
    /// The architecture of the programs in the images, in Kubernetes' terms (`amd64`). `None` where it
    /// is unknown because the images on the nodes were not built here.
    pub architecture: Option<String>,
    /// The pull policy of the app's containers: `IfNotPresent` for loaded images, `Always` for a
    /// registry.
    pub pull_policy: String,
    /// A file in the format of Docker's `config.json` with the credentials to pull the images; `None`
    /// where none are needed. Readable by this user alone; no other file holds its content.
    pub pull_secret: Option<PathBuf>,
    /// The class of the labs' Ingress, and how the Ingress names it.
    pub ingress_class: IngressClass,
    /// The class of the labs' Gateway; `None` for the only one that the cluster has.
    pub gateway_class: Option<String>,
    /// The crate that both versions are built from, for the claims about its source.
    pub app: PathBuf,
    /// Whether a Docker engine is available, so that images can be run there as well.
    pub docker: bool,
    /// The timeouts of single waits.
    pub timeouts: Timeouts,
    /// The alternative hypothesis that a sample must be able to reject.
    pub alternative: Alternative,
    /// The claims that this cluster cannot offer.
    pub unsupported: Vec<UnsupportedClaim>,
}

/// One version of the app and its build artifacts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// `1.0` or `2.0`.
    pub version: String,
    /// The reference in manifests: `kubeapp:1.0`.
    pub manifest_name: String,
    /// The reference on this cluster: `manifest_name` itself, or a registry's. Rewritten at apply time.
    pub name: String,
    /// The archive: OCI layout and docker-archive at once.
    pub archive: PathBuf,
    /// A second build from the same input, for the claim that builds are reproducible.
    pub rebuilt: PathBuf,
    /// The binary that was packed.
    pub binary: PathBuf,
    /// The one build input in which the versions differ, as `NAME=value`.
    pub build_input: String,
}

/// The way an Ingress names its class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IngressClass {
    /// No class is named: the cluster's default class, or GKE's external load balancer.
    Unnamed,
    /// The annotation `kubernetes.io/ingress.class`, the only one that GKE's controller honors.
    Annotation(String),
    /// `spec.ingressClassName`.
    Field(String),
}

/// Timeouts in seconds, each for one wait and not for a whole phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// The timeout of a rollout, a scaling or a pod's recreation.
    pub rollout: u64,
    /// The timeout of a load balancer or an Ingress to get its address and respond there.
    pub address: u64,
    /// The timeout of one HTTP request.
    pub request: u64,
    /// The time until every proxy on the traffic's path has learned of an endpoint change. 0 if a
    /// single proxy carries all traffic and retries dead endpoints, because the first responses then
    /// already show what it has learned.
    pub propagation: u64,
}

/// The wrong split that a sample is planned to reject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alternative {
    /// One replica too many or too few (3:1 against 4:1): a few thousand requests.
    NearestReplica,
    /// An even split (3:1 against 1:1): a few hundred requests, for clusters where they are slow.
    Even,
}

/// A claim that cannot be checked on this cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnsupportedClaim {
    /// The claim's id, as in `labs list`.
    pub claim: String,
    /// The reason, in a sentence for the report.
    pub reason: String,
}
