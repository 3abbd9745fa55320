//! The frontends and ports of one Gateway.

use super::{
    objects::GatewayEvent,
    plan::{GatewayPlan, PortPlan},
};
use crate::{
    data_plane::{BoundPort, DataPlane, ListenerHandle},
    http_proxy::{
        HttpListener,
        certificates::{Certificates, TlsError},
        frontend::Frontend,
        route_table::RouteTable,
    },
    load_balancer::{self, AddressPool, Bind, PortResult},
    secrets::{SecretState, Secrets},
};
use kube_embedded_core::network::Network;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// What a Gateway has at the moment.
pub(super) struct GatewayFrontends {
    pub(super) uid: String,
    ports: BTreeMap<u16, PortFrontend>,
}

struct PortFrontend {
    frontend: Arc<Frontend>,
    plan: PortPlan,
    listener: Option<(SocketAddr, ListenerHandle)>,
}

impl PortFrontend {
    fn new(tls: bool) -> Result<Self, TlsError> {
        let frontend = Arc::new(Frontend::new(None)?);
        let plan = PortPlan { tls, http2: false, clients: None };
        Ok(Self { frontend, plan, listener: None })
    }

    /// Makes new connections follow the plan.
    fn set_plan(&mut self, plan: PortPlan) -> Result<(), TlsError> {
        if self.plan.clients != plan.clients {
            self.frontend.set_client_validation(plan.clients.as_ref())?;
        }
        self.frontend.set_http2(plan.http2);
        self.plan = plan;
        Ok(())
    }
}

impl GatewayFrontends {
    pub(super) fn new(uid: String) -> Self {
        Self { uid, ports: BTreeMap::new() }
    }

    pub(super) async fn close(&mut self) {
        for port in mem::take(&mut self.ports).into_values() {
            if let Some((_, listener)) = port.listener {
                listener.close().await;
            }
        }
    }

    /// Closes ports that are no longer planned, and routes new requests and handshakes of the others
    /// as planned.
    pub(super) async fn sync(&mut self, plan: &mut GatewayPlan, secrets: &Secrets<GatewayEvent>) {
        let planned = plan.ports();
        let gone = self.ports.extract_if(.., |port, known| {
            planned.get(port).is_none_or(|planned| planned.tls != known.plan.tls)
        });
        for (_, listener) in gone.filter_map(|(_, port)| port.listener).collect::<Vec<_>>() {
            listener.close().await;
        }
        for (port, of_port) in planned {
            let tls = of_port.tls;
            let known = match self.ports.entry(port) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(vacant) => match PortFrontend::new(tls) {
                    Ok(frontend) => vacant.insert(frontend),
                    Err(error) => {
                        tracing::error!(%error, port, "failed to serve a Gateway");
                        continue;
                    }
                },
            };
            if let Err(error) = known.set_plan(of_port) {
                tracing::error!(%error, port, "failed to verify clients of a Gateway");
                continue;
            }
            let matches = plan.matches.get_mut(&port).map(mem::take).unwrap_or_default();
            let listeners = plan.listeners.iter().filter(|l| l.serves && l.port == port);
            let hosts = listeners.clone().map(|listener| listener.hostname.clone());
            known.frontend.set_route_table(RouteTable::of_gateway(hosts, matches));
            if tls {
                let mut certificates = Certificates::of_gateway();
                for listener in listeners {
                    for secret in &listener.certificates {
                        if let Some(SecretState::Valid(certificate)) = secrets.get(secret) {
                            certificates.add(listener.hostname.as_deref(), certificate.key.clone());
                        }
                    }
                }
                known.frontend.set_certificates(certificates);
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
        let unpublished: Vec<u16> = unpublished.map(|(port, _)| *port).collect();
        if unpublished.is_empty() {
            return true;
        }
        let candidates = pool.candidates(&plan.uid, plan.requested.first().map(String::as_str));
        let Some(published) = load_balancer::publish(&candidates, &unpublished, bind) else {
            tracing::warn!("all addresses for Gateways are in use; retrying");
            return false;
        };
        pool.assign(published.address, &plan.uid);
        let mut complete = true;
        for result in published.ports {
            complete &= self.serve(result, data_plane, network);
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
        let (Some((at, bound)), Some(known)) = (bound, self.ports.get_mut(&port)) else {
            return false;
        };
        let (frontend, network) = (known.frontend.clone(), network.clone());
        let listener = HttpListener::new(frontend, network, known.plan.tls, at);
        known.listener = Some((at, data_plane.serve(bound, Arc::new(listener))));
        true
    }

    /// Returns the address once a port of it is bound.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.ports.values().find_map(|port| Some(port.listener.as_ref()?.0.ip()))
    }

    /// Returns the ports that are published on other numbers, as `80=10080`.
    pub(super) fn published_ports(&self) -> Option<String> {
        let moved = self.ports.iter().filter_map(|(port, known)| {
            let at = known.listener.as_ref()?.0.port();
            (at != *port).then(|| format!("{port}={at}"))
        });
        let moved: Vec<String> = moved.collect();
        (!moved.is_empty()).then(|| moved.join(","))
    }

    pub(super) fn drop_listener(&mut self, at: SocketAddr) {
        for port in self.ports.values_mut() {
            port.listener.take_if(|(published, _)| *published == at);
        }
    }
}
