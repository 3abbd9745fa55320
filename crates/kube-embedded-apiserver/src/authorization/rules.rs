//! Policy rules: what a rule allows (`pkg/apis/rbac/v1/evaluation_helpers.go`), and whether rules cover others
//! (`component-helpers/auth/rbac/validation/policy_comparator.go`).

use crate::{authorization::attributes::Attributes, fields::strings};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Stands for everything in each field of a rule.
const ALL: &str = "*";

/// A rule of a role (`PolicyRule`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PolicyRule {
    pub(crate) verbs: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) urls: Vec<String>,
}

impl PolicyRule {
    /// Reads a rule.
    pub(crate) fn new(rule: &Value) -> Self {
        Self {
            verbs: strings(&rule["verbs"]),
            groups: strings(&rule["apiGroups"]),
            resources: strings(&rule["resources"]),
            names: strings(&rule["resourceNames"]),
            urls: strings(&rule["nonResourceURLs"]),
        }
    }

    /// Reads the rules of a role.
    pub(crate) fn of_role(role: &Value) -> Vec<Self> {
        role["rules"].as_array().into_iter().flatten().map(Self::new).collect()
    }

    /// The rules of a user who may do everything.
    pub(crate) fn full_authority() -> [Self; 2] {
        let all = || vec![ALL.to_owned()];
        [
            Self { verbs: all(), groups: all(), resources: all(), ..Self::default() },
            Self { verbs: all(), urls: all(), ..Self::default() },
        ]
    }

    /// Returns the rule in JSON.
    pub(crate) fn to_value(&self) -> Value {
        let mut rule = Map::new();
        for (field, list) in [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !list.is_empty() {
                rule.insert(field.into(), json!(list));
            }
        }
        rule.into()
    }

    /// Returns true if the rule allows an action.
    pub(crate) fn allows(&self, action: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, &action.verb) {
            return false;
        }
        match &action.path {
            Some(path) => self.urls.iter().any(|url| url_matches(url, path)),
            None => {
                has_or_all(&self.groups, &action.group)
                    && self.resource_matches(action)
                    && (self.names.is_empty() || has(&self.names, &action.name))
            }
        }
    }

    /// Returns true if the rule names the resource, all resources, or the subresource of all resources (`*/scale`).
    fn resource_matches(&self, action: &Attributes<'_>) -> bool {
        let subresource = &*action.subresource;
        self.resources.iter().any(|resource| match resource.split_once('/') {
            None => resource == ALL || subresource.is_empty() && *resource == action.resource,
            Some((main, below)) => {
                !subresource.is_empty()
                    && below == subresource
                    && (main == ALL || main == action.resource)
            }
        })
    }

    /// Returns true if this rule alone covers a rule that [`PolicyRule::break_down`] made.
    fn covers(&self, other: &Self) -> bool {
        let all_of = |own: &[String], others: &[String]| {
            has(own, ALL) || others.iter().all(|one| has(own, one))
        };
        all_of(&self.verbs, &other.verbs)
            && all_of(&self.groups, &other.groups)
            && self.covers_resources(&other.resources)
            && other.urls.iter().all(|path| self.urls.iter().any(|url| url_matches(url, path)))
            && (self.names.is_empty()
                || !other.names.is_empty() && other.names.iter().all(|name| has(&self.names, name)))
    }

    fn covers_resources(&self, resources: &[String]) -> bool {
        has(&self.resources, ALL)
            || resources.iter().all(|resource| {
                let below = resource.split_once('/').map(|(_, below)| format!("{ALL}/{below}"));
                has(&self.resources, resource)
                    || below.is_some_and(|all_below| has(&self.resources, &all_below))
            })
    }

    /// Returns rules with one verb, group, resource and name each (`BreakdownRule`).
    fn break_down(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut parts = Vec::new();
        let names: Vec<Vec<String>> = match self.names.is_empty() {
            true => vec![Vec::new()],
            false => self.names.iter().map(one).collect(),
        };
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    parts.extend(names.iter().map(|names| Self {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        names: names.clone(),
                        urls: Vec::new(),
                    }));
                }
            }
        }
        for url in &self.urls {
            for verb in &self.verbs {
                parts.push(Self { verbs: one(verb), urls: one(url), ..Self::default() });
            }
        }
        parts
    }

    /// Returns the rule as Kubernetes prints it (`CompactString`).
    fn compact(&self) -> String {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(field, list)| format!("{field}:{}", quoted(list)))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// Returns the part of `requested` that `owned` does not cover (`Covers`).
pub(crate) fn missing(owned: &[PolicyRule], requested: &[PolicyRule]) -> Vec<PolicyRule> {
    let parts = requested.iter().flat_map(PolicyRule::break_down);
    parts.filter(|part| !owned.iter().any(|rule| rule.covers(part))).collect()
}

