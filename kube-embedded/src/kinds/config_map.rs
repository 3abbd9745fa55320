//! `configmaps`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["cm"],
    ..Kind::plain("", "ConfigMap", "configmaps", "configmap", "io.k8s.api.core.v1.ConfigMap")
};
