//! `hostPort`: listeners on the address of a pod's node that lead to its containers.

use crate::pod::handle::PodHandle;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use kube_embedded_core::{backoff::Backoff, network::Network, task::TaskSet};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// The delays between attempts to listen on a port that is in use.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// The pause after a connection could not be accepted, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the host ports of a pod at `pod_ip`. Never returns.
pub(crate) async fn serve(pod: &PodHandle, pod_ip: Ipv4Addr) {
    let ports = ports(&pod.pod).filter_map(|port| {
        let address = address(port, pod.node.ip)?;
        Some((address, SocketAddr::from((pod_ip, u16::try_from(port.container_port).ok()?))))
    });
    join_all(ports.map(|(from, to)| serve_port(pod, from, to))).await;
    std::future::pending().await
}

/// Returns the ports of a pod that have a host port.
pub(crate) fn ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let spec = pod.spec.iter();
    let containers =
        spec.flat_map(|s| s.init_containers.iter().flatten().chain(s.containers.iter()));
    containers.flat_map(|c| c.ports.iter().flatten()).filter(|p| p.host_port.unwrap_or(0) > 0)
}

/// Returns the address to listen on; `None` if that is not possible. All addresses of a node are one.
pub(crate) fn address(port: &ContainerPort, node: Ipv4Addr) -> Option<SocketAddr> {
    if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
        return None;
    }
    let ip = match port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
        None => node,
        Some(ip) => match ip.parse::<IpAddr>() {
            Ok(ip) if ip.is_unspecified() => node,
            // Nothing of a cluster listens outside of the host.
            Ok(IpAddr::V4(ip)) if ip.is_loopback() => ip,
            _ => return None,
        },
    };
    Some((ip, u16::try_from(port.host_port?).ok()?).into())
}

async fn serve_port(pod: &PodHandle, from: SocketAddr, to: SocketAddr) {
    let mut backoff = RETRY;
    let mut listener = TcpListener::bind(from).await;
    while let Err(error) = &listener {
        pod.warning("FailedHostPort", &format!("Failed to listen on {from}: {error}"));
        sleep(backoff.next_delay()).await;
        listener = TcpListener::bind(from).await;
    }
    let Ok(listener) = listener else { return };
    tracing::debug!(%from, %to, "host port opened");
    let mut connections: TaskSet = TaskSet::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let network = pod.runtime.network.clone();
                    connections.spawn("host port", forward(network, client, to));
                }
                Err(error) => {
                    tracing::warn!(%from, %error, "failed to accept a connection to a host port");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(network: Arc<Network>, mut client: TcpStream, to: SocketAddr) {
    let copied = async {
        let mut server = network.connect(to).await?;
        copy_bidirectional(&mut client, &mut server).await
    };
    if let Err(error) = copied.await {
        tracing::debug!(%to, %error, "connection to a host port failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn host_port_is_on_the_node_or_on_loopback() {
        let node = Ipv4Addr::new(127, 7, 0, 11);
        for (port, expected) in [
            (json!({ "containerPort": 80, "hostPort": 8080 }), Some("127.7.0.11:8080")),
            (
                json!({ "containerPort": 80, "hostPort": 1, "hostIP": "0.0.0.0" }),
                Some("127.7.0.11:1"),
            ),
            (
                json!({ "containerPort": 80, "hostPort": 1, "hostIP": "127.0.0.1" }),
                Some("127.0.0.1:1"),
            ),
            (json!({ "containerPort": 80, "hostPort": 1, "hostIP": "192.0.2.1" }), None),
            (json!({ "containerPort": 80, "hostPort": 1, "protocol": "UDP" }), None),
        ] {
            let port: ContainerPort = serde_json::from_value(port).unwrap();
            assert_eq!(address(&port, node).map(|a| a.to_string()).as_deref(), expected);
        }
    }
}
