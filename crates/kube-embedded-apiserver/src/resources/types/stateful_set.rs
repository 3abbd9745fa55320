//! `statefulsets` (`apps/v1`). Accepted with dry-run only, because no controller runs them here.

use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::{Value, json};

use crate::{
    fields::{at, default, default_empty, existing, object, text},
    resources::{
        pod_defaults,
        resource_type::ResourceType,
        table_columns::{AGE, column, container_images, container_names, count, wide},
        types::deployment::{
            is_zero, no_deadline, number_or_percent, only_always, over_100_percent,
            validate_selector,
        },
    },
    validation::{
        field_error::{FieldError, invalid, not_supported},
        names::{dns_label, label_selector, labels, non_negative},
        object_meta::metadata,
        pod_spec, warnings,
    },
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["sts"],
    categories: &["all"],
    unsupported: Some("this cluster runs no stateful sets: create a Deployment"),
    generation: true,
    defaults,
    prepare_create: |set| set["status"] = json!({ "replicas": 0, "availableReplicas": 0 }),
    validate,
    warnings: warnings::of_workload,
    columns: &[
        column("Ready", "Number of the pod with ready state", |set, _| {
            let ready = count(set, &["status", "readyReplicas"]);
            format!("{ready}/{}", count(set, &["spec", "replicas"])).into()
        }),
        AGE,
        wide("Containers", "Names of each container in the template.", |set, _| {
            container_names(at(set, &["spec", "template", "spec"]))
        }),
        wide("Images", "Images referenced by each container in the template.", |set, _| {
            container_images(at(set, &["spec", "template", "spec"]))
        }),
    ],
    ..ResourceType::of::<StatefulSet>("statefulset", "io.k8s.api.apps.v1.StatefulSet")
};

/// Stands for `SetDefaults_StatefulSet`.
fn defaults(set: &mut Value) {
    let Some(spec) = object(set, "spec") else { return };
    default_empty(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = object(spec, "updateStrategy") {
        if text(strategy, &["type"]).is_empty() {
            strategy["type"] = "RollingUpdate".into();
            object(strategy, "rollingUpdate");
        }
        if strategy["type"] == "RollingUpdate" && !strategy["rollingUpdate"].is_null() {
            default(&mut strategy["rollingUpdate"], "partition", 0);
        }
    }
    if let Some(policy) = object(spec, "persistentVolumeClaimRetentionPolicy") {
        default_empty(policy, "whenDeleted", "Retain");
        default_empty(policy, "whenScaled", "Retain");
    }
    if let Some(ordinals) = existing(spec, "ordinals") {
        default(ordinals, "start", 0);
    }
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    pod_defaults::template_defaults(spec);
}

/// Stands for `ValidateStatefulSet`. There are no updates, since nothing is stored.
fn validate(set: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &set["spec"];
    let mut errors = metadata(set, old, dns_label);
    let policy = &spec["podManagementPolicy"];
    if !matches!(text(spec, &["podManagementPolicy"]), "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errors.push(invalid("spec.podManagementPolicy", policy, detail));
    }
    errors.extend(validate_strategy(&spec["updateStrategy"]));
    for field in ["whenDeleted", "whenScaled"] {
        let path = format!("spec.persistentVolumeClaimRetentionPolicy.{field}");
        let given = at(spec, &["persistentVolumeClaimRetentionPolicy", field]);
        if !matches!(given.as_str(), Some("Retain" | "Delete")) {
            errors.push(not_supported(path, given, &["Retain", "Delete"]));
        }
    }
    for field in ["replicas", "minReadySeconds"] {
        errors.extend(non_negative(&spec[field], format!("spec.{field}")));
    }
    errors.extend(non_negative(at(spec, &["ordinals", "start"]), "spec.ordinals.start"));
    let service = text(spec, &["serviceName"]);
    if !service.is_empty() {
        let details = dns_label(service);
        errors.extend(details.iter().map(|w| invalid("spec.serviceName", &service.into(), w)));
    }
    errors.extend(validate_selector(spec, "statefulset", ""));
    if label_selector(&spec["selector"], "").is_empty() {
        errors.extend(validate_template(&spec["template"]));
    }
    errors.extend(only_always(spec));
    errors.extend(no_deadline(spec, "activeDeadlineSeconds in StatefulSet is not Supported"));
    errors
}

/// Validates the template, of which Kubernetes checks the labels twice.
fn validate_template(template: &Value) -> Vec<FieldError> {
    let mut errors = pod_spec::validate_template(template, "spec.template");
    errors.extend(labels(at(template, &["metadata", "labels"]), "spec.template.labels"));
    errors
}

fn validate_strategy(strategy: &Value) -> Vec<FieldError> {
    let rolling = &strategy["rollingUpdate"];
    let mut errors = Vec::new();
    match text(strategy, &["type"]) {
        "OnDelete" if !rolling.is_null() => {
            let shown = json!({
                "Partition": rolling["partition"].as_i64().unwrap_or_default(),
                "MaxUnavailable": rolling["maxUnavailable"],
            });
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(invalid("spec.updateStrategy.rollingUpdate", &shown, detail));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            let path = "spec.updateStrategy.rollingUpdate.maxUnavailable";
            let unavailable = &rolling["maxUnavailable"];
            let partition = "spec.updateStrategy.rollingUpdate.partition";
            errors.extend(non_negative(&rolling["partition"], partition));
            errors.extend(number_or_percent(unavailable, path));
            if is_zero(unavailable) {
                errors.push(invalid(path, unavailable, "cannot be 0"));
            }
            errors.extend(over_100_percent(unavailable, path));
        }
        _ => {
            let shown = json!({ "Type": strategy["type"], "RollingUpdate": rolling });
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(invalid("spec.updateStrategy", &shown, detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_is_validated_as_in_kubernetes() {
        for (field, value, expected) in [
            ("replicas", json!(2), &[][..]),
            ("replicas", json!(-1), &["spec.replicas"]),
            ("serviceName", json!("A_b"), &["spec.serviceName"]),
            ("podManagementPolicy", json!("x"), &["spec.podManagementPolicy"]),
            ("updateStrategy", json!({ "type": "x" }), &["spec.updateStrategy"]),
            (
                "updateStrategy",
                json!({ "rollingUpdate": { "partition": -1, "maxUnavailable": 0 } }),
                &[
                    "spec.updateStrategy.rollingUpdate.partition",
                    "spec.updateStrategy.rollingUpdate.maxUnavailable",
                ],
            ),
            ("selector", json!(null), &["spec.selector", "spec.template.metadata.labels"]),
            ("selector", json!({}), &["spec.selector"]),
            (
                "template",
                json!({}),
                &["spec.template.metadata.labels", "spec.template.spec.containers"],
            ),
        ] {
            let mut set = json!({
                "metadata": { "name": "s", "namespace": "d" },
                "spec": {
                    "selector": { "matchLabels": { "app": "a" } },
                    "template": {
                        "metadata": { "labels": { "app": "a" } },
                        "spec": { "containers": [{ "name": "c", "image": "i" }] },
                    },
                },
            });
            set["spec"][field] = value.clone();
            defaults(&mut set);
            let errors = validate(&set, None);
            let fields: Vec<&str> = errors.iter().map(|error| &*error.field).collect();
            assert_eq!(fields, expected, "{field} {value} {errors:?}");
        }
    }
}
