//! The Gateway API: Gateways, ListenerSets, routes of HTTP, gRPC, TLS, TCP and UDP,
//! BackendTLSPolicies and ReferenceGrants, each Gateway with an address of its own. Stands for an implementation such as Envoy Gateway.
//!
//! It runs from the moment that the CustomResourceDefinitions exist, and shares its data plane with
//! Ingresses: [`crate::http_proxy`].

mod api;
mod attachment;
mod backends;
mod conditions;
mod conversion;
mod crds;
mod features;
mod frontends;
mod gateway_tls;
mod hostname;
mod listener_sets;
mod listeners;
mod object;
mod objects;
mod plan;
mod planner;
mod policies;
mod reconciler;
mod references;
mod rules;
mod status;
mod view;

pub use crds::GATEWAY_CLASS;
pub use view::GATEWAY_CONTROLLER;

use crate::{
    config::{Config, Mode},
    data_plane::DataPlane,
    load_balancer::Bind,
    retry::Retry,
    secrets::NamedObjects,
    services::ListenerErrors,
    watches::EVENTS_PER_ROUND,
};
use futures::{FutureExt, StreamExt};
use kube::Client;
use objects::{GatewayEvent, Objects, Watches};
use reconciler::{GatewayReconciler, References};
use status::Written;
use std::{iter, mem, sync::Arc};

/// Reconciles listeners with Gateways until dropped. `errors` are those of listeners on their
/// addresses.
pub(crate) async fn run(
    client: Client,
    config: &Config,
    data_plane: Arc<DataPlane>,
    bind: Bind,
    mut errors: ListenerErrors,
) {
    let mut reconciler = GatewayReconciler::new(&client, config, data_plane, bind);
    let mut watches = Watches::new();
    let mut references = References {
        secrets: NamedObjects::new(client.clone(), GatewayEvent::Secret),
        config_maps: NamedObjects::new(client.clone(), GatewayEvent::ConfigMap),
    };
    let mut objects = Objects::new(client.clone(), &mut watches);
    let (mut needs_crds, mut needs_class) = match config.mode {
        Mode::Embedded { gateway_api, .. } => (gateway_api, true),
        Mode::External(_) => (false, false),
    };
    let (mut mode, mut retry) = (config.mode.clone(), Retry::default());
    loop {
        if needs_crds {
            needs_crds = !crds::install(&client).await;
            reconciler.unfinished |= needs_crds;
        }
        let is_due = tokio::select! {
            Some(first) = watches.next() => {
                let more = iter::from_fn(|| watches.next().now_or_never().flatten());
                let events: Vec<_> = iter::once(first).chain(more.take(EVENTS_PER_ROUND)).collect();
                events.into_iter().fold(false, |due, event| {
                    let of_reference = references.apply(&event);
                    if of_reference {
                        objects.requeue_all();
                    }
                    objects.apply(event, &mut watches) || of_reference || due
                })
            }
            first = reconciler.statuses.next(&objects.kinds) => {
                let statuses = &mut reconciler.statuses;
                let more = iter::from_fn(|| statuses.next(&objects.kinds).now_or_never());
                let written: Vec<_> = iter::once(first).chain(more).collect();
                let any = |follows| written.iter().any(|ended| ended.follows == follows);
                // Not after a failure alone: it would be repeated as fast as the API server refuses it.
                let (failed, again) = (any(Written::Failed), any(Written::Again));
                reconciler.unfinished |= failed;
                written.into_iter().for_each(|ended| objects.status_written(ended));
                again
            }
            Some((at, error)) = errors.recv() => {
                reconciler.listener_failed(at, error);
                false
            }
            () = mode.nodes_changed() => {
                reconciler.set_topology(config.topology());
                objects.requeue_all();
                true
            }
            () = retry.due(reconciler.unfinished) => {
                objects.requeue_statuses();
                mem::take(&mut reconciler.unfinished)
            }
        };
        if is_due && objects.synced(&mut watches) {
            if needs_class {
                needs_class = !crds::create_class(&client).await;
                reconciler.unfinished |= needs_class;
            }
            reconciler.reconcile(&mut objects, &mut references, &mut watches).await;
        }
    }
}

#[cfg(test)]
mod tests;
