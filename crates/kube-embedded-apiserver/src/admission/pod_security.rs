//! The `PodSecurity` admission plugin: the labels `pod-security.kubernetes.io/*` of a namespace refuse pods that
//! violate the Pod Security Standards, or warn of them. Workloads are warned of, not refused: their controllers
//! report the pods that are.

mod checks;
mod policy;
#[cfg(test)]
mod tests;

use crate::{
    fields::{at, list, text},
    resources::resource_type::Attributes,
    store::{Key, Resource},
    validation::field_error::FieldError,
};
use checks::{Template, violations};
use policy::{Level, LevelVersion, Policy, of_labels};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const NAMESPACES: Resource = Resource::fixed("", "namespaces");
const PODS: Resource = Resource::fixed("", "pods");

/// Reviews a pod: a new one, or one that gets another image or container.
pub(crate) fn review_pod(review: &Attributes<'_>) -> Result<Vec<String>, String> {
    let pod = review.new;
    if review.old.is_some_and(|old| !is_significant_update(pod, old)) {
        return Ok(Vec::new());
    }
    let (policy, _) = of_labels(&labels_of_namespace(review));
    let pod = Template { metadata: &pod["metadata"], spec: &pod["spec"] };
    let enforced = found(policy.enforce, pod);
    if !enforced.is_empty() {
        return Err(format!("violates PodSecurity \"{}\": {enforced}", policy.enforce));
    }
    Ok(advise(&policy, pod, review))
}

/// Reviews the pod template of a workload (`spec.template`).
pub(crate) fn review_workload(review: &Attributes<'_>) -> Result<Vec<String>, String> {
    let template = at(review.new, &["spec", "template"]);
    let (policy, _) = of_labels(&labels_of_namespace(review));
    let pod = Template { metadata: &template["metadata"], spec: &template["spec"] };
    Ok(advise(&policy, pod, review))
}

/// Warns of the pods of a namespace that violate the level that a change of its labels enforces.
pub(crate) fn review_namespace(review: &Attributes<'_>) -> Result<Vec<String>, String> {
    let Some(old) = review.old else { return Ok(Vec::new()) };
    let enforced = |namespace: &Value| of_labels(&namespace["metadata"]["labels"]).0.enforce;
    let (new, old) = (enforced(review.new), enforced(old));
    let is_weaker = new.version == old.version && new.level <= old.level;
    if new == old || new.level == Level::Privileged || is_weaker {
        return Ok(Vec::new());
    }
    let name = text(review.new, &["metadata", "name"]);
    let pods = review.store.list(PODS, Some(name), None).objects;
    Ok(summarize(name, new, pods.iter().map(|pod| &pod.value)))
}

/// Returns the errors of the labels of a namespace, which an update may leave as they were.
pub(crate) fn validate_labels(namespace: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let errors = |namespace: &Value| of_labels(&namespace["metadata"]["labels"]).1;
    let new = errors(namespace);
    if old.is_some_and(|old| errors(old) == new) { Vec::new() } else { new }
}

fn labels_of_namespace(review: &Attributes<'_>) -> Value {
    let key = Key {
        resource: NAMESPACES,
        namespace: String::new(),
        name: text(review.new, &["metadata", "namespace"]).to_owned(),
    };
    let namespace = review.store.get(&key);
    namespace.map_or(Value::Null, |found| found.value["metadata"]["labels"].clone())
}

/// Returns the warnings of a pod that is admitted. There is no audit log: what would be in it is logged.
fn advise(policy: &Policy, pod: Template<'_>, review: &Attributes<'_>) -> Vec<String> {
    let audited = found(policy.audit, pod);
    if !audited.is_empty() {
        let object = text(review.new, &["metadata", "name"]);
        tracing::info!(
            target: "apiserver::audit",
            object, "would violate PodSecurity \"{}\": {audited}", policy.audit
        );
    }
    let warned = found(policy.warn, pod);
    let warning = || format!("would violate PodSecurity \"{}\": {warned}", policy.warn);
    if warned.is_empty() { Vec::new() } else { vec![warning()] }
}

/// Returns the violations of a pod in one line; empty without any.
fn found(mode: LevelVersion, pod: Template<'_>) -> String {
    let violations = violations(mode, pod).into_iter();
    let lines: Vec<String> =
        violations.map(|found| format!("{} ({})", found.reason, found.detail)).collect();
    lines.join(", ")
}

/// Returns true if an update changes images or adds containers (`isSignificantPodUpdate`).
fn is_significant_update(pod: &Value, old: &Value) -> bool {
    let containers = |pod: &Value, field: &str| -> Vec<(String, String)> {
        let all = list(pod, &["spec", field]).iter();
        all.map(|one| (text(one, &["name"]).to_owned(), text(one, &["image"]).to_owned())).collect()
    };
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .any(|field| containers(pod, field) != containers(old, field))
}

/// Returns a warning that pods violate a level, and one for each kind of violation, with the first pod by name.
fn summarize<'a>(
    namespace: &str,
    mode: LevelVersion,
    pods: impl Iterator<Item = &'a Value>,
) -> Vec<String> {
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for pod in pods {
        let template = Template { metadata: &pod["metadata"], spec: &pod["spec"] };
        let reasons: Vec<String> =
            violations(mode, template).into_iter().map(|violation| violation.reason).collect();
        if !reasons.is_empty() {
            found.entry(reasons.join(", ")).or_default().insert(text(pod, &["metadata", "name"]));
        }
    }
    if found.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<String> = found
        .iter()
        .map(|(reasons, pods)| {
            let first = pods.first().copied().unwrap_or_default();
            match pods.len() {
                1 => format!("{first}: {reasons}"),
                2 => format!("{first} (and 1 other pod): {reasons}"),
                count => format!("{first} (and {} other pods): {reasons}", count - 1),
            }
        })
        .collect();
    lines.sort_unstable();
    let summary = format!(
        "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \
         \"{mode}\""
    );
    std::iter::once(summary).chain(lines).collect()
}
