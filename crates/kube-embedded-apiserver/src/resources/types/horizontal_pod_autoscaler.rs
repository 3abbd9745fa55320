//! `horizontalpodautoscalers`, in both versions. Accepted with dry-run only, because this cluster
//! has no metrics API and thus nothing to scale by.

use k8s_openapi::api::autoscaling::{v1, v2};
use serde_json::{Value, json};

use crate::{
    fields::{default, list, object, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, Column, column, count, number},
    },
    validation::{
        field_error::{FieldError, invalid, required},
        names::{dns_subdomain, path_segment},
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
    column("Reference", "reference to scaled resource", |scaler, _| {
        let target = &scaler["spec"]["scaleTargetRef"];
        format!("{}/{}", text(target, &["kind"]), text(target, &["name"])).into()
    }),
    // As in Kubernetes before the first metrics arrive.
    column("Targets", "the metrics to scale by", |_, _| "<unknown>".into()),
    column("MinPods", "lower limit for the number of pods", |scaler, _| {
        count(scaler, &["spec", "minReplicas"]).to_string().into()
    }),
    column("MaxPods", "upper limit for the number of pods", |scaler, _| {
        count(scaler, &["spec", "maxReplicas"]).to_string().into()
    }),
    number("Replicas", "current number of replicas", |scaler, _| {
        count(scaler, &["status", "currentReplicas"]).into()
    }),
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

/// Stands for `ValidateHorizontalPodAutoscaler`, without metrics and behavior.
fn validate(scaler: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(scaler, old, dns_subdomain);
    let spec = &scaler["spec"];
    let min = spec["minReplicas"].as_i64().unwrap_or(1);
    let max = spec["maxReplicas"].as_i64().unwrap_or_default();
    if min < 1 {
        let detail = "must be greater than or equal to 1";
        errors.push(invalid("spec.minReplicas", &min.into(), detail));
    }
    if max < 1 {
        errors.push(invalid("spec.maxReplicas", &max.into(), "must be greater than 0"));
    }
    if max < min {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(invalid("spec.maxReplicas", &max.into(), detail));
    }
    for name in ["kind", "name"] {
        let field = format!("spec.scaleTargetRef.{name}");
        match text(&spec["scaleTargetRef"], &[name]) {
            "" => errors.push(required(field, "")),
            given => errors.extend(
                path_segment(given).iter().map(|w| invalid(field.as_str(), &given.into(), w)),
            ),
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_scale_target_are_validated() {
        let target = json!({ "kind": "Deployment", "name": "d" });
        for (spec, invalid) in [
            (json!({ "maxReplicas": 3, "scaleTargetRef": target }), &[][..]),
            (json!({ "scaleTargetRef": target }), &["spec.maxReplicas"; 2]),
            (
                json!({ "minReplicas": 0, "maxReplicas": 1, "scaleTargetRef": target }),
                &["spec.minReplicas"],
            ),
            (
                json!({ "minReplicas": 4, "maxReplicas": 3, "scaleTargetRef": { "kind": "a/b" } }),
                &["spec.maxReplicas", "spec.scaleTargetRef.kind", "spec.scaleTargetRef.name"],
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
}
