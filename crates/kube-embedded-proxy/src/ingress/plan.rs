//! What the Ingresses of a namespace ask for together, as pure functions of the objects.

use super::table::{Path, host_name};
use crate::{
    plan::{self, Place},
    route::Routing,
};
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressBackend},
};
use kube_embedded_core::well_known::INGRESS_CLASS_ANNOTATION;
use std::collections::{BTreeMap, BTreeSet};

/// Where a rule leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Service {
        name: String,
        port: PortOf,
    },
    /// `backend.resource`, as `KIND/NAME`.
    Resource(String),
}

/// How a rule names a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PortOf {
    Number(i32),
    Name(String),
}

/// A host, or none for every host, a path, and where they lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) host: Option<String>,
    pub(super) path: Path,
    pub(super) target: Target,
}

/// The certificate of some hosts; of all others where none is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) ingress: String,
    pub(super) hosts: Vec<String>,
    pub(super) secret: String,
}

/// Something an Ingress asks for and does not get.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Trouble {
    pub(super) ingress: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What the Ingresses of a namespace ask for together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) rules: Vec<Rule>,
    pub(super) default: Option<Target>,
    pub(super) tls: Vec<Tls>,
    /// Who leads where: the names of the Ingresses.
    pub(super) targets: BTreeMap<Target, BTreeSet<String>>,
    pub(super) troubles: Vec<Trouble>,
}

/// Why requests for a target are answered 503.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service { name, port: PortOf::Number(port) } => write!(f, "{name}:{port}"),
            Self::Service { name, port: PortOf::Name(port) } => write!(f, "{name}:{port}"),
            Self::Resource(resource) => f.write_str(resource),
        }
    }
}

impl Target {
    fn of(backend: &IngressBackend) -> Option<Self> {
        if let Some(service) = &backend.service {
            let port = service.port.clone().unwrap_or_default();
            let port = match (port.name, port.number) {
                (Some(name), _) if !name.is_empty() => PortOf::Name(name),
                (_, number) => PortOf::Number(number.unwrap_or_default()),
            };
            return Some(Self::Service { name: service.name.clone(), port });
        }
        let resource = backend.resource.as_ref()?;
        Some(Self::Resource(format!("{}/{}", resource.kind, resource.name)))
    }
}

/// The class that the Ingress names, in its spec or as it was done before.
pub(super) fn class(ingress: &Ingress) -> Option<&str> {
    let field = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let annotations = ingress.metadata.annotations.as_ref();
    let annotation =
        || annotations.and_then(|a| a.get(INGRESS_CLASS_ANNOTATION)).map(String::as_str);
    field.or_else(annotation).filter(|class| !class.is_empty())
}

/// Whether this controller serves the Ingress: its class is one of ours, or it names none.
pub(super) fn is_ours(ingress: &Ingress, is_our_class: impl Fn(&str) -> bool) -> bool {
    class(ingress).is_none_or(is_our_class)
}

/// Oldest first, as who comes first keeps a host and path that others claim too.
pub(super) fn sort(ingresses: &mut [&Ingress]) {
    ingresses.sort_by_key(|ingress| {
        let meta = &ingress.metadata;
        (meta.creation_timestamp.as_ref().map(|time| time.0), meta.name.clone())
    });
}

