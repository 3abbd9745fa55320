//! The environment, program and arguments of a container. Pure: the objects that it refers to are
//! fetched beforehand.

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, Pod, ResourceFieldSelector, Secret, Service,
};
use kube_embedded_core::quantity;
use oci_archive::ImageConfig;
use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
};

/// The objects that a pod refers to, by name; `None` for those that do not exist.
#[derive(Default)]
pub(crate) struct ReferencedObjects {
    pub(crate) config_maps: HashMap<String, Option<ConfigMap>>,
    pub(crate) secrets: HashMap<String, Option<Secret>>,
    pub(crate) services: Vec<Service>,
    /// Service account tokens, by volume and path.
    pub(crate) tokens: HashMap<(String, String), String>,
}

/// Returns the names of the ConfigMaps and Secrets that the environment of a container comes from.
pub(crate) fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// The addresses of a pod and its node.
#[derive(Clone, Copy)]
pub(crate) struct Location {
    pub(crate) pod_ip: Ipv4Addr,
    pub(crate) host_ip: Ipv4Addr,
}

/// Returns the variables of the container, in order, without those of its image.
///
/// # Errors
/// The message of Kubernetes' `CreateContainerConfigError`.
pub(crate) fn variables(
    pod: &Pod,
    container: &Container,
    at: Location,
    referenced: &ReferencedObjects,
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(wanted) = &from.config_map_ref {
            match referenced.config_maps.get(&wanted.name).and_then(Option::as_ref) {
                Some(map) => {
                    known.extend(
                        map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone())),
                    );
                }
                None if wanted.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", wanted.name)),
            }
        }
        if let Some(wanted) = &from.secret_ref {
            match referenced.secrets.get(&wanted.name).and_then(Option::as_ref) {
                Some(secret) => known.extend(secret.data.iter().flatten().map(|(k, v)| {
                    (format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned())
                })),
                None if wanted.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", wanted.name)),
            }
        }
    }
    let mut all: Vec<(String, String)> = known.clone().into_iter().collect();
    let services: BTreeMap<String, String> =
        services(pod, &referenced.services).into_iter().collect();
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => {
                let look = |name: &str| known.get(name).or_else(|| services.get(name)).cloned();
                Some(expand(variable.value.as_deref().unwrap_or_default(), &look))
            }
            Some(source) => match &source.resource_field_ref {
                Some(wanted) => Some(resource(pod, Some(container), wanted)?),
                None => value_from(pod, variable, at, referenced, namespace)?,
            },
        };
        if let Some(value) = value {
            known.insert(variable.name.clone(), value.clone());
            all.retain(|(name, _)| *name != variable.name);
            all.push((variable.name.clone(), value));
        }
    }
    let mut result: Vec<(String, String)> =
        services.into_iter().filter(|(name, _)| !known.contains_key(name)).collect();
    result.extend(all);
    Ok(result)
}

/// Returns the value of a variable with `valueFrom`; `None` if its source is optional and missing.
fn value_from(
    pod: &Pod,
    variable: &EnvVar,
    at: Location,
    referenced: &ReferencedObjects,
    namespace: &str,
) -> Result<Option<String>, String> {
    let Some(source) = &variable.value_from else { return Ok(None) };
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, at).map(Some);
    }
    if let Some(wanted) = &source.config_map_key_ref {
        let map = referenced.config_maps.get(&wanted.name).and_then(Option::as_ref);
        let value = map.and_then(|m| m.data.as_ref()).and_then(|d| d.get(&wanted.key)).cloned();
        return match (value, map) {
            (Some(value), _) => Ok(Some(value)),
            _ if wanted.optional == Some(true) => Ok(None),
            (None, None) => Err(format!("configmap {:?} not found", wanted.name)),
            (None, Some(_)) => Err(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                wanted.key, wanted.name
            )),
        };
    }
    if let Some(wanted) = &source.secret_key_ref {
        let secret = referenced.secrets.get(&wanted.name).and_then(Option::as_ref);
        let value = secret.and_then(|s| s.data.as_ref()).and_then(|d| d.get(&wanted.key));
        return match (value, secret) {
            (Some(value), _) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            _ if wanted.optional == Some(true) => Ok(None),
            (None, None) => Err(format!("secret {:?} not found", wanted.name)),
            (None, Some(_)) => Err(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                wanted.key, wanted.name
            )),
        };
    }
    Err(format!(
        "variable {}: unsupported valueFrom; allowed are fieldRef, resourceFieldRef, configMapKeyRef and secretKeyRef",
        variable.name
    ))
}

