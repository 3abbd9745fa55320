//! Formats of names, labels, selectors and ports (`k8s.io/apimachinery/pkg/util/validation`).
//! Functions that return texts return the details of errors; those that return errors know the
//! field.

use crate::{
    fields::{list, text},
    validation::field_error::{FieldError, duplicate, forbidden, invalid, not_supported, required},
};
use serde_json::Value;
use std::collections::HashSet;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
    or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
    regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or \
    '-', start with an alphabetic character, and end with an alphanumeric character (e.g. \
    'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
    'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and \
    must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
    '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
    'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// Checks a DNS label: at most 63 characters, without dots (RFC 1123).
pub(crate) fn dns_label(name: &str) -> Vec<String> {
    let rule = match is_dns_subdomain(name) {
        true => "must not contain dots",
        false => LABEL,
    };
    details(is_dns_label(name), rule, name, 63)
}

/// Checks a DNS subdomain: labels joined by dots (RFC 1123).
pub(crate) fn dns_subdomain(name: &str) -> Vec<String> {
    details(is_dns_subdomain(name), SUBDOMAIN, name, 253)
}

/// Checks the characters of a subdomain, not its length.
fn is_dns_subdomain(name: &str) -> bool {
    name.split('.').all(is_dns_label)
}

/// Checks a DNS label that starts with a letter (RFC 1035), as names in URLs of custom resources
/// do.
pub(crate) fn dns_1035_label(name: &str) -> Vec<String> {
    let starts_with_letter = name.starts_with(|first: char| first.is_ascii_lowercase());
    details(starts_with_letter && is_dns_label(name), LABEL_1035, name, 63)
}

/// Checks the characters of a label, not its length.
fn is_dns_label(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.is_empty()
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Returns the details of a name's errors, the length first.
fn details(matches: bool, rule: &str, name: &str, max: usize) -> Vec<String> {
    let mut details = Vec::new();
    if name.len() > max {
        details.push(format!("must be no more than {max} characters"));
    }
    if !matches {
        details.push(rule.to_owned());
    }
    details
}

/// Checks the name part of a qualified name, or a label value that is not empty.
fn is_name_part(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// Checks a name that is to be a path segment (`path.IsValidPathSegmentName`).
pub(crate) fn path_segment(name: &str) -> Vec<String> {
    if matches!(name, "." | "..") {
        return vec![format!("may not be '{name}'")];
    }
    let not_allowed = ["/", "%"].into_iter().filter(|part| name.contains(part));
    not_allowed.map(|part| format!("may not contain '{part}'")).collect()
}

/// Returns the errors of a domain-prefixed path, such as `acme.io/foo`.
pub(crate) fn domain_prefixed_path(name: &str, field: &str) -> Vec<FieldError> {
    if name.is_empty() {
        return vec![required(field, "")];
    }
    let parts = name.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty());
    let Some((host, path)) = parts else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return vec![invalid(field, &name.into(), detail)];
    };
    let details = dns_subdomain(host);
    let mut errors: Vec<_> = details.iter().map(|w| invalid(field, &host.into(), w)).collect();
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        let detail = "Invalid path (regex used for validation is \
                      '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(invalid(field, &path.into(), detail));
    }
    errors
}

/// Checks a qualified name: the key of a label or annotation, or a finalizer.
pub(crate) fn qualified_name(key: &str) -> Vec<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let mut details = Vec::new();
    if name.contains('/') {
        return vec![format!(
            "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. \
             'example.com/MyName')",
            QUALIFIED.trim_start_matches("name part ")
        )];
    }
    match prefix {
        Some("") => details.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            // Another implementation of the rule, which counts bytes.
            let details_of_prefix = dns_subdomain(prefix).into_iter();
            details.extend(
                details_of_prefix
                    .map(|w| format!("prefix part {}", w.replace("253 characters", "253 bytes"))),
            );
        }
        None => {}
    }
    if name.is_empty() {
        details.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        details.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_name_part(name) {
        details.push(QUALIFIED.to_owned());
    }
    details
}

