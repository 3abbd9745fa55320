//! `validatingadmissionpolicybindings` (`admissionregistration.k8s.io/v1`): where policies are in force.

use crate::{
    authorization::{
        attributes::Attributes,
        authorizer::Authorizer,
        escalation::{Grant, Refusal},
    },
    fields::{object, strings, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column, selector},
        types::validating_admission_policy::{
            RESOURCE as POLICIES, default_match_resources, match_resources, param_resource,
        },
    },
    store::Key,
    validation::{
        field_error::{
            FieldError, duplicate, forbidden, invalid, invalid_nested, not_supported, required,
        },
        names::{dns_subdomain, label_selector, path_segment},
        object_meta::{self, Part, Rules},
    },
};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use serde_json::Value;

const METADATA: Rules =
    Rules { standard_finalizers: false, update: &[Part::Whole], ..Rules::of(dns_subdomain) };

pub(crate) const RESOURCE: ResourceType<'static> = ResourceType {
    requires_version: true,
    categories: &["api-extensions"],
    namespaced: false,
    generation: true,
    configures_admission: true,
    defaults: |binding| {
        if let Some(spec) = object(binding, "spec") {
            default_match_resources(spec, "matchResources");
        }
    },
    check_grant: Some(check_param_ref),
    validate,
    columns: &[
        column(
            "PolicyName",
            "PolicyName indicates the policy definition which the policy binding binded to",
            |binding, _| binding["spec"]["policyName"].clone(),
        ),
        column(
            "ParamRef",
            "ParamRef indicates the param resource which sets the configuration param",
            |binding, _| param_ref_cell(&binding["spec"]["paramRef"]),
        ),
        AGE,
    ],
    ..ResourceType::of::<ValidatingAdmissionPolicyBinding>(
        "validatingadmissionpolicybinding",
        "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    )
};

const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];

/// `namespace/name`, or the selector.
fn param_ref_cell(reference: &Value) -> Value {
    match (text(reference, &["namespace"]), text(reference, &["name"])) {
        ("", "") if reference["selector"].is_null() => "<unset>".into(),
        (_, "") => selector(&reference["selector"]),
        ("", name) => format!("*/{name}").into(),
        (namespace, name) => format!("{namespace}/{name}").into(),
    }
}

/// Stands for `ValidateValidatingAdmissionPolicyBinding`.
fn validate(binding: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = object_meta::validate(binding, old, &METADATA);
    let spec = &binding["spec"];
    let policy = text(spec, &["policyName"]);
    if policy.is_empty() {
        errors.push(required("spec.policyName", ""));
    } else {
        for detail in dns_subdomain(policy) {
            errors.push(invalid("spec.policyName", &policy.into(), &detail));
        }
    }
    if !spec["paramRef"].is_null() {
        errors.extend(param_ref(&spec["paramRef"]));
    }
    if !spec["matchResources"].is_null() {
        errors.extend(match_resources(&spec["matchResources"], "spec.matchResources"));
    }
    errors.extend(validation_actions(&spec["validationActions"]));
    errors
}

fn param_ref(reference: &Value) -> Vec<FieldError> {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let mut errors = Vec::new();
    let at = |field: &str| format!("spec.paramRef.{field}");
    let (name, selector) = (text(reference, &["name"]), &reference["selector"]);
    if !name.is_empty() {
        for detail in path_segment(name) {
            errors.push(invalid(at("name"), &name.into(), &detail));
        }
        if !selector.is_null() {
            errors.push(forbidden(at("name"), EXCLUSIVE));
        }
    }
    if !selector.is_null() {
        errors.extend(label_selector(selector, &at("selector")));
        if !name.is_empty() {
            errors.push(forbidden(at("selector"), EXCLUSIVE));
        }
    }
    if name.is_empty() && selector.is_null() {
        errors.push(required("spec.paramRef", "one of name or selector must be specified"));
    }
    match text(reference, &["parameterNotFoundAction"]) {
        "" => errors.push(required(at("parameterNotFoundAction"), "")),
        "Allow" | "Deny" => {}
        other => {
            let supported = ["Deny", "Allow"];
            errors.push(not_supported(at("parameterNotFoundAction"), &other.into(), &supported));
        }
    }
    errors
}

fn validation_actions(given: &Value) -> Vec<FieldError> {
    let path = "spec.validationActions";
    let mut errors = Vec::new();
    let actions = strings(given);
    for (n, action) in actions.iter().enumerate() {
        let at = format!("{path}[{n}]");
        if !ACTIONS.contains(&&**action) {
            errors.push(not_supported(&*at, &action.as_str().into(), &ACTIONS));
        }
        if actions.iter().take(n).any(|before| before == action) {
            errors.push(duplicate(at, Value::from(action.as_str())));
        }
    }
    let has = |action: &str| actions.iter().any(|known| known == action);
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure \
                      information in the API response and headers serves no purpose)";
        errors.push(invalid_nested(path, given, detail));
    }
    if actions.is_empty() {
        errors.push(required(path, "at least one validation action is required"));
    }
    errors
}

/// Checks that the user may read the parameters, which the policy may show in its messages.
fn check_param_ref(authorizer: &Authorizer, grant: &Grant<'_>) -> Result<(), Refusal> {
    let spec = &grant.new["spec"];
    let reference = &spec["paramRef"];
    let is_kept = grant.old.is_some_and(|old| {
        let before = &old["spec"];
        before["paramRef"] == *reference && before["policyName"] == spec["policyName"]
    });
    if reference.is_null() || is_kept || grant.user.is_privileged() {
        return Ok(());
    }
    let policy = grant.store.get(&Key {
        resource: POLICIES.storage_resource(),
        namespace: String::new(),
        name: text(spec, &["policyName"]).to_owned(),
    });
    let param_kind = policy.as_ref().map(|policy| &policy.value["spec"]["paramKind"]);
    let param_kind = param_kind.filter(|kind| !kind.is_null());
    let (group, resource) = match param_kind {
        Some(kind) => param_resource(grant, kind),
        None => ("*".to_owned(), "*".to_owned()),
    };
    let name = text(reference, &["name"]);
    let verb = if name.is_empty() { "list" } else { "get" };
    let action = Attributes {
        verb: verb.into(),
        namespace: text(reference, &["namespace"]).into(),
        group: group.into(),
        resource: resource.into(),
        name: name.into(),
        ..Attributes::default()
    };
    if authorizer.authorize(grant.user, &action).allowed {
        return Ok(());
    }
    let user = grant.user.shown();
    let why = match policy {
        None => format!(
            "unable to get policy {} to determine minimum required permissions and user {user} \
             does not have \"{verb}\" permission for all groups, versions and resources",
            text(spec, &["policyName"])
        ),
        Some(_) => format!(
            "user {user} does not have \"{verb}\" permission on the object referenced by paramRef"
        ),
    };
    Err(Refusal::Invalid(forbidden("spec.paramRef", &why)))
}
