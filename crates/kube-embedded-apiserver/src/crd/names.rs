//! Names of CustomResourceDefinitions: a definition gets those that no other one of its group has.

use crate::{
    fields::copy_field,
    resources::crd::conditions::{condition, set_condition},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Returns a key by which definitions sort in the order of their creation: the first one gets a name.
pub(crate) fn creation(definition: &Value) -> (String, u64) {
    let metadata = &definition["metadata"];
    let version = metadata["resourceVersion"].as_str().and_then(|v| v.parse().ok());
    let at = metadata["creationTimestamp"].as_str().unwrap_or_default();
    (at.to_owned(), version.unwrap_or(0))
}

/// Sets the names that a definition gets next to the others, and its conditions.
pub(crate) fn accept(definition: &mut Value, others: &[Value]) {
    let wanted = definition["spec"]["names"].clone();
    let accepted = definition["status"]["acceptedNames"].clone();
    let (resources, kinds) = taken_names(definition, others);
    let mut new = if accepted.is_object() { accepted.clone() } else { json!({}) };
    let mut conflict = None;
    for (field, taken, reason) in [
        ("plural", &resources, "PluralConflict"),
        ("singular", &resources, "SingularConflict"),
        ("shortNames", &resources, "ShortNamesConflict"),
        ("kind", &kinds, "KindConflict"),
        ("listKind", &kinds, "ListKindConflict"),
    ] {
        let names = match &wanted[field] {
            Value::Array(names) => names.clone(),
            Value::Null => Vec::new(),
            name => vec![name.clone()],
        };
        let in_use: Vec<String> = names
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| wanted[field] != accepted[field] && taken.contains(*name))
            .map(|name| format!("{name:?} is already in use"))
            .collect();
        if in_use.is_empty() {
            copy_field(&mut new, &wanted, field);
        } else {
            let message = match in_use.as_slice() {
                [one] => one.clone(),
                all => format!("[{}]", all.join(", ")),
            };
            conflict = Some((reason, message));
        }
    }
    copy_field(&mut new, &wanted, "categories");
    definition["status"]["acceptedNames"] = new;
    set_conditions(definition, conflict.as_ref().map(|(reason, message)| (*reason, &**message)));
    approve(definition);
}

/// Returns the names of resources and of kinds that the others have in the group of a definition.
fn taken_names(definition: &Value, others: &[Value]) -> (BTreeSet<String>, BTreeSet<String>) {
    let same_group = others
        .iter()
        .filter(|other| other["spec"]["group"] == definition["spec"]["group"])
        .map(|other| &other["status"]["acceptedNames"]);
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for names in same_group {
        let text = |field: &str| names[field].as_str().map(str::to_owned);
        resources.extend([text("plural"), text("singular")].into_iter().flatten());
        let short = names["shortNames"].as_array().into_iter().flatten();
        resources.extend(short.filter_map(Value::as_str).map(str::to_owned));
        kinds.extend([text("kind"), text("listKind")].into_iter().flatten());
    }
    (resources, kinds)
}

/// Sets `NamesAccepted` and `Established`, given the reason and the message of a conflict. An established definition
/// stays so.
fn set_conditions(definition: &mut Value, conflict: Option<(&str, &str)>) {
    let established = condition(definition, "Established") == Some("True");
    let (accepted, (reason, message)) = match conflict {
        Some(conflict) => ("False", conflict),
        None => ("True", ("NoConflicts", "no conflicts found")),
    };
    set_condition(definition, "NamesAccepted", accepted, reason, message);
    if !established {
        let (reason, message) = match conflict {
            Some(_) => ("NotAccepted", "not all names are accepted"),
            None => ("InitialNamesAccepted", "the initial names have been accepted"),
        };
        set_condition(definition, "Established", accepted, reason, message);
    }
}

/// Sets `KubernetesAPIApprovalPolicyConformant` for the protected groups (`*.k8s.io`).
fn approve(definition: &mut Value) {
    let approved = definition["metadata"]["annotations"]["api-approved.kubernetes.io"].as_str();
    let Some(approved) = approved.map(str::to_owned) else { return };
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    if group.ends_with(".k8s.io") || group.ends_with(".kubernetes.io") {
        let (reason, message) = match approved.starts_with("unapproved") {
            true => ("UnapprovedAnnotation", format!("not approved: {approved:?}")),
            false => ("ApprovedAnnotation", format!("approved in {approved}")),
        };
        let status = if approved.starts_with("unapproved") { "False" } else { "True" };
        let what = "KubernetesAPIApprovalPolicyConformant";
        set_condition(definition, what, status, reason, &message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(group: &str, plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({
            "metadata": { "name": format!("{plural}.{group}") },
            "spec": { "group": group, "names": {
                "plural": plural,
                "singular": kind.to_lowercase(),
                "kind": kind,
                "listKind": format!("{kind}List"),
                "shortNames": short,
            } },
        })
    }

    #[test]
    fn names_are_unique_in_a_group() {
        let mut first = definition("a.example", "things", "Thing", &["t"]);
        accept(&mut first, &[]);
        assert_eq!(condition(&first, "Established"), Some("True"));
        for (other, reason) in [
            (definition("b.example", "things", "Thing", &["t"]), "NoConflicts"),
            (definition("a.example", "others", "Other", &[]), "NoConflicts"),
            (definition("a.example", "others", "Other", &["t"]), "ShortNamesConflict"),
            (definition("a.example", "others", "Thing", &[]), "ListKindConflict"),
            (definition("a.example", "t", "Other", &[]), "PluralConflict"),
        ] {
            let mut other = other;
            accept(&mut other, std::slice::from_ref(&first));
            assert_eq!(other["status"]["conditions"][0]["reason"], reason, "{other}");
            let expected = if reason == "NoConflicts" { "True" } else { "False" };
            assert_eq!(condition(&other, "Established"), Some(expected), "{other}");
        }
    }
}