/// Returns the errors of the labels in a field.
pub(crate) fn labels(value: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        for detail in qualified_name(key) {
            errors.push(invalid(field, &key.as_str().into(), &detail));
        }
        let details = label_value(value.as_str().unwrap_or_default());
        errors.extend(details.iter().map(|detail| invalid(field, value, detail)));
    }
    errors
}

/// Checks the value of a label.
pub(crate) fn label_value(value: &str) -> Vec<&'static str> {
    let mut details = Vec::new();
    if value.len() > 63 {
        details.push("must be no more than 63 bytes");
    }
    if !value.is_empty() && !is_name_part(value) {
        details.push(LABEL_VALUE);
    }
    details
}

/// Returns the errors of a label selector (`metav1validation.ValidateLabelSelector`).
pub(crate) fn label_selector(selector: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = labels(&selector["matchLabels"], &format!("{field}.matchLabels"));
    for (at, expression) in list(selector, &["matchExpressions"]).iter().enumerate() {
        let field = format!("{field}.matchExpressions[{at}]");
        let values = list(expression, &["values"]);
        match text(expression, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => errors.push(required(
                format!("{field}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(forbidden(
                format!("{field}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(invalid(
                format!("{field}.operator"),
                &expression["operator"],
                "not a valid selector operator",
            )),
        }
        for detail in qualified_name(text(expression, &["key"])) {
            errors.push(invalid(format!("{field}.key"), &expression["key"], &detail));
        }
        for (at, value) in values.iter().enumerate() {
            let details = label_value(value.as_str().unwrap_or_default());
            let field = format!("{field}.values[{at}]");
            errors.extend(details.iter().map(|detail| invalid(&*field, value, detail)));
        }
    }
    errors
}

/// A label selector in the order of Go's fields, which messages show.
pub(crate) fn shown_selector(selector: &Value) -> String {
    let fields = ["matchLabels", "matchExpressions"].into_iter();
    let given = fields.filter(|field| !selector[*field].is_null());
    let given: Vec<_> = given.map(|field| format!("\"{field}\":{}", selector[field])).collect();
    format!("{{{}}}", given.join(","))
}

/// Returns true if a label selector has no requirement.
pub(crate) fn selects_nothing(selector: &Value) -> bool {
    ["matchLabels", "matchExpressions"].iter().all(|part| {
        selector[*part].as_object().is_none_or(serde_json::Map::is_empty)
            && selector[*part].as_array().is_none_or(Vec::is_empty)
    })
}

/// Returns true if a label selector matches labels. An empty selector matches all; `NotIn` also
/// matches objects without the label.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    exact
        && list(selector, &["matchExpressions"]).iter().all(|expression| {
            let label = labels.get(text(expression, &["key"]));
            let among = label.is_some_and(|label| list(expression, &["values"]).contains(label));
            match text(expression, &["operator"]) {
                "In" => among,
                "NotIn" => !among,
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
        })
}

/// Returns an error if a number is negative.
pub(crate) fn non_negative(value: &Value, field: impl Into<String>) -> Option<FieldError> {
    let negative = value.as_i64().is_some_and(|number| number < 0);
    negative.then(|| invalid(field, value, "must be greater than or equal to 0"))
}

/// Returns an error if a number is not a port; a missing one counts as 0.
pub(crate) fn port(value: &Value, field: impl Into<String>) -> Option<FieldError> {
    let shown = if value.is_null() { &Value::from(0) } else { value };
    let valid = shown.as_i64().is_some_and(|port| (1..=65535).contains(&port));
    (!valid).then(|| invalid(field, shown, "must be between 1 and 65535, inclusive"))
}

/// Checks the name of a port (RFC 6335).
pub(crate) fn port_name(name: &str) -> Vec<String> {
    let mut details = Vec::new();
    if name.len() > 15 {
        details.push("must be no more than 15 characters".to_owned());
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        details
            .push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        details.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        details.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        details.push("must not begin or end with a hyphen".to_owned());
    }
    details
}

/// Returns the errors of a port that is given by number or name.
pub(crate) fn port_or_name(value: &Value, field: &str) -> Vec<FieldError> {
    match value {
        Value::String(name) if name.is_empty() => vec![invalid(field, value, "must be non-empty")],
        Value::String(name) => {
            port_name(name).iter().map(|detail| invalid(field, value, detail)).collect()
        }
        _ => port(value, field).into_iter().collect(),
    }
}

/// Checks a required field with a fixed set of values.
pub(super) fn one_of(
    spec: &Value,
    name: &str,
    field: &str,
    supported: &[&str],
    errors: &mut Vec<FieldError>,
) {
    match text(spec, &[name]) {
        "" => errors.push(required(format!("{field}.{name}"), "")),
        value if supported.contains(&value) => {}
        _ => errors.push(not_supported(format!("{field}.{name}"), &spec[name], supported)),
    }
}

/// Checks a name that must be a DNS label and unique.
pub(super) fn check_name<'a>(
    name: &'a str,
    value: &Value,
    field: &str,
    seen: &mut HashSet<&'a str>,
    errors: &mut Vec<FieldError>,
) {
    if name.is_empty() {
        errors.push(required(field, ""));
    } else if !dns_label(name).is_empty() {
        errors.extend(dns_label(name).iter().map(|detail| invalid(field, value, detail)));
    } else if !seen.insert(name) {
        errors.push(duplicate(field, value));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};
    use serde_json::json;

    use super::*;

    #[test]
    fn label_and_subdomain_are_checked() {
        for (name, label, subdomain) in [
            ("a", true, true),
            ("a-1", true, true),
            ("a.b", false, true),
            ("", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("a..b", false, false),
            ("Bad_Name", false, false),
        ] {
            assert_eq!(dns_label(name).is_empty(), label, "{name}");
            assert_eq!(dns_subdomain(name).is_empty(), subdomain, "{name}");
        }
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
    }

    #[test]
    fn label_keys_and_values_are_checked() {
        for (given, errors) in [
            (json!({ "app": "x", "example.com/Tier": "" }), 0),
            (json!({ "bad key!": "x" }), 1),
            (json!({ "a": "-x" }), 1),
            (json!({ "/a": "x" }), 1),
            (json!({ "a/b/c": "x" }), 1),
            (json!({ "a": "x".repeat(64) }), 1),
        ] {
            assert_eq!(labels(&given, "metadata.labels").len(), errors, "{given}");
        }
    }

    #[test]
    fn selector_matches_labels_and_expressions() {
        let labels = json!({ "app": "x", "tier": "front" });
        for (selector, selected) in [
            (json!({}), true),
            (json!({ "matchLabels": { "app": "x" } }), true),
            (json!({ "matchLabels": { "app": "y" } }), false),
            (
                json!({ "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["front"] }] }),
                true,
            ),
            (
                json!({ "matchExpressions": [{ "key": "none", "operator": "NotIn", "values": ["a"] }] }),
                true,
            ),
            (json!({ "matchExpressions": [{ "key": "app", "operator": "DoesNotExist" }] }), false),
        ] {
            assert_eq!(selects(&selector, &labels), selected, "{selector}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn opposite_operators_select_the_opposite(
            labels in btree_map("[a-c]", "[x-z]", 0..3),
            key in "[a-c]",
            values in prop::collection::vec("[x-z]", 1..3),
        ) {
            let labels = json!(labels);
            let matches = |operator: &str| {
                let expression = json!({ "key": key, "operator": operator, "values": values });
                selects(&json!({ "matchExpressions": [expression] }), &labels)
            };
            prop_assert_ne!(matches("In"), matches("NotIn"));
            prop_assert_ne!(matches("Exists"), matches("DoesNotExist"));
            prop_assert!(!matches("In") || matches("Exists"));
        }

        #[test]
        fn match_labels_equal_expressions_with_one_value(
            labels in btree_map("[a-c]", "[x-z]", 0..3),
            wanted in btree_map("[a-c]", "[x-z]", 0..3),
        ) {
            let expressions: Vec<Value> = wanted
                .iter()
                .map(|(key, value)| json!({ "key": key, "operator": "In", "values": [value] }))
                .collect();
            prop_assert_eq!(
                selects(&json!({ "matchLabels": wanted }), &json!(labels)),
                selects(&json!({ "matchExpressions": expressions }), &json!(labels))
            );
        }
    }
}
