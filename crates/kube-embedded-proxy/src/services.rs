//! Services: ClusterIPs, node ports and load balancers. Stands for kube-proxy and for the service
//! controller of a cloud provider.

pub(crate) mod endpoints;
pub(crate) mod objects;
pub(crate) mod plan;
mod pod_listeners;
mod reconciler;
mod state;
pub(crate) mod udp;

use crate::{
    config::Config,
    data_plane::{DataPlane, ListenerError},
    load_balancer::Bind,
    retry::Retry,
    watches::{EVENTS_PER_ROUND, events},
};
use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::Client;
use objects::{ObjectEvent, Objects};
use reconciler::ServiceReconciler;
use std::{
    collections::BTreeSet,
    iter, mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::sync::mpsc;

/// Errors of listeners, by their address.
pub(crate) type ListenerErrors = mpsc::Receiver<(SocketAddr, ListenerError)>;

/// Reconciles listeners with Services until dropped. Errors of listeners on addresses of Ingresses and
/// Gateways are passed on.
pub(crate) async fn run(
    client: Client,
    config: &Config,
    data_plane: Arc<DataPlane>,
    bind: Bind,
    mut errors: ListenerErrors,
    ingress_errors: mpsc::Sender<(SocketAddr, ListenerError)>,
    gateway_errors: mpsc::Sender<(SocketAddr, ListenerError)>,
) {
    let ingress_addresses: BTreeSet<Ipv4Addr> = config.addresses.ingresses().collect();
    let gateway_addresses: BTreeSet<Ipv4Addr> = config.addresses.gateways().collect();
    let mut reconciler = ServiceReconciler::new(client.clone(), config, data_plane, bind);
    let objects = Objects::default();
    let mut watches = watch(&client, config);
    let (_, mut attached) = config.network.attached();
    let (mut mode, mut retry) = (config.mode.clone(), Retry::default());
    loop {
        tokio::select! {
            Some(first) = watches.next() => {
                objects.apply(first);
                let more = iter::from_fn(|| watches.next().now_or_never().flatten());
                for event in more.take(EVENTS_PER_ROUND) {
                    objects.apply(event);
                }
            }
            Some(written) = reconciler.statuses.next() => {
                reconciler.status_written(written, &objects);
            }
            Some((at, error)) = errors.recv() => match at.ip() {
                IpAddr::V4(v4) if ingress_addresses.contains(&v4) => {
                    // Dropping it is fine: a full channel already holds earlier reports.
                    let _ = ingress_errors.try_send((at, error));
                }
                IpAddr::V4(v4) if gateway_addresses.contains(&v4) => {
                    let _ = gateway_errors.try_send((at, error));
                }
                _ => reconciler.listener_failed(at, error),
            },
            Ok(()) = attached.changed() => reconciler.sync_pod_listeners(&objects),
            () = mode.nodes_changed() => {
                reconciler.ownership.topology = config.topology();
                objects.requeue_all();
            }
            () = retry.due(!reconciler.unfinished.is_empty()) => {
                mem::take(&mut reconciler.unfinished)
                    .into_iter()
                    .for_each(|service| objects.requeue(service));
            }
        }
        if objects.synced() {
            reconciler.reconcile(&objects).await;
        }
    }
}

fn watch(client: &Client, config: &Config) -> BoxStream<'static, ObjectEvent> {
    let services = events::<Service>(client).map(ObjectEvent::Service);
    let slices = events::<EndpointSlice>(client).map(ObjectEvent::Slice);
    // Only listeners inside pods depend on pods.
    let pods = match config.has_pod_listeners() {
        true => events::<Pod>(client).map(ObjectEvent::Pod).boxed(),
        false => stream::pending().boxed(),
    };
    stream::select_all([services.boxed(), slices.boxed(), pods]).boxed()
}

#[cfg(test)]
mod tests;
