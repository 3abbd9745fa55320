//! `services` (`pkg/registry/core/service`). Cluster IPs and node ports are allocated by
//! [`crate::ip_allocator`], after validation.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Service;
use kube_embedded_core::network::Addresses;
use serde_json::{Value, json};

use crate::{
    fields::{default, default_empty, each, list, object, remove, text},
    ip_allocator,
    resources::{
        deletion::Deletion,
        resource_type::ResourceType,
        table_columns::{self, AGE, column, or_none, wide},
    },
    validation::{
        addresses::{Family, cidr, endpoint_ip},
        field_error::{FieldError, duplicate, forbidden, invalid, not_supported, required},
        names::{dns_label, dns_subdomain, labels, port, port_or_name, qualified_name},
        object_meta::metadata,
        warnings,
    },
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["svc"],
    categories: &["all"],
    subresources: &["status", "proxy"],
    defaults,
    prepare_create,
    prepare_update,
    validate,
    validate_addresses: Some(validate_external_ips),
    warnings: |service, _| warnings::of_service(service),
    allocate: Some(ip_allocator::allocate),
    deletion: &Deletion { returns_object: true, ..Deletion::IMMEDIATE },
    columns: &[
        column("Type", "#/io.k8s.api.core.v1.ServiceSpec/type", |service, _| {
            text(service, &["spec", "type"]).into()
        }),
        column("Cluster-IP", "#/io.k8s.api.core.v1.ServiceSpec/clusterIP", |service, _| {
            or_none(text(service, &["spec", "clusterIP"]))
        }),
        column("External-IP", "#/io.k8s.api.core.v1.ServiceSpec/externalIPs", |service, _| {
            external_ips(service).into()
        }),
        column("Port(s)", "#/io.k8s.api.core.v1.ServiceSpec/ports", |service, _| {
            or_none(&ports(service))
        }),
        AGE,
        wide("Selector", "#/io.k8s.api.core.v1.ServiceSpec/selector", |service, _| {
            table_columns::map(&service["spec"]["selector"])
        }),
    ],
    selectable: &["spec.clusterIP", "spec.type"],
    creates_on_update: true,
    ..ResourceType::of::<Service>("service", "io.k8s.api.core.v1.Service")
};

/// `DefaultClientIPServiceAffinitySeconds`: three hours.
const AFFINITY_SECONDS: i64 = 10_800;

