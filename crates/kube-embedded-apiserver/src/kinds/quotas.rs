//! `resourcequotas` and `limitranges`. Admission takes none, since nothing is limited; lists of them
//! are empty, as clients that look for them expect.

use k8s_openapi::api::core::v1::{LimitRange, ResourceQuota};
use serde_json::json;

use super::{
    Kind,
    cells::{AGE, column, map},
    errors::{dns_subdomain, metadata},
    values::{at, text},
};

pub(super) const RESOURCE_QUOTA: Kind = Kind {
    short_names: &["quota"],
    subresources: &["status"],
    prepare_create: |quota| quota["status"] = json!({}),
    validate: |quota, old| metadata(quota, old, dns_subdomain),
    columns: &[
        column("Request", "Request represents a minimum amount of cpu/memory.", |quota, _| {
            map(at(quota, &["spec", "hard"]))
        }),
        column("Limit", "Limits control the maximum amount of cpu/memory.", |_, _| "".into()),
        AGE,
    ],
    ..Kind::of::<ResourceQuota>("resourcequota", "io.k8s.api.core.v1.ResourceQuota")
};

pub(super) const LIMIT_RANGE: Kind = Kind {
    short_names: &["limits"],
    validate: |range, old| metadata(range, old, dns_subdomain),
    columns: &[column("Created At", "When this object was created.", |range, _| {
        text(range, &["metadata", "creationTimestamp"]).into()
    })],
    ..Kind::of::<LimitRange>("limitrange", "io.k8s.api.core.v1.LimitRange")
};