/// Returns a field as a downward API volume shows it: also all labels or annotations, one per line.
pub(crate) fn field_of_object(pod: &Pod, path: &str) -> Result<String, String> {
    let nowhere = Location { pod_ip: Ipv4Addr::UNSPECIFIED, host_ip: Ipv4Addr::UNSPECIFIED };
    let map = match path {
        "metadata.labels" => &pod.metadata.labels,
        "metadata.annotations" => &pod.metadata.annotations,
        _ => return field_value(pod, path, nowhere),
    };
    let lines: Vec<String> = map.iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    Ok(lines.join("\n"))
}

/// Returns a limit or request of a container, in units of the divisor, rounded up. A missing limit
/// is the capacity of the node.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    wanted: &ResourceFieldSelector,
) -> Result<String, String> {
    let named = wanted.container_name.as_deref().filter(|name| !name.is_empty());
    let containers =
        pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let mut named = containers.filter(|c| named == Some(&c.name));
    let Some(container) = named.next().or(own) else {
        return Err(format!("container {:?} not found", wanted.container_name));
    };
    let unknown = || format!("unsupported container resource : {}", wanted.resource);
    let (list, name) = wanted.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let list = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(unknown()),
    };
    // Quantities are in billionths.
    const ONE: i128 = 1_000_000_000;
    let parse = |text: &str| quantity::parse(text);
    let value = match list.and_then(|list| list.get(name)) {
        Some(quantity) => parse(&quantity.0)?,
        None => match (wanted.resource.starts_with("limits"), name) {
            (false, _) => 0,
            (true, "cpu") => ONE * crate::node::processors() as i128,
            (true, "memory") => parse(&format!("{}Ki", crate::node::memory()))?,
            (true, _) => return Err(unknown()),
        },
    };
    let divisor = wanted.divisor.as_ref().map_or("0", |d| &d.0);
    let divisor = match parse(divisor)? {
        ..=0 => ONE,
        divisor => divisor,
    };
    Ok((value / divisor + i128::from(value % divisor > 0)).to_string())
}

fn field_value(pod: &Pod, path: &str, at: Location) -> Result<String, String> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let keyed = |map: &Option<BTreeMap<String, String>>, path: &str| {
        let key = path.split_once("['").and_then(|(_, rest)| rest.strip_suffix("']"))?;
        Some(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default())
    };
    let spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => {
            spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default()
        }
        "status.podIP" | "status.podIPs" => at.pod_ip.to_string(),
        "status.hostIP" | "status.hostIPs" => at.host_ip.to_string(),
        _ => {
            let value = if path.starts_with("metadata.labels[") {
                keyed(&meta.labels, path)
            } else if path.starts_with("metadata.annotations[") {
                keyed(&meta.annotations, path)
            } else {
                None
            };
            return value.ok_or_else(|| format!("unsupported fieldPath: {path}"));
        }
    })
}

/// Returns `NAME_SERVICE_HOST` and the other variables of the Services of the pod's namespace.
fn services(pod: &Pod, services: &[Service]) -> Vec<(String, String)> {
    if pod.spec.as_ref().and_then(|s| s.enable_service_links) == Some(false) {
        return Vec::new();
    }
    let mut all = Vec::new();
    for service in services {
        let (Some(name), Some(spec)) = (&service.metadata.name, &service.spec) else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !matches!(*ip, "" | "None")) else {
            continue;
        };
        let upper = |text: &str| text.to_uppercase().replace(['-', '.'], "_");
        let name = upper(name);
        let ports = spec.ports.iter().flatten();
        for (n, port) in ports.enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let (number, lower) = (port.port, protocol.to_lowercase());
            if n == 0 {
                all.push((format!("{name}_SERVICE_HOST"), ip.to_owned()));
                all.push((format!("{name}_SERVICE_PORT"), number.to_string()));
                all.push((format!("{name}_PORT"), format!("{lower}://{ip}:{number}")));
            }
            if let Some(port_name) = &port.name {
                all.push((format!("{name}_SERVICE_PORT_{}", upper(port_name)), number.to_string()));
            }
            let prefix = format!("{name}_PORT_{number}_{}", protocol.to_uppercase());
            all.push((prefix.clone(), format!("{lower}://{ip}:{number}")));
            all.push((format!("{prefix}_PROTO"), lower));
            all.push((format!("{prefix}_PORT"), number.to_string()));
            all.push((format!("{prefix}_ADDR"), ip.to_owned()));
        }
    }
    all
}

