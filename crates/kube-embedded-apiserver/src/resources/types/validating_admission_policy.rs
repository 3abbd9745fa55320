//! `validatingadmissionpolicies` (`admissionregistration.k8s.io/v1`): expressions that decide on requests. They are
//! evaluated in [`crate::admission::policies`].

mod rules;

pub(crate) use rules::match_resources;

use crate::{
    admission::policies::{
        expressions::{Expression, Expressions, Refused},
        type_checking,
    },
    authorization::{
        attributes::Attributes,
        authorizer::Authorizer,
        escalation::{Grant, Refusal},
    },
    cel::RESERVED,
    fields::{default, default_empty, each, existing, list, object, text},
    resources::{
        resource_type::{CLIENT_METADATA, ResourceType},
        table_columns::{AGE, column, number},
    },
    validation::{
        field_error::{
            FieldError, duplicate, forbidden, invalid, invalid_nested, not_supported, required,
            too_many,
        },
        names::{dns_1035_label, dns_subdomain, qualified_name},
        object_meta::{self, Part, Rules},
    },
};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use serde_json::{Value, json};
use std::collections::HashSet;

const METADATA: Rules =
    Rules { standard_finalizers: false, update: &[Part::Whole], ..Rules::of(dns_subdomain) };

pub(crate) const RESOURCE: ResourceType<'static> = ResourceType {
    requires_version: true,
    categories: &["api-extensions"],
    namespaced: false,
    subresources: &["status"],
    generation: true,
    configures_admission: true,
    defaults,
    derive_status: Some(derive_status),
    check_grant: Some(check_param_kind),
    validate,
    validate_status: Some(|policy, _| validate_status(policy)),
    columns: &[
        number(
            "Validations",
            "Validations indicates the number of validation rules defined in this configuration",
            |policy, _| list(policy, &["spec", "validations"]).len().into(),
        ),
        column(
            "ParamKind",
            "ParamKind specifies the kind of resources used to parameterize this policy",
            |policy, _| match &policy["spec"]["paramKind"] {
                Value::Null => "<unset>".into(),
                kind => format!("{}/{}", text(kind, &["apiVersion"]), text(kind, &["kind"])).into(),
            },
        ),
        AGE,
    ],
    status_leaves: CLIENT_METADATA,
    ..ResourceType::of::<ValidatingAdmissionPolicy>(
        "validatingadmissionpolicy",
        "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
    )
};

const MAX_CONDITIONS: usize = 64;
const MAX_AUDIT_ANNOTATIONS: usize = 20;
const MAX_VALUE_EXPRESSION: usize = 5 * 1024;
const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const NOTHING: &str = "validations or auditAnnotations must contain at least one item";

