//! `nodes`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["no"],
    namespaced: false,
    subresources: &["status"],
    selectable: &["spec.unschedulable"],
    ..Kind::plain("", "Node", "nodes", "node", "io.k8s.api.core.v1.Node")
};
