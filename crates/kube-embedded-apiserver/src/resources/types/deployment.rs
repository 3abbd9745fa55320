//! `deployments` (`apps/v1`), and the validation of selectors and templates that ReplicaSets share.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use crate::{
    admission::{host_path, pod_security, unsupported_fields},
    fields::{at, default, default_empty, object, text},
    resources::{
        pod_defaults,
        resource_type::ResourceType,
        table_columns::{self, AGE, column, container_images, container_names, count, wide},
    },
    validation::{
        field_error::{
            FieldError, IMMUTABLE, forbidden, invalid, invalid_nested, not_supported, required,
        },
        names::{self, dns_subdomain, label_selector, non_negative, selects, selects_nothing},
        object_meta::metadata,
        pod_spec, warnings,
    },
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["deploy"],
    categories: &["all"],
    subresources: &["status", "scale"],
    generation: true,
    defaults,
    prepare_create: |deployment| deployment["status"] = json!({}),
    validate,
    warnings: warnings::of_workload,
    reviews: &[
        pod_security::review_workload,
        host_path::review_workload,
        unsupported_fields::review_workload,
    ],
    columns: &[
        column("Ready", "Number of the pod with ready state", |deployment, _| {
            let ready = count(deployment, &["status", "readyReplicas"]);
            format!("{ready}/{}", count(deployment, &["spec", "replicas"])).into()
        }),
        column(
            "Up-to-date",
            "Total number of non-terminating pods targeted by this deployment that have the \
             desired template spec.",
            |deployment, _| count(deployment, &["status", "updatedReplicas"]).into(),
        ),
        column(
            "Available",
            "Total number of available non-terminating pods (ready for at least minReadySeconds) \
             targeted by this deployment.",
            |deployment, _| count(deployment, &["status", "availableReplicas"]).into(),
        ),
        AGE,
        wide("Containers", "Names of each container in the template.", |deployment, _| {
            container_names(at(deployment, &["spec", "template", "spec"]))
        }),
        wide("Images", "Images referenced by each container in the template.", |deployment, _| {
            container_images(at(deployment, &["spec", "template", "spec"]))
        }),
        wide("Selector", "#/io.k8s.api.apps.v1.DeploymentSpec/selector", |deployment, _| {
            table_columns::selector(at(deployment, &["spec", "selector"]))
        }),
    ],
    status_leaves: &["labels"],
    ..ResourceType::of::<Deployment>("deployment", "io.k8s.api.apps.v1.Deployment")
};

/// Stands for `SetDefaults_Deployment` of `apps/v1`.
fn defaults(deployment: &mut Value) {
    let Some(spec) = object(deployment, "spec") else { return };
    default(spec, "replicas", 1);
    default(spec, "progressDeadlineSeconds", 600);
    default(spec, "revisionHistoryLimit", 10);
    if let Some(strategy) = object(spec, "strategy") {
        default_empty(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", "25%");
            default(rolling, "maxSurge", "25%");
        }
    }
    pod_defaults::template_defaults(spec);
}

/// Stands for `ValidateDeployment` and `ValidateDeploymentUpdate`.
fn validate(deployment: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &deployment["spec"];
    let mut errors = metadata(deployment, old, dns_subdomain);
    errors.extend(non_negative(&spec["replicas"], "spec.replicas"));
    errors.extend(validate_selector_and_template(spec));
    errors.extend(validate_strategy(&spec["strategy"]));
    errors.extend(non_negative(&spec["minReadySeconds"], "spec.minReadySeconds"));
    errors.extend(non_negative(&spec["revisionHistoryLimit"], "spec.revisionHistoryLimit"));
    let deadline = &spec["progressDeadlineSeconds"];
    errors.extend(non_negative(deadline, "spec.progressDeadlineSeconds"));
    if let Some(seconds) = deadline.as_i64()
        && seconds <= spec["minReadySeconds"].as_i64().unwrap_or_default()
    {
        let detail = "must be greater than minReadySeconds";
        errors.push(invalid("spec.progressDeadlineSeconds", deadline, detail));
    }
    if let Some(old) = old
        && old["spec"]["selector"] != spec["selector"]
    {
        errors.push(invalid_nested("spec.selector", &spec["selector"], IMMUTABLE));
    }
    errors
}

/// Stands for `ValidatePodTemplateSpecForReplicaSet`: with a selector that is not valid, the template is not looked at.
pub(crate) fn validate_selector_and_template(spec: &Value) -> Vec<FieldError> {
    let mut errors = validate_selector(spec, "deployment", ": invalid label selector");
    if label_selector(&spec["selector"], "spec.selector").is_empty() {
        errors.extend(pod_spec::validate_template(&spec["template"], "spec.template"));
        errors.extend(validate_restarts(spec));
    }
    errors
}

