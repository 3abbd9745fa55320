//! Mirrors Endpoints that a client wrote to endpoint slices, which proxies read (kube-controller-manager's
//! `endpointslice-mirroring-controller`). Only for Services without a selector: the others have slices of their own.

mod plan;

use crate::{
    controller::{Controller, Reconciler, enqueue_changed},
    informers::Informers,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube_embedded_core::{informer::ObjectKey, workqueue::Workqueue};
use std::{sync::Arc, time::Duration};

const NAME: &str = "endpoint-slice-mirroring-controller";
/// The default of kube-controller-manager's `--mirroring-concurrent-service-endpoint-syncs`.
const WORKERS: usize = 5;

/// Reconciles the mirrored slices of one Endpoints object.
pub(crate) struct MirroringReconciler {
    informers: Arc<Informers>,
}

/// Creates the controller and registers its event handlers.
pub(crate) fn controller(informers: &Arc<Informers>) -> Controller<MirroringReconciler> {
    let queue = Arc::new(Workqueue::default());
    enqueue_changed(&informers.endpoints, &queue);
    enqueue_changed(&informers.services, &queue);
    let enqueued = queue.clone();
    informers.endpoint_slices.add_event_handler(move |old, new| {
        for slice in [old, new].into_iter().flatten() {
            if let Some(name) = plan::mirrored(slice) {
                let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
                enqueued.add(ObjectKey::new(namespace, name));
            }
        }
    });
    Controller::new(NAME, WORKERS, queue, MirroringReconciler { informers: informers.clone() })
}

impl Reconciler for MirroringReconciler {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Informers { client, services, endpoints, endpoint_slices, .. } = &*self.informers;
        let mut slices = endpoint_slices.list_namespaced(&key.namespace);
        slices.retain(|slice| plan::mirrored(slice) == Some(&*key.name));
        let service = services.get(key);
        let source = endpoints.get(key);
        let source = source.filter(|source| plan::is_mirrored(source, service.as_deref()));
        let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &key.namespace);
        for write in plan::plan(source.as_deref(), &slices) {
            write.execute(&api, endpoint_slices).await?;
        }
        Ok(None)
    }
}
