//! The rules, certificates and problems of a namespace's Ingresses, as pure functions of the objects.

use crate::{
    config::Topology,
    http_proxy::route_table::{Path, host_name},
    route::Routing,
    services::plan::port_routing,
};
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressBackend},
};
use kube_embedded_core::well_known::INGRESS_CLASS_ANNOTATION;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

/// The backend of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Service {
        name: String,
        port: PortRef,
    },
    /// `backend.resource`, as `KIND/NAME`.
    Resource(String),
}

/// A reference to a Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PortRef {
    Number(i32),
    Name(String),
}

/// A rule for one path. Without a host it is for every host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) host: Option<String>,
    pub(super) path: Path,
    pub(super) target: Target,
}

/// A Secret with the certificate of some hosts, or of all others if none is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) ingress: String,
    pub(super) hosts: Vec<String>,
    pub(super) secret: String,
}

/// Something that an Ingress asks for and does not get.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    pub(super) ingress: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What the Ingresses of a namespace ask for together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NamespacePlan {
    pub(super) rules: Vec<Rule>,
    pub(super) default: Option<Target>,
    pub(super) tls: Vec<Tls>,
    /// The targets, and the names of the Ingresses that use each.
    pub(super) targets: BTreeMap<Target, BTreeSet<String>>,
    pub(super) problems: Vec<Problem>,
}

/// Why requests for a target get a 503 response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BackendError {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service { name, port: PortRef::Number(port) } => write!(f, "{name}:{port}"),
            Self::Service { name, port: PortRef::Name(port) } => write!(f, "{name}:{port}"),
            Self::Resource(resource) => f.write_str(resource),
        }
    }
}

impl Target {
    fn of(backend: &IngressBackend) -> Option<Self> {
        if let Some(service) = &backend.service {
            let port = service.port.clone().unwrap_or_default();
            let port = match (port.name, port.number) {
                (Some(name), _) if !name.is_empty() => PortRef::Name(name),
                (_, number) => PortRef::Number(number.unwrap_or_default()),
            };
            return Some(Self::Service { name: service.name.clone(), port });
        }
        let resource = backend.resource.as_ref()?;
        Some(Self::Resource(format!("{}/{}", resource.kind, resource.name)))
    }
}

/// Returns the class of the Ingress, from its spec or the deprecated annotation.
pub(super) fn class(ingress: &Ingress) -> Option<&str> {
    let field = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let annotations = ingress.metadata.annotations.as_ref();
    let annotation =
        || annotations.and_then(|a| a.get(INGRESS_CLASS_ANNOTATION)).map(String::as_str);
    field.or_else(annotation).filter(|class| !class.is_empty())
}

/// Returns whether this controller serves the Ingress: its class is one of ours, or it has none.
pub(super) fn is_ours(ingress: &Ingress, is_our_class: impl Fn(&str) -> bool) -> bool {
    class(ingress).is_none_or(is_our_class)
}

/// Sorts the oldest first: the first one keeps a host and path that others claim too.
pub(super) fn sort(ingresses: &mut [impl Deref<Target = Ingress>]) {
    ingresses.sort_by_key(|ingress| {
        let meta = &ingress.metadata;
        (meta.creation_timestamp.as_ref().map(|time| time.0), meta.name.clone())
    });
}

/// Plans the Ingresses of one namespace, which are sorted.
pub(super) fn plan(ingresses: &[impl Deref<Target = Ingress>]) -> NamespacePlan {
    let mut plan = NamespacePlan::default();
    let mut owners = Owners::default();
    // Rules without paths route the whole host to the default backend, which is known at the end.
    let mut without_paths = Vec::new();
    for ingress in ingresses {
        let name = ingress.metadata.name.clone().unwrap_or_default();
        let Some(spec) = &ingress.spec else { continue };
        plan.problems.extend(foreign_annotations(&name, ingress));
        if let Some(target) = spec.default_backend.as_ref().and_then(Target::of)
            && owners.claim(&mut plan, &name, None)
        {
            plan.targets.entry(target.clone()).or_default().insert(name.clone());
            plan.default = Some(target);
        }
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.as_deref().filter(|host| !host.is_empty());
            let host = host.map(|host| host_name(host).into_owned());
            let Some(http) = &rule.http else {
                without_paths.extend(host.map(|host| (name.clone(), host)));
                continue;
            };
            for path in &http.paths {
                let Some(target) = Target::of(&path.backend) else { continue };
                let text = path.path.as_deref().unwrap_or_default();
                plan.problems.extend(suspicious_path(&name, &path.path_type, text));
                let path = Path::new(&path.path_type, text);
                if owners.claim(&mut plan, &name, Some((host.clone(), path.clone()))) {
                    plan.targets.entry(target.clone()).or_default().insert(name.clone());
                    plan.rules.push(Rule { host: host.clone(), path, target });
                }
            }
        }
        for tls in spec.tls.iter().flatten() {
            if let Some(secret) = tls.secret_name.clone().filter(|secret| !secret.is_empty()) {
                let hosts = tls.hosts.clone().unwrap_or_default();
                plan.tls.push(Tls { ingress: name.clone(), hosts, secret });
            }
        }
    }
    let all = Path::new("Prefix", "/");
    for (ingress, host) in without_paths {
        let taken = owners.claims.contains_key(&Some((Some(host.clone()), all.clone())));
        match plan.default.clone() {
            Some(target) if !taken => {
                plan.rules.push(Rule { host: Some(host), path: all.clone(), target });
            }
            Some(_) => {}
            None => plan.problems.push(Problem {
                ingress,
                reason: "RuleMatchesNothing",
                message: format!(
                    "the rule of host {host} has no paths, and no Ingress of the namespace has a \
                     default backend: requests get 404"
                ),
            }),
        }
    }
    plan
}

