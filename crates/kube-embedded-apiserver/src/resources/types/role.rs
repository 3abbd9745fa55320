//! `roles` and `clusterroles` (`rbac.authorization.k8s.io/v1`): sets of permissions.

use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use serde_json::Value;

use crate::{
    authorization::escalation::check_role,
    fields::list,
    resources::resource_type::ResourceType,
    validation::{
        field_error::{FieldError, invalid, invalid_nested, required},
        names::{label_selector, path_segment},
        object_meta::{self, Part, Rules},
    },
};

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Whole, Part::Changes],
    ..Rules::of(path_segment)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    validate: |role, old| {
        let mut errors = object_meta::validate(role, old, &METADATA);
        errors.extend(rules(role, true));
        errors
    },
    check_grant: Some(check_role),
    creates_on_update: true,
    ..ResourceType::of::<Role>("role", "io.k8s.api.rbac.v1.Role")
};

pub(crate) const CLUSTER_RESOURCE: ResourceType = ResourceType {
    namespaced: false,
    validate: |role, old| {
        let mut errors = object_meta::validate(role, old, &METADATA);
        errors.extend(rules(role, false));
        errors.extend(aggregation(&role["aggregationRule"]));
        errors
    },
    check_grant: Some(check_role),
    creates_on_update: true,
    ..ResourceType::of::<ClusterRole>("clusterrole", "io.k8s.api.rbac.v1.ClusterRole")
};

/// Validates the rules of a role (`ValidatePolicyRule`).
fn rules(role: &Value, is_namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, rule) in list(role, &["rules"]).iter().enumerate() {
        let field = |name: &str| format!("rules[{at}].{name}");
        let is_empty = |name: &str| list(rule, &[name]).is_empty();
        if is_empty("verbs") {
            errors.push(required(field("verbs"), "verbs must contain at least one value"));
        }
        let urls = &rule["nonResourceURLs"];
        if is_empty("nonResourceURLs") {
            if is_empty("apiGroups") {
                let detail = "resource rules must supply at least one api group";
                errors.push(required(field("apiGroups"), detail));
            }
            if is_empty("resources") {
                let detail = "resource rules must supply at least one resource";
                errors.push(required(field("resources"), detail));
            }
            continue;
        }
        if is_namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.push(invalid(field("nonResourceURLs"), urls, detail));
        }
        if !["apiGroups", "resources", "resourceNames"].into_iter().all(is_empty) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(invalid(field("nonResourceURLs"), urls, detail));
        }
    }
    errors
}

/// Validates the aggregation rule of a ClusterRole.
fn aggregation(rule: &Value) -> Vec<FieldError> {
    if rule.is_null() {
        return Vec::new();
    }
    let (field, selectors) =
        ("aggregationRule.clusterRoleSelectors", list(rule, &["clusterRoleSelectors"]));
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        return vec![required(field, detail)];
    }
    let selectors = selectors.iter().enumerate();
    let of_selector = |(at, selector): (usize, &Value)| {
        let field = format!("{field}[{at}]");
        let mut errors = label_selector(selector, &field);
        if !errors.is_empty() {
            // The value is that of a selector which could not be made.
            errors.push(invalid_nested(field, &Value::Null, "invalid label selector."));
        }
        errors
    };
    selectors.flat_map(of_selector).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(resource: &ResourceType, fields: &Value) -> Vec<String> {
        let mut role = json!({ "metadata": { "name": "system:r" } });
        role.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let errors = (resource.validate)(&role, None);
        errors.into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
    }

    #[test]
    fn rule_is_for_resources_or_for_paths() {
        let pods = json!({ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] });
        let path = json!({ "verbs": ["get"], "nonResourceURLs": ["/x"] });
        let mut both = pods.clone();
        both["nonResourceURLs"] = json!(["/x"]);
        let detail = "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot \
                      apply to non-resource URLs";
        let mixed = "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both \
                     regular resources and non-resource URLs";
        for (rule, of_role, of_cluster_role) in [
            (pods, &[][..], &[][..]),
            (path, &[detail], &[]),
            (both, &[detail, mixed], &[mixed]),
            (
                json!({}),
                &[
                    "rules[0].verbs: Required value: verbs must contain at least one value",
                    "rules[0].apiGroups: Required value: resource rules must supply at least one \
                     api group",
                    "rules[0].resources: Required value: resource rules must supply at least one \
                     resource",
                ],
                &[
                    "rules[0].verbs: Required value: verbs must contain at least one value",
                    "rules[0].apiGroups: Required value: resource rules must supply at least one \
                     api group",
                    "rules[0].resources: Required value: resource rules must supply at least one \
                     resource",
                ],
            ),
        ] {
            let fields = json!({ "rules": [rule] });
            assert_eq!(messages(&RESOURCE, &fields), of_role);
            assert_eq!(messages(&CLUSTER_RESOURCE, &fields), of_cluster_role);
        }
    }

    #[test]
    fn aggregation_rule_needs_valid_selectors() {
        for (rule, expected) in [
            (json!({ "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] }), &[][..]),
            (
                json!({ "clusterRoleSelectors": [] }),
                &["aggregationRule.clusterRoleSelectors: Required value: at least one \
                   clusterRoleSelector required if aggregationRule is non-nil"],
            ),
            (
                json!({ "clusterRoleSelectors": [{ "matchExpressions": [
                    { "key": "a", "operator": "Like" },
                ] }] }),
                &[
                    "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator: Invalid \
                     value: \"Like\": not a valid selector operator",
                    "aggregationRule.clusterRoleSelectors[0]: Invalid value: null: invalid label selector.",
                ],
            ),
        ] {
            let fields = json!({ "aggregationRule": rule });
            assert_eq!(messages(&CLUSTER_RESOURCE, &fields), expected);
        }
    }
}