/// What these Ingresses of one namespace, oldest first, ask for.
pub(super) fn plan(ingresses: &[&Ingress]) -> Wanted {
    let mut wanted = Wanted::default();
    let mut owners = Owners::default();
    // Rules that name only a host send all of it to the default backend, which is known at the end.
    let mut bare = Vec::new();
    for ingress in ingresses {
        let name = ingress.metadata.name.clone().unwrap_or_default();
        let Some(spec) = &ingress.spec else { continue };
        if let Some(target) = spec.default_backend.as_ref().and_then(Target::of)
            && owners.claim(&mut wanted, &name, None)
        {
            wanted.targets.entry(target.clone()).or_default().insert(name.clone());
            wanted.default = Some(target);
        }
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.as_deref().filter(|host| !host.is_empty());
            let host = host.map(|host| host_name(host).into_owned());
            let Some(http) = &rule.http else {
                bare.extend(host);
                continue;
            };
            for path in &http.paths {
                let Some(target) = Target::of(&path.backend) else { continue };
                let path = Path::new(&path.path_type, path.path.as_deref().unwrap_or_default());
                if owners.claim(&mut wanted, &name, Some((host.clone(), path.clone()))) {
                    wanted.targets.entry(target.clone()).or_default().insert(name.clone());
                    wanted.rules.push(Rule { host: host.clone(), path, target });
                }
            }
        }
        for tls in spec.tls.iter().flatten() {
            if let Some(secret) = tls.secret_name.clone().filter(|secret| !secret.is_empty()) {
                let hosts = tls.hosts.clone().unwrap_or_default();
                wanted.tls.push(Tls { ingress: name.clone(), hosts, secret });
            }
        }
    }
    let all = Path::new("Prefix", "/");
    for host in bare {
        let taken = owners.of.contains_key(&Some((Some(host.clone()), all.clone())));
        if let Some(target) = wanted.default.clone().filter(|_| !taken) {
            wanted.rules.push(Rule { host: Some(host), path: all.clone(), target });
        }
    }
    wanted
}

/// Which Ingress has which host and path; `None` is the default backend.
#[derive(Default)]
struct Owners {
    of: BTreeMap<Option<(Option<String>, Path)>, String>,
}

impl Owners {
    /// Whether the Ingress gets what it claims. What it claims twice is no conflict.
    fn claim(
        &mut self,
        wanted: &mut Wanted,
        ingress: &str,
        claim: Option<(Option<String>, Path)>,
    ) -> bool {
        let Some(owner) = self.of.get(&claim) else {
            self.of.insert(claim, ingress.to_owned());
            return true;
        };
        if owner != ingress {
            let what = match &claim {
                None => "the default backend".to_owned(),
                Some((None, path)) => format!("path {path} of all hosts"),
                Some((Some(host), path)) => format!("host {host}, path {path}"),
            };
            wanted.troubles.push(Trouble {
                ingress: ingress.to_owned(),
                reason: "Conflict",
                message: format!(
                    "{what} belongs to Ingress {owner:?}, which comes first (by age, then by name)"
                ),
            });
        }
        false
    }
}

/// Where requests for the target go, or why they go nowhere.
pub(super) fn routing<'a>(
    target: &Target,
    service: impl FnOnce(&str) -> Option<&'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    place: &Place,
) -> Result<Routing, Fault> {
    let missing = |message| Fault { reason: "BackendNotFound", message };
    let unsupported = |message| Fault { reason: "BackendNotSupported", message };
    let (name, port) = match target {
        Target::Service { name, port } => (name, port),
        Target::Resource(resource) => {
            let message = format!("backend {resource} is no Service; it is answered with 503");
            return Err(unsupported(message));
        }
    };
    let spec = service(name).and_then(|service| service.spec.as_ref());
    let spec = spec.ok_or_else(|| {
        missing(format!("Service {name:?} does not exist; until it does, the answer is 503"))
    })?;
    if spec.type_.as_deref() == Some("ExternalName") {
        let message = format!("Service {name:?} is an ExternalName; it is answered with 503");
        return Err(unsupported(message));
    }
    let found = spec.ports.iter().flatten().find(|known| match port {
        PortOf::Number(number) => known.port == *number,
        PortOf::Name(name) => known.name.as_ref() == Some(name),
    });
    match found {
        None => {
            let port = match port {
                PortOf::Number(number) => number.to_string(),
                PortOf::Name(name) => format!("{name:?}"),
            };
            Err(missing(format!(
                "Service {name:?} has no port {port}; until it has, the answer is 503"
            )))
        }
        Some(port) if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") => {
            let message = format!("port {} of Service {name:?} is not TCP", port.port);
            Err(unsupported(message))
        }
        Some(port) => Ok(plan::routing(spec, port, slices, place)),
    }
}

#[cfg(test)]
mod tests;
