//! Objects as some errors show them: in the version that kube-apiserver has for itself, in which fields have the names of
//! Go and none is left out.

use serde_json::Value;
use std::{collections::HashMap, fmt::Write, sync::LazyLock};

use crate::validation::unified_diff::unified_diff;

/// Lines of the table by the name of a structure.
static TABLE: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    let lines = include_str!("internal_types.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).collect()
});

/// The fields of metadata that a template may have, in the order of Go.
const METADATA: [&str; 11] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
];

/// JSON with fields in an order of their own.
enum Node {
    Leaf(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Returns an object on one line.
pub(crate) fn shown(structure: &str, value: &Value) -> String {
    let mut out = String::new();
    Node::of(structure, value).write(&mut out, None);
    out
}

/// Returns what differs in two objects, as lines of a unified diff.
pub(crate) fn diff(structure: &str, old: &Value, new: &Value) -> String {
    let lines = |value: &Value| {
        let mut out = String::new();
        Node::of(structure, value).write(&mut out, Some(0));
        out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    unified_diff(&lines(old), &lines(new))
}

impl Node {
    fn of(structure: &str, value: &Value) -> Self {
        let entries = TABLE.get(structure).copied().unwrap_or_default().split(' ');
        let mut fields = Vec::new();
        for entry in entries.filter(|entry| !entry.is_empty()) {
            if entry == "@ObjectMeta" {
                let given = METADATA.iter().map(|name| (*name, &value["metadata"][*name]));
                let given = given.filter(|(_, value)| !is_empty(value));
                fields.extend(given.map(|(name, value)| (name.to_owned(), Self::plain(value))));
                continue;
            }
            let (name, kind) = entry.split_once(':').unwrap_or((entry, ""));
            let field = find(value, name);
            let node = match kind {
                "" | "s" | "i" | "b" | "?" if !field.is_null() => Self::plain(field),
                "" => Self::Leaf("null".into()),
                "s" => Self::Leaf("\"\"".into()),
                "b" => Self::Leaf("false".into()),
                "i" => Self::Leaf("0".into()),
                // A quantity, or a number that may be a string.
                "?" => Self::Leaf(if name == "Divisor" { "\"0\"" } else { "0" }.into()),
                kind => Self::nested(kind, value, field),
            };
            fields.push((name.to_owned(), node));
        }
        Self::Map(fields)
    }

    /// A structure below another, or a list of them.
    fn nested(kind: &str, parent: &Value, field: &Value) -> Self {
        if let Some(structure) = kind.strip_prefix("[]") {
            return match field.as_array() {
                Some(items) => {
                    Self::List(items.iter().map(|item| Self::of(structure, item)).collect())
                }
                None => Self::Leaf("null".into()),
            };
        }
        let (is_pointer, structure) = (kind.starts_with('*'), kind.get(1..).unwrap_or_default());
        if structure == "PodSecurityContext" {
            return Self::of(structure, &with_host_fields(parent, field));
        }
        match is_pointer && field.is_null() {
            true => Self::Leaf("null".into()),
            false => Self::of(structure, field),
        }
    }

    /// A value that both versions have in common.
    fn plain(value: &Value) -> Self {
        match value {
            Value::Array(items) => Self::List(items.iter().map(Self::plain).collect()),
            Value::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                // In Go, the labels of a selector come before its expressions.
                fields.sort_by_key(|(name, _)| (*name != "matchLabels", *name));
                let fields = fields.into_iter().map(|(name, v)| (name.clone(), Self::plain(v)));
                Self::Map(fields.collect())
            }
            // Go escapes what could be markup.
            leaf => Self::Leaf(
                leaf.to_string()
                    .replace('<', "\\u003c")
                    .replace('>', "\\u003e")
                    .replace('&', "\\u0026"),
            ),
        }
    }

    /// Writes JSON, on lines with an indentation if there is one.
    fn write(&self, out: &mut String, depth: Option<usize>) {
        let inner = depth.map(|depth| depth + 1);
        let line = |out: &mut String, depth: Option<usize>| {
            if let Some(depth) = depth {
                let _ = write!(out, "\n{:depth$}", "");
            }
        };
        match self {
            Self::Leaf(text) => out.push_str(text),
            Self::List(items) if items.is_empty() => out.push_str("[]"),
            Self::Map(fields) if fields.is_empty() => out.push_str("{}"),
            Self::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    out.push(if at == 0 { '[' } else { ',' });
                    line(out, inner);
                    item.write(out, inner);
                }
                line(out, depth);
                out.push(']');
            }
            Self::Map(fields) => {
                let colon = if depth.is_some() { ": " } else { ":" };
                for (at, (name, value)) in fields.iter().enumerate() {
                    out.push(if at == 0 { '{' } else { ',' });
                    line(out, inner);
                    let _ = write!(out, "{}{colon}", Value::from(&**name));
                    value.write(out, inner);
                }
                line(out, depth);
                out.push('}');
            }
        }
    }
}

