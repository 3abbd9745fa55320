//! A pod as the controls see it, and the words of their messages.

use crate::fields::{list, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// A pod, or the template of pods.
#[derive(Clone, Copy)]
pub(super) struct Template<'a> {
    pub(super) metadata: &'a Value,
    pub(super) spec: &'a Value,
}

/// A control that a pod violates.
#[derive(Debug, PartialEq)]
pub(super) struct Violation {
    /// `host namespaces`: all that is shown of it where several pods are summarized.
    pub(super) reason: String,
    /// `hostNetwork=true`.
    pub(super) detail: String,
}

pub(super) fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.to_owned(), detail })
}

/// Returns the containers in the order in which they start.
pub(super) fn containers(pod: Template<'_>) -> impl Iterator<Item = &Value> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.into_iter().flat_map(move |field| list(pod.spec, &[field]))
}

/// Returns the names of the containers of which `is_bad` is true.
pub(super) fn named<'a>(
    pod: Template<'a>,
    mut is_bad: impl FnMut(&'a Value) -> bool,
) -> Vec<&'a str> {
    containers(pod)
        .filter(|container| is_bad(container))
        .map(|container| text(container, &["name"]))
        .collect()
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn shown(names: &[&str]) -> String {
    format!("{} {}", plural(names.len(), "container", "containers"), quoted(names))
}

/// The pod itself and its containers as the setters of a field: `pod and container "a"`.
pub(super) fn setters(is_pod: bool, names: &[&str]) -> Option<String> {
    let containers = (!names.is_empty()).then(|| shown(names));
    let pod = is_pod.then(|| "pod".to_owned());
    let all: Vec<String> = pod.into_iter().chain(containers).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

pub(super) fn plural<'a>(count: usize, singular: &'a str, plural: &'a str) -> &'a str {
    if count == 1 { singular } else { plural }
}

/// `"a", "b"`.
pub(super) fn quoted<'a>(items: impl IntoIterator<Item = &'a &'a str>) -> String {
    items.into_iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ")
}

/// A set that is shown in order.
pub(super) type Values<'a> = BTreeSet<&'a str>;

/// Returns the security context of a container or of a pod's spec.
pub(super) fn context(of: &Value) -> &Value {
    &of["securityContext"]
}
