//! The allocator of cluster IPs and node ports (`registry/core/service/{ipallocator,portallocator}`).
//!
//! Taken ones are read from the stored Services on each allocation, under a lock that is held until the write is
//! done: nothing can leak, and nothing has to be released.

use crate::{
    store::{Resource, Store},
    validation::field_error::FieldError,
};
use kube_embedded_core::network::Addresses;
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    net::Ipv4Addr,
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard, PoisonError},
};

const SERVICES: Resource = Resource::fixed("", "services");
/// The default range of Kubernetes.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// Assigns what is unique in a cluster.
pub struct Allocators {
    /// Held from the choice of a Service's address until the Service is stored.
    services: Mutex<()>,
    addresses: Addresses,
}

impl Allocators {
    pub(crate) fn new(addresses: Addresses) -> Self {
        Self { services: Mutex::new(()), addresses }
    }
}

/// Assigns the addresses and ports that a Service needs, and refuses those that are taken. The guard is to be held
/// until the Service is stored.
pub(crate) fn allocate<'a>(
    allocators: &'a Allocators,
    store: &Store,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<Option<MutexGuard<'a, ()>>, Vec<FieldError>> {
    if old.is_some_and(|old| old["spec"] == service["spec"]) {
        return Ok(None);
    }
    // The lock guards no data, so a panic of its holder leaves nothing inconsistent.
    let guard = allocators.services.lock().unwrap_or_else(PoisonError::into_inner);
    let mut taken = Taken::default();
    for other in store.list(SERVICES, None, None).objects {
        let metadata = &service["metadata"];
        if metadata["name"] != other.key.name.as_str()
            || metadata["namespace"] != other.key.namespace.as_str()
        {
            taken.add(&other.value);
        }
    }
    plan(service, old, &taken, &allocators.addresses)?;
    Ok(Some(guard))
}

#[derive(Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<(String, u16)>,
}

impl Taken {
    fn add(&mut self, service: &Value) {
        let spec = &service["spec"];
        let address = spec["clusterIP"].as_str().and_then(|text| text.parse().ok());
        self.addresses.extend::<Option<Ipv4Addr>>(address);
        for port in spec["ports"].as_array().into_iter().flatten() {
            self.ports.extend(node_port(port).map(|number| (protocol(port), number)));
        }
        let health = spec["healthCheckNodePort"].as_u64().and_then(|port| port.try_into().ok());
        self.ports.extend(health.map(|port| ("TCP".to_owned(), port)));
    }
}

fn plan(
    service: &mut Value,
    old: Option<&Value>,
    taken: &Taken,
    addresses: &Addresses,
) -> Result<(), Vec<FieldError>> {
    let spec = &mut service["spec"];
    let old = old.map(|old| &old["spec"]);
    let kind = spec["type"].as_str().unwrap_or("ClusterIP").to_owned();
    if kind == "ExternalName" {
        return Ok(());
    }
    let own = spec["clusterIP"].as_str().filter(|address| !address.is_empty());
    let kept = old.and_then(|old| old["clusterIP"].as_str()).filter(|text| !text.is_empty());
    let address = match own.or(kept) {
        Some("None") => "None".to_owned(),
        Some(requested) => {
            if kept != Some(requested) {
                check_address(requested, taken, addresses)?;
            }
            requested.to_owned()
        }
        None => free_address(taken, addresses).ok_or_else(no_address)?.to_string(),
    };
    spec["clusterIP"] = address.clone().into();
    spec["clusterIPs"] = json!([address]);

    let wanted = match &*kind {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    };
    plan_ports(spec, old, taken, wanted, kind == "ClusterIP")?;
    let health = kind == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    if !health && let Some(fields) = spec.as_object_mut() {
        fields.remove("healthCheckNodePort");
    } else if health && spec["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
        let kept = old.and_then(|old| old["healthCheckNodePort"].as_u64());
        let mut chosen = HashSet::new();
        for port in spec["ports"].as_array().into_iter().flatten() {
            chosen.extend(node_port(port).map(|number| (protocol(port), number)));
        }
        let port = kept.or_else(|| free_port("TCP", taken, &chosen).map(u64::from));
        spec["healthCheckNodePort"] = port.ok_or_else(no_port)?.into();
    }
    Ok(())
}

