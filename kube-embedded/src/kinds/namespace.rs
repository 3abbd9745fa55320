//! `namespaces`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["ns"],
    namespaced: false,
    subresources: &["status", "finalize"],
    selectable: &["status.phase"],
    ..Kind::of::<k8s_openapi::api::core::v1::Namespace>("namespace", "io.k8s.api.core.v1.Namespace")
};
