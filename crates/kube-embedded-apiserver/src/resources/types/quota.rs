//! `resourcequotas`. Accepted with dry-run only, because the admission plugin that would enforce them does not exist here.
//! They are served so that clients which list them find none (`kubectl describe namespace` does).

use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::json;

use crate::{
    fields::at,
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column, map},
    },
    validation::{names::dns_subdomain, object_meta::metadata},
};

pub(crate) const RESOURCE_QUOTA: ResourceType = ResourceType {
    short_names: &["quota"],
    subresources: &["status"],
    prepare_create: |quota| quota["status"] = json!({}),
    unsupported: Some("this cluster enforces no quotas"),
    validate: |quota, old| metadata(quota, old, dns_subdomain),
    columns: &[
        column(
            "Request",
            "Request represents a minimum amount of cpu/memory that a container may consume.",
            |quota, _| map(at(quota, &["spec", "hard"])),
        ),
        column(
            "Limit",
            "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
            |_, _| "".into(),
        ),
        AGE,
    ],
    ..ResourceType::of::<ResourceQuota>("resourcequota", "io.k8s.api.core.v1.ResourceQuota")
};
