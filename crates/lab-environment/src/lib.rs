//! What a lab knows of the cluster it runs on. A provider in `xtask` fills this struct, the `labs`
//! binary reads it as JSON, and no phase asks for anything else: a lab that would have to know which
//! cluster it is on gets a field here instead.
//!
//! Its own crate so that `xtask` need not link a Kubernetes client to fill it.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One cluster, as the labs see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// `embedded`, `kind`, …: for people to read, never to branch on.
    pub provider: String,
    /// A kubeconfig of this cluster alone.
    pub kubeconfig: PathBuf,
    /// Seconds from the start of the provider to an API that answers; `None` if it already ran.
    pub started_in: Option<f64>,
    /// The folder that holds `lb/` and `ingress/`.
    pub manifests: PathBuf,
    /// The two versions of the app, stable first.
    pub images: Vec<Image>,
    /// What processors the programs in them are for, as Kubernetes names it: `amd64`. `None` where that is
    /// not known, since the nodes have images of somebody else's making.
    pub architecture: Option<String>,
    /// What pulls or loads of images need: `IfNotPresent` for loaded ones, `Always` for a registry.
    pub pull_policy: String,
    /// A file as `docker login` writes it, with what the nodes need to pull the images; `None` where
    /// they need nothing. Only this user can read it, and what is in it is in no other file.
    pub pull_secret: Option<PathBuf>,
    /// How an Ingress says who is to serve it.
    pub ingress_class: IngressClass,
    /// The crate that both versions are built from, for the claims about its source.
    pub app: PathBuf,
    /// Whether a Docker engine answers, so that images can be run there as well.
    pub docker: bool,
    /// How long things may take here.
    pub patience: Patience,
    /// The nearest wrong split that a sample must be able to tell from the right one.
    pub nearest_wrong: NearestWrong,
    /// Claims that this cluster cannot offer: id and reason.
    pub absent: Vec<Absent>,
}

/// One version of the app and where it can be found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// `1.0` or `2.0`.
    pub version: String,
    /// What manifests call it: `kubeapp:1.0`.
    pub manifest_name: String,
    /// What this cluster calls it: the same, or a registry's name for it. Rewritten at apply time.
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

/// How an Ingress names its class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IngressClass {
    /// Not at all: the default class is meant, or GKE's external load balancer.
    Unnamed,
    /// In the annotation `kubernetes.io/ingress.class`, the only way that GKE heeds.
    Annotation(String),
    /// In `spec.ingressClassName`.
    Field(String),
}

/// Deadlines in seconds. Each is for one wait, not for a phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patience {
    /// For a rollout, a scaling or a pod that comes back.
    pub rollout: u64,
    /// For a load balancer or an Ingress to get its address and answer there.
    pub address: u64,
    /// For one HTTP request.
    pub request: u64,
    /// How long the proxies that traffic passes may take until all of them have learned which pods
    /// came or went. 0 where one carries all traffic and leads nobody to a pod that is gone: who
    /// answers then tells what it has learned.
    pub propagation: u64,
}

/// Against which wrong split a sample is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NearestWrong {
    /// The nearest mistake of one replica (3:1 told from 4:1): some thousands of requests.
    NearestReplica,
    /// An even split (3:1 told from 1:1): some hundreds, where requests are dear.
    Even,
}

/// A claim that cannot be checked on this cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    /// The claim's id, as in `labs list`.
    pub claim: String,
    /// Why, in a sentence for the report.
    pub reason: String,
}
