//! `endpointslices` (`discovery.k8s.io/v1`).

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use crate::{
    fields::{default, default_empty, each, list, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column},
        types::endpoints::join_first,
    },
    validation::{
        field_error::{FieldError, changed, not_supported, required},
        names::dns_subdomain,
        object_meta::metadata,
    },
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    generation: true,
    defaults: |slice| {
        for port in each(slice, "ports") {
            default(port, "name", "");
            default_empty(port, "protocol", "TCP");
        }
    },
    validate,
    columns: &[
        column(
            "AddressType",
            "addressType specifies the type of address carried by this EndpointSlice.",
            |slice, _| text(slice, &["addressType"]).into(),
        ),
        column(
            "Ports",
            "ports specifies the list of network ports exposed by each endpoint in this slice.",
            |slice, _| ports(slice).into(),
        ),
        column(
            "Endpoints",
            "endpoints is a list of unique endpoints in this slice.",
            |slice, _| endpoints(slice).into(),
        ),
        AGE,
    ],
    ..ResourceType::of::<EndpointSlice>("endpointslice", "io.k8s.api.discovery.v1.EndpointSlice")
};

/// Stands for `ValidateEndpointSlice`, as far as controllers and the service proxy depend on it.
fn validate(slice: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(slice, old, dns_subdomain);
    match text(slice, &["addressType"]) {
        "" => errors.push(required("addressType", "")),
        "IPv4" | "IPv6" | "FQDN" => {}
        _ => {
            let supported = ["FQDN", "IPv4", "IPv6"];
            errors.push(not_supported("addressType", &slice["addressType"], &supported));
        }
    }
    for (at, endpoint) in list(slice, &["endpoints"]).iter().enumerate() {
        if list(endpoint, &["addresses"]).is_empty() {
            let field = format!("endpoints[{at}].addresses");
            errors.push(required(field, "must contain at least 1 address"));
        }
    }
    if let Some(old) = old {
        errors.extend(changed(slice, old, "addressType"));
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
