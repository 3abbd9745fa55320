//! `limitranges`. Accepted with dry-run only, because the admission plugin that would enforce them does not exist here.
//! They are served so that clients which list them find none (`kubectl describe namespace` does).

use crate::{
    fields::{each, list, object, text},
    resources::resource_type::ResourceType,
    validation::{
        field_error::{FieldError, duplicate, forbidden, invalid, required},
        names::{dns_subdomain, qualified_name},
        object_meta::metadata,
        resources,
    },
};
use k8s_openapi::api::core::v1::LimitRange;
use kube_embedded_core::quantity;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["limits"],
    unsupported: Some("this cluster enforces no limit ranges"),
    defaults: |range| {
        if let Some(spec) = object(range, "spec") {
            each(spec, "limits").for_each(complete);
        }
    },
    validate: |range, old| {
        let mut errors = metadata(range, old, dns_subdomain);
        let mut types = BTreeSet::new();
        for (at, limit) in list(range, &["spec", "limits"]).iter().enumerate() {
            let field = format!("spec.limits[{at}]");
            errors.extend(type_errors(text(limit, &["type"]), &format!("{field}.type")));
            if !types.insert(text(limit, &["type"])) {
                errors
                    .push(duplicate(format!("{field}.type"), Value::from(text(limit, &["type"]))));
            }
            errors.extend(validate(limit, &field));
        }
        errors
    },
    creates_on_update: true,
    ..ResourceType::of::<LimitRange>("limitrange", "io.k8s.api.core.v1.LimitRange")
};

/// The parts of a limit, in the order in which they are validated.
const PARTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

/// Stands for `SetDefaults_LimitRangeItem`.
fn complete(limit: &mut Value) {
    if limit["type"] != "Container" {
        return;
    }
    let amounts = |limit: &Value, part: &str| limit[part].as_object().cloned().unwrap_or_default();
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
    {
        let mut new: Map<String, Value> = amounts(limit, from);
        new.extend(amounts(limit, to));
        if !new.is_empty() {
            limit[to] = new.into();
        }
    }
}

/// Stands for `validateLimitRangeTypeName`.
fn type_errors(name: &str, field: &str) -> Vec<FieldError> {
    let details = qualified_name(name);
    if !details.is_empty() {
        return details.iter().map(|detail| invalid(field, &name.into(), detail)).collect();
    }
    if !name.contains('/') && !matches!(name, "Pod" | "Container" | "PersistentVolumeClaim") {
        let detail = "must be a standard limit type or fully qualified";
        return vec![invalid(field, &name.into(), detail)];
    }
    Vec::new()
}

/// Validates one limit, but for its type (`ValidateLimitRange`).
fn validate(limit: &Value, field: &str) -> Vec<FieldError> {
    let kind = text(limit, &["type"]);
    let mut errors = Vec::new();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for part in PARTS {
        let amounts = limit[part].as_object();
        let is_default = matches!(part, "default" | "defaultRequest");
        if part == "maxLimitRequestRatio"
            && kind == "PersistentVolumeClaim"
            && ["min", "max"].iter().all(|part| limit[part]["storage"].is_null())
        {
            let detail =
                "either minimum or maximum storage value is required, but neither was provided";
            errors.push(required(format!("{field}.limits"), detail));
        }
        if kind == "Pod" && is_default {
            if amounts.is_some_and(|amounts| !amounts.is_empty()) {
                let detail = "may not be specified when `type` is 'Pod'";
                errors.push(forbidden(format!("{field}.{part}"), detail));
            }
            continue;
        }
        for name in amounts.into_iter().flatten().map(|(name, _)| name) {
            let at = format!("{field}.{part}[{name}]");
            errors.extend(match kind {
                "Pod" | "Container" => resources::name_errors(name, &at),
                _ => resources::any_name_errors(name, &at),
            });
            names.insert(name);
        }
    }
    errors.extend(names.into_iter().flat_map(|name| relations(limit, name, field)));
    errors
}