fn plan_ports(
    spec: &mut Value,
    old: Option<&Value>,
    taken: &Taken,
    wanted: bool,
    drop: bool,
) -> Result<(), Vec<FieldError>> {
    let before: Vec<Value> =
        old.and_then(|old| old["ports"].as_array()).cloned().unwrap_or_default();
    let Some(ports) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return Ok(()) };
    let mut chosen = HashSet::new();
    let mut errors = Vec::new();
    for (n, port) in ports.iter_mut().enumerate() {
        let protocol = protocol(port);
        let same =
            before.iter().find(|b| b["port"] == port["port"] && self::protocol(b) == protocol);
        let kept = same.and_then(node_port);
        let Some(number) = node_port(port) else { continue };
        if drop {
            // A Service that becomes one of type ClusterIP loses its node ports.
            if kept == Some(number)
                && let Some(fields) = port.as_object_mut()
            {
                fields.remove("nodePort");
            }
            continue;
        }
        let is_repeated = !chosen.insert((protocol.clone(), number));
        if before.iter().all(|b| node_port(b) != Some(number)) {
            errors.extend(check_node_port(
                n,
                number,
                is_repeated || taken.ports.contains(&(protocol, number)),
            ));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    for port in ports.iter_mut().filter(|_| wanted) {
        if node_port(port).is_some() {
            continue;
        }
        let protocol = protocol(port);
        let kept = before
            .iter()
            .find(|b| b["port"] == port["port"] && self::protocol(b) == protocol)
            .and_then(node_port)
            .filter(|number| !chosen.contains(&(protocol.clone(), *number)));
        let number = kept.or_else(|| free_port(&protocol, taken, &chosen)).ok_or_else(no_port)?;
        chosen.insert((protocol, number));
        port["nodePort"] = number.into();
    }
    Ok(())
}

/// Checks a node port that the client requests.
fn check_node_port(index: usize, number: u16, is_taken: bool) -> Option<FieldError> {
    let why = if !NODE_PORTS.contains(&number) {
        "provided port is not in the valid range. The range of valid ports is 30000-32767"
    } else if is_taken {
        "provided port is already allocated"
    } else {
        return None;
    };
    Some(FieldError {
        reason: "FieldValueInvalid",
        field: format!("spec.ports[{index}].nodePort"),
        message: format!("Invalid value: {number}: {why}"),
    })
}

fn node_port(port: &Value) -> Option<u16> {
    port["nodePort"].as_u64().and_then(|number| number.try_into().ok()).filter(|n| *n != 0)
}

fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}

fn check_address(
    requested: &str,
    taken: &Taken,
    addresses: &Addresses,
) -> Result<(), Vec<FieldError>> {
    let (base, prefix) = addresses.services();
    let why = match requested.parse::<Ipv4Addr>() {
        Ok(address) if !in_range(address, base, prefix) => format!(
            "the provided IP ({requested}) is not in the valid range. The range of valid IPs is \
             {base}/{prefix}"
        ),
        Ok(address) if taken.addresses.contains(&address) => {
            "provided IP is already allocated".to_owned()
        }
        Ok(_) => return Ok(()),
        Err(_) => "it is not an IPv4 address".to_owned(),
    };
    Err(vec![FieldError {
        reason: "FieldValueInvalid",
        field: "spec.clusterIPs".into(),
        message: format!(
            "Invalid value: [{requested:?}]: failed to allocate IP {requested}: {why}"
        ),
    }])
}

fn in_range(address: Ipv4Addr, base: Ipv4Addr, prefix: u8) -> bool {
    let mask = u32::MAX << (32 - u32::from(prefix));
    let (address, base) = (u32::from(address), u32::from(base));
    address & mask == base && address != base && address != base | !mask
}

/// Returns a free address, searched from a random one on. The first of the range is reserved for the `kubernetes`
/// Service, which requests it explicitly.
fn free_address(taken: &Taken, addresses: &Addresses) -> Option<Ipv4Addr> {
    let (base, prefix) = addresses.services();
    let count = (1_u32 << (32 - u32::from(prefix))) - 3;
    let start = rand::random_range(0..count);
    (0..count)
        .map(|n| Ipv4Addr::from(u32::from(base) + 2 + (start + n) % count))
        .find(|address| !taken.addresses.contains(address))
}

