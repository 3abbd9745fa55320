//! `replicationcontrollers` (`pkg/registry/core/replicationcontroller/strategy.go`), the older form of replica sets.

use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::{Value, json};

use crate::{
    admission::{host_path, pod_security, unsupported_fields},
    fields::{at, default, object, text},
    resources::{
        deletion::{Deletion, Propagation},
        pod_defaults,
        resource_type::ResourceType,
        table_columns::{AGE, container_images, container_names, count, map, number, wide},
    },
    validation::{
        field_error::{FieldError, forbidden, invalid_nested, not_supported, required},
        names::{dns_subdomain, non_negative},
        object_meta::metadata,
        pod_spec, warnings,
    },
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["rc"],
    categories: &["all"],
    subresources: &["status", "scale"],
    generation: true,
    defaults,
    prepare_create: |controller| controller["status"] = json!({ "replicas": 0 }),
    validate,
    warnings: warnings::of_workload,
    reviews: &[
        pod_security::review_workload,
        host_path::review_workload,
        unsupported_fields::review_workload,
    ],
    // It predates garbage collection.
    deletion: &Deletion { default_propagation: Some(Propagation::Orphan), ..Deletion::IMMEDIATE },
    columns: &[
        number(
            "Desired",
            "#/io.k8s.api.core.v1.ReplicationControllerSpec/replicas",
            |controller, _| count(controller, &["spec", "replicas"]).into(),
        ),
        number(
            "Current",
            "#/io.k8s.api.core.v1.ReplicationControllerStatus/replicas",
            |controller, _| count(controller, &["status", "replicas"]).into(),
        ),
        number(
            "Ready",
            "The number of ready replicas for this replication controller.",
            |controller, _| count(controller, &["status", "readyReplicas"]).into(),
        ),
        AGE,
        wide("Containers", "Names of each container in the template.", |controller, _| {
            container_names(at(controller, &["spec", "template", "spec"]))
        }),
        wide("Images", "Images referenced by each container in the template.", |controller, _| {
            container_images(at(controller, &["spec", "template", "spec"]))
        }),
        wide(
            "Selector",
            "#/io.k8s.api.core.v1.ReplicationControllerSpec/selector",
            |controller, _| map(at(controller, &["spec", "selector"])),
        ),
    ],
    selectable: &["status.replicas"],
    ..ResourceType::of::<ReplicationController>(
        "replicationcontroller",
        "io.k8s.api.core.v1.ReplicationController",
    )
};

/// The labels of the template are those of the object and its selector, if these have none.
fn defaults(controller: &mut Value) {
    let labels = at(controller, &["spec", "template", "metadata", "labels"]).clone();
    let is_empty = |labels: &Value| labels.as_object().is_none_or(serde_json::Map::is_empty);
    if !is_empty(&labels) && is_empty(at(controller, &["metadata", "labels"])) {
        controller["metadata"]["labels"] = labels.clone();
    }
    let Some(spec) = object(controller, "spec") else { return };
    if !is_empty(&labels) && is_empty(&spec["selector"]) {
        spec["selector"] = labels;
    }
    default(spec, "replicas", 1);
    if !spec["template"].is_null() {
        pod_defaults::template_defaults(spec);
    }
}

/// Stands for `ValidateReplicationController`.
fn validate(controller: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &controller["spec"];
    let (selector, template) = (&spec["selector"], &spec["template"]);
    let mut errors = metadata(controller, old, dns_subdomain);
    errors.extend(non_negative(&spec["minReadySeconds"], "spec.minReadySeconds"));
    let wanted = selector.as_object().filter(|labels| !labels.is_empty());
    if wanted.is_none() {
        errors.push(required("spec.selector", ""));
    }
    errors.extend(non_negative(&spec["replicas"], "spec.replicas"));
    if template.is_null() {
        errors.push(required("spec.template", ""));
        return errors;
    }
    let labels = at(template, &["metadata", "labels"]);
    if wanted.into_iter().flatten().any(|(key, value)| labels[key] != *value) {
        let detail = "`selector` does not match template `labels`";
        errors.push(invalid_nested("spec.template.metadata.labels", labels, detail));
    }
    errors.extend(pod_spec::validate_template(template, "spec.template"));
    let pod = &template["spec"];
    if !matches!(text(pod, &["restartPolicy"]), "" | "Always") {
        let field = "spec.template.spec.restartPolicy";
        errors.push(not_supported(field, &pod["restartPolicy"], &["Always"]));
    }
    if !pod["activeDeadlineSeconds"].is_null() {
        let detail = "activeDeadlineSeconds in ReplicationController is not Supported";
        errors.push(forbidden("spec.template.spec.activeDeadlineSeconds", detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(change: Value) -> Value {
        let mut controller = json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": { "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": "x" }] },
            } },
        });
        json_patch::merge(&mut controller, &change);
        defaults(&mut controller);
        controller
    }

    #[test]
    fn labels_of_the_template_are_the_default_of_selector_and_labels() {
        let defaulted = controller(json!({}));
        assert_eq!(defaulted["spec"]["selector"], json!({ "app": "web" }));
        assert_eq!(defaulted["metadata"]["labels"], json!({ "app": "web" }));
        assert_eq!(defaulted["spec"]["replicas"], 1);
        assert_eq!(validate(&defaulted, None), []);
        let own = controller(json!({ "metadata": { "labels": { "a": "b" } } }));
        assert_eq!(own["metadata"]["labels"], json!({ "a": "b" }));
    }

    #[test]
    fn invalid_spec_is_reported() {
        let template = |change: Value| json!({ "spec": { "template": change } });
        let cases = [
            (json!({ "spec": { "replicas": -1 } }), "spec.replicas"),
            (json!({ "spec": { "selector": { "app": "db" } } }), "spec.template.metadata.labels"),
            (template(json!({ "metadata": { "labels": null } })), "spec.selector"),
            (
                template(json!({ "spec": { "restartPolicy": "Never" } })),
                "spec.template.spec.restartPolicy",
            ),
            (
                template(json!({ "spec": { "activeDeadlineSeconds": 5 } })),
                "spec.template.spec.activeDeadlineSeconds",
            ),
        ];
        for (change, field) in cases {
            let errors = validate(&controller(change.clone()), None);
            let fields: Vec<&str> = errors.iter().map(|error| &*error.field).collect();
            assert_eq!(fields, [field], "{change}");
        }
    }
}
