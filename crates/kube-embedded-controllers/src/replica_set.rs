//! The replica set controller, and the replication controller: keep the desired number of pods.

mod plan;
mod replicated;

use crate::{
    controller::{Controller, Reconciler, enqueue_changed},
    controller_ref::{claim, controller_of, controller_ref, enqueue_owner, is_controlled_by},
    informers::Informers,
    patch,
    pod::is_finished,
    pod_control::PodControl,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube_embedded_core::{
    events::{self, Recorder},
    informer::ObjectKey,
    workqueue::Workqueue,
};
use plan::{Failure, Observed, Plan, plan};
pub(crate) use replicated::Replicated;
use std::{marker::PhantomData, sync::Arc, time::Duration};

/// The default of kube-controller-manager's `--concurrent-replicaset-syncs` and `--concurrent-rc-syncs`.
const WORKERS: usize = 5;

/// Reconciles one replica set, or replication controller, and its pods.
pub(crate) struct ReplicaSetReconciler<S> {
    informers: Arc<Informers>,
    events: Recorder,
    of: PhantomData<fn() -> S>,
}

/// Creates the controller and registers its event handlers.
pub(crate) fn controller<S: Replicated>(
    informers: &Arc<Informers>,
) -> Controller<ReplicaSetReconciler<S>> {
    let queue = Arc::new(Workqueue::default());
    enqueue_changed(S::informer(informers), &queue);
    let (enqueued, weak) = (queue.clone(), Arc::downgrade(informers));
    informers.pods.add_event_handler(move |old, new| {
        let Some(informers) = weak.upgrade() else { return };
        for pod in [old, new].into_iter().flatten() {
            enqueue_owner(&enqueued, S::informer(&informers), &pod.metadata);
        }
    });
    let events = Recorder::new(informers.client.clone(), S::CONTROLLER, "");
    let reconciler = ReplicaSetReconciler { informers: informers.clone(), events, of: PhantomData };
    Controller::new(S::CONTROLLER, WORKERS, queue, reconciler)
}

impl<S: Replicated> Reconciler for ReplicaSetReconciler<S> {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let informers = &self.informers;
        let Some(owner) = S::informer(informers).get(key) else { return Ok(None) };
        let api: Api<S> = Api::namespaced(informers.client.clone(), &key.namespace);
        let pods_api: Api<Pod> = Api::namespaced(informers.client.clone(), &key.namespace);
        // Finished pods are not replicas, so they are not adopted.
        let adoptable = |pod: &Pod| !is_finished(pod);
        let claimed = claim(&*owner, &api, &pods_api, &informers.pods, adoptable).await?;
        let Some(pods) = claimed else { return Ok(None) };
        let set = owner.as_replica_set();
        let related = self.related(&owner);
        let observed = Observed { pods: &pods, related: &related };
        let plan = plan(&set, &controller_ref(&*owner), &observed, Timestamp::now());
        let failed = self.execute(&owner, &pods_api, &plan).await;
        // Counted after the writes, whose changes enqueue the set again in any case.
        let pods = informers.pods_controlled_by(&set.metadata);
        let failure = failed
            .as_ref()
            .map(|(reason, error)| Failure { reason, message: patch::message(error) });
        let status = plan::status(&set, &pods, failure, Timestamp::now());
        if set.status.as_ref() != Some(&status) {
            self.update_status(&owner, &api, owner.with_status(status)).await?;
        }
        match failed {
            Some((_, error)) => Err(error),
            None => Ok(plan.requeue_after),
        }
    }
}

impl<S: Replicated> ReplicaSetReconciler<S> {
    /// Creates and deletes pods. Returns the last failure with its reason.
    async fn execute(
        &self,
        owner: &S,
        api: &Api<Pod>,
        plan: &Plan,
    ) -> Option<(&'static str, kube::Error)> {
        let owner = events::about(owner);
        let pods =
            PodControl { informers: &self.informers, api, events: &self.events, owner: &owner };
        let created = pods.create(&plan.create).await.err().map(|error| ("FailedCreate", error));
        let deleted = pods.delete(plan.delete.iter()).await;
        deleted.err().map(|error| ("FailedDelete", error)).or(created)
    }

    async fn update_status(&self, old: &S, api: &Api<S>, new: S) -> kube::Result<()> {
        match patch::update_status(api, S::informer(&self.informers), old, &new).await {
            // Deleted in the meantime; the watch reports it.
            Err(error) if patch::is_status(&error, 404) => Ok(()),
            other => other,
        }
    }

    /// Returns the pods of all sets of the same deployment: those on crowded nodes are deleted
    /// first.
    fn related(&self, set: &S) -> Vec<Arc<Pod>> {
        let informers = &self.informers;
        let meta = set.meta();
        let Some(owner) = controller_of(meta) else { return informers.pods_controlled_by(meta) };
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let sets = S::informer(informers).list_namespaced(namespace);
        let siblings =
            sets.iter().filter(|sibling| is_controlled_by(sibling.meta(), Some(&owner.uid)));
        siblings.flat_map(|sibling| informers.pods_controlled_by(sibling.meta())).collect()
    }
}
