//! `ingresses` (`networking.k8s.io/v1`). The admission plugin DefaultIngressClass runs when one is
//! created.

use kube_embedded_core::well_known::INGRESS_CLASS_ANNOTATION;
use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::networking::v1::Ingress;
use serde_json::{Value, json};

use crate::{
    admission::default_ingress_class,
    fields::{list, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column},
    },
    validation::{
        field_error::{FieldError, invalid, invalid_nested, not_supported, required},
        names::{dns_label, dns_subdomain, path_segment, port, port_name},
        object_meta::{self, Part, Rules},
    },
};

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Changes, Part::Whole],
    ..Rules::of(dns_subdomain)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["ing"],
    subresources: &["status"],
    generation: true,
    prepare_create: |ingress| ingress["status"] = json!({ "loadBalancer": {} }),
    validate,
    warnings: |ingress, old| {
        let annotated = !ingress["metadata"]["annotations"][INGRESS_CLASS_ANNOTATION].is_null();
        let warning = format!(
            "annotation {INGRESS_CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
        );
        if annotated && old.is_none() { vec![warning] } else { Vec::new() }
    },
    admission: &[default_ingress_class::admit],
    columns: &[
        column(
            "Class",
            "The name of the IngressClass resource that should be used for additional \
             configuration",
            |ingress, _| match &ingress["spec"]["ingressClassName"] {
                Value::String(name) => name.as_str().into(),
                _ => "<none>".into(),
            },
        ),
        column(
            "Hosts",
            "Hosts that incoming requests are matched against before the ingress rule",
            |ingress, _| hosts(ingress).into(),
        ),
        column(
            "Address",
            "Address is a list containing ingress points for the load-balancer",
            |ingress, _| addresses(ingress).into(),
        ),
        column("Ports", "Ports of TLS configurations that open", |ingress, _| {
            if list(ingress, &["spec", "tls"]).is_empty() { "80".into() } else { "80, 443".into() }
        }),
        AGE,
    ],
    ..ResourceType::of::<Ingress>("ingress", "io.k8s.api.networking.v1.Ingress")
};

const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];

/// Shows at most three hosts, and the number of the other rules (`formatHosts`).
fn hosts(ingress: &Value) -> String {
    const MAX: usize = 3;
    let rules = list(ingress, &["spec", "rules"]);
    let mut named = rules.iter().map(|rule| text(rule, &["host"])).filter(|host| !host.is_empty());
    let shown: Vec<&str> = named.by_ref().take(MAX).collect();
    match (shown.is_empty(), named.next()) {
        (true, _) => "*".to_owned(),
        (false, None) => shown.join(","),
        (false, Some(_)) => format!("{} + {} more...", shown.join(","), rules.len() - MAX),
    }
}

