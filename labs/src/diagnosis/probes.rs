//! Requests that a diagnosis sends to the addresses that the cluster publishes: they tell a load balancer
//! that does not forward from a node that does not.

use crate::kubernetes::{
    external::{Exposed, published_address},
    nodes,
};
use crate::sampler::{Failure, Sampler};
use futures::future;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt as _;
use serde::Serialize;
use std::net::SocketAddr;
use std::time::Duration;

/// The timeout of one request, and the number of attempts: a busy machine may lose one.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// The kind of address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Probed {
    /// The port of a Service on a node.
    #[default]
    NodePort,
    /// The external address of a Service.
    LoadBalancer,
    /// The external address of an Ingress.
    Ingress,
}

/// A request and its failure.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProbeFacts {
    /// The kind of address.
    pub kind: Probed,
    /// The Service or Ingress.
    pub object: String,
    /// The address.
    pub at: String,
    /// The node, for a node port.
    pub node: Option<String>,
    /// Why there was no response of any status.
    pub failure: Option<String>,
}

/// Requests the node ports of Services, and external addresses. `services` are those with ready endpoints.
pub(super) async fn probe(
    services: &[&Service],
    ingresses: &[Ingress],
    nodes: &[Node],
) -> Vec<ProbeFacts> {
    let mut targets = Vec::new();
    for service in services {
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let mut node_ports = ports.clone().filter_map(|port| u16::try_from(port.node_port?).ok());
        if let Some(port) = node_ports.next() {
            for node in nodes.iter().filter(|node| nodes::is_ready(node)) {
                let Some(address) = nodes::address(node) else { continue };
                let socket = SocketAddr::new(address, port);
                targets.push((Probed::NodePort, service.name_any(), Some(node.name_any()), socket));
            }
        }
        let mut published = ports.filter_map(|port| u16::try_from(port.port).ok());
        if let Some(socket) = published.next().and_then(|port| socket(*service, port)) {
            targets.push((Probed::LoadBalancer, service.name_any(), None, socket));
        }
    }
    for ingress in ingresses {
        if let Some(socket) = socket(ingress, 80) {
            targets.push((Probed::Ingress, ingress.name_any(), None, socket));
        }
    }
    let probes = targets.into_iter().map(|(kind, object, node, socket)| async move {
        let at = socket.to_string();
        let failure = request(socket).await.err().map(|failure| failure.to_string());
        ProbeFacts { kind, object, at, node, failure }
    });
    future::join_all(probes).await
}

/// The external address of an object. A name would have to be resolved, which its failed wait has tried.
fn socket<K: Exposed>(object: &K, port: u16) -> Option<SocketAddr> {
    let (host, port) = published_address(object, port)?;
    Some(SocketAddr::new(host.parse().ok()?, port))
}

/// Sends a request until one has a response of any status.
async fn request(socket: SocketAddr) -> Result<(), Failure> {
    let sampler = Sampler::new(socket, &socket.to_string(), "/version", TIMEOUT);
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        result = match sampler.fetch().await {
            Ok(_) => return Ok(()),
            Err(failure) => Err(failure),
        };
    }
    result
}
