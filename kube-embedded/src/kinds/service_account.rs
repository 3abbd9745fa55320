//! `serviceaccounts`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["sa"],
    subresources: &["token"],
    ..Kind::of::<k8s_openapi::api::core::v1::ServiceAccount>(
        "serviceaccount",
        "io.k8s.api.core.v1.ServiceAccount",
    )
};
