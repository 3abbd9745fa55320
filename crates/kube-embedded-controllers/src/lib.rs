//! Controllers and the scheduler (kube-controller-manager, kube-scheduler), which drive the actual
//! state of a cluster towards the desired one. Each is a pure `plan` function and a reconciler that
//! carries it out. They share one informer a resource and speak only the Kubernetes API.
//!
//! This crate is internal to the workspace: use `kube-embedded`.

mod cluster_role_aggregation;
mod controller;
mod controller_ref;
mod deployment;
mod discovery;
mod endpoint_slice_mirroring;
mod endpoints;
mod garbage_collector;
mod informers;
mod job;
mod namespace;
mod node_lifecycle;
mod patch;
mod pod;
mod pod_control;
mod replica_set;
mod scheduler;
mod selector;
mod taint_eviction;
mod taints;

use informers::Informers;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};
use kube::Client;
use kube_embedded_core::task::TaskSet;
use std::sync::Arc;

/// Runs all controllers and the scheduler until dropped.
pub async fn run(client: Client) {
    let informers = Arc::new(Informers::new(client));
    // Created before the first list, so that their event handlers miss no change.
    let namespaces = namespace::controller(&informers);
    let collector = garbage_collector::GarbageCollector::new(&informers, {
        let requeue = namespace::requeue_terminating(&informers, &namespaces);
        move |namespace: &str| requeue(namespace)
    });
    let deployments = deployment::controller(&informers);
    let replica_sets = replica_set::controller::<ReplicaSet>(&informers);
    let replication_controllers = replica_set::controller::<ReplicationController>(&informers);
    let jobs = job::controller(&informers);
    let endpoints = endpoints::controller(&informers);
    let mirroring = endpoint_slice_mirroring::controller(&informers);
    let taint_eviction = taint_eviction::controller(&informers);
    let node_lifecycle = node_lifecycle::controller(&informers);
    let aggregation = cluster_role_aggregation::controller(&informers);
    let scheduler = scheduler::controller(&informers);
    // Aborted when this future is dropped.
    let mut tasks = TaskSet::default();
    informers.watch(&mut tasks);
    // Pods need a service account, so this controller does not wait for the other informers.
    informers.namespaces.wait_synced().await;
    informers.service_accounts.wait_synced().await;
    tasks.spawn(namespaces.name(), namespaces.run());
    informers.wait_synced().await;
    tasks.spawn("garbage-collector", collector.run());
    tasks.spawn(deployments.name(), deployments.run());
    tasks.spawn(replica_sets.name(), replica_sets.run());
    tasks.spawn(replication_controllers.name(), replication_controllers.run());
    tasks.spawn(jobs.name(), jobs.run());
    tasks.spawn(endpoints.name(), endpoints.run());
    tasks.spawn(mirroring.name(), mirroring.run());
    tasks.spawn(taint_eviction.name(), taint_eviction.run());
    tasks.spawn(node_lifecycle.name(), node_lifecycle.run());
    tasks.spawn(scheduler.name(), scheduler.run());
    tasks.spawn(aggregation.name(), aggregation.run());
    // None of them ends by itself: panics are caught where the work is retried.
    while let Some((task, outcome)) = tasks.join_next().await {
        tracing::error!(%task, ?outcome, "controller ended");
    }
}