fn free_port(protocol: &str, taken: &Taken, chosen: &HashSet<(String, u16)>) -> Option<u16> {
    let (first, count) = (*NODE_PORTS.start(), NODE_PORTS.end() - NODE_PORTS.start() + 1);
    let start = rand::random_range(0..count);
    (0..count).map(|n| first + (start + n) % count).find(|port| {
        let key = (protocol.to_owned(), *port);
        !taken.ports.contains(&key) && !chosen.contains(&key)
    })
}

fn no_address() -> Vec<FieldError> {
    used_up("spec.clusterIPs", "failed to allocate a serviceIP: range is full")
}

fn no_port() -> Vec<FieldError> {
    used_up("spec.ports", "failed to allocate a nodePort: range is full")
}

fn used_up(field: &str, message: &str) -> Vec<FieldError> {
    vec![FieldError {
        reason: "InternalError",
        field: field.into(),
        message: format!("Internal error: {message}"),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube_embedded_core::network::Sandbox;

    fn addresses() -> Addresses {
        Addresses { block: 7, sandbox: Sandbox::Namespaced }
    }

    fn planned(mut service: Value, old: Option<&Value>, taken: &Taken) -> Result<Value, String> {
        plan(&mut service, old, taken, &addresses())
            .map(|()| service)
            .map_err(|errors| format!("{}: {}", errors[0].field, errors[0].message))
    }

    #[test]
    fn addresses_and_ports_are_allocated_kept_and_released() {
        let none = Taken::default();
        let load_balancer = json!({ "spec": {
            "type": "LoadBalancer",
            "ports": [{ "port": 80 }, { "port": 81, "nodePort": 30081 }],
        }});
        let first = planned(load_balancer.clone(), None, &none).unwrap();
        let address = first["spec"]["clusterIP"].as_str().unwrap();
        assert!(address.starts_with("10.96."), "{address}");
        assert_eq!(first["spec"]["clusterIPs"], json!([address]));
        let port = node_port(&first["spec"]["ports"][0]).unwrap();
        assert!(NODE_PORTS.contains(&port));
        assert_eq!(node_port(&first["spec"]["ports"][1]), Some(30081));

        let again = planned(load_balancer, Some(&first), &none).unwrap();
        assert_eq!(again, first, "an update that names neither keeps both");

        let mut state = first.clone();
        state["spec"]["type"] = "ClusterIP".into();
        let state = planned(state, Some(&first), &none).unwrap();
        assert_eq!(state["spec"]["ports"], json!([{ "port": 80 }, { "port": 81 }]));
    }

    #[test]
    fn taken_or_out_of_range_address_is_rejected() {
        let mut taken = Taken::default();
        taken.add(&json!({ "spec": {
            "clusterIP": "10.96.0.9", "ports": [{ "nodePort": 30001, "protocol": "TCP" }],
        }}));
        let service = |address: &str, port: u16| {
            json!({ "spec": {
                "type": "NodePort", "clusterIP": address, "ports": [{ "port": 1, "nodePort": port }],
            }})
        };
        for (service, expected) in [
            (
                service("10.96.0.9", 30002),
                "spec.clusterIPs: Invalid value: [\"10.96.0.9\"]: failed to allocate IP 10.96.0.9: \
                 provided IP is already allocated",
            ),
            (
                service("10.97.0.9", 30002),
                "spec.clusterIPs: Invalid value: [\"10.97.0.9\"]: failed to allocate IP 10.97.0.9: \
                 the provided IP (10.97.0.9) is not in the valid range. The range of valid IPs is \
                 10.96.0.0/16",
            ),
            (
                service("", 30001),
                "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated",
            ),
            (
                service("", 80),
                "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid \
                 range. The range of valid ports is 30000-32767",
            ),
        ] {
            assert_eq!(planned(service, None, &taken).unwrap_err(), expected);
        }
        assert_eq!(
            planned(json!({ "spec": { "clusterIP": "None" } }), None, &taken).unwrap()["spec"],
            json!({ "clusterIP": "None", "clusterIPs": ["None"] })
        );
    }
}
