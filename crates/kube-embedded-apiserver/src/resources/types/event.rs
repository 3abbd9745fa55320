//! `events` of the core group, and of `events.k8s.io`: two views of the same objects, with other
//! names for the same fields. Stored in the form of the core group, as in Kubernetes.

use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Event, events::v1::Event as NewEvent};
use serde_json::{Map, Value};

use crate::{
    fields::{object, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{Column, column, since, wide},
    },
    validation::{
        field_error::{FieldError, IMMUTABLE, changed, invalid, required},
        names::{path_segment, qualified_name},
        object_meta::{self, Rules, metadata},
    },
};

const METADATA: Rules = Rules { update: &[], ..Rules::of(path_segment) };

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["ev"],
    defaults: |event| {
        object(event, "involvedObject");
        object(event, "source");
        if let Some(event) = event.as_object_mut() {
            // Without `omitempty` in the core group.
            event.entry("eventTime").or_insert(Value::Null);
            for field in ["firstTimestamp", "lastTimestamp"] {
                event.entry(field).or_insert(Value::Null);
            }
            for field in ["reportingComponent", "reportingInstance"] {
                event.entry(field).or_insert_with(|| "".into());
            }
        }
    },
    validate,
    columns: COLUMNS,
    selectable: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source=source.component|reportingComponent",
        "type",
    ],
    creates_on_update: true,
    ..ResourceType::of::<Event>("event", "io.k8s.api.core.v1.Event")
};

pub(crate) const EVENTS_RESOURCE: ResourceType = ResourceType {
    short_names: &["ev"],
    columns: COLUMNS,
    selectable: &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "reason",
        "reportingController",
        "type",
    ],
    defaults: |event| {
        object(event, "regarding");
        object(event, "deprecatedSource");
        if let Some(event) = event.as_object_mut() {
            for field in ["eventTime", "deprecatedFirstTimestamp", "deprecatedLastTimestamp"] {
                event.entry(field).or_insert(Value::Null);
            }
        }
    },
    validate: validate_new,
    storage: ("", "events"),
    from_storage: |event| {
        rename(event, "v1", "events.k8s.io/v1", |(old, new)| (old, new));
        if let Some(event) = event.as_object_mut() {
            // With `omitempty` in this group.
            event.retain(|name, value| {
                !matches!(name.as_str(), "reportingController" | "reportingInstance")
                    || *value != ""
            });
        }
    },
    to_storage: |event| rename(event, "events.k8s.io/v1", "v1", |(old, new)| (new, old)),
    creates_on_update: true,
    ..ResourceType::of::<NewEvent>("event", "io.k8s.api.events.v1.Event")
};

/// The names of fields in the core group, and in `events.k8s.io`
/// (`pkg/apis/events/v1/conversion.go`).
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Converts an event. One that has the target's `apiVersion` already is left alone.
fn rename(
    event: &mut Value,
    from: &str,
    to: &str,
    direction: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(fields) = event.as_object_mut() else { return };
    if fields.get("apiVersion").is_some_and(|version| version != from) {
        return;
    }
    fields.insert("apiVersion".to_owned(), to.into());
    *fields = std::mem::take(fields)
        .into_iter()
        .map(|(name, value)| {
            let renamed = NAMES.iter().copied().map(direction).find(|(old, _)| *old == name);
            (renamed.map_or(name, |(_, new)| new.to_owned()), value)
        })
        .collect::<Map<_, _>>();
}

/// Stands for `ValidateEventCreate` of the core group.
fn validate(event: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = object_meta::validate(event, old, &METADATA);
    if event["eventTime"].is_null() {
        errors.extend(namespace_mismatch(event, &["default", ""]));
    } else {
        errors.extend(common_errors(event, "reportingComponent"));
    }
    errors
}

/// Stands for `ValidateEventCreate` and `ValidateEventUpdate` of `events.k8s.io`, whose messages name the fields of the
/// core group.
fn validate_new(event: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(event, old, path_segment);
    if event["eventTime"].is_null() {
        errors.extend(namespace_mismatch(event, &["default", ""]));
    } else {
        errors.extend(common_errors(event, "reportingController"));
    }
    let series = &event["series"];
    if !series.is_null() && old.is_none_or(|old| old["series"] != *series) {
        if series["count"].as_i64().unwrap_or(0) < 2 {
            errors.push(invalid("series.count", &"".into(), "should be at least 2"));
        }
        if series["lastObservedTime"].is_null() {
            errors.push(required("series.lastObservedTime", ""));
        }
    }
    let Some(old) = old else {
        errors.extend(unset_fields(event));
        return errors;
    };
    for field in ["reason", "type", "action", "reportingController", "reportingInstance"] {
        errors.extend(changed(event, old, field));
    }
    if event["note"] != old["note"] {
        errors.push(invalid("message", &event["note"], IMMUTABLE));
    }
    errors
}

