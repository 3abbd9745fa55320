//! `endpoints`: the deprecated predecessor of EndpointSlices. Stored for clients that still write
//! or read them; the service proxy uses EndpointSlices only.

use k8s_openapi::api::core::v1::Endpoints;
use serde_json::Value;

use crate::{
    fields::{default_empty, each, list, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column},
    },
    validation::{
        addresses::{Family, endpoint_ip},
        field_error::{FieldError, invalid, not_supported, required},
        names::{dns_label, dns_subdomain, port},
        object_meta::{self, Part, Rules},
    },
};
use kube_embedded_core::network::Addresses;

/// Sent with every response since Kubernetes 1.33.
const DEPRECATION: &str =
    "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Changes, Part::Whole],
    ..Rules::of(dns_subdomain)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["ep"],
    defaults: |endpoints| {
        for subset in each(endpoints, "subsets") {
            for port in each(subset, "ports") {
                default_empty(port, "protocol", "TCP");
            }
        }
    },
    validate: |endpoints, old| object_meta::validate(endpoints, old, &METADATA),
    validate_addresses: Some(validate_subsets),
    deprecation: Some(DEPRECATION),
    columns: &[
        column("Endpoints", "#/io.k8s.api.core.v1.Endpoints/subsets", |object, _| {
            endpoints(object).into()
        }),
        AGE,
    ],
    creates_on_update: true,
    ..ResourceType::of::<Endpoints>("endpoints", "io.k8s.api.core.v1.Endpoints")
};

/// Stands for `validateEndpointSubsets`. Addresses that were stored before are left alone.
fn validate_subsets(cluster: &Addresses, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    const LISTS: [&str; 2] = ["addresses", "notReadyAddresses"];
    let is_stored = |ip: &Value| {
        let subsets = old.map_or(&[][..], |old| list(old, &["subsets"])).iter();
        let mut addresses =
            subsets.flat_map(|subset| LISTS.iter().flat_map(|name| list(subset, &[name])));
        addresses.any(|address| address["ip"] == *ip)
    };
    let mut errors = Vec::new();
    for (at, subset) in list(object, &["subsets"]).iter().enumerate() {
        let field = format!("subsets[{at}]");
        if LISTS.iter().all(|name| list(subset, &[name]).is_empty()) {
            let detail = "must specify `addresses` or `notReadyAddresses`";
            errors.push(required(&*field, detail));
        }
        for name in LISTS {
            for (at, address) in list(subset, &[name]).iter().enumerate() {
                let field = format!("{field}.{name}[{at}]");
                if !is_stored(&address["ip"]) {
                    let field = format!("{field}.ip");
                    errors.extend(endpoint_ip(&address["ip"], Family::Any, &field, cluster));
                }
                if let Some(node) = address["nodeName"].as_str() {
                    let field = format!("{field}.nodeName");
                    let details = dns_subdomain(node);
                    errors.extend(details.iter().map(|w| invalid(&*field, &node.into(), w)));
                }
                if let Some(host) = address["hostname"].as_str().filter(|host| !host.is_empty()) {
                    let field = format!("{field}.hostname");
                    let details = dns_label(host);
                    errors.extend(details.iter().map(|w| invalid(&*field, &host.into(), w)));
                }
            }
        }
        let ports = list(subset, &["ports"]);
        for (at, entry) in ports.iter().enumerate() {
            errors.extend(validate_port(entry, &format!("{field}.ports[{at}]"), ports.len() > 1));
        }
    }
    errors
}

fn validate_port(entry: &Value, field: &str, needs_name: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match text(entry, &["name"]) {
        "" if needs_name => errors.push(required(format!("{field}.name"), "")),
        "" => {}
        name => {
            let field = format!("{field}.name");
            errors.extend(dns_label(name).iter().map(|w| invalid(&*field, &name.into(), w)));
        }
    }
    errors.extend(port(&entry["port"], format!("{field}.port")));
    if !matches!(text(entry, &["protocol"]), "TCP" | "UDP" | "SCTP") {
        let supported = ["SCTP", "TCP", "UDP"];
        errors.push(not_supported(format!("{field}.protocol"), &entry["protocol"], &supported));
    }
    errors
}

/// The number of entries that a column shows (`formatEndpoints`).
const SHOWN: usize = 3;

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(object, &["subsets"]) {
        let ports = list(subset, &["ports"]);
        for address in list(subset, &["addresses"]) {
            let ip = text(address, &["ip"]);
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])));
        }
    }
    join_first(&all)
}

/// Joins the first entries of a list, and adds the number of the others: `a,b,c + 2 more...`;
/// `<none>` if it is empty.
pub(crate) fn join_first(all: &[String]) -> String {
    match all.len() {
        0 => "<none>".to_owned(),
        count if count > SHOWN => {
            let first: Vec<&str> = all.iter().take(SHOWN).map(String::as_str).collect();
            format!("{} + {} more...", first.join(","), count - SHOWN)
        }
        _ => all.join(","),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use kube_embedded_core::network::Sandbox;

    #[test]
    fn subset_has_addresses_that_are_not_of_the_host() {
        let cluster = Addresses { block: 2, sandbox: Sandbox::Namespaced };
        let given = json!({ "subsets": [
            {},
            { "addresses": [{ "ip": "127.0.0.1" }], "ports": [{ "port": 0, "protocol": "X" }] },
            { "notReadyAddresses": [{ "ip": "::1", "hostname": "A" }] },
            { "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "port": 1, "protocol": "TCP" }] },
        ] });
        let fields = |old| -> Vec<String> {
            let errors = validate_subsets(&cluster, &given, old);
            errors.into_iter().map(|error| error.field).collect()
        };
        let others = [
            "subsets[1].ports[0].port",
            "subsets[1].ports[0].protocol",
            "subsets[2].notReadyAddresses[0].hostname",
        ];
        assert_eq!(fields(Some(&given))[1..], others);
        let with_addresses = fields(None);
        for field in
            ["subsets[0]", "subsets[1].addresses[0].ip", "subsets[2].notReadyAddresses[0].ip"]
        {
            assert!(with_addresses.iter().any(|found| found == field), "{with_addresses:?}");
        }
    }

    #[test]
    fn endpoints_column_shows_the_first_three() {
        let of = |ips: &[&str]| {
            let addresses: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
            json!({ "subsets": [{ "addresses": addresses, "ports": [{ "port": 8080 }] }] })
        };
        assert_eq!(endpoints(&of(&[])), "<none>");
        assert_eq!(endpoints(&of(&["a", "b"])), "a:8080,b:8080");
        assert_eq!(endpoints(&of(&["a", "b", "c", "d", "e"])), "a:8080,b:8080,c:8080 + 2 more...");
    }
}
