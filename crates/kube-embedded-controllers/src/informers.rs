//! The informers that the controllers share: each resource is watched once.

use crate::controller_ref::controller_of;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        batch::v1::Job,
        core::v1::{
            ConfigMap, Endpoints, Namespace, Node, Pod, ReplicationController, Service,
            ServiceAccount,
        },
        discovery::v1::EndpointSlice,
        rbac::v1::ClusterRole,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, Resource, core::PartialObjectMeta, runtime::watcher};
use kube_embedded_core::{
    informer::{Index, Informer, WATCH_BACKOFF},
    task::TaskSet,
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, sync::Arc};

/// Everything that the controllers see.
///
/// Event handlers run under the lock of the informer that changed. They may read other informers in
/// this order only, or two tasks could wait for each other: from pods any other, from replica sets
/// deployments, from any other namespaces.
pub(crate) struct Informers {
    pub(crate) client: Client,
    pub(crate) deployments: Informer<Deployment>,
    pub(crate) replica_sets: Informer<ReplicaSet>,
    pub(crate) replication_controllers: Informer<ReplicationController>,
    pub(crate) jobs: Informer<Job>,
    pub(crate) pods: Informer<Pod>,
    /// Pods by the uid of their controller.
    pub(crate) pods_by_controller: Arc<Index<String, Pod>>,
    pub(crate) services: Informer<Service>,
    pub(crate) endpoint_slices: Informer<EndpointSlice>,
    pub(crate) endpoints: Informer<Endpoints>,
    pub(crate) namespaces: Informer<Namespace>,
    pub(crate) service_accounts: Informer<ServiceAccount>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) cluster_roles: Informer<ClusterRole>,
    /// Metadata only: some are large, and no controller reads their data.
    pub(crate) config_maps: Informer<PartialObjectMeta<ConfigMap>>,
}

impl Informers {
    /// Creates informers that are not watching yet, so that event handlers can be registered.
    pub(crate) fn new(client: Client) -> Self {
        let pods = Informer::default();
        Self {
            client,
            deployments: Informer::default(),
            replica_sets: Informer::default(),
            replication_controllers: Informer::default(),
            jobs: Informer::default(),
            pods_by_controller: pods.add_index(|pod: &Pod| {
                controller_of(&pod.metadata).map(|controller| controller.uid.clone())
            }),
            pods,
            services: Informer::default(),
            endpoint_slices: Informer::default(),
            endpoints: Informer::default(),
            namespaces: Informer::default(),
            service_accounts: Informer::default(),
            nodes: Informer::default(),
            cluster_roles: Informer::default(),
            config_maps: Informer::default(),
        }
    }

    /// Spawns one watch a resource.
    pub(crate) fn watch(self: &Arc<Self>, tasks: &mut TaskSet) {
        self.watch_one(tasks, |informers| &informers.namespaces);
        self.watch_one(tasks, |informers| &informers.service_accounts);
        self.watch_one(tasks, |informers| &informers.nodes);
        self.watch_one(tasks, |informers| &informers.deployments);
        self.watch_one(tasks, |informers| &informers.replica_sets);
        self.watch_one(tasks, |informers| &informers.replication_controllers);
        self.watch_one(tasks, |informers| &informers.jobs);
        self.watch_one(tasks, |informers| &informers.pods);
        self.watch_one(tasks, |informers| &informers.services);
        self.watch_one(tasks, |informers| &informers.endpoint_slices);
        self.watch_one(tasks, |informers| &informers.endpoints);
        self.watch_one(tasks, |informers| &informers.config_maps);
        self.watch_one(tasks, |informers| &informers.cluster_roles);
    }

    fn watch_one<K>(self: &Arc<Self>, tasks: &mut TaskSet, informer: fn(&Self) -> &Informer<K>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let informers = self.clone();
        tasks.spawn(format!("informer-{}", K::plural(&())), async move {
            let api = Api::all(informers.client.clone());
            informer(&informers).watch(api, watcher::Config::default(), WATCH_BACKOFF).await;
        });
    }

    /// Returns the pods that are controlled by the owner with this metadata.
    pub(crate) fn pods_controlled_by(&self, owner: &ObjectMeta) -> Vec<Arc<Pod>> {
        owner.uid.as_deref().map(|uid| self.pods_by_controller.get(uid)).unwrap_or_default()
    }

    /// Waits for all informers that plans are made on: a plan made on half a list creates what
    /// exists.
    pub(crate) async fn wait_synced(&self) {
        tokio::join!(
            self.deployments.wait_synced(),
            self.replica_sets.wait_synced(),
            self.replication_controllers.wait_synced(),
            self.jobs.wait_synced(),
            self.pods.wait_synced(),
            self.services.wait_synced(),
            self.endpoint_slices.wait_synced(),
            self.endpoints.wait_synced(),
            self.nodes.wait_synced(),
            self.cluster_roles.wait_synced(),
        );
    }
}