/// Validates that a selector selects something and matches the labels of the template: otherwise
/// the controller would create pods without end. `kind` and `wrong` are words of the messages.
pub(crate) fn validate_selector(spec: &Value, kind: &str, wrong: &str) -> Vec<FieldError> {
    let selector = &spec["selector"];
    let labels = at(spec, &["template", "metadata", "labels"]);
    let mut errors = Vec::new();
    let selects_nothing = selects_nothing(selector);
    if selector.is_null() {
        errors.push(required("spec.selector", ""));
    } else {
        let found = label_selector(selector, "spec.selector");
        let is_valid = found.is_empty();
        errors.extend(found);
        if selects_nothing {
            let detail = format!("empty selector is invalid for {kind}");
            errors.push(invalid("spec.selector", selector, &detail));
        }
        if !is_valid {
            let shown = names::shown_selector(selector);
            errors.push(FieldError {
                reason: "FieldValueInvalid",
                field: "spec.selector".into(),
                message: format!("Invalid value: {shown}{wrong}"),
            });
            return errors;
        }
    }
    if selector.is_null() || !selects_nothing && !selects(selector, labels) {
        let detail = "`selector` does not match template `labels`";
        errors.push(invalid_nested("spec.template.metadata.labels", labels, detail));
    }
    errors
}

/// Validates that pods of a template restart and have no deadline: the controller expects them to
/// run forever.
pub(crate) fn validate_restarts(spec: &Value) -> impl Iterator<Item = FieldError> {
    let detail = "activeDeadlineSeconds in pod templates is not supported";
    only_always(spec).into_iter().chain(no_deadline(spec, detail))
}

pub(crate) fn only_always(spec: &Value) -> Option<FieldError> {
    let policy = at(spec, &["template", "spec", "restartPolicy"]);
    let field = "spec.template.spec.restartPolicy";
    let is_always = matches!(policy.as_str(), None | Some("" | "Always"));
    (!is_always).then(|| not_supported(field, policy, &["Always"]))
}

pub(crate) fn no_deadline(spec: &Value, detail: &str) -> Option<FieldError> {
    let has_deadline = !at(spec, &["template", "spec", "activeDeadlineSeconds"]).is_null();
    has_deadline.then(|| forbidden("spec.template.spec.activeDeadlineSeconds", detail))
}

/// Stands for `ValidateDeploymentStrategy`.
fn validate_strategy(strategy: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let rolling = &strategy["rollingUpdate"];
    match text(strategy, &["type"]) {
        "Recreate" if !rolling.is_null() => errors.push(forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        )),
        "Recreate" => {}
        "RollingUpdate" if rolling.is_null() => {
            let detail = "this should be defaulted and never be nil";
            errors.push(required("spec.strategy.rollingUpdate", detail));
        }
        "RollingUpdate" => {
            let path = |field: &str| format!("spec.strategy.rollingUpdate.{field}");
            for field in ["maxUnavailable", "maxSurge"] {
                errors.extend(number_or_percent(&rolling[field], &path(field)));
            }
            // With both at 0, no pod could be replaced.
            if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
                let detail = "may not be 0 when `maxSurge` is 0";
                let value = &rolling["maxUnavailable"];
                errors.push(invalid(path("maxUnavailable"), value, detail));
            }
            errors.extend(over_100_percent(&rolling["maxUnavailable"], &path("maxUnavailable")));
        }
        _ => {
            // Kubernetes prints its internal structure here, with the names of Go fields.
            let shown = serde_json::to_string(&strategy["type"]).unwrap_or_default();
            let rolling = match rolling {
                Value::Null => "null".to_owned(),
                _ => format!(
                    "{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}",
                    rolling["maxUnavailable"], rolling["maxSurge"]
                ),
            };
            errors.push(FieldError {
                reason: "FieldValueNotSupported",
                field: "spec.strategy".to_owned(),
                message: format!(
                    "Unsupported value: {{\"Type\":{shown},\"RollingUpdate\":{rolling}}}: \
                     supported values: \"Recreate\", \"RollingUpdate\""
                ),
            });
        }
    }
    errors
}

