//! Reviews (`authorization.k8s.io/v1`, `authentication.k8s.io/v1`): created to ask a question, never stored.

use k8s_openapi::api::{
    authentication::v1::{SelfSubjectReview, TokenReview},
    authorization::v1::{
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview,
        SubjectAccessReview,
    },
};

use crate::resources::resource_type::ResourceType;

macro_rules! review {
    ($kind:ty, $singular:literal, $schema:literal, $namespaced:literal) => {
        ResourceType {
            namespaced: $namespaced,
            ..ResourceType::of::<$kind>($singular, concat!("io.k8s.api.", $schema))
        }
    };
}

/// By group, in the order of discovery.
pub(crate) static ALL: [ResourceType<'static>; 6] = [
    review!(SelfSubjectReview, "selfsubjectreview", "authentication.v1.SelfSubjectReview", false),
    review!(TokenReview, "tokenreview", "authentication.v1.TokenReview", false),
    review!(
        LocalSubjectAccessReview,
        "localsubjectaccessreview",
        "authorization.v1.LocalSubjectAccessReview",
        true
    ),
    review!(
        SelfSubjectAccessReview,
        "selfsubjectaccessreview",
        "authorization.v1.SelfSubjectAccessReview",
        false
    ),
    review!(
        SelfSubjectRulesReview,
        "selfsubjectrulesreview",
        "authorization.v1.SelfSubjectRulesReview",
        false
    ),
    review!(
        SubjectAccessReview,
        "subjectaccessreview",
        "authorization.v1.SubjectAccessReview",
        false
    ),
];

/// Returns true for the types in this file.
pub(crate) fn is_review(resource: &ResourceType<'_>) -> bool {
    ALL.iter().any(|review| (review.group, review.kind) == (resource.group, resource.kind))
}

/// Returns the reviews of a group, all of which are `v1`.
pub(crate) fn of_group(group: &str) -> impl Iterator<Item = &'static ResourceType<'static>> {
    ALL.iter().filter(move |review| review.group == group)
}