/// Returns the problem of a path that probably means something else than it does here.
fn suspicious_path(ingress: &str, path_type: &str, path: &str) -> Option<Problem> {
    let problem = |reason, message| Some(Problem { ingress: ingress.to_owned(), reason, message });
    if let Some(end) = path.find(['?', '#']) {
        let message = format!(
            "path {path} ({path_type}) matches nothing: a path has no query; remove {:?}",
            &path[end..]
        );
        return problem("RuleMatchesNothing", message);
    }
    let wildcard = path_type == "ImplementationSpecific" && path.ends_with("/*");
    let literal = if wildcard { path.trim_end_matches('*') } else { path };
    let pattern = |c: char| "*^$()[]{}|\\".contains(c);
    if !literal.contains(pattern) && !literal.contains(".+") {
        return None;
    }
    let hint = match literal.strip_suffix("/*") {
        Some("") => "; use / to match every path".to_owned(),
        Some(parent) => format!("; use {parent} to match what is below it"),
        None => String::new(),
    };
    let message = format!(
        "path {path} ({path_type}) matches only requests with just these characters: wildcards and \
         regular expressions are not supported{hint}"
    );
    problem("PathTakenLiterally", message)
}

/// Returns the problem of annotations that are meant for another controller, such as one with canaries
/// of its own.
fn foreign_annotations(name: &str, ingress: &Ingress) -> Option<Problem> {
    let names = ingress.metadata.annotations.iter().flat_map(BTreeMap::keys);
    let foreign = names.filter(|name| {
        let domain = name.split_once('/').map_or("", |(domain, _)| domain);
        domain.ends_with("ingress.kubernetes.io")
    });
    let foreign: Vec<&str> = foreign.map(String::as_str).collect();
    (!foreign.is_empty()).then(|| Problem {
        ingress: name.to_owned(),
        reason: "AnnotationNotSupported",
        message: format!("has no effect here: {}", foreign.join(", ")),
    })
}

/// The Ingress that owns each host and path; `None` is the default backend.
#[derive(Default)]
struct Owners {
    claims: BTreeMap<Option<(Option<String>, Path)>, String>,
}

impl Owners {
    /// Returns whether the claim succeeds. A claim that the Ingress repeats is no conflict.
    fn claim(
        &mut self,
        plan: &mut NamespacePlan,
        ingress: &str,
        claim: Option<(Option<String>, Path)>,
    ) -> bool {
        let Some(owner) = self.claims.get(&claim) else {
            self.claims.insert(claim, ingress.to_owned());
            return true;
        };
        if owner != ingress {
            let what = match &claim {
                None => "the default backend".to_owned(),
                Some((None, path)) => format!("path {path} of all hosts"),
                Some((Some(host), path)) => format!("host {host}, path {path}"),
            };
            plan.problems.push(Problem {
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

/// Returns the routing of a target, or why there is none.
pub(super) fn routing<'a>(
    target: &Target,
    service: Option<&Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    topology: &Topology,
) -> Result<Routing, BackendError> {
    let missing = |message| BackendError { reason: "BackendNotFound", message };
    let unsupported = |message| BackendError { reason: "BackendNotSupported", message };
    let (name, port) = match target {
        Target::Service { name, port } => (name, port),
        Target::Resource(resource) => {
            let message = format!("backend {resource} is not a Service; requests get 503");
            return Err(unsupported(message));
        }
    };
    let spec = service.and_then(|service| service.spec.as_ref());
    let spec = spec.ok_or_else(|| {
        missing(format!("Service {name:?} does not exist; requests get 503 until it does"))
    })?;
    if spec.type_.as_deref() == Some("ExternalName") {
        let message = format!("Service {name:?} is of type ExternalName; requests get 503");
        return Err(unsupported(message));
    }
    let found = spec.ports.iter().flatten().find(|known| match port {
        PortRef::Number(number) => known.port == *number,
        PortRef::Name(name) => known.name.as_ref() == Some(name),
    });
    match found {
        None => {
            let port = match port {
                PortRef::Number(number) => number.to_string(),
                PortRef::Name(name) => format!("{name:?}"),
            };
            Err(missing(format!(
                "Service {name:?} has no port {port}; requests get 503 until it has"
            )))
        }
        Some(port) if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") => {
            let message =
                format!("port {} of Service {name:?} is not TCP; requests get 503", port.port);
            Err(unsupported(message))
        }
        Some(port) => Ok(port_routing(spec, port, slices, topology)),
    }
}

#[cfg(test)]
mod tests;