/// Stands for `SetDefaults_Service`.
fn defaults(service: &mut Value) {
    let Some(spec) = object(service, "spec") else { return };
    default_empty(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "None" {
        remove(spec, "sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP"
        && let Some(client) =
            object(spec, "sessionAffinityConfig").and_then(|config| object(config, "clientIP"))
    {
        default(client, "timeoutSeconds", AFFINITY_SECONDS);
    }
    default_empty(spec, "type", "ClusterIP");
    let service_type = text(spec, &["type"]).to_owned();
    for port in each(spec, "ports") {
        default_empty(port, "protocol", "TCP");
        let number = port["port"].clone();
        if !number.is_null() && (port["targetPort"] == 0 || port["targetPort"] == "") {
            port["targetPort"] = number.clone();
        }
        default(port, "targetPort", if number.is_null() { 0.into() } else { number });
    }
    if is_external(spec) {
        default_empty(spec, "externalTrafficPolicy", "Cluster");
    }
    if service_type != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if service_type == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn prepare_create(service: &mut Value) {
    service["status"] = json!({ "loadBalancer": {} });
    default_ip_families(service);
}

/// Keeps what is allocated, and drops what the new type does not have.
fn prepare_update(service: &mut Value, old: &Value) {
    let old = &old["spec"];
    let (old_type, new_type) = (text(old, &["type"]), text(&service["spec"], &["type"]).to_owned());
    let Some(spec) = service.get_mut("spec") else { return };
    keep_allocated(spec, &new_type, old, old_type);
    drop_node_ports(spec, &new_type, old, old_type);
    drop_external_policy(spec, old);
    if old_type == "LoadBalancer" && new_type != "LoadBalancer" {
        remove(spec, "allocateLoadBalancerNodePorts");
        remove(spec, "loadBalancerClass");
        remove(spec, "healthCheckNodePort");
        service["status"] = json!({ "loadBalancer": {} });
    }
    if new_type == "ExternalName" && old_type != "ExternalName" {
        if let Some(spec) = service.get_mut("spec") {
            for field in
                ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
            {
                remove(spec, field);
            }
        }
    } else {
        default_ip_families(service);
    }
}

/// Keeps allocated addresses and node ports that an update leaves out, so that clients need not
/// repeat them (`patchAllocatedValues`).
fn keep_allocated(spec: &mut Value, new_type: &str, old: &Value, old_type: &str) {
    if new_type != "ExternalName" && old_type != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let kept = &old[field];
            if !kept.is_null() && (spec[field].is_null() || spec[field] == "") {
                spec[field] = kept.clone();
            }
        }
    }
    if has_node_ports(old_type) && has_node_ports(new_type) {
        for port in each(spec, "ports") {
            let allocated = list(old, &["ports"])
                .iter()
                .find(|old| old["port"] == port["port"] && old["protocol"] == port["protocol"]);
            if let Some(number) = allocated.map(|old| &old["nodePort"])
                && !number.is_null()
            {
                default_empty(port, "nodePort", number.clone());
            }
        }
    }
}

/// Drops the node ports of a Service that no longer has any, unless the client sets others
/// (`dropTypeDependentFields`).
fn drop_node_ports(spec: &mut Value, new_type: &str, old: &Value, old_type: &str) {
    if !has_node_ports(old_type) || has_node_ports(new_type) {
        return;
    }
    for (port, old) in each(spec, "ports").zip(list(old, &["ports"])) {
        if port["nodePort"] == old["nodePort"] {
            remove(port, "nodePort");
        }
    }
}

/// Drops the policy of a Service that is no longer accessible from outside, unless the client changes it
/// (`dropTypeDependentFields`).
fn drop_external_policy(spec: &mut Value, old: &Value) {
    const FIELD: &str = "externalTrafficPolicy";
    if is_external(old) && !is_external(spec) && spec[FIELD] == old[FIELD] {
        remove(spec, FIELD);
    }
}

/// Returns true if clients outside of the cluster can reach the Service (`ExternallyAccessible`).
fn is_external(spec: &Value) -> bool {
    let service_type = text(spec, &["type"]);
    has_node_ports(service_type)
        || service_type == "ClusterIP" && !list(spec, &["externalIPs"]).is_empty()
}

fn has_node_ports(service_type: &str) -> bool {
    matches!(service_type, "NodePort" | "LoadBalancer")
}

/// Sets the IP families, of which this cluster has IPv4 only. A headless Service without a selector has both anywhere,
/// since another controller manages its endpoints.
fn default_ip_families(service: &mut Value) {
    let Some(spec) = service.get_mut("spec") else { return };
    if text(spec, &["type"]) == "ExternalName" {
        return;
    }
    let is_without_endpoints = spec["clusterIP"] == "None" && spec["selector"].is_null();
    let (policy, families) = match is_without_endpoints {
        true => ("RequireDualStack", json!(["IPv4", "IPv6"])),
        false => ("SingleStack", json!(["IPv4"])),
    };
    if spec["ipFamilyPolicy"].is_null() && list(spec, &["ipFamilies"]).is_empty() {
        spec["ipFamilies"] = families;
        default(spec, "ipFamilyPolicy", policy);
    }
    default(spec, "ipFamilyPolicy", "SingleStack");
    if list(spec, &["ipFamilies"]).is_empty() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if spec["clusterIP"] == "None" && list(spec, &["clusterIPs"]).is_empty() {
        spec["clusterIPs"] = json!(["None"]);
    }
}

/// Stands for `ValidateServiceCreate` and `ValidateServiceUpdate`.
fn validate(service: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &service["spec"];
    let mut errors = metadata(service, old, dns_label);
    errors.extend(validate_addresses(spec));
    errors.extend(validate_ports(spec));
    errors.extend(labels(&spec["selector"], "spec.selector"));
    errors.extend(validate_session_affinity(spec));
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if !types.contains(&text(spec, &["type"])) {
        errors.push(not_supported("spec.type", &spec["type"], &types));
    }
    errors.extend(validate_load_balancer(spec));
    errors.extend(validate_policies(spec));
    if let Some(old) = old {
        errors.extend(validate_update(spec, &old["spec"]));
    }
    errors
}

/// Validates the fields that only load balancers have.
fn validate_load_balancer(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if spec["type"] != "LoadBalancer" {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        // The first path is capitalized in Kubernetes, too.
        for (field, path) in [
            ("loadBalancerSourceRanges", "spec.LoadBalancerSourceRanges"),
            ("allocateLoadBalancerNodePorts", "spec.allocateLoadBalancerNodePorts"),
            ("loadBalancerClass", "spec.loadBalancerClass"),
        ] {
            errors.extend((!spec[field].is_null()).then(|| forbidden(path, detail)));
        }
        return errors;
    }
    for (at, range) in list(spec, &["loadBalancerSourceRanges"]).iter().enumerate() {
        errors.extend(cidr(range, &format!("spec.LoadBalancerSourceRanges[{at}]")));
    }
    if let Some(class) = spec["loadBalancerClass"].as_str() {
        let (field, value) = ("spec.loadBalancerClass", &spec["loadBalancerClass"]);
        errors.extend(qualified_name(class).iter().map(|w| invalid(field, value, w)));
    }
    // A firewall that opens this port would let clients in that the kubelet trusts.
    const KUBELET: i64 = 10_250;
    for (at, port) in list(spec, &["ports"]).iter().enumerate() {
        if port["port"] == KUBELET {
            let detail =
                format!("may not expose port {KUBELET} externally since it is used by kubelet");
            errors.push(invalid(format!("spec.ports[{at}]"), &port["port"], &detail));
        }
    }
    errors
}

/// Validates how traffic is spread, and the families of addresses.
fn validate_policies(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, supported) in [
        ("externalTrafficPolicy", &["Cluster", "Local"][..]),
        ("internalTrafficPolicy", &["Cluster", "Local"]),
        ("trafficDistribution", &["PreferClose", "PreferSameZone", "PreferSameNode"]),
        ("ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"]),
    ] {
        // Three of them are pointers, so that an empty string is a value.
        let is_unset =
            spec[field].is_null() || field == "externalTrafficPolicy" && spec[field] == "";
        if !is_unset && !supported.contains(&text(spec, &[field])) {
            errors.push(not_supported(format!("spec.{field}"), &spec[field], supported));
        }
    }
    if !is_external(spec) && !text(spec, &["externalTrafficPolicy"]).is_empty() {
        let (field, value) = ("spec.externalTrafficPolicy", &spec["externalTrafficPolicy"]);
        let detail = "may only be set for externally-accessible services";
        errors.push(invalid(field, value, detail));
    }
    let is_local = spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    let health = &spec["healthCheckNodePort"];
    if !is_local && health.as_i64().unwrap_or_default() != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is \
                      'Local'";
        errors.push(invalid("spec.healthCheckNodePort", health, detail));
    }
    for (at, family) in list(spec, &["ipFamilies"]).iter().enumerate() {
        if !matches!(family.as_str(), Some("IPv4" | "IPv6")) {
            let supported = ["IPv4", "IPv6"];
            errors.push(not_supported(format!("spec.ipFamilies[{at}]"), family, &supported));
        }
    }
    errors
}

