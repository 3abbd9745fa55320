//! `configmaps`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["cm"],
    ..Kind::of::<k8s_openapi::api::core::v1::ConfigMap>("configmap", "io.k8s.api.core.v1.ConfigMap")
};
