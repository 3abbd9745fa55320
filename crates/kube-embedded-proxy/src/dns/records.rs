//! The names of a cluster (DNS-based service discovery 1.1.0). A table without I/O.
//!
//! Where the specification leaves something open, this is CoreDNS as kubeadm configures it: names
//! of endpoints without a host name (`10-244-0-5.svc.ns.svc.cluster.local`), names of pods without
//! a check that the pod exists, no records for an ExternalName that is an address.

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube_embedded_core::{
    endpoint_slice,
    informer::ObjectKey,
    network::{Addresses, CLUSTER_DOMAIN},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

/// The types of records that the cluster has. Other types exist for no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    A,
    Cname,
    Ns,
    Ptr,
    Soa,
    Srv,
    Txt,
    Other,
}

/// A record with its data. Names are lower-case, without a final dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) data: Data,
}

/// The data of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    A(Ipv4Addr),
    Cname(String),
    Ns(String),
    Ptr(String),
    Soa,
    Srv { weight: u16, port: u16, target: String },
    Txt(&'static str),
}

/// The result of a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The name is not one of the cluster's.
    Foreign,
    /// The name does not exist.
    NoSuchName,
    /// The name exists; without answers it has no records of the type.
    Found { answers: Vec<Record>, additional: Vec<Record> },
    /// The name is an alias, whatever the type.
    Alias(String),
}

/// The names of a cluster.
#[derive(Debug)]
pub(crate) struct Records {
    addresses: Addresses,
    namespaces: BTreeSet<String>,
    services: BTreeMap<ObjectKey, ServiceRecords>,
    /// Services by cluster IP, and endpoints with a host name by address.
    pointers: BTreeMap<Ipv4Addr, BTreeSet<String>>,
}

/// The part of a Service that its names depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceRecords {
    target: Target,
    ports: Arc<[Port]>,
    /// The ready ones, each once for every list of ports.
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    ClusterIp(Ipv4Addr),
    Headless,
    External(String),
    /// A Service without an IPv4 address.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    /// Lower-case.
    protocol: String,
    number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    address: Ipv4Addr,
    /// Its label below the name of the Service.
    label: String,
    has_hostname: bool,
    ports: Arc<[Port]>,
}

impl ServiceRecords {
    /// Collects the records of a Service from its slices.
    pub(crate) fn new(service: &Service, slices: &[Arc<EndpointSlice>]) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let target = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
            (Some("ExternalName"), _) => {
                let name = spec.external_name.unwrap_or_default().to_ascii_lowercase();
                let name = name.trim_end_matches('.').to_owned();
                match name.parse::<std::net::IpAddr>() {
                    Err(_) if !name.is_empty() => Target::External(name),
                    _ => Target::Nothing,
                }
            }
            (_, Some("None")) => Target::Headless,
            (_, address) => address
                .and_then(|address| address.parse().ok())
                .map_or(Target::Nothing, Target::ClusterIp),
        };
        let ports = spec.ports.iter().flatten();
        let ports = ports.filter_map(|port| Port::new(&port.name, &port.protocol, port.port));
        Self {
            target,
            ports: ports.collect(),
            endpoints: slices.iter().flat_map(|slice| endpoints(slice)).collect(),
        }
    }

    /// Returns the names of addresses: the Service's for its cluster IP, and those of endpoints with
    /// a host name of their own.
    fn pointers(&self, name: &str) -> Vec<(Ipv4Addr, String)> {
        let own = match self.target {
            Target::ClusterIp(address) => Some((address, name.to_owned())),
            _ => None,
        };
        let named = self.endpoints.iter().filter(|endpoint| endpoint.has_hostname);
        let named = named.map(|endpoint| (endpoint.address, format!("{}.{name}", endpoint.label)));
        own.into_iter().chain(named).collect()
    }
}

impl Port {
    fn new(name: &Option<String>, protocol: &Option<String>, number: i32) -> Option<Self> {
        Some(Self {
            name: name.clone().unwrap_or_default(),
            protocol: protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
            number: number.try_into().ok()?,
        })
    }
}

