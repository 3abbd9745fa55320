//! `serviceaccounts`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["sa"],
    subresources: &["token"],
    ..Kind::plain(
        "",
        "ServiceAccount",
        "serviceaccounts",
        "serviceaccount",
        "io.k8s.api.core.v1.ServiceAccount",
    )
};
