//! `endpoints`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["ep"],
    ..Kind::of::<k8s_openapi::api::core::v1::Endpoints>("endpoints", "io.k8s.api.core.v1.Endpoints")
};