/// Finds a field by its name in Go, which differs from that in JSON by its capitals.
fn find<'v>(value: &'v Value, name: &str) -> &'v Value {
    let mut fields = value.as_object().into_iter().flatten();
    let found = fields.find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map_or(&Value::Null, |(_, value)| value)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Returns the security context of a pod with the fields that have moved there.
fn with_host_fields(spec: &Value, context: &Value) -> Value {
    let mut context = context.clone();
    for name in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
        if !spec[name].is_null() {
            context[name] = spec[name].clone();
        }
    }
    context
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn value_is_shown_with_all_fields_in_the_order_of_go() {
        for (structure, value, expected) in [
            (
                "Toleration",
                json!({ "key": "a" }),
                r#"{"Key":"a","Operator":"","Value":"","Effect":"","TolerationSeconds":null}"#,
            ),
            (
                "ResourceRequirements",
                json!({ "limits": { "cpu": "1" } }),
                r#"{"Limits":{"cpu":"1"},"Requests":null,"Claims":null}"#,
            ),
            (
                "HTTPGetAction",
                json!({ "port": "http", "httpHeaders": [{ "name": "x" }] }),
                r#"{"Path":"","Port":"http","Host":"","Scheme":"","HTTPHeaders":[{"Name":"x","Value":""}]}"#,
            ),
            (
                "WeightedPodAffinityTerm",
                json!({ "podAffinityTerm": { "labelSelector": { "matchExpressions": [], "matchLabels": {} } } }),
                r#"{"Weight":0,"PodAffinityTerm":{"LabelSelector":{"matchLabels":{},"matchExpressions":[]},"Namespaces":null,"TopologyKey":"","NamespaceSelector":null,"MatchLabelKeys":null,"MismatchLabelKeys":null}}"#,
            ),
            ("PodFailurePolicy", json!({ "rules": [] }), r#"{"Rules":[]}"#),
        ] {
            assert_eq!(shown(structure, &value), expected);
        }
        let template = json!({
            "metadata": { "labels": { "a": "b" }, "annotations": {} },
            "spec": { "hostNetwork": true, "securityContext": {} },
        });
        let template = shown("PodTemplateSpec", &template);
        assert!(
            template.starts_with(r#"{"labels":{"a":"b"},"Spec":{"Volumes":null,"#),
            "{template}"
        );
        assert!(template.contains(r#""SecurityContext":{"HostNetwork":true,"HostPID":false,"#));
    }

    #[test]
    fn what_differs_is_shown_with_three_lines_around_it() {
        let diff = diff(
            "Probe",
            &json!({ "periodSeconds": 10, "exec": { "command": ["a"] } }),
            &json!({ "periodSeconds": 5, "exec": { "command": ["a"] } }),
        );
        let expected = "@@ -9,7 +9,7 @@\n  \"GRPC\": null,\n  \"InitialDelaySeconds\": 0,\n  \
                        \"TimeoutSeconds\": 0,\n- \"PeriodSeconds\": 10,\n+ \"PeriodSeconds\": 5,\n  \
                        \"SuccessThreshold\": 0,\n  \"FailureThreshold\": 0,\n  \
                        \"TerminationGracePeriodSeconds\": null\n";
        assert_eq!(diff, expected);
    }

    /// Every structure that the table names has a line.
    #[test]
    fn table_is_complete() {
        for line in TABLE.values() {
            for entry in line.split(' ').filter_map(|entry| entry.split_once(':')) {
                let structure = entry.1.trim_start_matches(['*', '=', '[', ']']);
                let is_structure = structure.len() > 1;
                assert!(!is_structure || TABLE.contains_key(structure), "{structure}");
            }
        }
    }
}