/// Validates the addresses outside of the cluster, which must not be those of a node itself.
fn validate_external_ips(
    cluster: &Addresses,
    service: &Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    let stored = old.map_or(&[][..], |old| list(old, &["spec", "externalIPs"]));
    let given = list(service, &["spec", "externalIPs"]).iter().enumerate();
    given
        .filter(|(_, ip)| !stored.contains(ip))
        .flat_map(|(at, ip)| {
            endpoint_ip(ip, Family::Any, &format!("spec.externalIPs[{at}]"), cluster)
        })
        .collect()
}

/// Validates what each type must or must not have: ports, a cluster IP, an external name.
fn validate_addresses(spec: &Value) -> Vec<FieldError> {
    let service_type = text(spec, &["type"]);
    let headless = spec["clusterIP"] == "None";
    let mut errors = Vec::new();
    if list(spec, &["ports"]).is_empty() && !headless && service_type != "ExternalName" {
        errors.push(required("spec.ports", ""));
    }
    match service_type {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {service_type} services");
            errors.push(invalid("spec.clusterIPs[0]", &"None".into(), &detail));
        }
        "ExternalName" => {
            if !text(spec, &["clusterIP"]).is_empty() {
                let detail = "may not be set for ExternalName services";
                errors.push(forbidden("spec.clusterIPs[0]", detail));
            }
            let name = text(spec, &["externalName"]);
            if name.is_empty() {
                errors.push(required("spec.externalName", ""));
            } else {
                let details = dns_subdomain(name.strip_suffix('.').unwrap_or(name));
                errors
                    .extend(details.iter().map(|w| invalid("spec.externalName", &name.into(), w)));
            }
        }
        _ => {}
    }
    errors
}

