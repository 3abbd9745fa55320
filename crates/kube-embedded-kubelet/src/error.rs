//! The error of starting the kubelets.

/// The reason why the kubelets could not start.
#[derive(Debug, thiserror::Error)]
#[error("failed to start the kubelet: {0}")]
pub struct KubeletError(pub String);
