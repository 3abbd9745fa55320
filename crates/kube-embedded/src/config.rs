//! How a cluster is made, and why it may fail to start.

use kube_embedded_apiserver::credentials::CredentialsError;
use kube_embedded_core::network::Sandbox;
use std::{io, path::PathBuf};

/// The configuration of a cluster.
///
/// ```
/// use kube_embedded::{Config, Sandbox};
///
/// // An API with controllers and no nodes: what most tests of a controller need.
/// let api_only = Config { nodes: 0, ..Config::default() };
/// // One node that runs pods from local image archives.
/// let one_node = Config {
///     nodes: 1,
///     sandbox: Some(Sandbox::Plain),
///     images: vec!["target/images".into()],
///     ..Config::default()
/// };
/// # let _ = (api_only, one_node);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The number of nodes that run pods, at most 100. With 0 there is an API and controllers, and pods
    /// stay `Pending`. Defaults to 3, and to 0 without the feature `kubelet`.
    pub nodes: u8,
    /// The isolation of pods. `None`, the default, picks the strongest mode that works on this machine.
    pub sandbox: Option<Sandbox>,
    /// Image archives (OCI layout or docker-archive, `.tar`), or directories of archives. There is no
    /// registry: pods run only these images.
    pub images: Vec<PathBuf>,
    /// The directory in which the cluster creates its private one. `None`, the default, uses
    /// `$XDG_RUNTIME_DIR` or the directory for temporary files.
    pub state_dir: Option<PathBuf>,
    /// Whether load balancers and Ingresses get addresses. Without, the cluster is as kind creates it.
    /// Defaults to whether the feature `proxy` is enabled.
    pub load_balancers: bool,
    /// Whether the Gateway API is installed: its CustomResourceDefinitions, and a GatewayClass
    /// `kube-embedded`. A client that installs the official definitions is served without. Defaults to
    /// `false`.
    pub gateway_api: bool,
    /// Directories of the host at and below which pods may mount `hostPath` volumes. Programs in pods run as the user
    /// of this process, so a pod with any other is refused. Defaults to none.
    pub allow_host_path: Vec<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nodes: if cfg!(feature = "kubelet") { 3 } else { 0 },
            sandbox: None,
            images: Vec::new(),
            state_dir: None,
            load_balancers: cfg!(feature = "proxy"),
            gateway_api: false,
            allow_host_path: Vec::new(),
        }
    }
}

impl Config {
    /// Rejects what this build cannot do.
    pub(crate) fn check_features(&self) -> Result<(), StartError> {
        let kubelet = cfg!(feature = "kubelet");
        for (available, wanted, field, feature) in [
            (kubelet, self.nodes > 0, "nodes", "kubelet"),
            (kubelet, !self.images.is_empty(), "images", "kubelet"),
            (cfg!(feature = "proxy"), self.load_balancers, "load_balancers", "proxy"),
            (cfg!(feature = "proxy"), self.gateway_api, "gateway_api", "proxy"),
        ] {
            if wanted && !available {
                return Err(StartError::Feature { field, feature });
            }
        }
        Ok(())
    }
}

/// An error that keeps a cluster from starting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration asks for a part that is not compiled.
    #[error("`Config::{field}` needs the feature `{feature}` of kube-embedded")]
    Feature {
        /// The field of [`Config`].
        field: &'static str,
        /// The feature of this crate to enable.
        feature: &'static str,
    },
    /// All blocks of loopback addresses are in use.
    #[error("failed to bind 127.A.0.1:6443 for any A from 2 to 250: {0}")]
    Address(io::Error),
    /// The private directory cannot be created.
    #[error("failed to create a state directory in {parent}: {source}")]
    StateDir {
        /// The directory in which it was to be created.
        parent: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A directory for `hostPath` volumes cannot be found.
    #[error(
        "failed to allow hostPath volumes below {path}: {source}; name a directory that exists"
    )]
    HostPath {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// No keys or certificates can be generated.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// An image archive cannot be read.
    #[error("failed to load images from {path}: {reason}")]
    Image {
        /// The archive or directory.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The kubelets cannot start.
    #[error("failed to start the kubelets: {0}")]
    Kubelet(String),
    /// The objects that every cluster has cannot be stored.
    #[error("failed to bootstrap the API: {0}")]
    Bootstrap(String),
}
