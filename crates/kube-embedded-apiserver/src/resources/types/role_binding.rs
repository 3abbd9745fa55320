//! `rolebindings` and `clusterrolebindings` (`rbac.authorization.k8s.io/v1`): who has the permissions of a role.

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use serde_json::{Value, json};

use crate::{
    authorization::{authorizer::GROUP, escalation::check_binding},
    fields::{default_empty, each, list, object, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column, wide},
    },
    validation::{
        field_error::{FieldError, invalid, not_supported, required},
        names::{dns_subdomain, path_segment},
        object_meta::{self, Part, Rules},
    },
};

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Whole, Part::Changes],
    ..Rules::of(path_segment)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    defaults,
    validate: |binding, old| validate(binding, old, &["Role", "ClusterRole"]),
    check_grant: Some(check_binding),
    columns: &[
        column(
            "Role",
            "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.",
            |binding, _| role(binding),
        ),
        AGE,
        wide("Users", "Users in the roleBinding", |binding, _| subjects(binding, "User")),
        wide("Groups", "Groups in the roleBinding", |binding, _| subjects(binding, "Group")),
        wide("ServiceAccounts", "ServiceAccounts in the roleBinding", |binding, _| {
            subjects(binding, "ServiceAccount")
        }),
    ],
    creates_on_update: true,
    ..ResourceType::of::<RoleBinding>("rolebinding", "io.k8s.api.rbac.v1.RoleBinding")
};

pub(crate) const CLUSTER_RESOURCE: ResourceType = ResourceType {
    namespaced: false,
    defaults,
    validate: |binding, old| validate(binding, old, &["ClusterRole"]),
    check_grant: Some(check_binding),
    columns: &[
        column(
            "Role",
            "RoleRef can only reference a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.",
            |binding, _| role(binding),
        ),
        AGE,
        wide("Users", "Users in the clusterRoleBinding", |binding, _| subjects(binding, "User")),
        wide("Groups", "Groups in the clusterRoleBinding", |binding, _| subjects(binding, "Group")),
        wide("ServiceAccounts", "ServiceAccounts in the clusterRoleBinding", |binding, _| {
            subjects(binding, "ServiceAccount")
        }),
    ],
    creates_on_update: true,
    ..ResourceType::of::<ClusterRoleBinding>(
        "clusterrolebinding",
        "io.k8s.api.rbac.v1.ClusterRoleBinding",
    )
};

/// `ClusterRole/view`.
fn role(binding: &Value) -> Value {
    let reference = &binding["roleRef"];
    format!("{}/{}", text(reference, &["kind"]), text(reference, &["name"])).into()
}

/// The names of the subjects of a kind, after their namespaces.
fn subjects(binding: &Value, kind: &str) -> Value {
    let subjects = list(binding, &["subjects"]).iter();
    let names = subjects.filter(|subject| subject["kind"] == kind).map(|subject| {
        let name = text(subject, &["name"]);
        match text(subject, &["namespace"]) {
            "" => name.to_owned(),
            namespace => format!("{namespace}/{name}"),
        }
    });
    names.collect::<Vec<_>>().join(", ").into()
}

fn defaults(binding: &mut Value) {
    if let Some(role) = object(binding, "roleRef") {
        default_empty(role, "apiGroup", GROUP);
    }
    for subject in each(binding, "subjects") {
        if matches!(text(subject, &["kind"]), "User" | "Group") {
            default_empty(subject, "apiGroup", GROUP);
        }
    }
}

/// Stands for `ValidateRoleBinding`, `ValidateClusterRoleBinding` and their updates.
fn validate(binding: &Value, old: Option<&Value>, kinds: &[&str]) -> Vec<FieldError> {
    let mut errors = object_meta::validate(binding, old, &METADATA);
    let role = &binding["roleRef"];
    let field = |name: &str| text(role, &[name]);
    if field("apiGroup") != GROUP {
        errors.push(not_supported("roleRef.apiGroup", &field("apiGroup").into(), &[GROUP]));
    }
    if !kinds.contains(&field("kind")) {
        errors.push(not_supported("roleRef.kind", &field("kind").into(), kinds));
    }
    if field("name").is_empty() {
        errors.push(required("roleRef.name", ""));
    }
    for detail in path_segment(field("name")) {
        errors.push(invalid("roleRef.name", &role["name"], &detail));
    }
    let is_namespaced = kinds.contains(&"Role");
    for (at, subject) in list(binding, &["subjects"]).iter().enumerate() {
        errors.extend(subject_errors(subject, &format!("subjects[{at}]"), is_namespaced));
    }
    if old.is_some_and(|old| old["roleRef"] != *role) {
        // Kubernetes prints its internal type.
        let shown = json!({
            "APIGroup": field("apiGroup"),
            "Kind": field("kind"),
            "Name": field("name"),
        });
        errors.push(invalid("roleRef", &shown, "cannot change roleRef"));
    }
    errors
}

