//! `leases` (`coordination.k8s.io/v1`): leader election of clients, and the heartbeats of nodes.

use k8s_openapi::api::coordination::v1::Lease;

use crate::{
    fields::{object, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column},
    },
    validation::{
        field_error::invalid,
        names::{dns_subdomain, non_negative},
        object_meta::{self, Part, Rules},
    },
};

const METADATA: Rules =
    Rules { standard_finalizers: false, update: &[Part::Changes], ..Rules::of(dns_subdomain) };

pub(crate) const RESOURCE: ResourceType = ResourceType {
    requires_version: true,
    defaults: |lease| _ = object(lease, "spec"),
    validate: |lease, old| {
        let mut errors = object_meta::validate(lease, old, &METADATA);
        let seconds = &lease["spec"]["leaseDurationSeconds"];
        if seconds.as_i64().is_some_and(|seconds| seconds <= 0) {
            let detail = "must be greater than 0";
            errors.push(invalid("spec.leaseDurationSeconds", seconds, detail));
        }
        let transitions = &lease["spec"]["leaseTransitions"];
        errors.extend(non_negative(transitions, "spec.leaseTransitions"));
        errors
    },
    columns: &[
        column("Holder", "#/io.k8s.api.coordination.v1.LeaseSpec/holderIdentity", |lease, _| {
            text(lease, &["spec", "holderIdentity"]).into()
        }),
        AGE,
    ],
    creates_on_update: true,
    ..ResourceType::of::<Lease>("lease", "io.k8s.api.coordination.v1.Lease")
};
