//! `services`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["svc"],
    categories: &["all"],
    subresources: &["status"],
    selectable: &["spec.clusterIP", "spec.type"],
    ..Kind::of::<k8s_openapi::api::core::v1::Service>("service", "io.k8s.api.core.v1.Service")
};