/// Returns the ready endpoints of a slice. A slice that says nothing about readiness is ready.
fn endpoints(slice: &EndpointSlice) -> Vec<Endpoint> {
    let ports = slice.ports.iter().flatten();
    let ports = ports.filter_map(|port| Port::new(&port.name, &port.protocol, port.port?));
    let ports: Arc<[Port]> = ports.collect();
    let ready = endpoint_slice::endpoints(slice).iter().filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
    });
    let one_each = ready.flat_map(|endpoint| {
        let hostname = endpoint.hostname.clone().filter(|name| !name.is_empty());
        endpoint.addresses.iter().filter_map(|address| address.parse().ok()).map({
            let ports = &ports;
            move |address: Ipv4Addr| Endpoint {
                address,
                label: hostname
                    .as_deref()
                    .map_or_else(|| address.to_string().replace('.', "-"), str::to_ascii_lowercase),
                has_hostname: hostname.is_some(),
                ports: ports.clone(),
            }
        })
    });
    one_each.collect()
}

impl Records {
    pub(crate) fn new(addresses: Addresses) -> Self {
        Self {
            addresses,
            namespaces: BTreeSet::new(),
            services: BTreeMap::new(),
            pointers: BTreeMap::new(),
        }
    }

    /// Replaces the records of a Service; `None` removes them.
    pub(crate) fn set_service(&mut self, key: &ObjectKey, service: Option<ServiceRecords>) {
        let name = service_name(&key.namespace, &key.name);
        if let Some(old) = self.services.remove(key) {
            for (address, pointer) in old.pointers(&name) {
                if let Some(names) = self.pointers.get_mut(&address) {
                    names.remove(&pointer);
                    if names.is_empty() {
                        self.pointers.remove(&address);
                    }
                }
            }
        }
        if let Some(service) = service {
            for (address, pointer) in service.pointers(&name) {
                self.pointers.entry(address).or_default().insert(pointer);
            }
            self.services.insert(key.clone(), service);
        }
    }

    pub(crate) fn set_namespace(&mut self, name: &str, exists: bool) {
        if exists {
            self.namespaces.insert(name.to_owned());
        } else {
            self.namespaces.remove(name);
        }
    }

    /// Looks up a name in lower case, without its final dot.
    pub(crate) fn lookup(&self, name: &str, kind: Kind) -> Lookup {
        if let Some(address) = reverse_address(name) {
            return self.reverse(name, address, kind);
        }
        let Some(below) = name.strip_suffix(CLUSTER_DOMAIN) else { return Lookup::Foreign };
        let labels: Vec<&str> = match below.strip_suffix('.') {
            Some(labels) => labels.rsplit('.').collect(),
            None if below.is_empty() => return self.apex(kind),
            None => return Lookup::Foreign,
        };
        match labels[..] {
            ["dns-version"] => of_kind(name, kind, Kind::Txt, Data::Txt("1.1.0")),
            ["dns"] | ["svc"] | ["pod"] => nothing(),
            ["dns", "ns"] => of_kind(name, kind, Kind::A, Data::A(self.addresses.dns())),
            ["svc" | "pod", namespace] => existing(self.namespaces.contains(namespace)),
            ["pod", namespace, label] if self.namespaces.contains(namespace) => {
                match label.replace('-', ".").parse() {
                    Ok(address) => of_kind(name, kind, Kind::A, Data::A(address)),
                    Err(_) => Lookup::NoSuchName,
                }
            }
            ["svc", namespace, service, ref rest @ ..] => {
                let service = self.services.get(&ObjectKey::new(namespace, service));
                service.map_or(Lookup::NoSuchName, |service| service.lookup(name, rest, kind))
            }
            _ => Lookup::NoSuchName,
        }
    }

    fn apex(&self, kind: Kind) -> Lookup {
        let server = format!("ns.dns.{CLUSTER_DOMAIN}");
        match kind {
            Kind::Soa => found(vec![record(CLUSTER_DOMAIN, Data::Soa)]),
            Kind::Ns => Lookup::Found {
                additional: vec![record(&server, Data::A(self.addresses.dns()))],
                answers: vec![record(CLUSTER_DOMAIN, Data::Ns(server))],
            },
            _ => nothing(),
        }
    }

    fn reverse(&self, name: &str, address: Ipv4Addr, kind: Kind) -> Lookup {
        match self.pointers.get(&address) {
            Some(names) if kind == Kind::Ptr => {
                found(names.iter().map(|target| record(name, Data::Ptr(target.clone()))).collect())
            }
            Some(_) => nothing(),
            // Nobody but the cluster knows these, and asking would tell others about them.
            None if self.addresses.is_internal(address) => Lookup::NoSuchName,
            None => Lookup::Foreign,
        }
    }
}

