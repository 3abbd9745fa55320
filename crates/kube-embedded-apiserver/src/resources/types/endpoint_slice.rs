//! `endpointslices` (`discovery.k8s.io/v1`).

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use crate::{
    fields::{default, default_empty, each, existing, list, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column},
        types::endpoints::join_first,
    },
    validation::{
        addresses::{Family, endpoint_ip, fully_qualified},
        field_error::{FieldError, changed, duplicate, invalid, not_supported, required, too_many},
        names::{dns_label, dns_subdomain, label_value, qualified_name},
        object_meta::{self, Part, Rules},
    },
};
use kube_embedded_core::network::Addresses;
use std::collections::HashSet;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_ZONES: usize = 8;

const METADATA: Rules =
    Rules { standard_finalizers: true, update: &[Part::Whole], ..Rules::of(dns_subdomain) };

pub(crate) const RESOURCE: ResourceType = ResourceType {
    generation: true,
    defaults: |slice| {
        for endpoint in each(slice, "endpoints") {
            if let Some(hints) = existing(endpoint, "hints") {
                each(hints, "forZones").for_each(|zone| default(zone, "name", ""));
            }
        }
        for port in each(slice, "ports") {
            default(port, "name", "");
            default_empty(port, "protocol", "TCP");
        }
    },
    prepare_update: |slice, old| {
        let labels = |slice: &Value| slice["metadata"]["labels"].as_object().cloned();
        if labels(slice).unwrap_or_default() != labels(old).unwrap_or_default() {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            slice["metadata"]["generation"] = generation.into();
        }
    },
    validate,
    validate_addresses: Some(validate_endpoints),
    columns: &[
        column("AddressType", "#/io.k8s.api.discovery.v1.EndpointSlice/addressType", |slice, _| {
            text(slice, &["addressType"]).into()
        }),
        column("Ports", "#/io.k8s.api.discovery.v1.EndpointSlice/ports", |slice, _| {
            ports(slice).into()
        }),
        column("Endpoints", "#/io.k8s.api.discovery.v1.EndpointSlice/endpoints", |slice, _| {
            endpoints(slice).into()
        }),
        AGE,
    ],
    ..ResourceType::of::<EndpointSlice>("endpointslice", "io.k8s.api.discovery.v1.EndpointSlice")
};

/// Stands for `ValidateEndpointSlice`, but for the addresses.
fn validate(slice: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = object_meta::validate(slice, old, &METADATA);
    match text(slice, &["addressType"]) {
        "" => errors.push(required("addressType", "")),
        "IPv4" | "IPv6" | "FQDN" => {}
        _ => {
            let supported = ["FQDN", "IPv4", "IPv6"];
            errors.push(not_supported("addressType", &slice["addressType"], &supported));
        }
    }
    errors.extend(validate_ports(list(slice, &["ports"])));
    if let Some(old) = old {
        errors.extend(changed(slice, old, "addressType"));
    }
    errors
}

/// Validates the endpoints. Addresses that were stored before are left alone.
fn validate_endpoints(cluster: &Addresses, slice: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let endpoints = list(slice, &["endpoints"]);
    if let Some(error) = too_many("endpoints", endpoints.len(), MAX_ENDPOINTS) {
        return vec![error];
    }
    let stored: HashSet<&str> = old.map_or_else(HashSet::new, |old| {
        let endpoints = list(old, &["endpoints"]).iter();
        endpoints
            .flat_map(|endpoint| list(endpoint, &["addresses"]))
            .filter_map(Value::as_str)
            .collect()
    });
    let mut errors = Vec::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        let field = format!("endpoints[{at}]");
        let addresses = list(endpoint, &["addresses"]);
        if addresses.is_empty() {
            let field = format!("{field}.addresses");
            errors.push(required(field, "must contain at least 1 address"));
        }
        let count = addresses.len();
        errors.extend(too_many(format!("{field}.addresses"), count, MAX_ADDRESSES));
        for (at, address) in addresses.iter().enumerate() {
            let field = format!("{field}.addresses[{at}]");
            if address.as_str().is_some_and(|address| stored.contains(address)) {
                continue;
            }
            match text(slice, &["addressType"]) {
                "IPv4" => errors.extend(endpoint_ip(address, Family::V4, &field, cluster)),
                "IPv6" => errors.extend(endpoint_ip(address, Family::V6, &field, cluster)),
                "FQDN" => errors.extend(fully_qualified(address, &field)),
                _ => {}
            }
        }
        errors.extend(hints(&endpoint["hints"], &field));
        for (name, rule) in
            [("nodeName", dns_subdomain as fn(&str) -> Vec<String>), ("hostname", dns_label)]
        {
            if let Some(given) = endpoint[name].as_str() {
                let field = format!("{field}.{name}");
                errors.extend(rule(given).iter().map(|w| invalid(&*field, &endpoint[name], w)));
            }
        }
    }
    errors
}

/// Validates the zones for which an endpoint is meant.
fn hints(hints: &Value, field: &str) -> Vec<FieldError> {
    let zones = list(hints, &["forZones"]);
    let field = format!("{field}.hints.forZones");
    let mut errors = Vec::from_iter(too_many(&*field, zones.len(), MAX_ZONES));
    let mut names = HashSet::new();
    for (at, zone) in zones.iter().enumerate() {
        let (field, name) = (format!("{field}[{at}].name"), text(zone, &["name"]));
        if !names.insert(name) {
            errors.push(duplicate(&*field, format!("{name:?}")));
        }
        errors.extend(label_value(name).iter().map(|w| invalid(&*field, &name.into(), w)));
    }
    errors
}

