//! `daemonsets` (`apps/v1`). Accepted with dry-run only, because no controller runs them here.

use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::{Value, json};

use crate::{
    fields::{at, default, default_empty, object, text},
    resources::{
        pod_defaults,
        resource_type::ResourceType,
        table_columns::{
            self, AGE, Column, column, container_images, container_names, count, number, wide,
        },
        types::deployment::{
            is_zero, no_deadline, number_or_percent, only_always, over_100_percent,
        },
    },
    validation::{
        field_error::{FieldError, invalid, invalid_nested, not_supported, required},
        names::{dns_subdomain, label_selector, non_negative, selects, selects_nothing},
        object_meta::metadata,
        pod_spec, warnings,
    },
};

/// Says which template it was that a controller rolled out.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["ds"],
    categories: &["all"],
    unsupported: Some("this cluster runs no daemon sets: create a Deployment"),
    generation: true,
    defaults,
    prepare_create: |set| {
        set["status"] = json!({
            "currentNumberScheduled": 0,
            "numberMisscheduled": 0,
            "desiredNumberScheduled": 0,
            "numberReady": 0,
        });
        let annotations = object(set, "metadata").and_then(|meta| object(meta, "annotations"));
        if let Some(annotations) = annotations {
            default(annotations, TEMPLATE_GENERATION, "1");
        }
    },
    validate,
    warnings: warnings::of_workload,
    columns: COLUMNS,
    ..ResourceType::of::<DaemonSet>("daemonset", "io.k8s.api.apps.v1.DaemonSet")
};

const COLUMNS: &[Column] = &[
    number("Desired", "#/io.k8s.api.apps.v1.DaemonSetStatus/desiredNumberScheduled", |set, _| {
        count(set, &["status", "desiredNumberScheduled"]).into()
    }),
    number("Current", "#/io.k8s.api.apps.v1.DaemonSetStatus/currentNumberScheduled", |set, _| {
        count(set, &["status", "currentNumberScheduled"]).into()
    }),
    number("Ready", "#/io.k8s.api.apps.v1.DaemonSetStatus/numberReady", |set, _| {
        count(set, &["status", "numberReady"]).into()
    }),
    number(
        "Up-to-date",
        "#/io.k8s.api.apps.v1.DaemonSetStatus/updatedNumberScheduled",
        |set, _| count(set, &["status", "updatedNumberScheduled"]).into(),
    ),
    number("Available", "#/io.k8s.api.apps.v1.DaemonSetStatus/numberAvailable", |set, _| {
        count(set, &["status", "numberAvailable"]).into()
    }),
    column("Node Selector", "#/io.k8s.api.core.v1.PodSpec/nodeSelector", |set, _| {
        table_columns::map(at(set, &["spec", "template", "spec", "nodeSelector"]))
    }),
    AGE,
    wide("Containers", "Names of each container in the template.", |set, _| {
        container_names(at(set, &["spec", "template", "spec"]))
    }),
    wide("Images", "Images referenced by each container in the template.", |set, _| {
        container_images(at(set, &["spec", "template", "spec"]))
    }),
    wide("Selector", "#/io.k8s.api.apps.v1.DaemonSetSpec/selector", |set, _| {
        table_columns::selector(at(set, &["spec", "selector"]))
    }),
];

/// Stands for `SetDefaults_DaemonSet`.
fn defaults(set: &mut Value) {
    let Some(spec) = object(set, "spec") else { return };
    if let Some(strategy) = object(spec, "updateStrategy") {
        default_empty(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", 1);
            default(rolling, "maxSurge", 0);
        }
    }
    default(spec, "revisionHistoryLimit", 10);
    pod_defaults::template_defaults(spec);
}

/// Stands for `ValidateDaemonSet`. There are no updates, since nothing is stored.
fn validate(set: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let (spec, selector) = (&set["spec"], &set["spec"]["selector"]);
    let mut errors = metadata(set, old, dns_subdomain);
    let wrong = match selector.is_null() {
        true => Vec::new(),
        false => label_selector(selector, "spec.selector"),
    };
    let labels = at(spec, &["template", "metadata", "labels"]);
    if wrong.is_empty() && (selector.is_null() || !selects(selector, labels)) {
        let detail = "`selector` does not match template `labels`";
        errors.push(invalid_nested("spec.template.metadata.labels", labels, detail));
    }
    errors.extend(wrong);
    if !selector.is_null() && selects_nothing(selector) {
        let detail = "empty selector is invalid for daemonset";
        errors.push(invalid("spec.selector", selector, detail));
    }
    errors.extend(pod_spec::validate_template(&spec["template"], "spec.template"));
    errors.extend(only_always(spec));
    errors.extend(no_deadline(spec, "activeDeadlineSeconds in DaemonSet is not Supported"));
    errors.extend(non_negative(&spec["minReadySeconds"], "spec.minReadySeconds"));
    errors.extend(validate_strategy(&spec["updateStrategy"]));
    errors.extend(non_negative(&spec["revisionHistoryLimit"], "spec.revisionHistoryLimit"));
    errors
}

fn validate_strategy(strategy: &Value) -> Vec<FieldError> {
    let rolling = &strategy["rollingUpdate"];
    match text(strategy, &["type"]) {
        "OnDelete" => return Vec::new(),
        "RollingUpdate" => {}
        _ => {
            let shown = json!({ "Type": strategy["type"], "RollingUpdate": rolling });
            let known = ["RollingUpdate", "OnDelete"];
            return vec![not_supported("spec.updateStrategy", &shown, &known)];
        }
    }
    let path = |field: &str| format!("spec.updateStrategy.rollingUpdate.{field}");
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    let mut errors = Vec::new();
    for (field, value) in [("maxUnavailable", unavailable), ("maxSurge", surge)] {
        errors.extend(number_or_percent(value, &path(field)));
        errors.extend(over_100_percent(value, &path(field)));
    }
    match (is_zero(unavailable), is_zero(surge)) {
        (false, false) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.push(invalid(path("maxSurge"), surge, detail));
        }
        (true, true) => {
            errors.push(required(path("maxUnavailable"), "cannot be 0 when maxSurge is 0"));
        }
        _ => {}
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_is_validated_as_in_kubernetes() {
        let rolling = |unavailable: Value, surge: Value| json!({ "rollingUpdate": { "maxUnavailable": unavailable, "maxSurge": surge } });
        let (unavailable, surge) = (
            "spec.updateStrategy.rollingUpdate.maxUnavailable",
            "spec.updateStrategy.rollingUpdate.maxSurge",
        );
        for (field, value, expected) in [
            ("minReadySeconds", json!(2), &[][..]),
            ("minReadySeconds", json!(-1), &["spec.minReadySeconds"]),
            ("updateStrategy", json!({ "type": "x" }), &["spec.updateStrategy"]),
            ("updateStrategy", rolling(json!(0), json!("10%")), &[]),
            ("updateStrategy", rolling(json!(0), json!(0)), &[unavailable]),
            ("updateStrategy", rolling(json!("101%"), json!(1)), &[unavailable, surge]),
            ("selector", json!(null), &["spec.template.metadata.labels"]),
            ("selector", json!({}), &["spec.selector"]),
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
