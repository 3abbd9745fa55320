//! The frontend, routes and ports that the Ingresses of one namespace have at the moment.

use super::{
    objects::{IngressEvent, Objects},
    plan::{self, BackendError, NamespacePlan, Problem, Rule, Target, Tls},
};
use crate::{
    config::Topology,
    data_plane::{BoundPort, DataPlane, ListenerHandle},
    http_proxy::{
        HttpListener,
        certificates::{Certificates, TlsError},
        frontend::Frontend,
        route_table::{self, Backend, RouteTable},
        tls_secret::Coverage,
    },
    load_balancer::{LbStatus, PortResult},
    route::{Route, Routing},
    secrets::{SecretState, Secrets},
};
use jiff::Timestamp;
use kube_embedded_core::{informer::ObjectKey, network::Network};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::SocketAddr,
    sync::Arc,
};
use tokio_rustls::rustls::sign::CertifiedKey;

const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// What a namespace with Ingresses has at the moment.
pub(super) struct NamespaceState {
    name: String,
    frontend: Arc<Frontend>,
    /// By target, as long as a rule has it, whatever becomes of its endpoints.
    backends: BTreeMap<Target, Arc<Backend>>,
    /// Those of which no Service port is known.
    unresolved: BTreeSet<Target>,
    /// The rules and the default backend of the current route table.
    rules: Option<(Vec<Rule>, Option<Target>)>,
    /// Where HTTP and HTTPS are published.
    ports: BTreeMap<u16, (SocketAddr, ListenerHandle)>,
    /// Why a port is not published as it should be.
    port_warnings: BTreeMap<u16, String>,
}

impl NamespaceState {
    pub(super) fn new(name: &str, default: Arc<CertifiedKey>) -> Result<Self, TlsError> {
        Ok(Self {
            name: name.to_owned(),
            frontend: Arc::new(Frontend::new(Some(default))?),
            backends: BTreeMap::new(),
            unresolved: BTreeSet::new(),
            rules: None,
            ports: BTreeMap::new(),
            port_warnings: BTreeMap::new(),
        })
    }

    pub(super) async fn close(self) {
        for (_, listener) in self.ports.into_values() {
            listener.close().await;
        }
    }

    /// Routes new requests as planned. Endpoints come before the route table, so that a new rule
    /// finds its backend complete.
    pub(super) fn sync_routes(
        &mut self,
        plan: &mut NamespacePlan,
        objects: &Objects,
        topology: &Topology,
    ) {
        self.backends.retain(|target, _| plan.targets.contains_key(target));
        self.unresolved.clear();
        for (target, ingresses) in &plan.targets {
            let routing = self.routing(target, objects, topology).unwrap_or_else(|error| {
                self.unresolved.insert(target.clone());
                plan.problems.extend(ingresses.iter().map(|ingress| Problem {
                    ingress: ingress.clone(),
                    reason: error.reason,
                    message: error.message.clone(),
                }));
                Routing::default()
            });
            self.sync_backend(target, routing);
        }
        let rules = Some((mem::take(&mut plan.rules), plan.default.take()));
        if self.rules != rules {
            self.rules = rules;
            let table = self.route_table();
            tracing::debug!(
                namespace = self.name,
                backends = self.backends.len(),
                "routes changed"
            );
            self.frontend.set_route_table(table);
        }
    }

    /// Gives the targets of a Service their current endpoints. Returns whether nothing else follows from its
    /// change: a problem that comes or goes is one of the Ingresses.
    pub(super) fn sync_service(
        &mut self,
        service: &str,
        objects: &Objects,
        topology: &Topology,
    ) -> bool {
        let is_of =
            |target: &&Target| matches!(target, Target::Service { name, .. } if name == service);
        let targets: Vec<Target> = self.backends.keys().filter(is_of).cloned().collect();
        targets.into_iter().all(|target| match self.routing(&target, objects, topology) {
            Ok(routing) if !self.unresolved.contains(&target) => {
                self.sync_backend(&target, routing);
                true
            }
            _ => false,
        })
    }

    fn routing(
        &self,
        target: &Target,
        objects: &Objects,
        topology: &Topology,
    ) -> Result<Routing, BackendError> {
        match target {
            Target::Service { name, .. } => {
                let key = ObjectKey::new(&self.name, name);
                let (service, slices) = (objects.service(&key), objects.slices_of(&key));
                let slices = slices.iter().map(|slice| &**slice);
                plan::routing(target, service.as_deref(), slices, topology)
            }
            Target::Resource(_) => plan::routing(target, None, [], topology),
        }
    }

    fn sync_backend(&mut self, target: &Target, routing: Routing) {
        let endpoints = routing.backends.len();
        let name = format!("{}/{target}", self.name);
        let changed = match self.backends.get(target) {
            Some(backend) => backend.route.set(routing),
            None => {
                let route = Arc::new(Route::new(routing, Arc::default()));
                let backend = Backend::plain(name.clone(), route);
                self.backends.insert(target.clone(), Arc::new(backend));
                true
            }
        };
        if changed {
            tracing::debug!(backend = name, endpoints, "endpoints changed");
        }
    }