fn validate_ports(ports: &[Value]) -> Vec<FieldError> {
    if let Some(error) = too_many("ports", ports.len(), MAX_PORTS) {
        return vec![error];
    }
    let (mut errors, mut names) = (Vec::new(), HashSet::new());
    for (at, port) in ports.iter().enumerate() {
        let field = format!("ports[{at}]");
        let name = text(port, &["name"]);
        if !name.is_empty() {
            let field = format!("{field}.name");
            errors.extend(dns_label(name).iter().map(|w| invalid(&*field, &port["name"], w)));
        }
        if !names.insert(name) {
            errors.push(duplicate(format!("{field}.name"), &port["name"]));
        }
        if !matches!(text(port, &["protocol"]), "TCP" | "UDP" | "SCTP") {
            let supported = ["SCTP", "TCP", "UDP"];
            errors.push(not_supported(format!("{field}.protocol"), &port["protocol"], &supported));
        }
        if let Some(protocol) = port["appProtocol"].as_str() {
            let field = format!("{field}.appProtocol");
            let details = qualified_name(protocol);
            errors.extend(details.iter().map(|w| invalid(&*field, &port["appProtocol"], w)));
        }
    }
    errors
}

fn ports(slice: &Value) -> String {
    let ports = list(slice, &["ports"]);
    if ports.is_empty() {
        return "<unset>".to_owned();
    }
    let shown: Vec<String> = ports
        .iter()
        // Without a number, a port stands for all ports.
        .map(|port| match port["port"].as_i64() {
            Some(port) => port.to_string(),
            None => "*".to_owned(),
        })
        .collect();
    join_first(&shown)
}

fn endpoints(slice: &Value) -> String {
    let all: Vec<String> = list(slice, &["endpoints"])
        .iter()
        .flat_map(|endpoint| list(endpoint, &["addresses"]))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    if all.is_empty() { "<unset>".to_owned() } else { join_first(&all) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube_embedded_core::network::Sandbox;
    use serde_json::json;

    fn slice(endpoints: Value, ports: Value) -> Value {
        json!({
            "metadata": { "name": "s" }, "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        })
    }

    fn errors(slice: &Value, old: Option<&Value>) -> Vec<String> {
        let cluster = Addresses { block: 2, sandbox: Sandbox::Namespaced };
        let mut errors = validate(slice, old);
        errors.extend(validate_endpoints(&cluster, slice, old));
        errors.into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
    }

    #[test]
    fn addresses_of_the_host_and_texts_are_refused() {
        let given = slice(
            json!([{ "addresses": ["127.0.0.1"] }, { "addresses": ["10.0.0.1", "x"] }, {}]),
            json!([]),
        );
        assert_eq!(
            errors(&given, None),
            [
                "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range \
                 (127.0.0.0/8, ::1/128)",
                "endpoints[1].addresses[1]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or \
                 2001:db8::ffff)",
                "endpoints[2].addresses: Required value: must contain at least 1 address",
            ]
        );
        // What is stored may stay, so that labels can be changed.
        let stored = slice(json!([{ "addresses": ["127.0.0.1"] }]), json!([]));
        assert_eq!(errors(&stored, Some(&stored)), [""; 0]);
    }

    /// Compared with kube-apiserver 1.36.2.
    #[test]
    fn zones_of_hints_are_labels_and_unique() {
        let zones = json!([{ "name": "a b" }, { "name": "z" }, { "name": "z" }]);
        let found = hints(&json!({ "forZones": zones }), "endpoints[0]");
        let fields: Vec<_> = found.iter().map(|error| (&*error.field, error.reason)).collect();
        let expected = [
            ("endpoints[0].hints.forZones[0].name", "FieldValueInvalid"),
            ("endpoints[0].hints.forZones[2].name", "FieldValueDuplicate"),
        ];
        assert_eq!(fields, expected);
        let many: Vec<Value> = (0..9).map(|n| json!({ "name": n.to_string() })).collect();
        assert_eq!(hints(&json!({ "forZones": many }), "e").len(), 1);
        assert!(hints(&Value::Null, "e").is_empty());
    }

    #[test]
    fn ports_have_unique_names_and_a_known_protocol() {
        let port =
            |name: &str, protocol: &str| json!({ "name": name, "port": 1, "protocol": protocol });
        for (ports, field) in [
            (json!([port("", "TCP"), port("b", "UDP")]), ""),
            (json!([port("", "TCP"), port("", "TCP")]), "ports[1].name"),
            (json!([port("A", "TCP")]), "ports[0].name"),
            (json!([port("a", "ICMP")]), "ports[0].protocol"),
            (
                json!([{ "name": "a", "protocol": "TCP", "appProtocol": "a b" }]),
                "ports[0].appProtocol",
            ),
        ] {
            let found = errors(&slice(json!([]), ports), None);
            assert_eq!(
                found.first().map_or("", |e| e.split(": ").next().unwrap()),
                field,
                "{found:?}"
            );
        }
    }
}
