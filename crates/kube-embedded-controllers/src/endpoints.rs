//! Endpoint slices, and the older Endpoints beside them: which pods a Service may send to. A pod
//! leaves the ready ones with the very event that says it is being deleted, so that whoever
//! balances load stops using it before it stops serving.

mod plan;

use super::{
    World,
    cache::Key,
    queue::Queue,
    selection::matches_all,
    write::{self, Part},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Endpoints, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::Api;
use plan::{Action, SERVICE_NAME};
use std::sync::Arc;

/// The controller, listening to what it depends on.
pub(crate) struct Controller {
    world: Arc<World>,
    queue: Arc<Queue<Key>>,
}

impl Controller {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let queue = Arc::new(Queue::default());
        let wake = queue.clone();
        world.services.on_change(move |before: Option<&Service>, after| {
            if let Some(service) = after.or(before) {
                wake.add(Key::of(service));
            }
        });
        let (wake, weak) = (queue.clone(), Arc::downgrade(world));
        world.pods.on_change(move |before: Option<&Pod>, after| {
            let Some(namespace) =
                after.or(before).and_then(|pod| pod.metadata.namespace.as_deref())
            else {
                return;
            };
            let Some(world) = weak.upgrade() else { return };
            for service in world.services.in_namespace(namespace) {
                let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                let takes = |pod: &Pod| matches_all(selector, pod.metadata.labels.as_ref());
                if [before, after].into_iter().flatten().any(takes) {
                    wake.add(Key::of(&*service));
                }
            }
        });
        // Somebody else's changes to what is ours are put right.
        let wake = queue.clone();
        world.slices.on_change(move |before: Option<&EndpointSlice>, after| {
            let Some(meta) = after.or(before).map(|slice| &slice.metadata) else { return };
            let service = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
            if let Some(service) = service {
                wake.add(Key::new(meta.namespace.as_deref().unwrap_or_default(), service));
            }
        });
        let wake = queue.clone();
        world.endpoints.on_change(move |before: Option<&Endpoints>, after| {
            if let Some(endpoints) = after.or(before) {
                wake.add(Key::of(endpoints));
            }
        });
        Self { world: world.clone(), queue }
    }

    pub(crate) async fn run(self) {
        loop {
            let key = self.queue.next().await;
            let outcome = self.reconcile(&key).await;
            self.queue.looked(key, outcome.map(|()| None));
        }
    }

    async fn reconcile(&self, key: &Key) -> kube::Result<()> {
        let world = &self.world;
        let service = world.services.get(key);
        let slices: Vec<Arc<EndpointSlice>> = world
            .slices
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|slice| plan::is_ours(slice, &key.name))
            .collect();
        let endpoints = world.endpoints.get(key);
        let selector = service.as_ref().and_then(|service| service.spec.as_ref()?.selector.clone());
        let pods: Vec<Arc<Pod>> = match &selector {
            None => Vec::new(),
            Some(_) => world
                .pods
                .in_namespace(&key.namespace)
                .into_iter()
                .filter(|pod| matches_all(selector.as_ref(), pod.metadata.labels.as_ref()))
                .collect(),
        };
        let now = Timestamp::now();
        let actions = plan::plan(service.as_deref(), &pods, &slices, endpoints.as_ref(), now);
        let api: Api<EndpointSlice> = Api::namespaced(world.client.clone(), &key.namespace);
        let legacy: Api<Endpoints> = Api::namespaced(world.client.clone(), &key.namespace);
        for action in actions {
            match action {
                Action::Create(slice) => {
                    write::create(&api, &world.slices, &slice).await?;
                }
                Action::Update { old, new } => {
                    write::update(&api, &world.slices, Part::Main, &*old, &new).await?;
                }
                Action::Delete(slice) => write::delete(&api, &world.slices, &*slice).await?,
                Action::CreateLegacy(new) => {
                    write::create(&legacy, &world.endpoints, &new).await?;
                }
                Action::UpdateLegacy { old, new } => {
                    write::update(&legacy, &world.endpoints, Part::Main, &*old, &new).await?;
                }
                Action::DeleteLegacy(old) => {
                    write::delete(&legacy, &world.endpoints, &*old).await?;
                }
            }
        }
        Ok(())
    }
}
