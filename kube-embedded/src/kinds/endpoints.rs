//! `endpoints`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["ep"],
    ..Kind::plain("", "Endpoints", "endpoints", "endpoints", "io.k8s.api.core.v1.Endpoints")
};
