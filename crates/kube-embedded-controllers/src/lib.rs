//! What turns desired state into observed state: controllers and the scheduler. Each one is a pure
//! `plan` under a thin loop; they share one watch a kind and speak only the Kubernetes API.

mod backoff;
mod cache;
mod deployment;
mod discovered;
mod endpoints;
mod garbage;
mod job;
mod namespaces;
mod ownership;
mod pods;
mod queue;
mod replicaset;
mod scheduler;
mod selection;
mod write;

use cache::Cache;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    batch::v1::Job,
    core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    core::PartialObjectMeta,
    runtime::watcher::{self, watcher},
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, sync::Arc};
use tokio::task::JoinSet;

/// Runs all controllers and the scheduler until it is dropped.
pub async fn run(client: Client) {
    let world = Arc::new(World::new(client));
    // Made before the first list, so that none misses a change.
    let namespaces = namespaces::Controller::new(&world);
    let collector = garbage::Collector::new(&world, namespaces.emptied());
    let deployments = deployment::Controller::new(&world);
    let replica_sets = replicaset::Controller::new(&world);
    let jobs = job::Controller::new(&world);
    let endpoints = endpoints::Controller::new(&world);
    let scheduler = scheduler::Scheduler::new(&world);
    // Dropped with this future, and all tasks with it.
    let mut tasks = JoinSet::new();
    world.follow(&mut tasks);
    // Pods need a service account, so this does not wait for the rest.
    world.namespaces.complete().await;
    world.service_accounts.complete().await;
    tasks.spawn(namespaces.run());
    world.complete().await;
    tasks.spawn(collector.run());
    tasks.spawn(deployments.run());
    tasks.spawn(replica_sets.run());
    tasks.spawn(jobs.run());
    tasks.spawn(endpoints.run());
    tasks.spawn(scheduler.run());
    while tasks.join_next().await.is_some() {}
}

/// Everything the controllers see, each kind watched once.
///
/// Listeners run under the lock of the cache that changed and may look into others: from pods into
/// anything, from replica sets into deployments, from anything into namespaces. Never the other way round, or two tasks could wait
/// for each other.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) deployments: Cache<Deployment>,
    pub(crate) replica_sets: Cache<ReplicaSet>,
    pub(crate) jobs: Cache<Job>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) services: Cache<Service>,
    pub(crate) slices: Cache<EndpointSlice>,
    pub(crate) endpoints: Cache<Endpoints>,
    pub(crate) namespaces: Cache<Namespace>,
    pub(crate) service_accounts: Cache<ServiceAccount>,
    pub(crate) nodes: Cache<Node>,
    /// Only that they exist: some are large.
    pub(crate) config_maps: Cache<PartialObjectMeta<ConfigMap>>,
}

impl World {
    fn new(client: Client) -> Self {
        Self {
            client,
            deployments: Cache::default(),
            replica_sets: Cache::default(),
            jobs: Cache::default(),
            pods: Cache::default(),
            services: Cache::default(),
            slices: Cache::default(),
            endpoints: Cache::default(),
            namespaces: Cache::default(),
            service_accounts: Cache::default(),
            nodes: Cache::default(),
            config_maps: Cache::default(),
        }
    }

    fn follow(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        self.follow_one(tasks, |world| &world.namespaces);
        self.follow_one(tasks, |world| &world.service_accounts);
        self.follow_one(tasks, |world| &world.nodes);
        self.follow_one(tasks, |world| &world.deployments);
        self.follow_one(tasks, |world| &world.replica_sets);
        self.follow_one(tasks, |world| &world.jobs);
        self.follow_one(tasks, |world| &world.pods);
        self.follow_one(tasks, |world| &world.services);
        self.follow_one(tasks, |world| &world.slices);
        self.follow_one(tasks, |world| &world.endpoints);
        self.follow_one(tasks, |world| &world.config_maps);
    }

    fn follow_one<K>(self: &Arc<Self>, tasks: &mut JoinSet<()>, cache: fn(&Self) -> &Cache<K>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let world = self.clone();
        let events = watcher(Api::all(world.client.clone()), watcher::Config::default());
        tasks.spawn(async move { cache(&world).follow(events).await });
    }

    /// Plans made on half a list would create what exists.
    async fn complete(&self) {
        tokio::join!(
            self.deployments.complete(),
            self.replica_sets.complete(),
            self.jobs.complete(),
            self.pods.complete(),
            self.services.complete(),
            self.slices.complete(),
            self.endpoints.complete(),
            self.nodes.complete(),
        );
    }
}
