//! The metrics that a HorizontalPodAutoscaler scales by (`validateMetrics`).

use serde_json::Value;

use super::reference;
use crate::{
    fields::{list, text},
    validation::{
        field_error::{FieldError, forbidden, invalid, not_supported, required},
        names::{dns_label, path_segment},
        resources::name_errors,
    },
};
use kube_embedded_core::quantity;

/// The types, and the field that belongs to each, in the order in which they are validated.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// Returns the errors of `spec.metrics`.
pub(super) fn validate(spec: &Value) -> Vec<FieldError> {
    let metrics = list(spec, &["metrics"]);
    let mut errors = Vec::new();
    for (at, metric) in metrics.iter().enumerate() {
        errors.extend(validate_metric(metric, &format!("spec.metrics[{at}]")));
    }
    let scales_to_zero = |metric: &Value| matches!(text(metric, &["type"]), "Object" | "External");
    if spec["minReplicas"] == 0 && !metrics.iter().any(scales_to_zero) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(forbidden("spec.metrics", detail));
    }
    errors
}

fn validate_metric(metric: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = text(metric, &["type"]);
    let at = format!("{field}.type");
    if kind.is_empty() {
        errors.push(required(&*at, "must specify a metric source type"));
    }
    let own = SOURCES.iter().find(|(name, _)| *name == kind).map(|(_, own)| *own);
    if own.is_none() {
        errors.push(not_supported(&*at, &metric["type"], &TYPES));
    }
    let present = SOURCES.iter().map(|(_, name)| *name).filter(|name| !metric[name].is_null());
    let present: Vec<&str> = present.collect();
    if let Some(name) = present.first() {
        errors.extend(validate_source(name, &metric[name], &format!("{field}.{name}")));
    }
    match own {
        Some(own) if metric[own].is_null() => {
            let detail = "must populate information for the given metric source";
            errors.push(required(format!("{field}.{own}"), detail));
        }
        _ => {}
    }
    if present.len() != 1 {
        for name in present.iter().filter(|name| Some(**name) != own) {
            let detail = "must populate the given metric source only";
            errors.push(forbidden(format!("{field}.{name}"), detail));
        }
    }
    errors
}

fn validate_source(kind: &str, source: &Value, field: &str) -> Vec<FieldError> {
    let target = &source["target"];
    let has = |name: &str| !target[name].is_null();
    let at = |name: &str| format!("{field}.target.{name}");
    let mut errors = Vec::new();
    match kind {
        "object" => {
            let described = &source["describedObject"];
            errors.extend(reference::validate(
                described,
                &format!("{field}.describedObject"),
                true,
            ));
            errors.extend(metric_name(source, field));
        }
        "external" | "pods" => errors.extend(metric_name(source, field)),
        _ => errors.extend(resource_name(kind, source, field)),
    }
    errors.extend(validate_target(target, &format!("{field}.target")));
    match kind {
        "object" if !has("value") && !has("averageValue") => {
            let detail = "must set either a target value or averageValue";
            errors.push(required(at("averageValue"), detail));
        }
        "external" if !has("value") && !has("averageValue") => {
            let detail = "must set either a target value for metric or a per-pod target";
            errors.push(required(at("averageValue"), detail));
        }
        "external" if has("value") && has("averageValue") => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.push(forbidden(at("value"), detail));
        }
        "pods" if !has("averageValue") => {
            errors
                .push(required(at("averageValue"), "must specify a positive target averageValue"));
        }
        "resource" | "containerResource" => {
            let both = has("averageUtilization") && has("averageValue");
            if !has("averageUtilization") && !has("averageValue") {
                let detail = "must set either a target raw value or a target utilization";
                errors.push(required(at("averageUtilization"), detail));
            } else if both {
                let detail = "may not set both a target raw value and a target utilization";
                errors.push(forbidden(at("averageValue"), detail));
            }
        }
        _ => {}
    }
    errors
}

fn metric_name(source: &Value, field: &str) -> Vec<FieldError> {
    let (field, name) = (format!("{field}.metric.name"), text(source, &["metric", "name"]));
    if name.is_empty() {
        return vec![required(field, "must specify a metric name")];
    }
    path_segment(name).iter().map(|w| invalid(&*field, &name.into(), w)).collect()
}

/// The resource, and the container that it is measured of.
fn resource_name(kind: &str, source: &Value, field: &str) -> Vec<FieldError> {
    let (name, container) = (text(source, &["name"]), text(source, &["container"]));
    let mut errors = Vec::new();
    if name.is_empty() {
        errors.push(required(format!("{field}.name"), "must specify a resource name"));
    } else if kind == "containerResource" {
        errors.extend(name_errors(name, &format!("{field}.name")));
    }
    if kind == "containerResource" {
        let field = format!("{field}.container");
        if container.is_empty() {
            errors.push(required(field, "must specify a container"));
        } else {
            let details = dns_label(container);
            errors.extend(details.iter().map(|w| invalid(&*field, &container.into(), w)));
        }
    }
    errors
}

fn validate_target(target: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = text(target, &["type"]);
    if kind.is_empty() {
        errors.push(required(format!("{field}.type"), "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(invalid(format!("{field}.type"), &target["type"], detail));
    }
    for name in ["value", "averageValue"] {
        let value = &target[name];
        if value.as_str().and_then(|text| quantity::parse(text).ok()).is_some_and(|n| n <= 0) {
            errors.push(invalid(format!("{field}.{name}"), value, "must be positive"));
        }
    }
    let utilization = &target["averageUtilization"];
    if utilization.as_i64().is_some_and(|percent| percent < 1) {
        let field = format!("{field}.averageUtilization");
        errors.push(invalid(field, utilization, "must be greater than 0"));
    }
    errors
}
