//! `replicasets` (`apps/v1`).

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::{Value, json};

use crate::{
    admission::{host_path, pod_security, unsupported_fields},
    fields::{at, default, object},
    resources::{
        pod_defaults,
        resource_type::ResourceType,
        table_columns::{self, AGE, container_images, container_names, count, number, wide},
        types::deployment::validate_selector_and_template,
    },
    validation::{
        field_error::{FieldError, IMMUTABLE, invalid},
        names::{dns_subdomain, non_negative},
        object_meta::metadata,
        warnings,
    },
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["rs"],
    categories: &["all"],
    subresources: &["status", "scale"],
    generation: true,
    defaults,
    prepare_create: |set| set["status"] = json!({ "replicas": 0 }),
    validate,
    warnings: warnings::of_workload,
    reviews: &[
        pod_security::review_workload,
        host_path::review_workload,
        unsupported_fields::review_workload,
    ],
    columns: &[
        number("Desired", "#/io.k8s.api.apps.v1.ReplicaSetSpec/replicas", |set, _| {
            count(set, &["spec", "replicas"]).into()
        }),
        number("Current", "#/io.k8s.api.apps.v1.ReplicaSetStatus/replicas", |set, _| {
            count(set, &["status", "replicas"]).into()
        }),
        number(
            "Ready",
            "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition.",
            |set, _| count(set, &["status", "readyReplicas"]).into(),
        ),
        AGE,
        wide("Containers", "Names of each container in the template.", |set, _| {
            container_names(at(set, &["spec", "template", "spec"]))
        }),
        wide("Images", "Images referenced by each container in the template.", |set, _| {
            container_images(at(set, &["spec", "template", "spec"]))
        }),
        wide("Selector", "#/io.k8s.api.apps.v1.ReplicaSetSpec/selector", |set, _| {
            table_columns::selector(at(set, &["spec", "selector"]))
        }),
    ],
    ..ResourceType::of::<ReplicaSet>("replicaset", "io.k8s.api.apps.v1.ReplicaSet")
};

fn defaults(set: &mut Value) {
    let Some(spec) = object(set, "spec") else { return };
    default(spec, "replicas", 1);
    pod_defaults::template_defaults(spec);
}

/// Stands for `ValidateReplicaSet` and `ValidateReplicaSetUpdate`.
fn validate(set: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &set["spec"];
    let mut errors = metadata(set, old, dns_subdomain);
    errors.extend(non_negative(&spec["replicas"], "spec.replicas"));
    errors.extend(non_negative(&spec["minReadySeconds"], "spec.minReadySeconds"));
    // Kubernetes speaks of a Deployment here, too.
    errors.extend(validate_selector_and_template(spec));
    if let Some(old) = old
        && old["spec"]["selector"] != spec["selector"]
    {
        errors.push(invalid("spec.selector", &spec["selector"], IMMUTABLE));
    }
    errors
}
