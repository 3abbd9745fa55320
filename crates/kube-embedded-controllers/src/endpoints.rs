//! The endpoint slice controller, and the older endpoints controller: which pods a Service may send
//! to. A pod stops being ready with the very event that reports its deletion, so that load balancers
//! stop using it before it stops serving.

mod common;
mod legacy;
mod plan;

use crate::{
    controller::{Controller, Reconciler, enqueue_changed},
    informers::Informers,
    selector::service_matches,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Endpoints, Pod},
    discovery::v1::EndpointSlice,
};
use kube::Api;
use kube_embedded_core::{informer::ObjectKey, workqueue::Workqueue};
use plan::{Plan, SERVICE_NAME};
use std::{sync::Arc, time::Duration};

const NAME: &str = "endpointslice-controller";
/// The default of kube-controller-manager's `--concurrent-service-endpoint-syncs`.
const WORKERS: usize = 5;

/// Reconciles the slices and the Endpoints object of one Service.
pub(crate) struct EndpointsReconciler {
    informers: Arc<Informers>,
}

/// Creates the controller and registers its event handlers.
pub(crate) fn controller(informers: &Arc<Informers>) -> Controller<EndpointsReconciler> {
    let queue = Arc::new(Workqueue::default());
    enqueue_changed(&informers.services, &queue);
    let (enqueued, weak) = (queue.clone(), Arc::downgrade(informers));
    informers.pods.add_event_handler(move |old, new| {
        let (Some(informers), Some(pod)) = (weak.upgrade(), new.or(old)) else { return };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for service in informers.services.list_namespaced(namespace) {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let matches = |pod: &Arc<Pod>| service_matches(selector, pod.metadata.labels.as_ref());
            if [old, new].into_iter().flatten().any(matches) {
                enqueued.add(ObjectKey::of(&*service));
            }
        }
    });
    // Reverts external edits to the slices and Endpoints that this controller manages.
    let enqueued = queue.clone();
    informers.endpoint_slices.add_event_handler(move |old, new| {
        let Some(meta) = new.or(old).map(|slice| &slice.metadata) else { return };
        let service = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if let Some(service) = service {
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            enqueued.add(ObjectKey::new(namespace, service));
        }
    });
    enqueue_changed(&informers.endpoints, &queue);
    let reconciler = EndpointsReconciler { informers: informers.clone() };
    Controller::new(NAME, WORKERS, queue, reconciler)
}

impl Reconciler for EndpointsReconciler {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let informers = &self.informers;
        let service = informers.services.get(key);
        let mut slices = informers.endpoint_slices.list_namespaced(&key.namespace);
        slices.retain(|slice| plan::is_managed(slice, &key.name));
        let endpoints = informers.endpoints.get(key);
        let spec = service.as_ref().and_then(|service| service.spec.as_ref());
        let selector = spec.and_then(|spec| spec.selector.as_ref());
        let mut pods = match selector {
            None => Vec::new(),
            Some(_) => informers.pods.list_namespaced(&key.namespace),
        };
        pods.retain(|pod| service_matches(selector, pod.metadata.labels.as_ref()));
        let now = Timestamp::now();
        let plan = plan::plan(service.as_deref(), &pods, &slices, endpoints.as_ref(), now);
        self.execute(key, plan).await?;
        Ok(None)
    }
}

impl EndpointsReconciler {
    async fn execute(&self, key: &ObjectKey, plan: Plan) -> kube::Result<()> {
        let Informers { client, endpoint_slices, endpoints, .. } = &*self.informers;
        let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &key.namespace);
        for write in plan.slices {
            write.execute(&api, endpoint_slices).await?;
        }
        let api: Api<Endpoints> = Api::namespaced(client.clone(), &key.namespace);
        if let Some(write) = plan.endpoints {
            write.execute(&api, endpoints).await?;
        }
        Ok(())
    }
}
