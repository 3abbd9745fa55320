//! Faults: the layer that does not work, from the cluster to the app, why, and the command that shows it.
//! A fault travels as an error, too: that of a manifest which the API server rejects, for example.

use serde::Serialize;
use std::fmt;

/// A link of the chain from a cluster to a response, in the order in which they depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// The API server does not respond.
    Cluster,
    /// A node that runs pods is not ready.
    Node,
    /// A manifest is not valid, or lacks an object.
    Manifest,
    /// A node cannot pull an image, or a Deployment runs another image than the article's.
    Image,
    /// No node takes a pod.
    Schedule,
    /// A pod cannot be created, or its program does not stay up.
    Pod,
    /// A pod runs but is not ready.
    Readiness,
    /// A Deployment has another number of replicas than the article's.
    Replicas,
    /// A Service, or a Deployment, does not select the pods it should.
    Selector,
    /// A Service has another port than its clients use, or than its pods listen on.
    Port,
    /// The endpoints of a Service are not the ready pods it selects.
    Endpoints,
    /// A node does not forward its node ports.
    NodeProxy,
    /// A rollout takes away pods that are needed.
    Strategy,
    /// A load balancer has no address, or does not forward or spread connections.
    LoadBalancer,
    /// An Ingress has no address, or routes requests elsewhere.
    Route,
    /// The app sends wrong responses.
    App,
}

impl Layer {
    /// Every layer.
    pub const ALL: [Self; 16] = [
        Self::Cluster,
        Self::Node,
        Self::Manifest,
        Self::Image,
        Self::Schedule,
        Self::Pod,
        Self::Readiness,
        Self::Replicas,
        Self::Selector,
        Self::Port,
        Self::Endpoints,
        Self::NodeProxy,
        Self::Strategy,
        Self::LoadBalancer,
        Self::Route,
        Self::App,
    ];

    /// The name in reports for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Node => "node",
            Self::Manifest => "manifest",
            Self::Image => "image",
            Self::Schedule => "schedule",
            Self::Pod => "pod",
            Self::Readiness => "readiness",
            Self::Replicas => "replicas",
            Self::Selector => "selector",
            Self::Port => "port",
            Self::Endpoints => "endpoints",
            Self::NodeProxy => "node proxy",
            Self::Strategy => "strategy",
            Self::LoadBalancer => "load balancer",
            Self::Route => "route",
            Self::App => "app",
        }
    }

    /// Returns true if no manifest can cause this, so that nothing can be judged.
    pub fn is_environment(self) -> bool {
        matches!(self, Self::Cluster | Self::Node | Self::NodeProxy)
    }
}

/// The layer at fault. As an error it is a mistake in what was applied, unless the layer is one of the
/// environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The layer.
    pub layer: Layer,
    /// What is wrong with it, in one line (one per field for a rejected manifest).
    pub why: String,
    /// A command that shows it.
    pub command: String,
}

impl Fault {
    /// Creates a fault.
    pub(crate) fn new(layer: Layer, why: impl Into<String>, command: impl Into<String>) -> Self {
        Self { layer, why: why.into(), command: command.into() }
    }

    /// The same fault, with a command for another namespace than the labs'.
    pub(crate) fn in_namespace(self, name: &str) -> Self {
        let command =
            self.command.replacen(&kubectl(""), &format!("kubectl --namespace={name} "), 1);
        Self { command, ..self }
    }

    /// Returns the fault among an error and its causes.
    pub(crate) fn of(error: &anyhow::Error) -> Option<&Self> {
        error.chain().find_map(|cause| cause.downcast_ref())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Fault {}

/// Formats a kubectl command in the labs' namespace.
pub(crate) fn kubectl(arguments: &str) -> String {
    format!("kubectl --namespace {} {arguments}", crate::names::NAMESPACE)
}
