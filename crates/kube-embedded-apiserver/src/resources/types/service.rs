//! `services`. Cluster addresses and node ports are allocated by the API, not here.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use crate::{
    fields::{default, default_empty, each, list, object, remove, text},
    ip_allocator,
    resources::deletion::Deletion,
    resources::{
        resource_type::ResourceType,
        table_columns::{self, AGE, column, or_none, wide},
    },
    validation::{
        field_error::{
            FieldError, IMMUTABLE, duplicate, forbidden, invalid, not_supported, required,
        },
        names::{dns_label, dns_subdomain, labels, port, port_or_name},
        object_meta::metadata,
    },
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["svc"],
    categories: &["all"],
    subresources: &["status"],
    defaults,
    prepare_create,
    prepare_update,
    validate,
    allocate: Some(ip_allocator::allocate),
    deletion: &Deletion { returns_object: true, ..Deletion::IMMEDIATE },
    columns: &[
        column("Type", "type determines how the Service is exposed.", |service, _| {
            text(service, &["spec", "type"]).into()
        }),
        column("Cluster-IP", "clusterIP is the IP address of the service.", |service, _| {
            or_none(text(service, &["spec", "clusterIP"]))
        }),
        column(
            "External-IP",
            "externalIPs is a list of IP addresses for which nodes in the cluster will also \
             accept traffic for this service.",
            |service, _| external(service).into(),
        ),
        column("Port(s)", "The list of ports that are exposed by this service.", |service, _| {
            or_none(&ports(service))
        }),
        AGE,
        wide(
            "Selector",
            "Route service traffic to pods with label keys and values matching this selector.",
            |service, _| table_columns::map(&service["spec"]["selector"]),
        ),
    ],
    selectable: &["spec.clusterIP", "spec.type"],
    ..ResourceType::of::<Service>("service", "io.k8s.api.core.v1.Service")
};

const THREE_HOURS: i64 = 10_800;

