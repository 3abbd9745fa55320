//! `replicasets`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["rs"],
    categories: &["all"],
    subresources: &["status", "scale"],
    generation: true,
    selectable: &["status.replicas"],
    ..Kind::of::<k8s_openapi::api::apps::v1::ReplicaSet>(
        "replicaset",
        "io.k8s.api.apps.v1.ReplicaSet",
    )
};
