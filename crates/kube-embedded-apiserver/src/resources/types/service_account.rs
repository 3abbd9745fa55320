//! `serviceaccounts`. Tokens are issued by the subresource `token`; none are stored in Secrets, as
//! in Kubernetes since 1.24.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::{
    resources::{deletion::Deletion, resource_type::ResourceType, table_columns::AGE},
    validation::{
        names::dns_subdomain,
        object_meta::{self, Part, Rules},
    },
};

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Changes, Part::Whole],
    ..Rules::of(dns_subdomain)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["sa"],
    subresources: &["token"],
    validate: |account, old| object_meta::validate(account, old, &METADATA),
    deletion: &Deletion { returns_object: true, ..Deletion::IMMEDIATE },
    columns: &[AGE],
    ..ResourceType::of::<ServiceAccount>("serviceaccount", "io.k8s.api.core.v1.ServiceAccount")
};
