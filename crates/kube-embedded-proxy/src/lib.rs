//! The service proxy: ClusterIPs, node ports, load balancers, Ingress and DNS. Stands for kube-proxy,
//! the service controller of a cloud provider, an Ingress controller and CoreDNS, in one.
//!
//! Services and EndpointSlices become listeners that choose a ready endpoint at random for each
//! connection, as kube-proxy does; a load balancer is an address in the host's loopback range. The
//! proxy uses only [`kube::Client`], so it also serves external clusters: [`external`].
//!
//! This crate is internal to the workspace: use `kube-embedded`.

mod config;
mod data_plane;
pub mod dns;
pub mod external;
mod gateway;
mod http_proxy;
mod ingress;
mod load_balancer;
mod retry;
mod route;
mod secrets;
mod services;
mod streams;
mod watches;

pub use config::{Config, Mode};
pub use external::node_ports::{NodeEndpoint, NodeEndpoints, NodePorts};
pub use gateway::{GATEWAY_CLASS, GATEWAY_CONTROLLER};
pub use ingress::{INGRESS_CLASS, INGRESS_CONTROLLER};
pub use load_balancer::PUBLISHED_PORT;

use data_plane::{BoundPort, DataPlane};
use kube::Client;
use load_balancer::Bind;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The data plane without a cluster, for benchmarks.
#[doc(hidden)]
pub mod bench {
    pub use crate::{
        data_plane::{
            AcceptedConnection, BoundPort, DataPlane, Handler, ListenerError, ListenerHandle,
            TcpProxy,
        },
        http_proxy::default_backend_handler,
        route::{Affinity, Backends, Route, Routing},
    };
    pub use kube_embedded_core::network::{HostSockets, Network};
}

/// Parsers of what clients and endpoints send, for the fuzz targets in `fuzz/`.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::http_proxy::fuzzing::{request_heads, response_heads};

    /// A certificate in DER.
    pub fn certificates(bytes: &[u8]) {
        crate::http_proxy::fuzz_certificate(bytes);
    }
}

/// Reports of listeners that wait for a reconciler.
const LISTENER_ERRORS: usize = 64;

/// Reconciles listeners with the cluster's Services and Ingresses until dropped. Dropping closes all
/// listeners and connections.
///
/// Returns only if the data plane cannot start or has failed, which is logged.
pub async fn run(client: Client, config: Config) {
    run_with(client, config, BoundPort::bind).await;
}

async fn run_with(client: Client, config: Config, bind: Bind) {
    let (errors, listener_errors) = mpsc::channel(LISTENER_ERRORS);
    let data_plane = match DataPlane::start(errors) {
        Ok(data_plane) => Arc::new(data_plane),
        Err(error) => {
            tracing::error!(%error, "failed to start the data plane");
            return;
        }
    };
    let (errors, ingress_errors) = mpsc::channel(LISTENER_ERRORS);
    let ingresses = async {
        if config.has_ingresses() {
            let data_plane = data_plane.clone();
            ingress::run(client.clone(), &config, data_plane, bind, ingress_errors).await;
        }
    };
    let (gateway_errors, gateway_listener_errors) = mpsc::channel(LISTENER_ERRORS);
    let gateways = async {
        if config.has_ingresses() {
            let data_plane = data_plane.clone();
            gateway::run(client.clone(), &config, data_plane, bind, gateway_listener_errors).await;
        }
    };
    let services = services::run(
        client.clone(),
        &config,
        data_plane.clone(),
        bind,
        listener_errors,
        errors,
        gateway_errors,
    );
    tokio::select! {
        // Loops of their own, so that none waits for another.
        ((), (), ()) = async { tokio::join!(ingresses, gateways, services) } => {}
        () = data_plane.failed() => tracing::error!("the data plane has failed"),
    }
}

#[cfg(test)]
mod testing;
