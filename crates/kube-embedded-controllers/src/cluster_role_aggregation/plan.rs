//! The rules of ClusterRoles that aggregate others.

use crate::selector::matches;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::ResourceExt;
use std::{collections::BTreeMap, sync::Arc};

/// Returns the roles whose rules differ from what they aggregate, with the right ones. They are ordered by name.
pub(super) fn plan(roles: &[Arc<ClusterRole>]) -> Vec<(Arc<ClusterRole>, ClusterRole)> {
    let by_name: BTreeMap<String, &Arc<ClusterRole>> =
        roles.iter().map(|role| (role.name_any(), role)).collect();
    let mut rules: BTreeMap<&str, Vec<PolicyRule>> = by_name
        .iter()
        .map(|(name, role)| (&**name, role.rules.clone().unwrap_or_default()))
        .collect();
    let aggregating: Vec<(&str, &ClusterRole)> = by_name
        .iter()
        .filter(|(_, role)| role.aggregation_rule.is_some())
        .map(|(name, role)| (&**name, &***role))
        .collect();
    // A role may aggregate one that aggregates; each pass settles one more level.
    for _ in &aggregating {
        let mut changed = false;
        for (name, role) in &aggregating {
            let new = aggregate(name, role, &by_name, &rules);
            changed |= rules.get(name) != Some(&new);
            rules.insert(name, new);
        }
        if !changed {
            break;
        }
    }
    let changed = aggregating.into_iter().filter_map(|(name, role)| {
        let new = rules.remove(name)?;
        if new == role.rules.clone().unwrap_or_default() {
            return None;
        }
        Some(((*by_name.get(name)?).clone(), ClusterRole { rules: Some(new), ..role.clone() }))
    });
    changed.collect()
}

/// Returns the rules of the roles that a role selects, each once.
fn aggregate(
    name: &str,
    role: &ClusterRole,
    roles: &BTreeMap<String, &Arc<ClusterRole>>,
    rules: &BTreeMap<&str, Vec<PolicyRule>>,
) -> Vec<PolicyRule> {
    let selectors = role.aggregation_rule.iter().flat_map(|rule| &rule.cluster_role_selectors);
    let mut all: Vec<PolicyRule> = Vec::new();
    for selector in selectors.flatten() {
        let selected = roles.iter().filter(|(other, role)| {
            *other != name && matches(selector, role.metadata.labels.as_ref())
        });
        for rule in selected.filter_map(|(other, _)| rules.get(&**other)).flatten() {
            if !all.contains(rule) {
                all.push(rule.clone());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A role with labels, verbs of its rules, and the label that it aggregates.
    fn role(name: &str, labels: &[&str], verbs: &[&str], aggregates: &str) -> Arc<ClusterRole> {
        let labels: BTreeMap<_, _> = labels.iter().map(|label| (*label, "true")).collect();
        let rules: Vec<_> = verbs.iter().map(|verb| json!({ "verbs": [verb] })).collect();
        let mut role = json!({ "metadata": { "name": name, "labels": labels }, "rules": rules });
        if !aggregates.is_empty() {
            let selector = json!({ "matchLabels": { aggregates: "true" } });
            role["aggregationRule"] = json!({ "clusterRoleSelectors": [selector] });
        }
        Arc::new(serde_json::from_value(role).unwrap())
    }

    fn planned(roles: &[Arc<ClusterRole>]) -> Vec<(String, Vec<String>)> {
        let plan = plan(roles).into_iter();
        plan.map(|(_, new)| {
            let rules = new.rules.iter().flatten();
            (new.name_any(), rules.flat_map(|rule| rule.verbs.clone()).collect())
        })
        .collect()
    }

    #[test]
    fn role_has_the_rules_of_all_levels_that_it_selects() {
        let to = |name: &str, verbs: &[&str]| {
            (name.to_owned(), verbs.iter().map(|verb| (*verb).to_owned()).collect::<Vec<_>>())
        };
        let roles = [
            role("admin", &[], &[], "to-admin"),
            role("edit", &["to-admin"], &["stale"], "to-edit"),
            role("view", &["to-edit"], &["read"], "to-view"),
            role("a", &["to-admin"], &["grant"], ""),
            role("e", &["to-edit", "to-admin"], &["write"], ""),
            role("v", &["to-view"], &["read"], ""),
        ];
        assert_eq!(
            planned(&roles),
            [to("admin", &["grant", "write", "read"]), to("edit", &["write", "read"])]
        );
    }

    #[test]
    fn roles_that_select_each_other_settle() {
        let roles = [
            role("a", &["l"], &["x"], "l"),
            role("b", &["l"], &[], "l"),
            role("c", &[], &["y"], "none"),
        ];
        // What they select has no rules of its own.
        assert_eq!(planned(&roles), [("a".to_owned(), vec![]), ("c".to_owned(), vec![])]);
    }
}