fn defaults(service: &mut Value) {
    let Some(spec) = object(service, "spec") else { return };
    default_empty(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "None" {
        remove(spec, "sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP"
        && let Some(client) =
            object(spec, "sessionAffinityConfig").and_then(|config| object(config, "clientIP"))
    {
        default(client, "timeoutSeconds", THREE_HOURS);
    }
    default_empty(spec, "type", "ClusterIP");
    let of = text(spec, &["type"]).to_owned();
    for port in each(spec, "ports") {
        default_empty(port, "protocol", "TCP");
        let number = port["port"].clone();
        if !number.is_null() && (port["targetPort"] == 0 || port["targetPort"] == "") {
            port["targetPort"] = number.clone();
        }
        default(port, "targetPort", if number.is_null() { 0.into() } else { number });
    }
    let published = matches!(&*of, "NodePort" | "LoadBalancer")
        || of == "ClusterIP" && !list(spec, &["externalIPs"]).is_empty();
    if published {
        default_empty(spec, "externalTrafficPolicy", "Cluster");
    }
    if of != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if of == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn prepare_create(service: &mut Value) {
    service["status"] = json!({ "loadBalancer": {} });
    address_families(service);
}

fn prepare_update(service: &mut Value, old: &Value) {
    let Some(spec) = service.get_mut("spec") else { return };
    let old = &old["spec"];
    let (was, is) = (text(old, &["type"]), text(spec, &["type"]).to_owned());
    if is != "ExternalName" && was != "ExternalName" {
        // A client that says nothing of what was allocated means to keep it.
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let kept = &old[field];
            if !kept.is_null() && (spec[field].is_null() || spec[field] == "") {
                spec[field] = kept.clone();
            }
        }
    }
    let keeps_node_ports = |of: &str| matches!(of, "NodePort" | "LoadBalancer");
    if keeps_node_ports(was) && keeps_node_ports(&is) {
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
    if keeps_node_ports(was) && !keeps_node_ports(&is) {
        for (port, old) in each(spec, "ports").zip(list(old, &["ports"])) {
            if port["nodePort"] == old["nodePort"] {
                remove(port, "nodePort");
            }
        }
        if is == "ExternalName" || list(spec, &["externalIPs"]).is_empty() {
            remove(spec, "externalTrafficPolicy");
        }
    }
    if was == "LoadBalancer" && is != "LoadBalancer" {
        remove(spec, "allocateLoadBalancerNodePorts");
        remove(spec, "loadBalancerClass");
        remove(spec, "healthCheckNodePort");
        service["status"] = json!({ "loadBalancer": {} });
    }
    if is == "ExternalName" && was != "ExternalName" {
        if let Some(spec) = service.get_mut("spec") {
            for field in
                ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
            {
                remove(spec, field);
            }
        }
    } else {
        address_families(service);
    }
}

/// This cluster has IPv4 only.
fn address_families(service: &mut Value) {
    let Some(spec) = service.get_mut("spec") else { return };
    if text(spec, &["type"]) == "ExternalName" {
        return;
    }
    default(spec, "ipFamilyPolicy", "SingleStack");
    if list(spec, &["ipFamilies"]).is_empty() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if spec["clusterIP"] == "None" && list(spec, &["clusterIPs"]).is_empty() {
        spec["clusterIPs"] = json!(["None"]);
    }
}

fn validate(service: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &service["spec"];
    let of = text(spec, &["type"]);
    let headless = spec["clusterIP"] == "None";
    let mut errors = metadata(service, old, dns_label);
    let ports = list(spec, &["ports"]);
    if ports.is_empty() && !headless && of != "ExternalName" {
        errors.push(required("spec.ports", ""));
    }
    match of {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {of} services");
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
                let wrong = dns_subdomain(name.strip_suffix('.').unwrap_or(name));
                errors.extend(wrong.iter().map(|w| invalid("spec.externalName", &name.into(), w)));
            }
        }
        _ => {}
    }
    let (mut names, mut used, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (at, entry) in ports.iter().enumerate() {
        let field = format!("spec.ports[{at}]");
        let name = text(entry, &["name"]);
        if ports.len() > 1 && name.is_empty() {
            errors.push(required(format!("{field}.name"), ""));
        } else if !name.is_empty() {
            let wrong = dns_label(name);
            let told = wrong.iter().map(|w| invalid(format!("{field}.name"), &entry["name"], w));
            errors.extend(told);
            if !names.insert(name) {
                errors.push(duplicate(format!("{field}.name"), &entry["name"]));
            }
        }
        errors.extend(port(&entry["port"], format!("{field}.port")));
        let protocol = text(entry, &["protocol"]);
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            let supported = ["SCTP", "TCP", "UDP"];
            errors.push(not_supported(format!("{field}.protocol"), &entry["protocol"], &supported));
        }
        errors.extend(port_or_name(&entry["targetPort"], &format!("{field}.targetPort")));
        let node_port = entry["nodePort"].as_i64().unwrap_or_default();
        if node_port != 0 {
            if !matches!(of, "NodePort" | "LoadBalancer") {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.push(forbidden(format!("{field}.nodePort"), detail));
            } else if !node_ports.insert((protocol, node_port)) {
                errors.push(duplicate(format!("{field}.nodePort"), &entry["nodePort"]));
            }
        }
        if !used.insert((protocol, entry["port"].as_i64())) {
            let shown = json!({ "protocol": protocol, "port": entry["port"] });
            errors.push(duplicate(field, &shown));
        }
    }
    errors.extend(labels(&spec["selector"], "spec.selector"));
    match text(spec, &["sessionAffinity"]) {
        "None" => {}
        "ClientIP" => {
            let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
            if seconds.as_i64().is_some_and(|seconds| !(1..=86_400).contains(&seconds)) {
                let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
                let detail = "must be greater than 0 and less than 86400";
                errors.push(invalid(field, seconds, detail));
            }
        }
        _ => {
            let supported = ["ClientIP", "None"];
            errors.push(not_supported(
                "spec.sessionAffinity",
                &spec["sessionAffinity"],
                &supported,
            ));
        }
    }
    if !matches!(of, "ClusterIP" | "ExternalName" | "LoadBalancer" | "NodePort") {
        let supported = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        errors.push(not_supported("spec.type", &spec["type"], &supported));
    }
    for field in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        let policy = text(spec, &[field]);
        if !matches!(policy, "" | "Cluster" | "Local") {
            let supported = ["Cluster", "Local"];
            errors.push(not_supported(format!("spec.{field}"), &spec[field], &supported));
        }
    }
    if let Some(old) = old {
        errors.extend(validate_update(spec, &old["spec"]));
    }
    errors
}

fn validate_update(spec: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let external = |spec: &Value| spec["type"] == "ExternalName";
    let (new_address, old_address) = (text(spec, &["clusterIP"]), text(old, &["clusterIP"]));
    if !external(old) && !external(spec) && !old_address.is_empty() && new_address != old_address {
        errors.push(invalid("spec.clusterIPs[0]", &json!([new_address]), IMMUTABLE));
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

fn external(service: &Value) -> String {
    let spec = &service["spec"];
    let by_hand: Vec<&str> =
        list(spec, &["externalIPs"]).iter().filter_map(Value::as_str).collect();
    let none_or = |shown: String| if shown.is_empty() { "<none>".to_owned() } else { shown };
    match text(spec, &["type"]) {
        "ClusterIP" | "NodePort" => none_or(by_hand.join(",")),
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
            if !by_hand.is_empty() {
                shown.extend(by_hand);
            }
            let shown = shown.join(",");
            if shown.is_empty() { "<pending>".to_owned() } else { shown }
        }
        "ExternalName" => none_or(text(spec, &["externalName"]).to_owned()),
        _ => "<unknown>".to_owned(),
    }
}

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
mod tests {
    use super::*;

    fn service(spec: Value) -> Value {
        let mut service = json!({ "metadata": { "name": "s" }, "spec": spec });
        defaults(&mut service);
        service
    }

    #[test]
    fn defaults_by_type() {
        for (of, external, allocates, internal) in [
            ("ClusterIP", json!(null), json!(null), json!("Cluster")),
            ("NodePort", json!("Cluster"), json!(null), json!("Cluster")),
            ("LoadBalancer", json!("Cluster"), json!(true), json!("Cluster")),
            ("ExternalName", json!(null), json!(null), json!(null)),
        ] {
            let spec = &service(json!({ "type": of, "ports": [{ "port": 80 }] }))["spec"];
            assert_eq!(spec["externalTrafficPolicy"], external, "{of}");
            assert_eq!(spec["allocateLoadBalancerNodePorts"], allocates, "{of}");
            assert_eq!(spec["internalTrafficPolicy"], internal, "{of}");
            assert_eq!(spec["ports"], json!([{ "port": 80, "protocol": "TCP", "targetPort": 80 }]));
        }
    }

    #[test]
    fn affinity_lasts_three_hours_unless_told_otherwise() {
        let spec = &service(json!({ "sessionAffinity": "ClientIP" }))["spec"];
        assert_eq!(spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10_800);
        let spec = &service(json!({ "sessionAffinityConfig": { "clientIP": {} } }))["spec"];
        assert!(spec["sessionAffinityConfig"].is_null());
    }

    #[test]
    fn mistakes() {
        for (spec, told) in [
            (
                json!({ "ports": [{ "port": 0 }] }),
                vec!["spec.ports[0].port", "spec.ports[0].targetPort"],
            ),
            (
                json!({ "ports": [{ "port": 80 }, { "port": 81 }] }),
                vec!["spec.ports[0].name", "spec.ports[1].name"],
            ),
            (json!({ "ports": [{ "port": 80 }], "type": "Nope" }), vec!["spec.type"]),
            (json!({}), vec!["spec.ports"]),
            (json!({ "clusterIP": "None" }), vec![]),
            (
                json!({ "ports": [{ "port": 80 }], "sessionAffinity": "Cookie" }),
                vec!["spec.sessionAffinity"],
            ),
            (json!({ "type": "ExternalName" }), vec!["spec.externalName"]),
            (
                json!({ "ports": [{ "port": 80, "nodePort": 30080 }] }),
                vec!["spec.ports[0].nodePort"],
            ),
        ] {
            let fields: Vec<String> = validate(&service(spec.clone()), None)
                .into_iter()
                .map(|error| error.field)
                .collect();
            assert_eq!(fields, told, "{spec}");
        }
    }

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let mut old =
            service(json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30123 }] }));
        prepare_create(&mut old);
        old["spec"]["clusterIP"] = "127.9.0.1".into();
        old["spec"]["clusterIPs"] = json!(["127.9.0.1"]);
        let mut new = service(json!({ "type": "LoadBalancer", "ports": [{ "port": 80 }] }));
        prepare_update(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "127.9.0.1");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30123);
        assert_eq!(validate(&new, Some(&old)), []);
        new["spec"]["clusterIP"] = "127.9.0.2".into();
        assert_eq!(validate(&new, Some(&old))[0].field, "spec.clusterIPs[0]");
    }

    #[test]
    fn what_kubectl_shows() {
        for (spec, status, shown_external, shown_ports) in [
            (
                json!({ "type": "LoadBalancer", "ports": [{ "port": 80, "nodePort": 30001 }] }),
                json!({}),
                "<pending>",
                "80:30001/TCP",
            ),
            (
                json!({ "type": "LoadBalancer", "ports": [{ "port": 80 }] }),
                json!({ "loadBalancer": { "ingress": [{ "ip": "127.1.0.9" }] } }),
                "127.1.0.9",
                "80/TCP",
            ),
            (
                json!({ "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP" }] }),
                json!({}),
                "<none>",
                "80/TCP,53/UDP",
            ),
            (
                json!({ "type": "ExternalName", "externalName": "example.com" }),
                json!({}),
                "example.com",
                "",
            ),
        ] {
            let mut service = service(spec);
            service["status"] = status;
            assert_eq!(external(&service), shown_external);
            assert_eq!(ports(&service), shown_ports);
        }
    }
}
