//! `secrets`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    selectable: &["type"],
    ..Kind::of::<k8s_openapi::api::core::v1::Secret>("secret", "io.k8s.api.core.v1.Secret")
};
