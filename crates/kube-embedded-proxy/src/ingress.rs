//! Ingress: HTTP by host and path, and TLS, on one address for each namespace that has Ingresses.
//! Stands for an Ingress controller such as ingress-nginx.
//!
//! The Ingresses of a namespace share an address and are one set of rules, in which the oldest wins;
//! those of another namespace cannot disturb them. This loop runs alongside that of the Services, so
//! that neither waits for the other, and both use one data plane.

mod namespace;
mod objects;
mod plan;
mod reconciler;

use crate::{
    config::Config, data_plane::DataPlane, load_balancer::Bind, retry::Retry, secrets::Secrets,
    services::ListenerErrors, watches::EVENTS_PER_ROUND,
};
use futures::{FutureExt, StreamExt};
use kube::Client;
use objects::{IngressEvent, Objects, Watches};
use reconciler::IngressReconciler;
use std::{iter, mem, sync::Arc};

pub use objects::{INGRESS_CLASS, INGRESS_CONTROLLER};

/// Reconciles listeners with Ingresses until dropped. `errors` are those of listeners on Ingress
/// addresses.
pub(crate) async fn run(
    client: Client,
    config: &Config,
    data_plane: Arc<DataPlane>,
    bind: Bind,
    mut errors: ListenerErrors,
) {
    let mut reconciler = match IngressReconciler::new(client.clone(), config, data_plane, bind) {
        Ok(reconciler) => reconciler,
        Err(error) => {
            tracing::error!(%error, "failed to start the Ingress controller; no Ingress is served");
            return;
        }
    };
    let mut watches = Watches::new();
    let mut secrets = Secrets::new(client.clone(), IngressEvent::Secret);
    let mut objects = Objects::new(client, &mut watches);
    let (mut mode, mut retry) = (config.mode.clone(), Retry::default());
    loop {
        tokio::select! {
            Some(first) = watches.next() => {
                objects.apply(first, &mut secrets);
                let more = iter::from_fn(|| watches.next().now_or_never().flatten());
                more.take(EVENTS_PER_ROUND).for_each(|event| objects.apply(event, &mut secrets));
            }
            Some(written) = reconciler.statuses.next() => {
                reconciler.status_written(written, &objects);
            }
            Some((at, error)) = errors.recv() => reconciler.listener_failed(at, error),
            () = mode.nodes_changed() => {
                reconciler.ownership.topology = config.topology();
                objects.requeue_all();
            }
            () = retry.due(!reconciler.unfinished.is_empty()) => {
                mem::take(&mut reconciler.unfinished)
                    .into_iter()
                    .for_each(|namespace| objects.requeue(namespace));
            }
        }
        if objects.synced(&mut watches) {
            reconciler.reconcile(&objects, &mut secrets, &mut watches).await;
        }
    }
}

#[cfg(test)]
mod tests;