/// Returns the lines that describe missing rules, verbs of a resource together (`CompactRules`).
pub(crate) fn describe(missing: &[PolicyRule]) -> Vec<String> {
    let mut compact: Vec<PolicyRule> = Vec::new();
    for rule in missing {
        let alike = compact.iter_mut().find(|known| {
            let same = known.groups == rule.groups && known.resources == rule.resources;
            same && known.names.is_empty() && rule.names.is_empty() && rule.urls.is_empty()
        });
        match alike {
            Some(known) => known.verbs.extend(rule.verbs.iter().cloned()),
            None => compact.push(rule.clone()),
        }
    }
    let lines: BTreeSet<String> = compact.iter().map(PolicyRule::compact).collect();
    lines.into_iter().collect()
}

/// Formats a list as Go's `%q` does.
pub(crate) fn quoted(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|one| one == text)
}

fn has_or_all(list: &[String], text: &str) -> bool {
    list.iter().any(|one| one == ALL || one == text)
}

/// Returns true if a path of a rule, which may end with `*`, is or includes another path.
fn url_matches(url: &str, path: &str) -> bool {
    url == path || url.ends_with('*') && path.starts_with(url.trim_end_matches('*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> PolicyRule {
        let list = |text: &str| match text {
            "" => Vec::new(),
            text => text.split(',').map(|one| one.replace("core", "")).collect(),
        };
        if resources.starts_with('/') {
            return PolicyRule { verbs: list(verbs), urls: list(resources), ..Default::default() };
        }
        PolicyRule {
            verbs: list(verbs),
            groups: list(groups),
            resources: list(resources),
            names: list(names),
            urls: Vec::new(),
        }
    }

    fn action<'a>(
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        name: &'a str,
    ) -> Attributes<'a> {
        if resource.starts_with('/') {
            let path = Some(resource.into());
            return Attributes { verb: verb.into(), path, ..Default::default() };
        }
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Default::default()
        }
    }

    #[test]
    fn rule_allows_what_it_names() {
        let pods = rule("get,list", "core", "pods", "");
        let scale = rule("update", "*", "*/scale", "");
        let all = rule("*", "*", "*", "");
        let named = rule("get", "core", "secrets,pods/log", "a,b");
        let paths = rule("get", "", "/healthz,/apis/*", "");
        for (rule, action, allowed) in [
            (&pods, action("get", "", "pods", "x"), true),
            (&pods, action("watch", "", "pods", ""), false),
            (&pods, action("get", "apps", "pods", "x"), false),
            (&pods, action("get", "", "pods/log", "x"), false),
            (&pods, action("get", "", "/pods", ""), false),
            (&scale, action("update", "apps", "deployments/scale", "x"), true),
            (&scale, action("update", "apps", "deployments", "x"), false),
            (&scale, action("update", "apps", "deployments/status", "x"), false),
            (&all, action("use", "x.y", "things/anything", "x"), true),
            (&all, action("get", "", "/healthz", ""), false),
            (&named, action("get", "", "secrets", "a"), true),
            (&named, action("get", "", "secrets", "c"), false),
            (&named, action("get", "", "secrets", ""), false),
            (&named, action("get", "", "pods/log", "b"), true),
            (&paths, action("get", "", "/healthz", ""), true),
            (&paths, action("get", "", "/healthz/ping", ""), false),
            (&paths, action("get", "", "/apis/apps/v1", ""), true),
            (&paths, action("get", "", "/apis", ""), false),
            (&paths, action("post", "", "/healthz", ""), false),
        ] {
            assert_eq!(rule.allows(&action), allowed, "{rule:?} {action:?}");
        }
    }

    #[test]
    fn missing_rules_are_what_no_owned_rule_covers() {
        let owned = [
            rule("get,list", "core", "pods", ""),
            rule("update", "*", "*/scale", ""),
            rule("get", "core", "secrets", "a"),
            rule("get", "", "/api/*", ""),
        ];
        for (requested, described) in [
            (rule("get", "core", "pods", ""), &[][..]),
            (rule("get", "core", "pods", "x"), &[]),
            (rule("update", "apps", "deployments/scale", ""), &[]),
            (rule("get", "core", "secrets", "a"), &[]),
            (rule("get", "", "/api/v1,/api/*", ""), &[]),
            (
                rule("get,create,delete", "core", "pods", ""),
                &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["create" "delete"]}"#],
            ),
            (
                rule("get", "core", "secrets", ""),
                &[r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#],
            ),
            (
                rule("get", "core", "secrets", "a,b"),
                &[r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["get"]}"#],
            ),
            (rule("*", "*", "*", ""), &[r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#]),
            (rule("get", "", "/", ""), &[r#"{NonResourceURLs:["/"], Verbs:["get"]}"#]),
        ] {
            let found = missing(&owned, std::slice::from_ref(&requested));
            assert_eq!(describe(&found), described, "{requested:?}");
        }
        let all = PolicyRule::full_authority();
        assert!(missing(&all, &owned).is_empty() && missing(&all, &all).is_empty());
    }
}
