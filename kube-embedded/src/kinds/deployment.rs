//! `deployments`.

use super::Kind;

pub(super) const KIND: Kind = Kind {
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &["status", "scale"],
    generation: true,
    ..Kind::of::<k8s_openapi::api::apps::v1::Deployment>(
        "deployment",
        "io.k8s.api.apps.v1.Deployment",
    )
};
