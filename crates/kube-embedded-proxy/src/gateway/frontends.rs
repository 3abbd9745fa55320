//! The frontends and ports of one Gateway.

use super::{
    listeners::{ListenerPlan, Protocol},
    objects::GatewayEvent,
    plan::{GatewayPlan, PortPlan},
    planner::AttachedRoutes,
};
use crate::{
    data_plane::{BoundPort, DataPlane, Handler, ListenerHandle},
    http_proxy::{
        HttpListener,
        certificates::{Certificates, TlsError},
        frontend::Frontend,
        route_table::RouteRule,
    },
    load_balancer::{self, AddressPool, Bind, PortResult},
    secrets::{SecretState, Secrets},
    services::udp::{self, DatagramRoute},
    streams::{StreamFrontend, StreamListener},
};
use kube_embedded_core::{
    network::{HostSockets, Network},
    task::{Task, spawn_named},
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

/// What a Gateway has at the moment.
pub(super) struct GatewayFrontends {
    pub(super) uid: String,
    /// By port, and whether it is one of UDP.
    ports: BTreeMap<(u16, bool), PortFrontend>,
}

struct PortFrontend {
    kind: PortKind,
    plan: PortPlan,
    listener: Option<(SocketAddr, Listening)>,
}

enum PortKind {
    Http(Arc<Frontend>),
    Stream(Arc<StreamFrontend>),
    Udp(Arc<UdpFrontend>),
}

/// What keeps a port open.
enum Listening {
    Tcp(ListenerHandle),
    Udp { _task: Task<()> },
}

/// The rule of a UDP port at the moment.
#[derive(Default)]
struct UdpFrontend(RwLock<Option<Arc<RouteRule>>>);

impl UdpFrontend {
    fn set(&self, rule: Option<Arc<RouteRule>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = rule;
    }

    fn rule(&self) -> Option<Arc<RouteRule>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The route of the clients of a UDP port.
struct UdpRoute(Arc<UdpFrontend>);

impl DatagramRoute for UdpRoute {
    fn choose(&self, client: IpAddr) -> Option<SocketAddr> {
        let rule = self.0.rule()?;
        rule.choose(&mut rand::rng())?.backend.as_ref()?.route.choose(client, &[])
    }

    fn keeps(&self, _: IpAddr, endpoint: SocketAddr) -> bool {
        let Some(rule) = self.0.rule() else { return false };
        let mut backends = rule.backends.iter().filter_map(|weighted| weighted.backend.as_ref());
        backends.any(|backend| backend.route.may_reuse(endpoint))
    }
}

impl PortFrontend {
    fn new(protocol: Protocol) -> Result<Self, TlsError> {
        let kind = match protocol {
            Protocol::Http | Protocol::Https => {
                let frontend = Frontend::new(None)?;
                PortKind::Http(Arc::new(frontend.with_http2()))
            }
            Protocol::Tls { .. } | Protocol::Tcp => {
                PortKind::Stream(Arc::new(StreamFrontend::new()?))
            }
            Protocol::Udp => PortKind::Udp(Arc::default()),
        };
        let plan = PortPlan { protocol, clients: None };
        Ok(Self { kind, plan, listener: None })
    }

    /// Makes new connections follow the plan.
    fn sync(
        &mut self,
        port: PortPlan,
        plan: &GatewayPlan,
        routes: &AttachedRoutes,
        key: (u16, bool),
        secrets: &Secrets<GatewayEvent>,
    ) -> Result<(), TlsError> {
        let clients_changed = self.plan.clients != port.clients;
        self.plan = port;
        let of_port = |listener: &&ListenerPlan| listener.serves && listener.key() == key;
        let listeners: Vec<_> = plan.listeners.iter().filter(of_port).collect();
        let certificates = certificates(&listeners, secrets);
        match &self.kind {
            PortKind::Http(frontend) => {
                if clients_changed {
                    frontend.set_client_validation(self.plan.clients.as_ref())?;
                }
                frontend.set_route_table(routes.table(key.0));
                frontend.set_certificates(certificates);
            }
            PortKind::Stream(frontend) => {
                frontend.set_table(routes.stream_table(listeners.iter().copied(), key));
                frontend.set_certificates(certificates);
            }
            PortKind::Udp(frontend) => frontend.set(routes.udp_rule(key.0)),
        }
        Ok(())
    }

    /// Returns the handler of connections, unless the port is one of UDP.
    fn handler(&self, network: &Arc<Network>, at: SocketAddr) -> Option<Arc<dyn Handler>> {
        let network = network.clone();
        Some(match &self.kind {
            PortKind::Http(frontend) => {
                let tls = self.plan.protocol == Protocol::Https;
                Arc::new(HttpListener::new(frontend.clone(), network, tls, at))
            }
            PortKind::Stream(frontend) => {
                let tls = self.plan.protocol != Protocol::Tcp;
                Arc::new(StreamListener { frontend: frontend.clone(), network, tls })
            }
            PortKind::Udp(_) => return None,
        })
    }
}

fn certificates(listeners: &[&ListenerPlan], secrets: &Secrets<GatewayEvent>) -> Certificates {
    let mut certificates = Certificates::of_gateway();
    for listener in listeners {
        for secret in &listener.certificates {
            if let Some(SecretState::Valid(certificate)) = secrets.get(secret) {
                certificates.add(listener.hostname.as_deref(), certificate.key.clone());
            }
        }
    }
    certificates
}

impl GatewayFrontends {
    pub(super) fn new(uid: String) -> Self {
        Self { uid, ports: BTreeMap::new() }
    }

    pub(super) async fn close(&mut self) {
        for port in mem::take(&mut self.ports).into_values() {
            port.close().await;
        }
    }

    /// Closes ports that are no longer planned, and routes new requests and handshakes of the others
    /// as planned.
    pub(super) async fn sync(
        &mut self,
        plan: &GatewayPlan,
        routes: &AttachedRoutes,
        secrets: &Secrets<GatewayEvent>,
    ) {
        let planned = plan.ports();
        let gone = self.ports.extract_if(.., |port, known| {
            planned.get(port).is_none_or(|planned| !planned.is_like(&known.plan))
        });
        for (_, port) in gone.collect::<Vec<_>>() {
            port.close().await;
        }
        for (key, port) in planned {
            let known = match self.ports.entry(key) {
                Entry::Occupied(known) => Ok(known.into_mut()),
                Entry::Vacant(vacant) => {
                    PortFrontend::new(port.protocol).map(|created| vacant.insert(created))
                }
            };
            let synced = known.and_then(|known| known.sync(port, plan, routes, key, secrets));
            if let Err(error) = synced {
                tracing::error!(%error, port = key.0, "failed to serve a port of a Gateway");
            }
        }
    }

    /// Publishes the ports that are not published yet. Returns whether all of them are.
    pub(super) fn publish(
        &mut self,
        plan: &GatewayPlan,
        pool: &mut AddressPool,
        bind: Bind,
        data_plane: &DataPlane,
        network: &Arc<Network>,
    ) -> bool {
        let requested = plan.requested.first().and_then(|address| address.parse::<IpAddr>().ok());
        if requested.is_some_and(|address| self.address().is_some_and(|bound| bound != address)) {
            // The others must not stay on the address that it had.
            self.ports.values_mut().for_each(|port| port.listener = None);
        }
        let unpublished = self.ports.iter().filter(|(_, known)| known.listener.is_none());
        let (udp, tcp): (Vec<_>, Vec<_>) = unpublished.map(|(key, _)| *key).partition(|key| key.1);
        if udp.is_empty() && tcp.is_empty() {
            return true;
        }
        let candidates = pool.candidates(&plan.uid, plan.requested.first().map(String::as_str));
        let tcp: Vec<u16> = tcp.into_iter().map(|(port, _)| port).collect();
        let Some(published) = load_balancer::publish(&candidates, &tcp, bind) else {
            tracing::warn!("all addresses for Gateways are in use; retrying");
            return false;
        };
        pool.assign(published.address, &plan.uid);
        let mut complete = true;
        for result in published.ports {
            complete &= self.serve(result, data_plane, network);
        }
        for key in udp {
            self.serve_udp(key, SocketAddr::from((published.address, key.0)), network);
        }
        complete
    }

    fn serve(
        &mut self,
        PortResult { port, bound, warning }: PortResult<BoundPort>,
        data_plane: &DataPlane,
        network: &Arc<Network>,
    ) -> bool {
        if let Some(warning) = warning {
            tracing::warn!(port, "{warning}");
        }
        let (Some((at, bound)), Some(known)) = (bound, self.ports.get_mut(&(port, false))) else {
            return false;
        };
        if let Some(handler) = known.handler(network, at) {
            known.listener = Some((at, Listening::Tcp(data_plane.serve(bound, handler))));
        }
        true
    }

    fn serve_udp(&mut self, key: (u16, bool), at: SocketAddr, network: &Arc<Network>) {
        let Some(known) = self.ports.get_mut(&key) else { return };
        let PortKind::Udp(frontend) = &known.kind else { return };
        let route = UdpRoute(frontend.clone());
        let serving = udp::serve(Arc::new(HostSockets), at, route, network.clone());
        let task = spawn_named("udp gateway", serving);
        known.listener = Some((at, Listening::Udp { _task: task }));
    }

    /// Returns the address once a port of it is bound.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.ports.values().find_map(|port| Some(port.listener.as_ref()?.0.ip()))
    }

    /// Returns the ports that are published on other numbers, as `80=10080`.
    pub(super) fn published_ports(&self) -> Option<String> {
        let moved = self.ports.iter().filter_map(|((port, _), known)| {
            let at = known.listener.as_ref()?.0.port();
            (at != *port).then(|| format!("{port}={at}"))
        });
        let moved: Vec<String> = moved.collect();
        (!moved.is_empty()).then(|| moved.join(","))
    }

    pub(super) fn drop_listener(&mut self, at: SocketAddr) {
        for ((_, udp), port) in &mut self.ports {
            port.listener.take_if(|(published, _)| *published == at && !udp);
        }
    }
}

impl PortFrontend {
    async fn close(self) {
        if let Some((_, Listening::Tcp(listener))) = self.listener {
            listener.close().await;
        }
    }
}
