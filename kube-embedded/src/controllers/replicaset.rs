//! Replica sets: keeps as many pods as wanted, whoever deletes or adds some.

mod plan;

use super::{
    World,
    cache::Key,
    events::{self, Recorder},
    queue::Queue,
    selection::{Claim, claim, controlled_by, controller, controller_named, matches},
    write::{self, Part},
};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Resource, ResourceExt};
use plan::{Failure, Observed};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, sync::Arc, time::Duration};

pub(crate) use plan::{is_active, is_ready, rank};

/// The controller, listening to what it depends on.
pub(crate) struct Controller {
    world: Arc<World>,
    queue: Arc<Queue<Key>>,
    events: Recorder,
}

impl Controller {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let queue = Arc::new(Queue::default());
        let wake = queue.clone();
        world.replica_sets.on_change(move |before: Option<&ReplicaSet>, after| {
            if let Some(set) = after.or(before) {
                wake.add(Key::of(set));
            }
        });
        let (wake, weak) = (queue.clone(), Arc::downgrade(world));
        world.pods.on_change(move |before: Option<&Pod>, after| {
            for pod in [before, after].into_iter().flatten() {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                if let Some(name) = controller_named(&pod.metadata, "ReplicaSet") {
                    wake.add(Key::new(namespace, name));
                } else if controller(&pod.metadata).is_none()
                    && let Some(world) = weak.upgrade()
                {
                    for set in world.replica_sets.in_namespace(namespace) {
                        let selector = set.spec.as_ref().map(|spec| &spec.selector);
                        if selector.is_some_and(|s| matches(s, pod.metadata.labels.as_ref())) {
                            wake.add(Key::of(&*set));
                        }
                    }
                }
            }
        });
        let events = Recorder::new(world.client.clone(), "replicaset-controller", "");
        Self { world: world.clone(), queue, events }
    }

    pub(crate) async fn run(self) {
        loop {
            let key = self.queue.next().await;
            match self.reconcile(&key).await {
                Ok(again) => {
                    self.queue.succeeded(&key);
                    if let Some(again) = again {
                        self.queue.add_after(key, again);
                    }
                }
                Err(error) if write::is_namespace_leaving(&error) => {}
                Err(_) => self.queue.failed(key),
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> kube::Result<Option<Duration>> {
        let world = &self.world;
        let Some(set) = world.replica_sets.get(key) else { return Ok(None) };
        let api: Api<ReplicaSet> = Api::namespaced(world.client.clone(), &key.namespace);
        let pods_api: Api<Pod> = Api::namespaced(world.client.clone(), &key.namespace);
        let Some(pods) = self.claim(&set, &api, &pods_api).await? else { return Ok(None) };
        let related = self.related(&set);
        let plan = plan::plan(&set, &Observed { pods: &pods, related: &related }, Timestamp::now());
        let failed = self.act(&set, &pods_api, &plan).await;
        // Counted on what the writes left; what they changed asks for another look anyway.
        let now = self.mine(&set);
        let failure = failed
            .as_ref()
            .map(|(reason, error)| Failure { reason, message: write::reason(error) });
        let status = plan::status(&set, &now, failure, Timestamp::now());
        if set.status.as_ref() != Some(&status) {
            self.put_status(&set, &api, status).await?;
        }
        match failed {
            Some((_, error)) => Err(error),
            None => Ok(plan.again),
        }
    }

    /// Creates and deletes; the first failure and its reason.
    async fn act(
        &self,
        set: &ReplicaSet,
        api: &Api<Pod>,
        plan: &plan::Plan,
    ) -> Option<(&'static str, kube::Error)> {
        let about = events::about(set);
        let cache = &self.world.pods;
        let created = join_all(plan.create.iter().map(|pod| write::create(api, cache, pod))).await;
        let mut failed = None;
        for result in created {
            match result {
                Ok(pod) => {
                    let text = format!("Created pod: {}", pod.name_any());
                    self.events.publish(&about, "Normal", "SuccessfulCreate", &text);
                }
                Err(error) => {
                    if !write::is_namespace_leaving(&error) {
                        let text = format!("Error creating: {}", write::reason(&error));
                        self.events.publish(&about, "Warning", "FailedCreate", &text);
                    }
                    failed = Some(("FailedCreate", error));
                }
            }
        }
        let gone = join_all(plan.delete.iter().map(|pod| write::delete(api, cache, &**pod))).await;
        for (pod, result) in plan.delete.iter().zip(gone) {
            match result {
                Ok(()) => {
                    let text = format!("Deleted pod: {}", pod.name_any());
                    self.events.publish(&about, "Normal", "SuccessfulDelete", &text);
                }
                Err(error) => {
                    let text = format!("Error deleting: {}", write::reason(&error));
                    self.events.publish(&about, "Warning", "FailedDelete", &text);
                    failed = Some(("FailedDelete", error));
                }
            }
        }
        failed
    }

    async fn put_status(
        &self,
        set: &ReplicaSet,
        api: &Api<ReplicaSet>,
        status: ReplicaSetStatus,
    ) -> kube::Result<()> {
        let new = ReplicaSet { status: Some(status), ..set.clone() };
        match write::update(api, &self.world.replica_sets, Part::Status, set, &new).await {
            // Deleted meanwhile; the watch will tell.
            Err(error) if write::is(&error, 404) => Ok(()),
            other => other,
        }
    }

    /// The pods that the set controls already.
    fn mine(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let uid = set.metadata.uid.as_deref();
        let mut pods = self.world.pods.in_namespace(namespace);
        pods.retain(|pod| super::selection::is_controlled_by(&pod.metadata, uid));
        pods
    }

    /// The pods of all sets of the same deployment: those on crowded nodes are deleted first.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let Some(owner) = controller(&set.metadata) else { return self.mine(set) };
        let sets = self.world.replica_sets.in_namespace(namespace);
        let siblings = sets.iter().filter(|sibling| {
            super::selection::is_controlled_by(&sibling.metadata, Some(&owner.uid))
        });
        siblings.flat_map(|sibling| self.mine(sibling)).collect()
    }

    /// The pods that are the set's. `None` when it is gone or another by now.
    async fn claim(
        &self,
        set: &ReplicaSet,
        api: &Api<ReplicaSet>,
        pods_api: &Api<Pod>,
    ) -> kube::Result<Option<Vec<Arc<Pod>>>> {
        let Some(spec) = &set.spec else { return Ok(None) };
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let mut ours = Vec::new();
        let pods = &self.world.pods;
        for pod in pods.in_namespace(namespace) {
            match claim(&set.metadata, &spec.selector, &pod.metadata) {
                Claim::Ours => ours.push(pod),
                Claim::Foreign => {}
                // A finished pod is no replica, so nobody needs it.
                Claim::Adopt if write::is_finished(&pod) => {}
                Claim::Release => {
                    let mut new = (*pod).clone();
                    let_go(&mut new.metadata, set.metadata.uid.as_deref());
                    write::update(pods_api, pods, Part::Main, &*pod, &new).await?;
                }
                Claim::Adopt => {
                    if !still_there(api, &set.metadata).await? {
                        return Ok(None);
                    }
                    let mut new = (*pod).clone();
                    let owners = new.metadata.owner_references.get_or_insert_default();
                    owners.push(controlled_by(set));
                    write::update(pods_api, pods, Part::Main, &*pod, &new).await?;
                    ours.extend(pods.get(&Key::of(&*pod)));
                }
            }
        }
        Ok(Some(ours))
    }
}

/// Takes an owner out of an object's references.
pub(crate) fn let_go(meta: &mut ObjectMeta, owner: Option<&str>) {
    if let Some(owners) = &mut meta.owner_references {
        owners.retain(|reference| Some(reference.uid.as_str()) != owner);
        if owners.is_empty() {
            meta.owner_references = None;
        }
    }
}

/// Whether an owner still exists and stays. Asked before adopting anything: an orphan of a
/// deleted owner must not be caught by a cache that does not know yet.
pub(crate) async fn still_there<K>(api: &Api<K>, meta: &ObjectMeta) -> kube::Result<bool>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let found = api.get_opt(meta.name.as_deref().unwrap_or_default()).await?;
    Ok(found.is_some_and(|found| {
        found.meta().uid == meta.uid && found.meta().deletion_timestamp.is_none()
    }))
}