/// Sets the status as the controller of Kubernetes does once for each generation of a policy.
fn derive_status(policy: &mut Value, old: Option<&Value>, served: &[ResourceType<'_>]) {
    if old.is_some_and(|old| old["spec"] == policy["spec"]) {
        return;
    }
    let mut type_checking = json!({});
    let warnings = type_checking::warnings(&policy["spec"], served);
    if !warnings.is_empty() {
        type_checking["expressionWarnings"] = warnings.into();
    }
    policy["status"] = json!({
        "observedGeneration": policy["metadata"]["generation"],
        "typeChecking": type_checking,
    });
}

fn defaults(policy: &mut Value) {
    if let Some(spec) = object(policy, "spec") {
        default(spec, "failurePolicy", "Fail");
        default_match_resources(spec, "matchConstraints");
    }
}

/// Stands for `SetDefaults_MatchResources` and `SetDefaults_Rule`.
pub(crate) fn default_match_resources(spec: &mut Value, field: &str) {
    let Some(matches) = existing(spec, field) else { return };
    default(matches, "matchPolicy", "Equivalent");
    default(matches, "namespaceSelector", json!({}));
    default(matches, "objectSelector", json!({}));
    for rules in ["resourceRules", "excludeResourceRules"] {
        for rule in each(matches, rules) {
            default_empty(rule, "scope", "*");
        }
    }
}

/// Stands for `ValidateValidatingAdmissionPolicy` and its update.
fn validate(policy: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = object_meta::validate(policy, old, &METADATA);
    let spec = &policy["spec"];
    match text(spec, &["failurePolicy"]) {
        "" => errors.push(required("spec.failurePolicy", "")),
        other if !FAILURE_POLICIES.contains(&other) => {
            errors.push(not_supported("spec.failurePolicy", &other.into(), &FAILURE_POLICIES));
        }
        _ => {}
    }
    if !spec["paramKind"].is_null() {
        errors.extend(param_kind(&spec["paramKind"]));
    }
    let constraints = &spec["matchConstraints"];
    if constraints.is_null() {
        errors.push(required("spec.matchConstraints", ""));
    } else {
        errors.extend(match_resources(constraints, "spec.matchConstraints"));
        // They give the types of the objects.
        if list(constraints, &["resourceRules"]).is_empty() {
            errors.push(required("spec.matchConstraints.resourceRules", ""));
        }
    }
    let expressions = Expressions::of(spec);
    let keeps = |field: &str| old.is_some_and(|old| old["spec"][field] == spec[field]);
    if !keeps("paramKind") || !keeps("matchConditions") {
        errors.extend(match_conditions(list(spec, &["matchConditions"]), &expressions));
    }
    errors.extend(variables(list(spec, &["variables"]), &expressions));
    let (validations, annotations) =
        (list(spec, &["validations"]), list(spec, &["auditAnnotations"]));
    if validations.is_empty() && annotations.is_empty() {
        errors.push(required("spec.validations", NOTHING));
        errors.push(required("spec.auditAnnotations", NOTHING));
    }
    for (n, (given, compiled)) in validations.iter().zip(&expressions.validations).enumerate() {
        let path = format!("spec.validations[{n}]");
        errors.extend(validation_errors(given, &path));
        errors.extend(compiled_errors(given, "expression", &compiled.expression, &path));
        if let Some(compiled) = &compiled.message_expression {
            errors.extend(compiled_errors(given, "messageExpression", compiled, &path));
        }
    }
    errors.extend(audit_annotations(policy, annotations, &expressions));
    errors
}

/// Stands for `validateParamKind`.
fn param_kind(kind: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (version_field, kind_field) = ("spec.paramKind.apiVersion", "spec.paramKind.kind");
    let api_version = text(kind, &["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if api_version.is_empty() {
        errors.push(required(version_field, ""));
    } else if version.contains('/') {
        let detail = format!("unexpected GroupVersion string: {api_version}");
        errors.push(invalid(version_field, &api_version.into(), &detail));
    } else {
        let details = dns_subdomain(group);
        if !group.is_empty() && !details.is_empty() {
            errors.push(invalid(version_field, &group.into(), &details.join(",")));
        }
        let details = dns_1035_label(version);
        if version.is_empty() {
            errors.push(invalid(version_field, &api_version.into(), "version must be specified"));
        } else if !details.is_empty() {
            errors.push(invalid(version_field, &version.into(), &details.join(",")));
        }
    }
    let name = text(kind, &["kind"]);
    let details = dns_1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.push(required(kind_field, ""));
    } else if !details.is_empty() {
        let details = details.join(",");
        let detail = format!("may have mixed case, but should otherwise match: {details}");
        errors.push(invalid(kind_field, &name.into(), &detail));
    }
    errors
}

fn match_conditions(given: &[Value], expressions: &Expressions) -> Vec<FieldError> {
    let path = "spec.matchConditions";
    let mut errors: Vec<_> = too_many(path, given.len(), MAX_CONDITIONS).into_iter().collect();
    let mut names = HashSet::new();
    for (n, (condition, compiled)) in given.iter().zip(&expressions.match_conditions).enumerate() {
        let path = format!("{path}[{n}]");
        if compiled.source.is_empty() {
            errors.push(required(format!("{path}.expression"), ""));
        }
        errors.extend(compiled_errors(condition, "expression", compiled, &path));
        let name = text(condition, &["name"]);
        let field = format!("{path}.name");
        if name.is_empty() {
            errors.push(required(field, ""));
        } else {
            let details = qualified_name(name);
            errors.extend(details.iter().map(|d| invalid(&*field, &name.into(), d)));
            if !names.insert(name) {
                errors.push(duplicate(field, Value::from(name)));
            }
        }
    }
    errors
}

fn variables(given: &[Value], expressions: &Expressions) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (n, (variable, compiled)) in given.iter().zip(&expressions.variables).enumerate() {
        let path = format!("spec.variables[{n}]");
        let name = text(variable, &["name"]);
        if name.trim().is_empty() {
            errors.push(required(format!("{path}.name"), "name is not specified"));
        } else if !is_identifier(name) {
            let detail = "must be a valid CEL identifier";
            errors.push(invalid(format!("{path}.name"), &name.into(), detail));
        }
        if text(variable, &["expression"]).trim().is_empty() {
            errors.push(required(format!("{path}.expression"), "expression is not specified"));
        }
        errors.extend(compiled_errors(variable, "expression", &compiled.expression, &path));
    }
    errors
}

fn is_identifier(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(is_word)
        && !["true", "false", "null", "in"].contains(&name)
        && !RESERVED.contains(&name)
}

