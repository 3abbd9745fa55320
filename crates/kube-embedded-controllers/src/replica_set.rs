//! The replica set controller: keeps the desired number of pods.

mod plan;

use crate::{
    controller::{Controller, Reconciler, enqueue_changed},
    controller_ref::{claim, controller_of, enqueue_owner, is_controlled_by},
    informers::Informers,
    patch,
    pod::is_finished,
    pod_control::PodControl,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetStatus},
    core::v1::Pod,
};
use kube::Api;
use kube_embedded_core::{
    events::{self, Recorder},
    informer::ObjectKey,
    workqueue::Workqueue,
};
use plan::{Failure, Observed, Plan, plan};
use std::{sync::Arc, time::Duration};

const NAME: &str = "replicaset-controller";
/// The default of kube-controller-manager's `--concurrent-replicaset-syncs`.
const WORKERS: usize = 5;

/// Reconciles one replica set and its pods.
pub(crate) struct ReplicaSetReconciler {
    informers: Arc<Informers>,
    events: Recorder,
}

/// Creates the controller and registers its event handlers.
pub(crate) fn controller(informers: &Arc<Informers>) -> Controller<ReplicaSetReconciler> {
    let queue = Arc::new(Workqueue::default());
    enqueue_changed(&informers.replica_sets, &queue);
    let (enqueued, weak) = (queue.clone(), Arc::downgrade(informers));
    informers.pods.add_event_handler(move |old, new| {
        let Some(informers) = weak.upgrade() else { return };
        for pod in [old, new].into_iter().flatten() {
            enqueue_owner(&enqueued, &informers.replica_sets, &pod.metadata);
        }
    });
    let events = Recorder::new(informers.client.clone(), NAME, "");
    let reconciler = ReplicaSetReconciler { informers: informers.clone(), events };
    Controller::new(NAME, WORKERS, queue, reconciler)
}

impl Reconciler for ReplicaSetReconciler {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let informers = &self.informers;
        let Some(set) = informers.replica_sets.get(key) else { return Ok(None) };
        let api: Api<ReplicaSet> = Api::namespaced(informers.client.clone(), &key.namespace);
        let pods_api: Api<Pod> = Api::namespaced(informers.client.clone(), &key.namespace);
        // Finished pods are not replicas, so they are not adopted.
        let adoptable = |pod: &Pod| !is_finished(pod);
        let claimed = claim(&*set, &api, &pods_api, &informers.pods, adoptable).await?;
        let Some(pods) = claimed else { return Ok(None) };
        let related = self.related(&set);
        let plan = plan(&set, &Observed { pods: &pods, related: &related }, Timestamp::now());
        let failed = self.execute(&set, &pods_api, &plan).await;
        // Counted after the writes, whose changes enqueue the set again in any case.
        let pods = informers.pods_controlled_by(&set.metadata);
        let failure = failed
            .as_ref()
            .map(|(reason, error)| Failure { reason, message: patch::message(error) });
        let status = plan::status(&set, &pods, failure, Timestamp::now());
        if set.status.as_ref() != Some(&status) {
            self.update_status(&set, &api, status).await?;
        }
        match failed {
            Some((_, error)) => Err(error),
            None => Ok(plan.requeue_after),
        }
    }
}

impl ReplicaSetReconciler {
    /// Creates and deletes pods. Returns the last failure with its reason.
    async fn execute(
        &self,
        set: &ReplicaSet,
        api: &Api<Pod>,
        plan: &Plan,
    ) -> Option<(&'static str, kube::Error)> {
        let owner = events::about(set);
        let pods =
            PodControl { informers: &self.informers, api, events: &self.events, owner: &owner };
        let created = pods.create(&plan.create).await.err().map(|error| ("FailedCreate", error));
        let deleted = pods.delete(plan.delete.iter()).await;
        deleted.err().map(|error| ("FailedDelete", error)).or(created)
    }

    async fn update_status(
        &self,
        set: &ReplicaSet,
        api: &Api<ReplicaSet>,
        status: ReplicaSetStatus,
    ) -> kube::Result<()> {
        let new = ReplicaSet { status: Some(status), ..set.clone() };
        match patch::update_status(api, &self.informers.replica_sets, set, &new).await {
            // Deleted in the meantime; the watch reports it.
            Err(error) if patch::is_status(&error, 404) => Ok(()),
            other => other,
        }
    }

    /// Returns the pods of all sets of the same deployment: those on crowded nodes are deleted
    /// first.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let informers = &self.informers;
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let Some(owner) = controller_of(&set.metadata) else {
            return informers.pods_controlled_by(&set.metadata);
        };
        let sets = informers.replica_sets.list_namespaced(namespace);
        let siblings =
            sets.iter().filter(|sibling| is_controlled_by(&sibling.metadata, Some(&owner.uid)));
        siblings.flat_map(|sibling| informers.pods_controlled_by(&sibling.metadata)).collect()
    }
}