/// The addresses in the status, sorted and without duplicates
/// (`ingressLoadBalancerStatusStringer`).
fn addresses(ingress: &Value) -> String {
    let points = list(ingress, &["status", "loadBalancer", "ingress"]).iter();
    let addresses: BTreeSet<&str> = points
        .map(|point| match text(point, &["ip"]) {
            "" => text(point, &["hostname"]),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.into_iter().collect::<Vec<_>>().join(",")
}

/// Stands for `ValidateIngressCreate` and `ValidateIngressUpdate`.
fn validate(ingress: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = object_meta::validate(ingress, old, &METADATA);
    let spec = &ingress["spec"];
    let rules = list(spec, &["rules"]);
    if rules.is_empty() && spec["defaultBackend"].is_null() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(invalid_nested("spec", &spec["rules"], detail));
    }
    if !spec["defaultBackend"].is_null() {
        errors.extend(backend(&spec["defaultBackend"], "spec.defaultBackend"));
    }
    for (at, entry) in rules.iter().enumerate() {
        errors.extend(rule(entry, &format!("spec.rules[{at}]")));
    }
    for (at, entry) in list(spec, &["tls"]).iter().enumerate() {
        errors.extend(tls(entry, &format!("spec.tls[{at}]")));
    }
    let class = &spec["ingressClassName"];
    if let Some(name) = class.as_str() {
        let details = dns_subdomain(name);
        errors.extend(details.iter().map(|w| invalid("spec.ingressClassName", class, w)));
    }
    // The annotation is deprecated, but still how some clients name the class. Objects that have
    // both are not rejected later on.
    let annotation = &ingress["metadata"]["annotations"][INGRESS_CLASS_ANNOTATION];
    if old.is_none() && !class.is_null() && !annotation.is_null() && class != annotation {
        let detail = "must match `ingressClassName` when both are specified";
        errors.push(invalid(format!("annotations.{INGRESS_CLASS_ANNOTATION}"), annotation, detail));
    }
    errors
}

/// Validates a rule. A host is a DNS name: requests to addresses have no usable `Host` header.
fn rule(rule: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let host = text(rule, &["host"]);
    if !host.is_empty() {
        let at = format!("{field}.host");
        if is_address(host) {
            let detail = "must be a DNS name, not an IP address";
            errors.push(invalid(at.as_str(), &rule["host"], detail));
        }
        errors.extend(host_name(host).iter().map(|w| invalid(at.as_str(), &rule["host"], w)));
    }
    if !rule["http"].is_null() {
        let paths = list(rule, &["http", "paths"]);
        if paths.is_empty() {
            errors.push(required(format!("{field}.http.paths"), ""));
        }
        for (at, entry) in paths.iter().enumerate() {
            errors.extend(path(entry, &format!("{field}.http.paths[{at}]")));
        }
    }
    errors
}

/// Validates a path. Proxies normalize paths in different ways, so `Exact` and `Prefix` admit only
/// those that normalization does not change.
fn path(entry: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (path, at) = (text(entry, &["path"]), format!("{field}.path"));
    let mut reject = |detail: &str| errors.push(invalid(at.as_str(), &path.into(), detail));
    match entry["pathType"].as_str() {
        None => return vec![required(format!("{field}.pathType"), "pathType must be specified")],
        Some("Exact" | "Prefix") => {
            if !path.starts_with('/') {
                reject("must be an absolute path");
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.contains(sequence) {
                    reject(&format!("must not contain '{sequence}'"));
                }
            }
            for suffix in ["/..", "/."] {
                if path.ends_with(suffix) {
                    reject(&format!("cannot end with '{suffix}'"));
                }
            }
        }
        Some("ImplementationSpecific") => {
            if !path.is_empty() && !path.starts_with('/') {
                reject("must be an absolute path");
            }
        }
        Some(_) => {
            let field = format!("{field}.pathType");
            errors.push(not_supported(field, &entry["pathType"], &PATH_TYPES));
        }
    }
    errors.extend(backend(&entry["backend"], &format!("{field}.backend")));
    errors
}

/// Validates a backend: a port of a Service, or an object of another type.
fn backend(backend: &Value, field: &str) -> Vec<FieldError> {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    let empty = &Value::from("");
    match (service.is_null(), resource.is_null()) {
        (false, false) => {
            return vec![invalid(field, empty, "cannot set both resource and service backends")];
        }
        (true, true) => {
            return vec![invalid(field, empty, "resource or service backend is required")];
        }
        (true, false) => return reference(resource, &format!("{field}.resource")),
        (false, true) => {}
    }
    let mut errors = Vec::new();
    match text(service, &["name"]) {
        "" => errors.push(required(format!("{field}.service.name"), "")),
        name => errors.extend(
            dns_label(name)
                .iter()
                .map(|w| invalid(format!("{field}.service.name"), &name.into(), w)),
        ),
    }
    let (name, number) = (text(service, &["port", "name"]), &service["port"]["number"]);
    match (name.is_empty(), number.as_i64().unwrap_or_default() == 0) {
        (false, false) => {
            errors.push(invalid(field, empty, "cannot set both port name & port number"));
        }
        (false, true) => errors.extend(
            port_name(name)
                .iter()
                .map(|w| invalid(format!("{field}.service.port.name"), &name.into(), w)),
        ),
        (true, false) => errors.extend(port(number, format!("{field}.service.port.number"))),
        (true, true) => errors.push(required(field, "port name or number is required")),
    }
    errors
}

/// Returns the errors of a `TypedLocalObjectReference`.
pub(crate) fn reference(reference: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(group) = reference["apiGroup"].as_str() {
        let at = format!("{field}.apiGroup");
        let details = dns_subdomain(group);
        errors.extend(details.iter().map(|w| invalid(at.as_str(), &group.into(), w)));
    }
    for name in ["kind", "name"] {
        let at = format!("{field}.{name}");
        match text(reference, &[name]) {
            "" => errors.push(required(at, "")),
            segment => errors.extend(
                path_segment(segment).iter().map(|w| invalid(at.as_str(), &segment.into(), w)),
            ),
        }
    }
    errors
}

/// Validates the hosts and the Secret of a certificate.
fn tls(entry: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, host) in list(entry, &["hosts"]).iter().enumerate() {
        let details = host_name(host.as_str().unwrap_or_default());
        errors.extend(details.iter().map(|w| invalid(format!("{field}.hosts[{at}]"), host, w)));
    }
    let secret = text(entry, &["secretName"]);
    if !secret.is_empty() {
        let (details, field) = (dns_subdomain(secret), format!("{field}.secretName"));
        errors.extend(details.iter().map(|w| invalid(&*field, &secret.into(), w)));
    }
    errors
}