/// What a new event of `events.k8s.io` must and must not have.
fn unset_fields(event: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if event["eventTime"].is_null() {
        errors.push(required("eventTime", ""));
    }
    let given = text(event, &["type"]);
    if !matches!(given, "Normal" | "Warning") {
        errors.push(invalid("type", &"".into(), &format!("has invalid value: {given}")));
    }
    for (field, shown) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("deprecatedSource", "source"),
    ] {
        let is_set = match &event[field] {
            Value::Object(source) => source.values().any(|value| *value != ""),
            Value::Number(count) => count.as_i64() != Some(0),
            value => !value.is_null(),
        };
        if is_set {
            errors.push(invalid(shown, &"".into(), "needs to be unset"));
        }
    }
    errors
}

/// The involved object must be in the namespace of the event; that of a cluster-scoped one is in one of `clusterwide`.
fn namespace_mismatch(event: &Value, clusterwide: &[&str]) -> Option<FieldError> {
    let involved = text(either(event, "involvedObject", "regarding"), &["namespace"]);
    let namespace = text(event, &["metadata", "namespace"]);
    if involved == namespace || involved.is_empty() && clusterwide.contains(&namespace) {
        return None;
    }
    Some(invalid("involvedObject.namespace", &involved.into(), "does not match event.namespace"))
}

/// The rules for events that have a time.
fn common_errors(event: &Value, controller_field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(either(event, "involvedObject", "regarding"), &["namespace"]).is_empty() {
        errors.extend(namespace_mismatch(event, &["default", "kube-system"]));
    }
    let controller = text(event, &[controller_field]);
    if controller.is_empty() {
        errors.push(required(controller_field, ""));
    }
    errors.extend(
        qualified_name(controller)
            .iter()
            .map(|why| invalid(controller_field, &controller.into(), why)),
    );
    for (field, shown, max) in [
        ("reportingInstance", "reportingInstance", 128),
        ("action", "action", 128),
        ("reason", "reason", 128),
        ("message", "message", 1024),
        ("note", "message", 1024),
    ] {
        let given = text(event, &[field]);
        if given.is_empty() && max == 128 {
            errors.push(required(shown, ""));
        }
        if given.len() > max {
            let why = format!("can have at most {max} characters");
            errors.push(invalid(shown, &"".into(), &why));
        }
    }
    errors
}

const COLUMNS: &[Column] = &[
    column(
        "Last Seen",
        "The time at which the most recent occurrence of this event was recorded.",
        |event, now| last_seen(event, now).into(),
    ),
    column(
        "Type",
        "Type of this event (Normal, Warning), new types could be added in the future",
        |event, _| text(event, &["type"]).into(),
    ),
    column(
        "Reason",
        "This should be a short, machine understandable string that gives the reason for the \
         transition into the object's current status.",
        |event, _| text(event, &["reason"]).into(),
    ),
    column("Object", "The object that this event is about.", |event, _| {
        let object = either(event, "involvedObject", "regarding");
        let kind = text(object, &["kind"]).to_lowercase();
        match text(object, &["name"]) {
            "" => kind.into(),
            name => format!("{kind}/{name}").into(),
        }
    }),
    wide("Subobject", "#/io.k8s.api.core.v1.ObjectReference/fieldPath", |event, _| {
        text(either(event, "involvedObject", "regarding"), &["fieldPath"]).into()
    }),
    wide(
        "Source",
        "The component reporting this event. Should be a short machine understandable string.",
        |event, _| source(event).into(),
    ),
    column(
        "Message",
        "A human-readable description of the status of this operation.",
        |event, _| either(event, "message", "note").as_str().unwrap_or_default().trim().into(),
    ),
    wide(
        "First Seen",
        "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
        |event, now| first_seen(event, now).into(),
    ),
    wide("Count", "The number of times this event has occurred.", |event, _| {
        let series = event["series"]["count"].as_i64();
        let count = either(event, "count", "deprecatedCount").as_i64().filter(|count| *count != 0);
        series.or(count).unwrap_or(1).into()
    }),
    Column {
        format: "name",
        ..wide("Name", "#/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta/name", |event, _| {
            text(event, &["metadata", "name"]).into()
        })
    },
];

