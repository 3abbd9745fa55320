//! The containers in the spec of a pod.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

/// The list of a pod's spec that a container is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Init,
    Main,
    Ephemeral,
}

/// Returns the containers, or the init containers, of a pod.
pub(crate) fn containers(pod: &Pod, init: bool) -> &[Container] {
    let spec = pod.spec.as_ref();
    if init {
        spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default()
    } else {
        spec.map(|s| s.containers.as_slice()).unwrap_or_default()
    }
}

/// Returns the ephemeral containers of a pod.
pub(crate) fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default()
}

/// Returns an ephemeral container as the container that it is apart from its target.
pub(crate) fn as_container(ephemeral: &EphemeralContainer) -> serde_json::Result<Container> {
    serde_json::from_value(serde_json::to_value(ephemeral)?)
}
