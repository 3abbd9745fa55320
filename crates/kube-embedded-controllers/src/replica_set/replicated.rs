//! What the replica set controller keeps at a number of pods: ReplicaSets, and ReplicationControllers, which it sees as
//! such (the adapters of kube-controller-manager's `replicationcontroller`).

use crate::{controller_ref::Selecting, informers::Informers};
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::{
            ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Resource, core::NamespaceResourceScope};
use kube_embedded_core::informer::Informer;
use std::borrow::Cow;

/// A resource that has a number of replicas of one pod.
pub(crate) trait Replicated: Selecting + Resource<Scope = NamespaceResourceScope> {
    /// The name of the controller.
    const CONTROLLER: &str;

    /// Returns the informer of the resource.
    fn informer(informers: &Informers) -> &Informer<Self>;

    /// Returns the object as a replica set.
    fn as_replica_set(&self) -> Cow<'_, ReplicaSet>;

    /// Returns the object with the status of a replica set.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &str = "replicaset-controller";

    fn informer(informers: &Informers) -> &Informer<Self> {
        &informers.replica_sets
    }

    fn as_replica_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: &str = "replication-controller";

    fn informer(informers: &Informers) -> &Informer<Self> {
        &informers.replication_controllers
    }

    fn as_replica_set(&self) -> Cow<'_, ReplicaSet> {
        let spec = self.spec.as_ref().map(|spec| ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector: LabelSelector { match_labels: spec.selector.clone(), ..Default::default() },
            template: spec.template.clone(),
        });
        let status = self.status.as_ref().map(|status| ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.clone().map(|all| convert(all, to_replica_set)),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            terminating_replicas: None,
        });
        Cow::Owned(ReplicaSet { metadata: self.metadata.clone(), spec, status })
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let status = ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|all| convert(all, to_replication_controller)),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        };
        Self { status: Some(status), ..self.clone() }
    }
}

fn convert<A, B>(conditions: Vec<A>, each: fn(A) -> B) -> Vec<B> {
    conditions.into_iter().map(each).collect()
}

fn to_replica_set(condition: ReplicationControllerCondition) -> ReplicaSetCondition {
    let ReplicationControllerCondition { last_transition_time, message, reason, status, type_ } =
        condition;
    ReplicaSetCondition { last_transition_time, message, reason, status, type_ }
}

fn to_replication_controller(condition: ReplicaSetCondition) -> ReplicationControllerCondition {
    let ReplicaSetCondition { last_transition_time, message, reason, status, type_ } = condition;
    ReplicationControllerCondition { last_transition_time, message, reason, status, type_ }
}
