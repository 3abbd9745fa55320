//! `nodes`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["no"],
    namespaced: false,
    subresources: &["status"],
    selectable: &["spec.unschedulable"],
    ..Kind::of::<k8s_openapi::api::core::v1::Node>("node", "io.k8s.api.core.v1.Node")
};
