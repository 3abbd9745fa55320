//! The DNS server of a cluster. Stands for CoreDNS as kubeadm configures it: names of Services and
//! pods by the specification of DNS-based service discovery 1.1.0; other names are forwarded to the
//! name servers of the host.
//!
//! Files, from the bottom up: `records` is the table of names, pure; `objects` keeps it up to
//! date from the API; `message` encodes and decodes; `upstream` forwards; `resolver` answers a
//! query with all of these; `server` receives queries.
//!
//! Queries of pods come to a socket in the network namespace between them. Where there is none, each pod
//! has a socket that the kubelet has bound in its own, before the first program started. Queries over TCP come through the Service `kube-dns`, as traffic for
//! any other Service, to the server's address on the host.

mod message;
mod objects;
mod records;
mod resolver;
mod server;
#[cfg(test)]
mod tests;
mod upstream;

use kube::Client;
use kube_embedded_core::{
    backoff::Backoff,
    network::{Addresses, DNS_PORT, DNS_SERVER_PORT, HostSockets, Network, PodSockets, Sandbox},
    resolv_conf,
    task::{Task, restart_on_panic, spawn_named},
};
use objects::Objects;
use resolver::Resolver;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use upstream::Upstream;

/// The delays before the server is started again after a panic, and before an address is bound again.
const RESTART: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// Serves the names of a cluster to its pods and on the host, until dropped.
pub async fn run(client: Client, network: Arc<Network>, addresses: Addresses) {
    restart_on_panic("dns", RESTART, || serve(client.clone(), network.clone(), addresses)).await;
}

async fn serve(client: Client, network: Arc<Network>, addresses: Addresses) {
    let objects = Objects::new(addresses);
    let upstream = Upstream::new(resolv_conf::PATH.into(), DNS_PORT, addresses);
    let resolver = Arc::new(Resolver::new(objects.records(), upstream));
    let pods = async {
        // Until then a name that exists would seem not to; queries wait in the pods' sockets.
        objects.wait_synced().await;
        let _host = serve_host(&resolver, &addresses, network.router());
        serve_pods(&network, &resolver).await;
    };
    tokio::join!(objects.watch(&client), pods);
}

/// Answers queries at addresses of the host and of the network between the pods, until the tasks are
/// dropped.
fn serve_host(
    resolver: &Arc<Resolver>,
    addresses: &Addresses,
    router: Option<&Arc<dyn PodSockets>>,
) -> Vec<Task<()>> {
    let server = SocketAddr::from((addresses.dns_server(), DNS_SERVER_PORT));
    let host: Arc<dyn PodSockets> = Arc::new(HostSockets);
    let mut tasks = vec![
        spawn_named("dns udp", server::serve_udp(resolver.clone(), host.clone(), server, RESTART)),
        spawn_named("dns tcp", server::serve_tcp(resolver.clone(), server, RESTART)),
    ];
    // Where the cluster IP is not an address of each pod; connections to it come through the Service.
    let plain = (addresses.sandbox == Sandbox::Plain).then_some(&host);
    if let Some(sockets) = router.or(plain) {
        let service = SocketAddr::from((addresses.dns(), DNS_PORT));
        let udp = server::serve_udp(resolver.clone(), sockets.clone(), service, RESTART);
        tasks.push(spawn_named("dns service", udp));
    }
    tasks
}

/// Answers the queries of every attached pod, until dropped.
async fn serve_pods(network: &Network, resolver: &Arc<Resolver>) {
    let mut serving: HashMap<IpAddr, (Arc<dyn PodSockets>, Task<()>)> = HashMap::new();
    let (_, mut changes): (_, watch::Receiver<u64>) = network.attached();
    loop {
        let (attached, _) = network.attached();
        let mut before = std::mem::take(&mut serving);
        for (pod, sockets) in attached.into_iter().filter(|(_, s)| s.dns_queries().is_some()) {
            let kept = before.remove(&pod).filter(|(known, _)| Arc::ptr_eq(known, &sockets));
            let kept = kept.unwrap_or_else(|| {
                let queries = server::serve_pod(resolver.clone(), sockets.clone());
                (sockets, spawn_named("dns pod", queries))
            });
            serving.insert(pod, kept);
        }
        // Before the next wait: a socket keeps the network namespace of its pod alive.
        drop(before);
        if changes.changed().await.is_err() {
            return;
        }
    }
}