/// Validates the amounts of one resource against each other.
fn relations(limit: &Value, name: &str, field: &str) -> Vec<FieldError> {
    let is_pod = limit["type"] == "Pod";
    let amount = |part: &str| {
        let shown = &limit[part][name];
        let hidden = is_pod && part.starts_with("default");
        let value = quantity::parse(shown.as_str()?).ok()?;
        (!hidden).then(|| (value, shown.as_str().unwrap_or_default()))
    };
    let [max, min, default, request, ratio] = PARTS.map(amount);
    let mut errors = Vec::new();
    // What is less than what, where that is reported, and with which value.
    for (less, more, part, reported, what) in [
        (min, max, "min", min, ["min value", "max value"]),
        (min, request, "defaultRequest", request, ["min value", "default request value"]),
        (request, max, "defaultRequest", request, ["default request value", "max value"]),
        (
            request,
            default,
            "defaultRequest",
            request,
            ["default request value", "default limit value"],
        ),
        (min, default, "default", min, ["min value", "default value"]),
        (default, max, "default", max, ["default value", "max value"]),
    ] {
        if let (Some((low, low_text)), Some((high, high_text)), Some((_, shown))) =
            (less, more, reported)
            && low > high
        {
            let [first, second] = what;
            let detail = format!("{first} {low_text} is greater than {second} {high_text}");
            errors.push(invalid(format!("{field}.{part}[{name}]"), &shown.into(), &detail));
        }
    }
    if let Some((value, shown)) = ratio {
        let at = format!("{field}.maxLimitRequestRatio[{name}]");
        if value < ONE {
            let detail = format!("ratio {shown} is less than 1");
            errors.push(invalid(&*at, &shown.into(), &detail));
        }
        if let (Some((min, _)), Some((max, _))) = (min, max) {
            let most = as_float(max) / as_float(min);
            if as_float(value) / as_float(ONE) > most {
                let detail =
                    format!("ratio {shown} is greater than max/min = {}", shown_float(most));
                errors.push(invalid(&*at, &shown.into(), &detail));
            }
        }
    }
    if let (Some((wanted, shown)), Some((limit, limit_text))) = (request, default)
        && wanted != limit
        && !resources::may_be_overcommitted(name)
    {
        let detail = format!(
            "default value {limit_text} must equal to defaultRequest value {shown} in {name}"
        );
        errors.push(invalid(format!("{field}.defaultRequest[{name}]"), &shown.into(), &detail));
    }
    errors
}

/// 1, in billionths.
const ONE: i128 = 1_000_000_000;

#[expect(clippy::cast_precision_loss, reason = "kube-apiserver divides such numbers, too")]
fn as_float(value: i128) -> f64 {
    value as f64
}

/// A number as Go's `%f` writes it.
fn shown_float(value: f64) -> String {
    match value {
        v if v.is_nan() => "NaN".to_owned(),
        v if v.is_infinite() => if v > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
        v => format!("{v:.6}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Compared with kube-apiserver 1.36.2.
    #[test]
    fn limits_fit_each_other() {
        for (limit, expected) in [
            (json!({ "type": "Container", "max": { "cpu": "2" }, "min": { "cpu": "1" } }), &[][..]),
            (
                json!({ "type": "X" }),
                &[
                    "spec.limits[0].type: Invalid value: \"X\": must be a standard limit type or fully qualified",
                ],
            ),
            (
                json!({ "type": "Pod", "default": { "cpu": "1" } }),
                &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"],
            ),
            (
                json!({ "type": "Pod", "max": { "cpu": "1" }, "min": { "cpu": "2" } }),
                &[
                    "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                ],
            ),
            (
                json!({ "type": "PersistentVolumeClaim" }),
                &[
                    "spec.limits[0].limits: Required value: either minimum or maximum storage value is \
                     required, but neither was provided",
                ],
            ),
            (
                json!({
                    "type": "Pod",
                    "max": { "cpu": "2" },
                    "min": { "cpu": "1" },
                    "maxLimitRequestRatio": { "cpu": "3" },
                }),
                &[
                    "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than \
                     max/min = 2.000000",
                ],
            ),
        ] {
            let mut range = json!({ "metadata": { "name": "l" }, "spec": { "limits": [limit] } });
            (RESOURCE.defaults)(&mut range);
            let errors = (RESOURCE.validate)(&range, None).into_iter();
            let errors: Vec<_> = errors.map(|e| format!("{}: {}", e.field, e.message)).collect();
            assert_eq!(errors, expected, "{range}");
        }
    }

    #[test]
    fn limits_of_containers_are_completed() {
        let mut limit =
            json!({ "type": "Container", "max": { "cpu": "2" }, "min": { "memory": "1" } });
        complete(&mut limit);
        assert_eq!(limit["default"], json!({ "cpu": "2" }));
        assert_eq!(limit["defaultRequest"], json!({ "cpu": "2", "memory": "1" }));
    }
}
