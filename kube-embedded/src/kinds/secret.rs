//! `secrets`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    selectable: &["type"],
    ..Kind::plain("", "Secret", "secrets", "secret", "io.k8s.api.core.v1.Secret")
};