fn percent(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

pub(crate) fn is_zero(value: &Value) -> bool {
    value == 0 || percent(value) == Some(0)
}

/// Validates that a percentage is not too much.
pub(crate) fn over_100_percent(value: &Value, field: &str) -> Option<FieldError> {
    let is_over = percent(value).is_some_and(|percent| percent > 100);
    is_over.then(|| invalid(field, value, "must not be greater than 100%"))
}

/// Validates an `IntOrString` that is a count or a percentage.
pub(crate) fn number_or_percent(value: &Value, field: &str) -> Option<FieldError> {
    match value {
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let detail = "a valid percent string must be a numeric string followed by an ending \
                          '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            (!valid).then(|| invalid(field, value, detail))
        }
        _ => non_negative(value, field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> Value {
        let mut deployment = json!({
            "metadata": { "name": "kubeapp-production" },
            "spec": {
                "selector": { "matchLabels": { "app": "kubeapp" } },
                "template": {
                    "metadata": { "labels": { "app": "kubeapp" } },
                    "spec": { "containers": [{ "name": "kubeapp", "image": "kubeapp:1.0" }] },
                },
            },
        });
        defaults(&mut deployment);
        deployment
    }

    #[test]
    fn defaults_are_a_rolling_update_by_a_quarter() {
        let spec = &valid()["spec"];
        assert_eq!(spec["replicas"], 1);
        assert_eq!(spec["revisionHistoryLimit"], 10);
        assert_eq!(spec["progressDeadlineSeconds"], 600);
        assert_eq!(
            spec["strategy"],
            json!({
                "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" },
            })
        );
        assert_eq!(validate(&valid(), None), []);
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let mut empty = json!({ "metadata": { "name": "x" } });
        defaults(&mut empty);
        let errors: Vec<(String, String)> =
            validate(&empty, None).into_iter().map(|error| (error.field, error.message)).collect();
        let expected = [
            ("spec.selector", "Required value"),
            (
                "spec.template.metadata.labels",
                "Invalid value: null: `selector` does not match template `labels`",
            ),
            ("spec.template.spec.containers", "Required value"),
        ];
        assert_eq!(errors, expected.map(|(field, message)| (field.into(), message.into())));
    }

    #[test]
    fn invalid_field_is_one_error() {
        for (change, field, message) in [
            (
                json!({ "replicas": -1 }),
                "spec.replicas",
                "Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({ "selector": { "matchLabels": { "app": "other" } } }),
                "spec.template.metadata.labels",
                "Invalid value: {\"app\":\"kubeapp\"}: `selector` does not match template `labels`",
            ),
            (
                json!({ "strategy": { "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 0 } } }),
                "spec.strategy.rollingUpdate.maxUnavailable",
                "Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ),
            (
                json!({ "strategy": { "type": "Nope", "rollingUpdate": null } }),
                "spec.strategy",
                "Unsupported value: {\"Type\":\"Nope\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\"",
            ),
            (
                json!({ "template": { "spec": { "restartPolicy": "Never" } } }),
                "spec.template.spec.restartPolicy",
                "Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                json!({ "progressDeadlineSeconds": 0 }),
                "spec.progressDeadlineSeconds",
                "Invalid value: 0: must be greater than minReadySeconds",
            ),
        ] {
            let mut deployment = valid();
            json_patch::merge(&mut deployment["spec"], &change);
            let errors = validate(&deployment, None);
            assert_eq!(errors.len(), 1, "{change}: {errors:?}");
            assert_eq!((&*errors[0].field, &*errors[0].message), (field, message));
        }
    }

    #[test]
    fn selector_is_immutable() {
        let (old, mut new) = (valid(), valid());
        new["spec"]["selector"]["matchLabels"]["x"] = "y".into();
        new["spec"]["template"]["metadata"]["labels"]["x"] = "y".into();
        let errors = validate(&new, Some(&old));
        assert_eq!(
            errors[0].message,
            "Invalid value: {\"matchLabels\":{\"app\":\"kubeapp\",\"x\":\"y\"}}: field is immutable"
        );
    }

    /// Compared with kube-apiserver 1.36.2.
    #[test]
    fn template_is_not_validated_where_the_selector_is_not_valid() {
        let labels = |value: &str| json!({ "app": value });
        for (value, fields) in [
            ("a b", &["spec.selector.matchLabels", "spec.selector"][..]),
            ("a", &["spec.template.spec.containers"][..]),
        ] {
            let spec = json!({ "selector": { "matchLabels": labels(value) }, "template": {
                "metadata": { "labels": labels(value) },
                "spec": { "restartPolicy": "Always", "dnsPolicy": "ClusterFirst" } } });
            let errors = validate_selector_and_template(&spec);
            let found: Vec<&str> = errors.iter().map(|error| &*error.field).collect();
            assert_eq!(found, fields, "{value}");
        }
    }
}
