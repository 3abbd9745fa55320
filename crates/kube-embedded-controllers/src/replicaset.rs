//! Replica sets: keeps as many pods as wanted, whoever deletes or adds some.

mod plan;

use super::{
    World,
    cache::Key,
    ownership,
    pods::{self, Hand},
    queue::Queue,
    selection::{controller, is_controlled_by},
    write::{self, Part},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetStatus},
    core::v1::Pod,
};
use kube::Api;
use kube_embedded_core::events::{self, Recorder};
use plan::{Failure, Observed};
use std::{sync::Arc, time::Duration};

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
            let Some(world) = weak.upgrade() else { return };
            for pod in [before, after].into_iter().flatten() {
                ownership::wake(&wake, &world.replica_sets, &pod.metadata);
            }
        });
        let events = Recorder::new(world.client.clone(), "replicaset-controller", "");
        Self { world: world.clone(), queue, events }
    }

    pub(crate) async fn run(self) {
        loop {
            let key = self.queue.next().await;
            let outcome = self.reconcile(&key).await;
            self.queue.looked(key, outcome);
        }
    }

    async fn reconcile(&self, key: &Key) -> kube::Result<Option<Duration>> {
        let world = &self.world;
        let Some(set) = world.replica_sets.get(key) else { return Ok(None) };
        let api: Api<ReplicaSet> = Api::namespaced(world.client.clone(), &key.namespace);
        let pods_api: Api<Pod> = Api::namespaced(world.client.clone(), &key.namespace);
        // A finished pod is no replica, so nobody needs it.
        let wanted = |pod: &Pod| !write::is_finished(pod);
        let claimed = ownership::owned(&*set, &api, &pods_api, &world.pods, wanted).await?;
        let Some(pods) = claimed else { return Ok(None) };
        let related = self.related(&set);
        let plan = plan::plan(&set, &Observed { pods: &pods, related: &related }, Timestamp::now());
        let failed = self.act(&set, &pods_api, &plan).await;
        // Counted on what the writes left; what they changed asks for another look anyway.
        let now = pods::of(world, &set.metadata);
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

    /// Creates and deletes; the last failure and its reason.
    async fn act(
        &self,
        set: &ReplicaSet,
        api: &Api<Pod>,
        plan: &plan::Plan,
    ) -> Option<(&'static str, kube::Error)> {
        let about = events::about(set);
        let hand = Hand { world: &self.world, api, events: &self.events, owner: &about };
        let created = hand.create(&plan.create).await.err().map(|error| ("FailedCreate", error));
        let deleted = hand.delete(plan.delete.iter()).await;
        deleted.err().map(|error| ("FailedDelete", error)).or(created)
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

    /// The pods of all sets of the same deployment: those on crowded nodes are deleted first.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let Some(owner) = controller(&set.metadata) else {
            return pods::of(&self.world, &set.metadata);
        };
        let sets = self.world.replica_sets.in_namespace(namespace);
        let siblings =
            sets.iter().filter(|sibling| is_controlled_by(&sibling.metadata, Some(&owner.uid)));
        siblings.flat_map(|sibling| pods::of(&self.world, &sibling.metadata)).collect()
    }
}
