//! Warnings of expressions that access what the matched types do not have. A policy is not refused for them: it may be
//! for types that come later (`k8s.io/apiserver/pkg/admission/plugin/policy/validating/typechecking.go`).

#[cfg(test)]
mod tests;

use crate::{
    admission::policies::expressions,
    cel::{CompileError, Program, types::Type},
    fields::{list, text},
    resources::resource_type::ResourceType,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The number of types at which a rule ends the search for more.
const MAX_TYPES: usize = 10;

/// Types by group, version and kind.
type Kinds<'a> = BTreeMap<(&'a str, &'a str, &'a str), &'a ResourceType<'a>>;

/// Checks the validations in the spec of a policy and their messages; returns the `expressionWarnings` of its status.
pub(crate) fn warnings(spec: &Value, served: &[ResourceType<'_>]) -> Vec<Value> {
    let scopes: Vec<_> = matched(spec, served)
        .into_iter()
        .filter_map(|((group, version, kind), resource)| {
            let params = param_type(&spec["paramKind"], served);
            let mut scope = expressions::scope(resource.expression_type()?, params);
            expressions::variables(list(spec, &["variables"]), &mut scope);
            Some((format!("{group}/{version}, Kind={kind}"), scope))
        })
        .collect();
    let check = |source: &str| {
        let errors = scopes.iter().filter_map(|(name, scope)| {
            match Program::compile(source, scope) {
                Err(CompileError::Compilation(errors)) => Some(format!("{name}: {errors}\n")),
                // Fails when it is evaluated, whatever the type.
                Err(CompileError::Instantiation(_)) | Ok(_) => None,
            }
        });
        errors.collect::<Vec<_>>().join("\n")
    };
    let mut warnings = Vec::new();
    for (n, validation) in list(spec, &["validations"]).iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = text(validation, &[field]);
            let warning = if source.is_empty() { String::new() } else { check(source) };
            if !warning.is_empty() {
                let path = format!("spec.validations[{n}].{field}");
                warnings.push(json!({ "fieldRef": path, "warning": warning }));
            }
        }
    }
    warnings
}

/// Returns the types that a policy names, without those that it matches by a wildcard.
fn matched<'a>(spec: &Value, served: &'a [ResourceType<'_>]) -> Kinds<'a> {
    let mut kinds = Kinds::new();
    for rule in list(spec, &["matchConstraints", "resourceRules"]) {
        let [groups, versions, mut resources] =
            ["apiGroups", "apiVersions", "resources"].map(|field| names(rule, field));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        resources.retain(|name| !name.contains(['*', '/']));
        let mut found = 0;
        for (group, version, resource) in products(&groups, &versions, &resources) {
            for one in served.iter().filter(|one| is_named(one, group, version, resource)) {
                kinds.insert((one.group, one.version, one.kind), one);
                found += 1;
                if found == MAX_TYPES {
                    return kinds;
                }
            }
        }
    }
    kinds
}

fn names<'v>(rule: &'v Value, field: &str) -> Vec<&'v str> {
    let mut names: Vec<_> = list(rule, &[field]).iter().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names
}

fn products<'n>(
    groups: &'n [&'n str],
    versions: &'n [&'n str],
    resources: &'n [&'n str],
) -> impl Iterator<Item = (&'n str, &'n str, &'n str)> {
    groups.iter().flat_map(move |group| {
        versions.iter().flat_map(move |version| {
            resources.iter().map(move |resource| (*group, *version, *resource))
        })
    })
}

/// Returns true if a rule names the type. As in Kubernetes, the empty group stands for every one here
/// (`KindsFor` of a `RESTMapper`).
fn is_named(of: &ResourceType<'_>, group: &str, version: &str, resource: &str) -> bool {
    (group.is_empty() || of.group == group)
        && of.version == version
        && [of.plural, of.singular].contains(&&*resource.to_lowercase())
}

/// Returns the type of the parameters: any if it is not served, and `None` for a policy without parameters.
fn param_type(kind: &Value, served: &[ResourceType<'_>]) -> Option<Type> {
    if kind.is_null() {
        return None;
    }
    let (api_version, kind) = (text(kind, &["apiVersion"]), text(kind, &["kind"]));
    let found = served.iter().find(|one| one.kind == kind && one.api_version() == api_version);
    Some(found.and_then(ResourceType::expression_type).unwrap_or(Type::Dyn))
}
