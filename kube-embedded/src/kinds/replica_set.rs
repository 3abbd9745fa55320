//! `replicasets`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["rs"],
    categories: &["all"],
    subresources: &["status", "scale"],
    generation: true,
    selectable: &["status.replicas"],
    ..Kind::plain(
        "apps",
        "ReplicaSet",
        "replicasets",
        "replicaset",
        "io.k8s.api.apps.v1.ReplicaSet",
    )
};
