//! Ingress: HTTP by host and path, and TLS, on one address for each namespace that has Ingresses.
//! Stands for an Ingress controller such as ingress-nginx.
//!
//! The Ingresses of a namespace share an address and are one set of rules, in which the oldest wins;
//! those of another namespace cannot disturb them. This loop runs alongside that of the Services, so
//! that neither waits for the other, and both use one data plane.

mod certificates;
mod frontend;
pub(crate) mod http;
mod namespace;
mod objects;
mod plan;
mod reconciler;
mod route_table;
mod tls_secret;
mod x509;

use crate::{
    config::Config,
    data_plane::{DataPlane, Handler},
    load_balancer::Bind,
    retry::Retry,
    route::Route,
    services::ListenerErrors,
    watches::EVENTS_PER_ROUND,
};
use futures::{FutureExt, StreamExt};
use kube::Client;
use kube_embedded_core::network::Network;
use objects::{Objects, Secrets, Watches};
use reconciler::IngressReconciler;
use route_table::{Backend, RouteTable};
use std::{io, iter, mem, net::SocketAddr, sync::Arc};

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
    let mut secrets = Secrets::new(client.clone());
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

/// Creates the handler of an Ingress that has nothing but a default backend, listening at `at`.
///
/// # Errors
/// Fails if TLS cannot be set up, although the handler does not speak it.
#[doc(hidden)]
pub fn default_backend_handler(
    network: Arc<Network>,
    route: Arc<Route>,
    at: SocketAddr,
) -> io::Result<Arc<dyn Handler>> {
    let default_certificate = certificates::self_signed().map_err(io::Error::other)?;
    let frontend = frontend::Frontend::new(default_certificate).map_err(io::Error::other)?;
    let backend = Backend { name: "default backend".to_owned(), route };
    frontend.set_route_table(RouteTable::new([], Some(Arc::new(backend))));
    Ok(Arc::new(http::HttpListener::new(Arc::new(frontend), network, false, at)))
}

/// Parses a certificate as far as that is done here; for fuzzing.
pub(crate) fn fuzz_certificate(der: &[u8]) {
    if let Some(parsed) = x509::Certificate::parse(der) {
        let _ = (parsed.validity(), parsed.has_alternative_names(), parsed.common_name());
    }
}

#[cfg(test)]
mod tests;
