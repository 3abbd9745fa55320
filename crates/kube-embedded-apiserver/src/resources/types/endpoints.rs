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
    validation::{names::dns_subdomain, object_meta::metadata},
};

/// Sent with every response since Kubernetes 1.33.
const DEPRECATION: &str =
    "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["ep"],
    defaults: |endpoints| {
        for subset in each(endpoints, "subsets") {
            for port in each(subset, "ports") {
                default_empty(port, "protocol", "TCP");
            }
        }
    },
    validate: |endpoints, old| metadata(endpoints, old, dns_subdomain),
    warnings: |_| vec![DEPRECATION.into()],
    deprecation: Some(DEPRECATION),
    columns: &[
        column(
            "Endpoints",
            "The set of all endpoints is the union of all subsets.",
            |object, _| endpoints(object).into(),
        ),
        AGE,
    ],
    ..ResourceType::of::<Endpoints>("endpoints", "io.k8s.api.core.v1.Endpoints")
};

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
