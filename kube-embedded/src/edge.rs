//! What lets traffic in: Service addresses, node ports and load balancers.
//!
//! It speaks only [`kube::Client`], so it serves any cluster whose endpoints it can dial. Services
//! and EndpointSlices become listeners that choose a ready endpoint at random for each connection,
//! as kube-proxy does; a load balancer is an address of the host's loopback range.

mod balancer;
mod plan;
pub mod plane;
mod pump;
pub mod route;

use crate::network::{Addresses, Network};
use std::{net::Ipv4Addr, sync::Arc};

/// What the edge must know of its cluster.
#[derive(Clone)]
pub struct Config {
    /// Reaches pods, and listens inside of them.
    pub network: Arc<Network>,
    /// Where external addresses come from.
    pub addresses: Addresses,
    /// Node names and their internal addresses, on which node ports are opened.
    pub nodes: Vec<(String, Ipv4Addr)>,
}

/// Keeps listeners as the cluster's Services ask for, until dropped; dropping closes all of them
/// and every connection.
pub async fn run(client: kube::Client, config: Config) {
    let _ = (client, config);
    std::future::pending().await
}
