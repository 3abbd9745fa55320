//! `ingressclasses` (`networking.k8s.io/v1`).

use k8s_openapi::api::networking::v1::IngressClass;
use serde_json::Value;

use crate::{
    fields::{default, existing, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column},
        types::ingress::reference,
    },
    validation::{
        field_error::{
            FieldError, IMMUTABLE, forbidden, invalid, not_supported, required, too_long,
        },
        names::{dns_label, dns_subdomain, domain_prefixed_path},
        object_meta::{self, Part, Rules},
    },
};

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Changes, Part::Whole],
    ..Rules::of(dns_subdomain)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    namespaced: false,
    generation: true,
    defaults: |class| {
        if let Some(parameters) =
            existing(class, "spec").and_then(|spec| existing(spec, "parameters"))
        {
            default(parameters, "scope", "Cluster");
        }
    },
    validate,
    columns: &[
        column(
            "Controller",
            "Controller that is responsible for handling this class",
            |class, _| text(class, &["spec", "controller"]).into(),
        ),
        column("Parameters", "A reference to a resource with additional parameters", |class, _| {
            parameters(&class["spec"]["parameters"]).into()
        }),
        AGE,
    ],
    ..ResourceType::of::<IngressClass>("ingressclass", "io.k8s.api.networking.v1.IngressClass")
};

/// `Kind.group/name`, or `<none>`.
fn parameters(parameters: &Value) -> String {
    let (kind, name) = (text(parameters, &["kind"]), text(parameters, &["name"]));
    match parameters["apiGroup"].as_str() {
        _ if parameters.is_null() => "<none>".to_owned(),
        Some(group) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

/// Stands for `ValidateIngressClass` and `ValidateIngressClassUpdate`.
fn validate(class: &Value, old: Option<&Value>) -> Vec<FieldError> {
    /// `maxIngressClassControllerLength`.
    const MAX: usize = 250;
    let mut errors = object_meta::validate(class, old, &METADATA);
    let spec = &class["spec"];
    let (controller, field) = (text(spec, &["controller"]), "spec.controller");
    if old.is_some_and(|old| old["spec"]["controller"] != spec["controller"]) {
        errors.push(invalid(field, &controller.into(), IMMUTABLE));
    }
    if controller.len() > MAX {
        errors.push(too_long(field, MAX));
    }
    errors.extend(domain_prefixed_path(controller, field));
    let parameters = &spec["parameters"];
    if parameters.is_null() {
        return errors;
    }
    let field = "spec.parameters";
    errors.extend(reference(parameters, field));
    let namespace = &parameters["namespace"];
    match text(parameters, &["scope"]) {
        "Namespace" => match namespace.as_str() {
            None => errors.push(required(
                format!("{field}.namespace"),
                "`parameters.scope` is set to 'Namespace'",
            )),
            Some(name) => errors.extend(
                dns_label(name).iter().map(|w| invalid(format!("{field}.namespace"), namespace, w)),
            ),
        },
        "Cluster" => {
            if !namespace.is_null() {
                let detail = "`parameters.scope` is set to 'Cluster'";
                errors.push(forbidden(format!("{field}.namespace"), detail));
            }
        }
        _ => {
            let supported = ["Cluster", "Namespace"];
            let scope = &parameters["scope"];
            errors.push(not_supported(format!("{field}.scope"), scope, &supported));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(spec: &Value, old: Option<&Value>) -> Vec<String> {
        let class = |spec: &Value| json!({ "metadata": { "name": "c" }, "spec": spec });
        let mut new = class(spec);
        (RESOURCE.defaults)(&mut new);
        let errors = validate(&new, old.map(class).as_ref());
        errors.into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
    }

    #[test]
    fn controller_is_an_immutable_domain_prefixed_path() {
        for (controller, details) in [
            ("acme.io/edge", &[][..]),
            ("", &["Required value"]),
            (
                "edge",
                &[
                    "Invalid value: \"edge\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                ],
            ),
            (
                "a.b/ä",
                &["Invalid value: \"ä\": Invalid path (regex used for validation is \
                   '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')"],
            ),
        ] {
            let expected: Vec<String> =
                details.iter().map(|detail| format!("spec.controller: {detail}")).collect();
            assert_eq!(messages(&json!({ "controller": controller }), None), expected);
        }
        let long = format!("a.b/{}", "x".repeat(250));
        assert_eq!(
            messages(&json!({ "controller": long }), None),
            ["spec.controller: Too long: may not be more than 250 bytes"]
        );
        assert_eq!(
            messages(&json!({ "controller": "a.b/d" }), Some(&json!({ "controller": "a.b/c" }))),
            ["spec.controller: Invalid value: \"a.b/d\": field is immutable"]
        );
    }

    #[test]
    fn parameters_namespace_must_match_their_scope() {
        for (more, detail) in [
            (json!({}), None),
            (json!({ "scope": "Namespace", "namespace": "n" }), None),
            (
                json!({ "scope": "Namespace" }),
                Some("namespace: Required value: `parameters.scope` is set to 'Namespace'"),
            ),
            (
                json!({ "namespace": "n" }),
                Some("namespace: Forbidden: `parameters.scope` is set to 'Cluster'"),
            ),
            (
                json!({ "scope": "World" }),
                Some(
                    "scope: Unsupported value: \"World\": supported values: \"Cluster\", \
                     \"Namespace\"",
                ),
            ),
        ] {
            let mut parameters = json!({ "kind": "K", "name": "n" });
            for (key, value) in more.as_object().into_iter().flatten() {
                parameters[key] = value.clone();
            }
            let expected: Vec<String> =
                detail.iter().map(|detail| format!("spec.parameters.{detail}")).collect();
            let spec = json!({ "controller": "a.b/c", "parameters": parameters });
            assert_eq!(messages(&spec, None), expected);
        }
    }

    #[test]
    fn parameters_column_shows_kind_group_and_name() {
        for (given, shown) in [
            (json!(null), "<none>"),
            (json!({ "kind": "K", "name": "n" }), "K/n"),
            (json!({ "kind": "K", "name": "n", "apiGroup": "a.b" }), "K.a.b/n"),
        ] {
            assert_eq!(parameters(&given), shown);
        }
    }
}