impl ServiceRecords {
    /// Looks up the name of the Service, or one with further labels below it, from the right.
    fn lookup(&self, name: &str, below: &[&str], kind: Kind) -> Lookup {
        match (&self.target, below) {
            (Target::External(target), []) => Lookup::Alias(target.clone()),
            (Target::External(_) | Target::Nothing, _) => Lookup::NoSuchName,
            (_, []) if kind == Kind::Srv => self.services(name, name, |_| true),
            (Target::ClusterIp(address), []) => of_kind(name, kind, Kind::A, Data::A(*address)),
            (Target::Headless, []) => self.addresses(name, kind, |_| true),
            (_, [protocol]) if protocol.starts_with('_') => {
                // No records, but names below it.
                existing(self.ports.iter().any(|port| is_label_of(protocol, &port.protocol)))
            }
            (_, [label]) => self.addresses(name, kind, |endpoint| endpoint.label == *label),
            (_, [protocol, port]) => {
                let is_wanted = |known: &Port| {
                    is_label_of(protocol, &known.protocol) && is_label_of(port, &known.name)
                };
                let own = name.splitn(3, '.').nth(2).unwrap_or_default();
                match self.services(name, own, is_wanted) {
                    Lookup::Found { .. } if kind != Kind::Srv => nothing(),
                    services => services,
                }
            }
            _ => Lookup::NoSuchName,
        }
    }

    /// Returns the addresses of endpoints; the name exists if there are any.
    fn addresses(&self, name: &str, kind: Kind, is_wanted: impl Fn(&Endpoint) -> bool) -> Lookup {
        let wanted = self.endpoints.iter().filter(|endpoint| is_wanted(endpoint));
        let addresses: BTreeSet<Ipv4Addr> = wanted.map(|endpoint| endpoint.address).collect();
        if addresses.is_empty() {
            return Lookup::NoSuchName;
        }
        let answers = match kind {
            Kind::A => addresses.into_iter().map(|a| record(name, Data::A(a))).collect(),
            _ => Vec::new(),
        };
        found(answers)
    }

    /// Returns the SRV records of ports, with the addresses of their targets. `own` is the name of
    /// the Service.
    fn services(&self, name: &str, own: &str, is_wanted: impl Fn(&Port) -> bool) -> Lookup {
        let mut targets: Vec<(String, u16, Ipv4Addr)> = Vec::new();
        if let Target::ClusterIp(address) = self.target {
            let ports = self.ports.iter().filter(|port| is_wanted(port));
            targets.extend(ports.map(|port| (own.to_owned(), port.number, address)));
        } else {
            for endpoint in &self.endpoints {
                let target = format!("{}.{own}", endpoint.label);
                let ports = endpoint.ports.iter().filter(|port| is_wanted(port));
                targets.extend(ports.map(|port| (target.clone(), port.number, endpoint.address)));
            }
        }
        targets.sort();
        targets.dedup();
        if targets.is_empty() {
            return Lookup::NoSuchName;
        }
        let weight = (100 / targets.len()).max(1) as u16;
        let mut additional: Vec<Record> =
            targets.iter().map(|(target, _, address)| record(target, Data::A(*address))).collect();
        additional.dedup();
        let answers = targets
            .into_iter()
            .map(|(target, port, _)| record(name, Data::Srv { weight, port, target }));
        Lookup::Found { answers: answers.collect(), additional }
    }
}

fn service_name(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}")
}

fn record(name: &str, data: Data) -> Record {
    Record { name: name.to_owned(), data }
}

fn found(answers: Vec<Record>) -> Lookup {
    Lookup::Found { answers, additional: Vec::new() }
}

/// A name that exists without records of the type.
fn nothing() -> Lookup {
    found(Vec::new())
}

fn existing(exists: bool) -> Lookup {
    if exists { nothing() } else { Lookup::NoSuchName }
}

/// A name with one record, of this kind.
fn of_kind(name: &str, wanted: Kind, kind: Kind, data: Data) -> Lookup {
    if wanted == kind { found(vec![record(name, data)]) } else { nothing() }
}

/// Returns whether a label such as `_tcp` stands for a protocol or a port of this name.
fn is_label_of(label: &str, name: &str) -> bool {
    !name.is_empty() && label.strip_prefix('_') == Some(name)
}

/// Parses `5.0.244.10.in-addr.arpa`.
fn reverse_address(name: &str) -> Option<Ipv4Addr> {
    let octets = name.strip_suffix(".in-addr.arpa")?;
    let forward: Vec<&str> = octets.rsplit('.').collect();
    forward.join(".").parse().ok()
}
