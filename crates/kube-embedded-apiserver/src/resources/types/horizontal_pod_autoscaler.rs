//! `horizontalpodautoscalers`, in both versions. Accepted with dry-run only, because this cluster
//! has no metrics API and thus nothing to scale by.

mod behavior;
mod metrics;
mod reference;

use k8s_openapi::api::autoscaling::{v1, v2};
use serde_json::{Value, json};

use crate::{
    fields::{default, list, object, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, Column, column, count},
    },
    validation::{
        field_error::{FieldError, invalid, required},
        names::dns_subdomain,
        object_meta::metadata,
    },
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    defaults: |scaler| {
        let Some(spec) = object(scaler, "spec") else { return };
        default(spec, "minReplicas", 1);
        // 80% of the requested CPU, unless other metrics are given.
        if list(spec, &["metrics"]).is_empty() {
            let target = json!({ "type": "Utilization", "averageUtilization": 80 });
            let resource = json!({ "name": "cpu", "target": target });
            spec["metrics"] = json!([{ "type": "Resource", "resource": resource }]);
        }
        behavior::defaults(spec);
    },
    prepare_create: |scaler| {
        scaler["status"] = json!({ "currentMetrics": null, "desiredReplicas": 0 });
    },
    ..common(ResourceType::of::<v2::HorizontalPodAutoscaler>(
        "horizontalpodautoscaler",
        "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    ))
};

pub(crate) const RESOURCE_V1: ResourceType = ResourceType {
    defaults: |scaler| {
        let Some(spec) = object(scaler, "spec") else { return };
        default(spec, "minReplicas", 1);
        default(spec, "targetCPUUtilizationPercentage", 80);
    },
    prepare_create: |scaler| {
        scaler["status"] = json!({ "currentReplicas": 0, "desiredReplicas": 0 });
    },
    ..common(ResourceType::of::<v1::HorizontalPodAutoscaler>(
        "horizontalpodautoscaler",
        "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
    ))
};

const COLUMNS: &[Column] = &[
    column(
        "Reference",
        "#/io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec/scaleTargetRef",
        |scaler, _| {
            let target = &scaler["spec"]["scaleTargetRef"];
            format!("{}/{}", text(target, &["kind"]), text(target, &["name"])).into()
        },
    ),
    // As in Kubernetes before the first metrics arrive.
    column("Targets", "#/io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec/metrics", |_, _| {
        "<unknown>".into()
    }),
    column(
        "MinPods",
        "#/io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec/minReplicas",
        |scaler, _| count(scaler, &["spec", "minReplicas"]).to_string().into(),
    ),
    column(
        "MaxPods",
        "#/io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec/maxReplicas",
        |scaler, _| count(scaler, &["spec", "maxReplicas"]).to_string().into(),
    ),
    column(
        "Replicas",
        "#/io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus/currentReplicas",
        |scaler, _| count(scaler, &["status", "currentReplicas"]).into(),
    ),
    AGE,
];

/// Sets the fields that both versions share.
const fn common(resource: ResourceType) -> ResourceType {
    ResourceType {
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &["status"],
        unsupported: Some("this cluster has no metrics to scale by: use kubectl scale"),
        validate,
        columns: COLUMNS,
        ..resource
    }
}

/// Stands for `ValidateHorizontalPodAutoscaler`.
fn validate(scaler: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(scaler, old, dns_subdomain);
    let spec = &scaler["spec"];
    let min = spec["minReplicas"].as_i64().unwrap_or(1);
    let max = spec["maxReplicas"].as_i64().unwrap_or_default();
    if min < 1 {
        let detail = "must be greater than or equal to 1";
        errors.push(invalid("spec.minReplicas", &min.into(), detail));
    }
    if max == 0 {
        errors.push(required("spec.maxReplicas", "must be set and greater than 0"));
    } else if max < 0 {
        let detail = "must be greater than or equal to 1";
        errors.push(invalid("spec.maxReplicas", &max.into(), detail));
    }
    if max < min {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(invalid("spec.maxReplicas", &max.into(), detail));
    }
    // One that was stored before may have any version.
    let any_version =
        old.is_some_and(|old| old["spec"]["scaleTargetRef"] == spec["scaleTargetRef"]);
    let target = reference::validate(&spec["scaleTargetRef"], "spec.scaleTargetRef", any_version);
    errors.extend(target);
    errors.extend(metrics::validate(spec));
    // The only metric of version 1.
    let percent = &spec["targetCPUUtilizationPercentage"];
    if percent.as_i64().is_some_and(|percent| percent < 1) {
        let field = "spec.metrics[0].resource.target.averageUtilization";
        errors.push(invalid(field, percent, "must be greater than 0"));
    }
    errors.extend(behavior::validate(&spec["behavior"]));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_scale_target_are_validated() {
        let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "d" });
        for (spec, invalid) in [
            (json!({ "maxReplicas": 3, "scaleTargetRef": target }), &[][..]),
            (json!({ "scaleTargetRef": target }), &["spec.maxReplicas"; 2]),
            (
                json!({ "minReplicas": 0, "maxReplicas": 1, "scaleTargetRef": target }),
                &["spec.minReplicas", "spec.metrics"],
            ),
            (
                json!({ "minReplicas": 4, "maxReplicas": 3, "scaleTargetRef": { "kind": "a/b" } }),
                &[
                    "spec.maxReplicas",
                    "spec.scaleTargetRef.kind",
                    "spec.scaleTargetRef.name",
                    "spec.scaleTargetRef.apiVersion",
                ],
            ),
        ] {
            for resource in [&RESOURCE, &RESOURCE_V1] {
                let mut scaler = json!({ "metadata": { "name": "h" }, "spec": spec });
                (resource.defaults)(&mut scaler);
                let errors = (resource.validate)(&scaler, None);
                let fields: Vec<&str> = errors.iter().map(|error| &*error.field).collect();
                assert_eq!(fields, invalid, "{spec}");
            }
        }
    }

    fn messages(fields: Value) -> Vec<String> {
        let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "d" });
        let mut spec = json!({ "maxReplicas": 3, "scaleTargetRef": target });
        spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let mut scaler = json!({ "metadata": { "name": "h" }, "spec": spec });
        (RESOURCE.defaults)(&mut scaler);
        let errors = (RESOURCE.validate)(&scaler, None).into_iter();
        errors.map(|error| format!("{}: {}", error.field, error.message)).collect()
    }

    /// Compared with kube-apiserver 1.36.2.
    #[test]
    fn metrics_are_validated() {
        let types = "Unsupported value: \"X\": supported values: \"ContainerResource\", \"External\", \"Object\", \
                     \"Pods\", \"Resource\"";
        let value = json!({ "type": "Value", "value": "1" });
        for (metric, expected) in [
            (json!({ "type": "Object", "object": { "metric": { "name": "m" }, "target": value,
                "describedObject": { "apiVersion": "v1", "kind": "Service", "name": "s" } } }), vec![]),
            (json!({ "type": "External", "external": { "metric": { "name": "m" }, "target": value } }), vec![]),
            (
                json!({ "type": "X" }),
                vec![format!("spec.metrics[0].type: {types}")],
            ),
            (
                json!({ "type": "Pods", "pods": { "metric": {}, "target": { "type": "AverageValue" } } }),
                vec![
                    "spec.metrics[0].pods.metric.name: Required value: must specify a metric name".into(),
                    "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue".into(),
                ],
            ),
            (
                json!({ "type": "Resource", "pods": { "metric": { "name": "m" },
                    "target": { "type": "AverageValue", "averageValue": "0" } } }),
                vec![
                    "spec.metrics[0].pods.target.averageValue: Invalid value: \"0\": must be positive".into(),
                    "spec.metrics[0].resource: Required value: must populate information for the given metric source".into(),
                ],
            ),
            (
                json!({ "type": "ContainerResource", "containerResource": { "name": "x",
                    "target": { "type": "Utilization", "averageUtilization": 0 } } }),
                vec![
                    "spec.metrics[0].containerResource.name: Invalid value: \"x\": must be a standard resource type or fully qualified".into(),
                    "spec.metrics[0].containerResource.name: Invalid value: \"x\": must be a standard resource for containers".into(),
                    "spec.metrics[0].containerResource.container: Required value: must specify a container".into(),
                    "spec.metrics[0].containerResource.target.averageUtilization: Invalid value: 0: must be greater than 0".into(),
                ],
            ),
        ] {
            assert_eq!(messages(json!({ "metrics": [metric] })), expected, "{metric}");
        }
    }

    #[test]
    fn behavior_has_defaults_and_limits() {
        let mut scaler = json!({ "spec": { "behavior": {} } });
        (RESOURCE.defaults)(&mut scaler);
        let behavior = &scaler["spec"]["behavior"];
        assert_eq!(behavior["scaleUp"]["stabilizationWindowSeconds"], 0);
        assert_eq!(behavior["scaleUp"]["policies"].as_array().map(Vec::len), Some(2));
        assert_eq!(behavior["scaleDown"]["selectPolicy"], "Max");
        assert_eq!(behavior["scaleDown"]["stabilizationWindowSeconds"], Value::Null);

        let policy = json!({ "type": "X", "value": 0, "periodSeconds": 1801 });
        let rules = json!({ "stabilizationWindowSeconds": 3601, "selectPolicy": "x", "policies": [policy] });
        let at = "spec.behavior.scaleUp";
        let expected = [
            format!(
                "{at}.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600"
            ),
            format!(
                "{at}.selectPolicy: Unsupported value: \"x\": supported values: \"Disabled\", \"Max\", \"Min\""
            ),
            format!(
                "{at}.policies[0].type: Unsupported value: \"X\": supported values: \"Percent\", \"Pods\""
            ),
            format!("{at}.policies[0].value: Invalid value: 0: must be greater than zero"),
            format!(
                "{at}.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800"
            ),
        ];
        assert_eq!(messages(json!({ "behavior": { "scaleUp": rules } })), expected);
    }
}