/// Returns program and arguments: `command` replaces the image's entry point, and with it the image's
/// arguments.
///
/// # Errors
/// Kubernetes' message when neither the container nor the image has a command.
pub(crate) fn arguments(
    container: &Container,
    image: &ImageConfig,
    variables: &[(String, String)],
) -> Result<Vec<String>, String> {
    let look = |name: &str| variables.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let given = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|l| !l.is_empty())?;
        Some(list.iter().map(|text| expand(text, &look)).collect())
    };
    let (command, args) = (given(&container.command), given(&container.args));
    let all: Vec<String> = match (command, args) {
        (Some(command), args) => command.into_iter().chain(args.unwrap_or_default()).collect(),
        (None, Some(args)) => image.entrypoint.iter().cloned().chain(args).collect(),
        (None, None) => image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
    };
    if all.is_empty() { Err("no command specified".to_owned()) } else { Ok(all) }
}

/// Replaces references to variables, as for `subPathExpr`.
///
/// # Errors
/// The kubelet's message for a variable that is not set.
pub(crate) fn expand_all(text: &str, variables: &[(String, String)]) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let expanded = expand(text, &|name| {
        let found = variables.iter().find(|(known, _)| known == name);
        if found.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        found.map(|(_, value)| value.clone())
    });
    let missing = missing.into_inner();
    missing.map_or(Ok(expanded), |name| Err(format!("missing value for {name:?}")))
}

/// Replaces `$(NAME)`; `$$(NAME)` stands for `$(NAME)`, and what is not known stays as it is.
pub(crate) fn expand(text: &str, look: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) =
            from.strip_prefix("$(").and_then(|inner| inner.split_once(')'))
        {
            match look(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = from.strip_prefix('$').unwrap_or_default();
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expand_replaces_known_references_only() {
        let look = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in [
            ("x$(A)y", "x1y"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, &look), expected, "{text}");
        }
    }

    #[test]
    fn variables_come_from_values_fields_config_maps_secrets_and_services() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "n", "labels": { "app": "web" } },
            "spec": { "nodeName": "node-2", "containers": [] },
        }))
        .unwrap();
        let container: Container = serde_json::from_value(json!({
            "name": "app",
            "envFrom": [{ "configMapRef": { "name": "cm" }, "prefix": "P_" }],
            "env": [
                { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
                { "name": "LABEL", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['app']" } } },
                { "name": "URL", "value": "http://$(IP):$(P_PORT)/$(DB_SERVICE_PORT)" },
                { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } },
                { "name": "NO", "valueFrom": { "secretKeyRef": { "name": "s", "key": "none", "optional": true } } },
            ],
            "args": ["--url=$(URL)"],
        }))
        .unwrap();
        assert_eq!(references(&container), (vec!["cm".into()], vec!["s".into(), "s".into()]));
        let mut referenced = ReferencedObjects::default();
        let map =
            serde_json::from_value(json!({ "metadata": {}, "data": { "PORT": "80" } })).unwrap();
        let secret =
            serde_json::from_value(json!({ "metadata": {}, "data": { "k": "dg==" } })).unwrap();
        referenced.config_maps.insert("cm".into(), Some(map));
        referenced.secrets.insert("s".into(), Some(secret));
        let service = json!({ "metadata": { "name": "db" }, "spec": { "clusterIP": "10.96.0.9", "ports": [{ "port": 5432 }] } });
        referenced.services.push(serde_json::from_value(service).unwrap());
        let at = Location { pod_ip: Ipv4Addr::new(10, 244, 1, 2), host_ip: Ipv4Addr::LOCALHOST };
        let all = variables(&pod, &container, at, &referenced).unwrap();
        let get = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(get("URL"), Some("http://10.244.1.2:80/5432"));
        assert_eq!((get("LABEL"), get("PASSWORD"), get("NO")), (Some("web"), Some("v"), None));
        assert_eq!(get("DB_PORT_5432_TCP"), Some("tcp://10.96.0.9:5432"));
        let image = ImageConfig {
            entrypoint: vec!["/app".into()],
            cmd: vec!["serve".into()],
            ..Default::default()
        };
        assert_eq!(
            arguments(&container, &image, &all).unwrap(),
            ["/app", "--url=http://10.244.1.2:80/5432"]
        );
        assert_eq!(arguments(&Container::default(), &image, &all).unwrap(), ["/app", "serve"]);
        assert_eq!(
            arguments(&Container::default(), &ImageConfig::default(), &all).unwrap_err(),
            "no command specified"
        );
        referenced.config_maps.insert("cm".into(), None);
        assert_eq!(
            variables(&pod, &container, at, &referenced).unwrap_err(),
            "configmap \"cm\" not found"
        );
    }
}