/// The errors of a validation, but for those of its expressions.
fn validation_errors(given: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |field: &str| format!("{path}.{field}");
    let is_blank = |field: &str| {
        let text = text(given, &[field]);
        !text.is_empty() && text.trim().is_empty()
    };
    if text(given, &["expression"]).trim().is_empty() {
        errors.push(required(at("expression"), "expression is not specified"));
    }
    if is_blank("messageExpression") {
        let detail = "must be non-empty if specified";
        errors.push(invalid(at("messageExpression"), &given["messageExpression"], detail));
    }
    if is_blank("message") {
        let detail = "message must be non-empty if specified";
        errors.push(invalid(at("message"), &given["message"], detail));
    } else if text(given, &["message"]).trim().contains(['\n', '\r']) {
        let detail = "message must not contain line breaks";
        errors.push(invalid(at("message"), &given["message"], detail));
    }
    if !given["reason"].is_null() && !REASONS.contains(&text(given, &["reason"])) {
        errors.push(not_supported(at("reason"), &given["reason"], &REASONS));
    }
    errors
}

fn audit_annotations(
    policy: &Value,
    given: &[Value],
    expressions: &Expressions,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = "spec.auditAnnotations";
    if given.len() > MAX_AUDIT_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        errors.push(invalid_nested(path, &policy["spec"]["auditAnnotations"], &detail));
    }
    let name = text(policy, &["metadata", "name"]);
    let mut keys = HashSet::new();
    for (n, (annotation, (key, compiled))) in
        given.iter().zip(&expressions.audit_annotations).enumerate()
    {
        let path = format!("{path}[{n}]");
        let (key_field, value_field) = (format!("{path}.key"), format!("{path}.valueExpression"));
        if name.is_empty() {
            let detail = "requires metadata.name be non-empty";
            errors.push(invalid(&*key_field, &key.as_str().into(), detail));
        } else {
            let full = format!("{name}/{key}");
            let details = qualified_name(&full);
            errors.extend(details.iter().map(|d| invalid(&*key_field, &full.as_str().into(), d)));
        }
        if compiled.source.is_empty() {
            errors.push(required(value_field, "valueExpression is not specified"));
        } else if compiled.source.len() > MAX_VALUE_EXPRESSION {
            let detail = format!("must not exceed {MAX_VALUE_EXPRESSION} bytes in length");
            errors.push(required(value_field, &detail));
        } else {
            errors.extend(compiled_errors(annotation, "valueExpression", compiled, &path));
        }
        if !keys.insert(key) {
            errors.push(duplicate(key_field, Value::from(key.as_str())));
        }
    }
    errors
}

/// Returns the error of an expression that does not compile. One that is empty has another.
fn compiled_errors(
    given: &Value,
    field: &str,
    compiled: &Expression,
    path: &str,
) -> Option<FieldError> {
    let refused = compiled.program.as_ref().err().filter(|_| !compiled.source.trim().is_empty())?;
    let field_path = format!("{path}.{field}");
    Some(match refused {
        Refused::Invalid(why) => {
            let shown = match field {
                "valueExpression" => given[field].clone(),
                _ => compiled.source.as_str().into(),
            };
            invalid(field_path, &shown, why)
        }
        Refused::Internal(why) => FieldError {
            reason: "InternalError",
            field: field_path,
            message: format!("Internal error: {why}"),
        },
    })
}

/// Stands for `ValidateValidatingAdmissionPolicyStatusUpdate`.
fn validate_status(policy: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let warnings = list(policy, &["status", "typeChecking", "expressionWarnings"]);
    for (n, warning) in warnings.iter().enumerate() {
        for field in ["warning", "fieldRef"] {
            if text(warning, &[field]).trim().is_empty() {
                let path = format!("status.typeChecking.expressionWarnings[{n}].{field}");
                errors.push(required(path, ""));
            }
        }
    }
    errors
}

/// Checks that the user may read all objects of the kind of the parameters, which the policy may show in its
/// messages.
fn check_param_kind(authorizer: &Authorizer, grant: &Grant<'_>) -> Result<(), Refusal> {
    let kind = &grant.new["spec"]["paramKind"];
    let is_kept = grant.old.is_some_and(|old| old["spec"]["paramKind"] == *kind);
    if kind.is_null() || is_kept || grant.user.is_privileged() {
        return Ok(());
    }
    let (group, resource) = param_resource(grant, kind);
    let action = Attributes {
        verb: "get".into(),
        namespace: "*".into(),
        group: group.into(),
        resource: resource.into(),
        name: "*".into(),
        ..Attributes::default()
    };
    if authorizer.authorize(grant.user, &action).allowed {
        return Ok(());
    }
    let why = format!(
        "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, \
         apiVersion={})",
        grant.user.shown(),
        text(kind, &["kind"]),
        text(kind, &["apiVersion"])
    );
    Err(Refusal::Invalid(forbidden("spec.paramKind", &why)))
}

/// Returns group and resource of a `paramKind`; `*` where there is no such resource.
pub(crate) fn param_resource(grant: &Grant<'_>, kind: &Value) -> (String, String) {
    let api_version = text(kind, &["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let plural = (grant.find_plural)(group, version, text(kind, &["kind"]));
    (group.to_owned(), plural.unwrap_or_else(|| "*".to_owned()))
}

#[cfg(test)]
mod tests;