/// Checks a host, which may be a wildcard (`*.example.com`).
fn host_name(host: &str) -> Vec<String> {
    const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid \
        DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and \
        end with an alphanumeric character (e.g. '*.example.com', regex used for validation is \
        '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    if !host.contains('*') {
        return dns_subdomain(host);
    }
    let rest = host.strip_prefix("*.");
    let mut details = Vec::new();
    if host.len() > 253 {
        details.push("must be no more than 253 bytes".to_owned());
    }
    if !rest.is_some_and(|rest| dns_subdomain(rest).is_empty()) {
        details.push(WILDCARD.to_owned());
    }
    details
}

/// Parses an address as Kubernetes does (`ParseIPSloppy`): leading zeros are ignored.
fn is_address(host: &str) -> bool {
    let parts: Vec<&str> = host.split('.').collect();
    // `u8::from_str` accepts leading zeros, but also a sign.
    let decimal = |part: &&str| !part.starts_with('+') && part.parse::<u8>().is_ok();
    parts.len() == 4 && parts.iter().all(decimal) || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingress(spec: Value) -> Value {
        json!({ "metadata": { "name": "i" }, "spec": spec })
    }

    fn with_path(path: Value) -> Value {
        ingress(json!({ "rules": [{ "host": "foo.bar", "http": { "paths": [path] } }] }))
    }

    fn messages(ingress: &Value) -> Vec<String> {
        validate(ingress, None).into_iter().map(|e| format!("{}: {}", e.field, e.message)).collect()
    }

    fn to_service() -> Value {
        json!({ "service": { "name": "s", "port": { "number": 80 } } })
    }

    #[test]
    fn path_is_validated_by_its_type() {
        let at = "spec.rules[0].http.paths[0].path";
        for (path_type, path, details) in [
            ("Prefix", "/", &[][..]),
            ("Prefix", "/a/b", &[]),
            ("Exact", "/a/", &[]),
            ("ImplementationSpecific", "", &[]),
            ("ImplementationSpecific", "/a//b/../%2f/.", &[]),
            ("ImplementationSpecific", "a", &["must be an absolute path"]),
            ("Prefix", "", &["must be an absolute path"]),
            ("Prefix", "/a//b", &["must not contain '//'"]),
            ("Exact", "/a/./b/../c", &["must not contain '/./'", "must not contain '/../'"]),
            ("Exact", "/a%2Fb", &["must not contain '%2F'"]),
            ("Prefix", "/a/..", &["cannot end with '/..'"]),
            ("Prefix", "/a/.", &["cannot end with '/.'"]),
        ] {
            let given = json!({ "path": path, "pathType": path_type, "backend": to_service() });
            let expected: Vec<String> =
                details.iter().map(|w| format!("{at}: Invalid value: {path:?}: {w}")).collect();
            assert_eq!(messages(&with_path(given)), expected, "{path_type} {path}");
        }
    }

    #[test]
    fn host_is_a_name_or_a_wildcard() {
        for (host, errors) in [
            ("foo.bar", 0),
            ("*.foo.bar", 0),
            ("*", 1),
            ("foo.*.bar", 1),
            ("*.*.bar", 1),
            ("*foo.bar", 1),
            ("1.2.3.4", 1),
            ("001.02.3.000", 1),
            ("1.2.3.256", 0),
            ("::1", 2),
            ("foo.bar:80", 1),
            ("Foo", 1),
        ] {
            let given = ingress(json!({ "rules": [{ "host": host }] }));
            assert_eq!(messages(&given).len(), errors, "{host}: {:?}", messages(&given));
        }
        let given = ingress(json!({ "defaultBackend": to_service(),
            "tls": [{ "hosts": ["*.foo.bar", "Foo"], "secretName": "No_Name" }] }));
        let fields: Vec<String> =
            validate(&given, None).into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["spec.tls[0].hosts[1]", "spec.tls[0].secretName"]);
    }

    #[test]
    fn backend_is_one_service_port_or_one_resource() {
        let resource = json!({ "kind": "Bucket", "name": "b" });
        for (backend, detail) in [
            (json!({}), "Invalid value: \"\": resource or service backend is required"),
            (
                json!({ "service": to_service()["service"], "resource": resource }),
                "Invalid value: \"\": cannot set both resource and service backends",
            ),
            (
                json!({ "service": { "name": "s", "port": { "name": "http", "number": 80 } } }),
                "Invalid value: \"\": cannot set both port name & port number",
            ),
            (
                json!({ "service": { "name": "s" } }),
                "Required value: port name or number is required",
            ),
        ] {
            let given = ingress(json!({ "defaultBackend": backend }));
            assert_eq!(messages(&given), [format!("spec.defaultBackend: {detail}")]);
        }
        let given = ingress(json!({ "defaultBackend": { "resource": resource } }));
        assert_eq!(messages(&given), [""; 0]);
        let number = json!({ "service": { "name": "s", "port": { "number": 70_000 } } });
        assert_eq!(
            messages(&ingress(json!({ "defaultBackend": number }))),
            [
                "spec.defaultBackend.service.port.number: Invalid value: 70000: must be between 1 and \
              65535, inclusive"
            ]
        );
    }

    #[test]
    fn class_and_annotation_must_agree_when_created() {
        let mut given = ingress(json!({ "defaultBackend": to_service(), "ingressClassName": "a" }));
        given["metadata"]["annotations"] = json!({ INGRESS_CLASS_ANNOTATION: "b" });
        assert_eq!(
            messages(&given),
            ["annotations.kubernetes.io/ingress.class: Invalid value: \"b\": must match \
              `ingressClassName` when both are specified"]
        );
        assert_eq!(validate(&given, Some(&given)), []);
        given["metadata"]["annotations"] = json!({ INGRESS_CLASS_ANNOTATION: "a" });
        assert_eq!(validate(&given, None), []);
    }

    #[test]
    fn hosts_and_address_columns_summarize_rules_and_status() {
        let rule = |host: &str| json!({ "host": host });
        for (rules, shown) in [
            (vec![], "*"),
            (vec![json!({ "http": {} })], "*"),
            (vec![rule("a"), rule("b"), rule("c")], "a,b,c"),
            (vec![rule("a"), rule("b"), rule("c"), rule("d"), rule("e")], "a,b,c + 2 more..."),
        ] {
            assert_eq!(hosts(&ingress(json!({ "rules": rules }))), shown);
        }
        let points = json!([{ "ip": "127.2.0.9" }, { "hostname": "a.b" }, { "ip": "127.2.0.10" }]);
        let given = json!({ "status": { "loadBalancer": { "ingress": points } } });
        assert_eq!(addresses(&given), "127.2.0.10,127.2.0.9,a.b");
    }
}