/// Returns a field by its name in either group: the columns serve both.
fn either<'a>(event: &'a Value, old: &str, new: &str) -> &'a Value {
    if event[old].is_null() { &event[new] } else { &event[old] }
}

/// The time of the first occurrence; events of the new API have `eventTime` instead.
fn first_seen(event: &Value, now: Timestamp) -> String {
    match either(event, "firstTimestamp", "deprecatedFirstTimestamp").as_str() {
        Some(time) => since(time, now),
        None => since(text(event, &["eventTime"]), now),
    }
}

/// The time of the last occurrence: of the series, or as the old API counted.
fn last_seen(event: &Value, now: Timestamp) -> String {
    if let Some(time) = event["series"]["lastObservedTime"].as_str() {
        return since(time, now);
    }
    match either(event, "lastTimestamp", "deprecatedLastTimestamp").as_str() {
        Some(time) => since(time, now),
        None => first_seen(event, now),
    }
}

/// The component, and the instance or host of it (`formatEventSource`).
fn source(event: &Value) -> String {
    let source = either(event, "source", "deprecatedSource");
    let component = match text(source, &["component"]) {
        "" => either(event, "reportingComponent", "reportingController").as_str(),
        component => Some(component),
    };
    let component = component.unwrap_or_default();
    let instance = match text(source, &["host"]) {
        "" => text(event, &["reportingInstance"]),
        host => host,
    };
    if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn event_converts_between_groups_without_loss() {
        let stored = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "name": "e" },
            "involvedObject": { "kind": "Pod", "name": "p" }, "message": "hello",
            "source": { "component": "kubelet" }, "count": 2, "type": "Normal",
        });
        let mut viewed = stored.clone();
        (EVENTS_RESOURCE.from_storage)(&mut viewed);
        assert_eq!(viewed["note"], "hello");
        assert_eq!(viewed["regarding"]["name"], "p");
        let cells = |event: &Value| -> Vec<Value> {
            COLUMNS.iter().map(|column| (column.cell)(event, Timestamp::UNIX_EPOCH)).collect()
        };
        assert_eq!(cells(&viewed), cells(&stored));
        assert_eq!(cells(&stored)[3], "pod/p");
        (EVENTS_RESOURCE.to_storage)(&mut viewed);
        assert_eq!(viewed, stored);
        let mut empty = stored.clone();
        empty["reportingComponent"] = "".into();
        empty["reportingInstance"] = "".into();
        (EVENTS_RESOURCE.from_storage)(&mut empty);
        assert_eq!(empty.get("reportingController").or(empty.get("reportingInstance")), None);
    }

    #[test]
    fn event_with_a_time_is_validated_by_the_names_of_the_core_group() {
        let good = json!({
            "metadata": { "name": "e", "namespace": "n" }, "eventTime": "2026-01-01T00:00:00.000000Z",
            "regarding": { "kind": "Pod", "name": "p", "namespace": "n" }, "type": "Normal",
            "reportingController": "a/b", "reportingInstance": "i", "action": "A", "reason": "R",
        });
        assert_eq!(validate_new(&good, None), []);
        let long = "x".repeat(129);
        for (field, value, expected) in [
            ("regarding", json!({}), &["involvedObject.namespace"][..]),
            ("eventTime", Value::Null, &["eventTime"]),
            ("type", json!("Odd"), &["type"]),
            ("reportingController", json!(""), &["reportingController"; 3]),
            ("reportingController", json!("-"), &["reportingController"]),
            ("reportingInstance", json!(long), &["reportingInstance"]),
            ("action", Value::Null, &["action"]),
            ("note", json!("x".repeat(1025)), &["message"]),
            ("series", json!({ "count": 1 }), &["series.count", "series.lastObservedTime"]),
            ("deprecatedCount", json!(1), &["count"]),
            ("deprecatedSource", json!({ "host": "h" }), &["source"]),
        ] {
            let mut event = good.clone();
            event[field] = value;
            let errors = validate_new(&event, None);
            let fields: Vec<&str> = errors.iter().map(|error| &*error.field).collect();
            assert_eq!(fields, expected, "{field}");
        }
        let mut changed = good.clone();
        changed["note"] = "n".into();
        changed["reason"] = "S".into();
        let errors = validate_new(&changed, Some(&good));
        let fields: Vec<&str> = errors.iter().map(|error| &*error.field).collect();
        assert_eq!(fields, ["reason", "message"]);
    }
}