/// Validates a subject (`ValidateRoleBindingSubject`).
fn subject_errors(subject: &Value, path: &str, is_namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let [kind, group, name, namespace] =
        ["kind", "apiGroup", "name", "namespace"].map(|field| text(subject, &[field]));
    let field = |name: &str| format!("{path}.{name}");
    if name.is_empty() {
        errors.push(required(field("name"), ""));
    }
    let expected_group = match kind {
        "ServiceAccount" => "",
        "User" | "Group" => GROUP,
        _ => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(not_supported(field("kind"), &kind.into(), &kinds));
            return errors;
        }
    };
    if kind == "ServiceAccount" && !name.is_empty() {
        for detail in dns_subdomain(name) {
            errors.push(invalid(field("name"), &name.into(), &detail));
        }
    }
    if group != expected_group {
        errors.push(not_supported(field("apiGroup"), &group.into(), &[expected_group]));
    }
    if kind == "ServiceAccount" && !is_namespaced && namespace.is_empty() {
        errors.push(required(field("namespace"), ""));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(resource: &ResourceType, role: &Value, subject: &Value) -> Vec<String> {
        let mut binding = json!({
            "metadata": { "name": "system:b" },
            "roleRef": role,
            "subjects": [subject],
        });
        (resource.defaults)(&mut binding);
        let errors = (resource.validate)(&binding, None);
        errors.into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
    }

    #[test]
    fn role_and_subjects_are_of_known_kinds() {
        let role = json!({ "kind": "ClusterRole", "name": "view" });
        let user = json!({ "kind": "User", "name": "bob" });
        let unknown = |field: &str, value: &str, supported: &str| {
            format!("{field}: Unsupported value: \"{value}\": supported values: {supported}")
        };
        let group = "\"rbac.authorization.k8s.io\"";
        for (role, subject, of_binding, of_cluster_binding) in [
            (role.clone(), user.clone(), vec![], vec![]),
            (
                json!({ "kind": "Role", "name": "r" }),
                user.clone(),
                vec![],
                vec![unknown("roleRef.kind", "Role", "\"ClusterRole\"")],
            ),
            (
                json!({ "kind": "ClusterRole", "name": "", "apiGroup": "x" }),
                user,
                vec![
                    unknown("roleRef.apiGroup", "x", group),
                    "roleRef.name: Required value".to_owned(),
                ],
                vec![
                    unknown("roleRef.apiGroup", "x", group),
                    "roleRef.name: Required value".to_owned(),
                ],
            ),
            (
                role.clone(),
                json!({ "kind": "ServiceAccount", "name": "a" }),
                vec![],
                vec!["subjects[0].namespace: Required value".to_owned()],
            ),
            (
                role.clone(),
                json!({ "kind": "ServiceAccount", "name": "a", "namespace": "n", "apiGroup": "x" }),
                vec![unknown("subjects[0].apiGroup", "x", "\"\"")],
                vec![unknown("subjects[0].apiGroup", "x", "\"\"")],
            ),
            (
                role,
                json!({ "kind": "Robot", "name": "r" }),
                vec![unknown(
                    "subjects[0].kind",
                    "Robot",
                    "\"ServiceAccount\", \"User\", \"Group\"",
                )],
                vec![unknown(
                    "subjects[0].kind",
                    "Robot",
                    "\"ServiceAccount\", \"User\", \"Group\"",
                )],
            ),
        ] {
            assert_eq!(messages(&RESOURCE, &role, &subject), of_binding);
            assert_eq!(messages(&CLUSTER_RESOURCE, &role, &subject), of_cluster_binding);
        }
    }

    #[test]
    fn role_of_binding_is_immutable() {
        let binding = |name: &str| {
            json!({
                "metadata": { "name": "b" },
                "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": name },
            })
        };
        let errors = (RESOURCE.validate)(&binding("edit"), Some(&binding("view")));
        let messages: Vec<_> = errors.iter().map(|error| &*error.message).collect();
        let shown =
            r#"{"APIGroup":"rbac.authorization.k8s.io","Kind":"ClusterRole","Name":"edit"}"#;
        assert_eq!(messages, [format!("Invalid value: {shown}: cannot change roleRef")]);
    }

    #[test]
    fn columns_show_role_and_subjects() {
        let binding = json!({
            "roleRef": { "kind": "ClusterRole", "name": "view" },
            "subjects": [
                { "kind": "User", "name": "a" },
                { "kind": "ServiceAccount", "name": "s", "namespace": "n" },
                { "kind": "User", "name": "b" },
            ],
        });
        assert_eq!(role(&binding), "ClusterRole/view");
        assert_eq!(subjects(&binding, "User"), "a, b");
        assert_eq!(subjects(&binding, "ServiceAccount"), "n/s");
        assert_eq!(subjects(&binding, "Group"), "");
    }
}