/// Validates ports: each protocol and number once, and node ports only for types that have them.
fn validate_ports(spec: &Value) -> Vec<FieldError> {
    let ports = list(spec, &["ports"]);
    let (mut names, mut used, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut errors = Vec::new();
    for (at, entry) in ports.iter().enumerate() {
        let field = format!("spec.ports[{at}]");
        let name = text(entry, &["name"]);
        // Endpoints refer to ports by name, so several need names.
        if ports.len() > 1 && name.is_empty() {
            errors.push(required(format!("{field}.name"), ""));
        } else if !name.is_empty() {
            let (details, field) = (dns_label(name), format!("{field}.name"));
            errors.extend(details.iter().map(|w| invalid(&*field, &entry["name"], w)));
            if !names.insert(name) {
                errors.push(duplicate(field, &entry["name"]));
            }
        }
        errors.extend(port(&entry["port"], format!("{field}.port")));
        let protocol = text(entry, &["protocol"]);
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            let supported = ["SCTP", "TCP", "UDP"];
            errors.push(not_supported(format!("{field}.protocol"), &entry["protocol"], &supported));
        }
        errors.extend(port_or_name(&entry["targetPort"], &format!("{field}.targetPort")));
        if let Some(protocol) = entry["appProtocol"].as_str() {
            let field = format!("{field}.appProtocol");
            let details = qualified_name(protocol);
            errors.extend(details.iter().map(|w| invalid(&*field, &entry["appProtocol"], w)));
        }
        let node_port = entry["nodePort"].as_i64().unwrap_or_default();
        if node_port != 0 {
            if spec["type"] == "ClusterIP" {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.push(forbidden(format!("{field}.nodePort"), detail));
            } else if !node_ports.insert((protocol, node_port)) {
                errors.push(duplicate(format!("{field}.nodePort"), &entry["nodePort"]));
            }
        }
        if !used.insert((protocol, entry["port"].as_i64())) {
            // As Kubernetes prints its internal type, of which it compares these two fields.
            let shown = format!(
                r#"{{"Name":"","Protocol":"{protocol}","AppProtocol":null,"Port":{},"TargetPort":0,"NodePort":0}}"#,
                entry["port"]
            );
            errors.push(duplicate(field, &shown));
        }
    }
    errors
}

/// Validates the session affinity.
fn validate_session_affinity(spec: &Value) -> Option<FieldError> {
    match text(spec, &["sessionAffinity"]) {
        "None" => None,
        "ClientIP" => {
            let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
            let in_range = seconds.as_i64().is_none_or(|seconds| (1..=86_400).contains(&seconds));
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            let detail = "must be greater than 0 and less than 86400";
            (!in_range).then(|| invalid(field, seconds, detail))
        }
        _ => {
            let affinity = &spec["sessionAffinity"];
            Some(not_supported("spec.sessionAffinity", affinity, &["ClientIP", "None"]))
        }
    }
}

/// Validates that an update keeps the cluster IP, on which clients and proxies rely.
fn validate_update(spec: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let has_address = |spec: &Value| spec["type"] != "ExternalName";
    let (new_address, old_address) = (text(spec, &["clusterIP"]), text(old, &["clusterIP"]));
    let both = has_address(old) && has_address(spec);
    if both && !old_address.is_empty() && new_address != old_address {
        errors.push(invalid(
            "spec.clusterIPs[0]",
            &json!([new_address]),
            "may not change once set",
        ));
    }
    if spec["type"] == "LoadBalancer"
        && old["type"] == "LoadBalancer"
        && spec["loadBalancerClass"] != old["loadBalancerClass"]
    {
        let detail = "may not change once set";
        errors.push(invalid("spec.loadBalancerClass", &spec["loadBalancerClass"], detail));
    }
    errors
}

/// The external addresses by type (`getServiceExternalIP`).
fn external_ips(service: &Value) -> String {
    let spec = &service["spec"];
    let listed: Vec<&str> = list(spec, &["externalIPs"]).iter().filter_map(Value::as_str).collect();
    let none_or = |shown: String| if shown.is_empty() { "<none>".to_owned() } else { shown };
    match text(spec, &["type"]) {
        "ClusterIP" | "NodePort" => none_or(listed.join(",")),
        "LoadBalancer" => {
            let ingress = list(service, &["status", "loadBalancer", "ingress"]);
            let mut shown: Vec<&str> = ingress
                .iter()
                .map(|entry| match text(entry, &["ip"]) {
                    "" => text(entry, &["hostname"]),
                    ip => ip,
                })
                .filter(|address| !address.is_empty())
                .collect();
            shown.sort_unstable();
            shown.dedup();
            shown.extend(listed);
            let shown = shown.join(",");
            if shown.is_empty() { "<pending>".to_owned() } else { shown }
        }
        "ExternalName" => none_or(text(spec, &["externalName"]).to_owned()),
        _ => "<unknown>".to_owned(),
    }
}

/// `80:30080/TCP,53/UDP`: port, node port and protocol.
fn ports(service: &Value) -> String {
    let shown: Vec<String> = list(service, &["spec", "ports"])
        .iter()
        .map(|port| {
            let protocol = text(port, &["protocol"]);
            match port["nodePort"].as_i64().unwrap_or_default() {
                0 => format!("{}/{protocol}", port["port"]),
                node_port => format!("{}:{node_port}/{protocol}", port["port"]),
            }
        })
        .collect();
    shown.join(",")
}

#[cfg(test)]
mod tests;