    fn route_table(&self) -> RouteTable {
        let Some((rules, default)) = &self.rules else { return RouteTable::default() };
        let backend = |target: &Target| self.backends.get(target).cloned();
        let rules = rules.iter().filter_map(|rule| {
            let backend = backend(&rule.target)?;
            Some(route_table::Rule { host: rule.host.clone(), path: rule.path.clone(), backend })
        });
        RouteTable::new(rules, default.as_ref().and_then(backend))
    }

    /// Replaces the certificates of new handshakes, once all Secrets are known: no certificate is
    /// removed while its replacement is being read.
    pub(super) fn sync_certificates(
        &mut self,
        plan: &mut NamespacePlan,
        secrets: &Secrets<IngressEvent>,
    ) {
        let mut certificates = Certificates::default();
        let now = Timestamp::now();
        let mut all_known = true;
        for tls in &plan.tls {
            let Some(secret) = secrets.get(&ObjectKey::new(&self.name, &tls.secret)) else {
                all_known = false;
                continue;
            };
            for (reason, message) in add_certificate(&mut certificates, tls, secret, now) {
                let message = format!("Secret {:?} {message}", tls.secret);
                plan.problems.push(Problem { ingress: tls.ingress.clone(), reason, message });
            }
        }
        if all_known {
            self.frontend.set_certificates(certificates);
        }
    }

    /// Returns the ports that are not published yet.
    pub(super) fn unpublished(&self) -> Vec<u16> {
        [HTTP, HTTPS].into_iter().filter(|port| !self.ports.contains_key(port)).collect()
    }

    /// Records why none of these ports is published.
    pub(super) fn warn_unpublished(&mut self, ports: &[u16], message: &str) {
        self.port_warnings.extend(ports.iter().map(|port| (*port, message.to_owned())));
    }

    /// Serves bound ports. Returns whether all of them are bound.
    pub(super) fn publish(
        &mut self,
        data_plane: &DataPlane,
        network: &Arc<Network>,
        results: Vec<PortResult<BoundPort>>,
    ) -> bool {
        let mut complete = true;
        for PortResult { port, bound, warning } in results {
            match warning {
                Some(warning) => drop(self.port_warnings.insert(port, warning)),
                None => drop(self.port_warnings.remove(&port)),
            }
            let Some((at, bound)) = bound else {
                complete = false;
                continue;
            };
            let (frontend, network) = (self.frontend.clone(), network.clone());
            let listener = HttpListener::new(frontend, network, port == HTTPS, at);
            self.ports.insert(port, (at, data_plane.serve(bound, Arc::new(listener))));
        }
        complete
    }

    /// Returns the warnings about ports.
    pub(super) fn port_warnings(&self) -> impl Iterator<Item = &String> {
        self.port_warnings.values()
    }

    /// Returns whether the address is one of the namespace's.
    pub(super) fn has_address(&self, at: SocketAddr) -> bool {
        self.ports.values().any(|(published, _)| *published == at)
    }

    /// Drops a listener that has ended.
    pub(super) fn drop_listener(&mut self, at: SocketAddr) {
        self.ports.retain(|_, (published, _)| *published != at);
    }

    /// Returns the status of the namespace's Ingresses.
    pub(super) fn status(&self) -> LbStatus {
        let published = |port| (port, self.ports.get(&port).map(|(at, _)| *at));
        LbStatus::new(&[HTTP, HTTPS].map(published), None)
    }
}

/// Adds the certificate of a Secret for the hosts of a `spec.tls` entry. Returns reasons and messages
/// of the events about it.
fn add_certificate(
    certificates: &mut Certificates,
    tls: &Tls,
    secret: &SecretState,
    now: Timestamp,
) -> Vec<(&'static str, String)> {
    let fallback = match tls.hosts.is_empty() {
        true => "the default certificate is served".to_owned(),
        false => format!("the default certificate is served for {}", tls.hosts.join(", ")),
    };
    let certificate = match secret {
        SecretState::Missing => {
            return vec![("TLSSecretNotFound", format!("does not exist; {fallback}"))];
        }
        SecretState::Invalid(why) => {
            return vec![("TLSSecretInvalid", format!("{why}; {fallback}"))];
        }
        SecretState::Valid(certificate) => certificate,
    };
    let mut problems = Vec::new();
    if let Some(why) = certificate.validity_problem(now) {
        problems.push(("CertificateOutOfDate", format!("{why}; it is served nevertheless")));
    }
    if tls.hosts.is_empty() {
        certificates.add(None, certificate.key.clone());
    }
    for host in &tls.hosts {
        let coverage = certificate.coverage(host);
        if coverage != Coverage::None {
            certificates.add(Some(host), certificate.key.clone());
        }
        if coverage == Coverage::CommonName {
            let message = format!(
                "has a certificate that names {host} only in its common name, which many clients \
                 ignore; it is served nevertheless"
            );
            problems.push(("CertificateWithoutAlternativeName", message));
        }
        if coverage == Coverage::None {
            let message = format!(
                "has a certificate whose alternative names do not cover {host}; the default \
                 certificate is served for it"
            );
            problems.push(("CertificateHostMismatch", message));
        }
    }
    problems
}
