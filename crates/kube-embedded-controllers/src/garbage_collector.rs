//! The garbage collector: deletes objects whose owners are deleted, and carries out foreground and
//! orphan deletion (kube-controller-manager's `garbage-collector-controller`).

mod graph;
mod plan;

use crate::{
    discovery::{self, DiscoveredResource, group},
    informers::Informers,
    patch,
};
use graph::{Graph, Node, ResourceKind};
use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
    core::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::watcher,
};
use kube_embedded_core::{
    backoff::{Backoff, retry},
    informer::{Informer, ObjectKey, WATCH_BACKOFF},
    task::{Task, catch, restart_on_panic, spawn_named},
    workqueue::Workqueue,
};
use plan::{Action, plan};
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

const NAME: &str = "garbage-collector";
/// The delays between attempts at discovery: nothing can be collected meanwhile.
const DISCOVERY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(1), Duration::from_secs(1));
const RESTART_BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(5));
/// The resources that [`Informers`] watches anyway, by group and kind, and events, which nothing
/// owns.
const WATCHED_ELSEWHERE: [(&str, &str); 12] = [
    ("", "Pod"),
    ("", "ReplicationController"),
    ("", "Service"),
    ("", "Endpoints"),
    ("", "Namespace"),
    ("", "ServiceAccount"),
    ("", "Node"),
    ("", "ConfigMap"),
    ("", "Event"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("discovery.k8s.io", "EndpointSlice"),
];

/// The garbage collector, with its event handlers registered.
pub(crate) struct GarbageCollector {
    client: Client,
    shared: Arc<Shared>,
}

/// The state that event handlers update.
struct Shared {
    graph: Mutex<Graph>,
    /// Uids of objects to collect.
    queue: Workqueue<String>,
    /// Called with the namespace of each deleted object.
    deleted_in: Box<dyn Fn(&str) + Send + Sync>,
}

impl GarbageCollector {
    pub(crate) fn new(
        informers: &Informers,
        deleted_in: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            graph: Mutex::default(),
            queue: Workqueue::default(),
            deleted_in: Box::new(deleted_in),
        });
        shared.observe(&informers.deployments);
        shared.observe(&informers.replica_sets);
        shared.observe(&informers.replication_controllers);
        shared.observe(&informers.pods);
        shared.observe(&informers.services);
        shared.observe(&informers.endpoint_slices);
        shared.observe(&informers.endpoints);
        shared.observe(&informers.namespaces);
        shared.observe(&informers.service_accounts);
        shared.observe(&informers.nodes);
        shared.observe(&informers.config_maps);
        Self { client: informers.client.clone(), shared }
    }

    /// Collects until dropped. After a panic, watches everything again.
    pub(crate) async fn run(self) {
        restart_on_panic(NAME, RESTART_BACKOFF, || self.collect_forever()).await;
    }

    /// Discovers and watches all resources, and collects objects until a definition changes.
    async fn collect_forever(&self) {
        let definitions_changed = Arc::new(Notify::new());
        // Aborted with this future, like all watches.
        let _definitions = self.watch_definitions(definitions_changed.clone());
        let mut watches: HashMap<ApiResource, Task<()>> = HashMap::new();
        let mut unserved: Vec<ApiResource> = Vec::new();
        loop {
            let resources = self.discover().await;
            unserved.extend(stop_unserved(&mut watches, &resources).await);
            unserved = self.forget_undefined(unserved, &resources).await;
            for resource in resources.iter().filter(|r| !is_watched_elsewhere(&r.resource)) {
                watches
                    .entry(resource.resource.clone())
                    .or_insert_with(|| self.watch(&resource.resource));
            }
            loop {
                tokio::select! {
                    // First, so that nothing is decided by resources that have changed.
                    biased;
                    () = definitions_changed.notified() => break,
                    uid = self.shared.queue.next() => self.collect_and_requeue(&resources, &uid).await,
                }
            }
        }
    }

    async fn discover(&self) -> Vec<DiscoveredResource> {
        retry("discover resources", DISCOVERY_BACKOFF, || discovery::resources(&self.client)).await
    }

    /// Removes the objects of resources whose definition was deleted. Returns those that are still
    /// defined: objects of a definition that merely serves no version exist nevertheless.
    async fn forget_undefined(
        &self,
        unserved: Vec<ApiResource>,
        served: &[DiscoveredResource],
    ) -> Vec<ApiResource> {
        let mut defined = Vec::new();
        for resource in unserved {
            let is_same = |other: &DiscoveredResource| {
                (&other.resource.group, &other.resource.kind) == (&resource.group, &resource.kind)
            };
            if served.iter().any(is_same) {
                continue;
            }
            if self.is_defined(&resource).await {
                defined.push(resource);
            } else {
                tracing::debug!(resource = resource.plural, "removing all objects of a resource");
                self.shared.remove_all(&resource);
            }
        }
        defined
    }

    /// Returns `true` if the CustomResourceDefinition of the resource exists.
    async fn is_defined(&self, resource: &ApiResource) -> bool {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = format!("{}.{}", resource.plural, resource.group);
        let get = || api.get_metadata_opt(&name);
        retry("get a resource definition", DISCOVERY_BACKOFF, get).await.is_some()
    }

    /// Notifies of every change of a CustomResourceDefinition: it may change the served resources.
    fn watch_definitions(&self, changed: Arc<Notify>) -> Task<()> {
        let informer: Informer<PartialObjectMeta<CustomResourceDefinition>> = Informer::default();
        informer.add_event_handler(move |_, _| changed.notify_one());
        let api = Api::all(self.client.clone());
        spawn_named("garbage-collector-definitions", async move {
            informer.watch(api, watcher::Config::default(), WATCH_BACKOFF).await;
        })
    }

    /// Watches the metadata of a resource that no other controller needs.
    fn watch(&self, resource: &ApiResource) -> Task<()> {
        let informer: Informer<PartialObjectMeta<DynamicObject>> =
            Informer::new(resource.plural.clone());
        self.shared.observe_as(
            &informer,
            ResourceKind { api_version: resource.api_version.clone(), kind: resource.kind.clone() },
        );
        let api = Api::all_with(self.client.clone(), resource);
        spawn_named(format!("garbage-collector-{}", resource.plural), async move {
            informer.watch(api, watcher::Config::default(), WATCH_BACKOFF).await;
        })
    }

    /// Collects one object. A failure or panic is retried with back-off, and harms no other object.
    async fn collect_and_requeue(&self, resources: &[DiscoveredResource], uid: &String) {
        let error = match catch(NAME, self.collect(resources, uid)).await {
            Ok(Ok(())) => return self.shared.queue.forget(uid),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        let delay = self.shared.queue.add_rate_limited(uid.clone());
        tracing::warn!(uid, error, ?delay, "failed to collect garbage; retrying");
    }

    /// Looks up the owners of one object that are unknown, and carries out the plan for it.
    async fn collect(&self, resources: &[DiscoveredResource], uid: &str) -> kube::Result<()> {
        let (node, unknown) = {
            let graph = self.shared.graph();
            let Some(node) = graph.get(uid).cloned() else { return Ok(()) };
            let unknown = graph.unknown_owners(&node);
            (node, unknown)
        };
        let mut absent = BTreeSet::new();
        if !node.terminating {
            for owner in unknown {
                let deleted = self.shared.graph().was_deleted(&owner.uid);
                if deleted || !self.exists(resources, &node, &owner).await? {
                    absent.insert(owner.uid);
                }
            }
        }
        let actions = plan(&self.shared.graph(), &node, &absent);
        for action in actions {
            match self.execute(resources, action).await {
                Err(error) if patch::is_status(&error, 404) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Asks the API server for an owner. Owners of undiscovered resources are assumed to exist.
    async fn exists(
        &self,
        resources: &[DiscoveredResource],
        node: &Node,
        owner: &OwnerReference,
    ) -> kube::Result<bool> {
        let Some(resource) = find(resources, &owner.api_version, &owner.kind) else {
            return Ok(true);
        };
        let found = self.api(resource, &node.key).get_metadata_opt(&owner.name).await?;
        Ok(found.is_some_and(|found| found.metadata.uid.as_ref() == Some(&owner.uid)))
    }

    async fn execute(&self, resources: &[DiscoveredResource], action: Action) -> kube::Result<()> {
        let (node, metadata) = match action {
            Action::Delete(node, policy) => return self.delete(resources, &node, policy).await,
            Action::SetOwners(node, owners) => {
                (node, json!({ "ownerReferences": null_if_empty(owners) }))
            }
            Action::SetFinalizers(node, finalizers) => {
                (node, json!({ "finalizers": null_if_empty(finalizers) }))
            }
        };
        let Some(resource) = find(resources, &node.kind.api_version, &node.kind.kind) else {
            return Ok(());
        };
        tracing::debug!(kind = node.kind.kind, object = %node.key, %metadata, "updating");
        let mut patch = json!({ "metadata": metadata });
        patch["metadata"]["uid"] = json!(node.uid);
        patch["metadata"]["resourceVersion"] = json!(node.resource_version);
        let api = self.api(resource, &node.key);
        let patch = Patch::Merge(&patch);
        api.patch_metadata(&node.key.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Deletes an object whose owners have not changed since the plan was made.
    async fn delete(
        &self,
        resources: &[DiscoveredResource],
        node: &Node,
        policy: PropagationPolicy,
    ) -> kube::Result<()> {
        let Some(resource) = find(resources, &node.kind.api_version, &node.kind.kind) else {
            return Ok(());
        };
        let api = self.api(resource, &node.key);
        // It may have been orphaned in the meantime: its watch is another than that of its owner.
        let live = api.get_metadata_opt(&node.key.name).await?;
        let owners = live.map(|live| live.metadata.owner_references.unwrap_or_default());
        if owners.as_ref() != Some(&node.owners) {
            return Ok(());
        }
        tracing::debug!(kind = node.kind.kind, object = %node.key, ?policy, "deleting");
        let parameters = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(node.uid.clone()),
                resource_version: None,
            }),
            ..Default::default()
        };
        api.delete(&node.key.name, &parameters).await?;
        Ok(())
    }

    fn api(&self, resource: &DiscoveredResource, key: &ObjectKey) -> Api<DynamicObject> {
        let client = self.client.clone();
        match resource.namespaced {
            true => Api::namespaced_with(client, &key.namespace, &resource.resource),
            false => Api::all_with(client, &resource.resource),
        }
    }
}

/// Stops the watches of resources that are not served any more, and returns these resources. No
/// deletion of their objects will be reported.
async fn stop_unserved(
    watches: &mut HashMap<ApiResource, Task<()>>,
    served: &[DiscoveredResource],
) -> Vec<ApiResource> {
    let is_served =
        |resource: &ApiResource| served.iter().any(|served| served.resource == *resource);
    let mut unserved = Vec::new();
    for (resource, watch) in watches.extract_if(|resource, _| !is_served(resource)) {
        // Waits for its end, so that a late event cannot add its objects again.
        watch.cancel().await;
        unserved.push(resource);
    }
    unserved
}

impl Shared {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers the event handler for a resource with a static type.
    fn observe<K>(self: &Arc<Self>, informer: &Informer<K>)
    where
        K: Resource<DynamicType = ()> + Send + Sync + 'static,
    {
        let (api_version, kind) = (K::api_version(&()).into_owned(), K::kind(&()).into_owned());
        self.observe_as(informer, ResourceKind { api_version, kind });
    }

    fn observe_as<K>(self: &Arc<Self>, informer: &Informer<K>, kind: ResourceKind)
    where
        K: Resource + Send + Sync + 'static,
    {
        let (shared, kind) = (self.clone(), Arc::new(kind));
        informer.add_event_handler(move |old, new| {
            shared.update(&kind, old.map(|old| old.meta()), new.map(|new| new.meta()));
        });
    }

    /// Updates the graph by one change, and enqueues the objects to collect.
    fn update(&self, kind: &Arc<ResourceKind>, old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) {
        let uid = |meta: &ObjectMeta| meta.uid.clone().unwrap_or_default();
        let mut affected = Vec::new();
        if let Some(old) = old
            && new.map(uid) != Some(uid(old))
        {
            affected.extend(self.graph().remove(&uid(old)));
            (self.deleted_in)(old.namespace.as_deref().unwrap_or_default());
        }
        if let Some(new) = new {
            affected.extend(self.graph().insert(Node::new(kind.clone(), new)));
        }
        affected.into_iter().for_each(|uid| self.queue.add(uid));
    }

    /// Removes all objects of a resource that does not exist any more.
    fn remove_all(&self, resource: &ApiResource) {
        let (affected, namespaces) = self.graph().remove_all(&resource.group, &resource.kind);
        namespaces.iter().for_each(|namespace| (self.deleted_in)(namespace));
        affected.into_iter().for_each(|uid| self.queue.add(uid));
    }
}

fn is_watched_elsewhere(resource: &ApiResource) -> bool {
    WATCHED_ELSEWHERE.contains(&(&*resource.group, &*resource.kind))
}

fn find<'a>(
    resources: &'a [DiscoveredResource],
    api_version: &str,
    kind: &str,
) -> Option<&'a DiscoveredResource> {
    resources
        .iter()
        .find(|known| known.resource.kind == kind && known.resource.group == group(api_version))
}

/// A merge patch removes a field with null; an empty list would stay.
fn null_if_empty<T: serde::Serialize>(list: Vec<T>) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

#[cfg(test)]
mod tests;
