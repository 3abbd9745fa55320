//! `pods`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["po"],
    categories: &["all"],
    subresources: &["status", "log", "binding", "eviction", "ephemeralcontainers"],
    generation: true,
    selectable: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ],
    ..Kind::of::<k8s_openapi::api::core::v1::Pod>("pod", "io.k8s.api.core.v1.Pod")
};
