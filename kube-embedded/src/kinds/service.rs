//! `services`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["svc"],
    categories: &["all"],
    subresources: &["status"],
    selectable: &["spec.clusterIP", "spec.type"],
    ..Kind::plain("", "Service", "services", "service", "io.k8s.api.core.v1.Service")
};
