//! The garbage collector: what loses its last owner goes, in the background, before its owner
//! (foreground), or not at all (orphan), as whoever deleted the owner asked.

mod graph;

use super::{
    World,
    backoff::until_well,
    cache::{Cache, Key},
    discovered::{self, Kind},
    queue::Queue,
    write,
};
use graph::{Action, Graph, Item, Policy, plan};
use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
    core::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::watcher::{self, watcher},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
};

/// Between two attempts to learn what there is: nothing can be collected meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The collector, listening to every kind.
pub(crate) struct Collector {
    client: Client,
    shared: Arc<Shared>,
}

struct Shared {
    graph: Mutex<Graph>,
    queue: Queue<String>,
    /// Is told the namespace of whatever is gone.
    emptied: Box<dyn Fn(&str) + Send + Sync>,
}

impl Collector {
    pub(crate) fn new(world: &World, emptied: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            graph: Mutex::default(),
            queue: Queue::default(),
            emptied: Box::new(emptied),
        });
        listen(&world.deployments, &shared);
        listen(&world.replica_sets, &shared);
        listen(&world.pods, &shared);
        listen(&world.services, &shared);
        listen(&world.slices, &shared);
        listen(&world.endpoints, &shared);
        listen(&world.namespaces, &shared);
        listen(&world.service_accounts, &shared);
        listen(&world.nodes, &shared);
        listen(&world.config_maps, &shared);
        Self { client: world.client.clone(), shared }
    }

    pub(crate) async fn run(self) {
        // Dropped with this future, and its watches with it.
        let (mut watches, mut watched) = (JoinSet::new(), HashMap::new());
        let definitions = self.follow_definitions(&mut watches);
        let mut absent: Vec<ApiResource> = Vec::new();
        loop {
            let kinds = self.kinds().await;
            // Of what is served no longer, the watch has nothing to tell.
            let (served, ended): (HashMap<_, AbortHandle>, HashMap<_, _>) = watched
                .into_iter()
                .partition(|(resource, _)| kinds.iter().any(|kind| kind.resource == *resource));
            watched = served;
            for (resource, watch) in ended {
                watch.abort();
                // What it was about to tell comes before all is forgotten.
                while !watch.is_finished() {
                    tokio::task::yield_now().await;
                }
                absent.push(resource);
            }
            let mut hidden = Vec::new();
            for resource in absent {
                let same = |kind: &Kind| {
                    (&kind.resource.group, &kind.resource.kind) == (&resource.group, &resource.kind)
                };
                if kinds.iter().any(same) {
                    continue;
                }
                // Objects of a definition that merely serves no version are still there.
                if self.is_defined(&resource).await {
                    hidden.push(resource);
                } else {
                    self.shared.forget(&resource);
                }
            }
            absent = hidden;
            for kind in kinds.iter().filter(|kind| !is_watched(&kind.resource)) {
                watched
                    .entry(kind.resource.clone())
                    .or_insert_with(|| watches.spawn(self.follow(kind)));
            }
            loop {
                let uid = tokio::select! {
                    // First, so that nothing is judged by kinds that have changed.
                    biased;
                    () = definitions.notified() => break,
                    uid = self.shared.queue.next() => uid,
                };
                match self.collect(&kinds, &uid).await {
                    Ok(()) => self.shared.queue.succeeded(&uid),
                    Err(_) => self.shared.queue.failed(uid),
                }
            }
        }
    }

    async fn kinds(&self) -> Vec<Kind> {
        until_well(LONGEST_PAUSE, || discovered::kinds(&self.client)).await
    }

    /// Whether there is a definition of a custom resource.
    async fn is_defined(&self, resource: &ApiResource) -> bool {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = format!("{}.{}", resource.plural, resource.group);
        until_well(LONGEST_PAUSE, || api.get_metadata_opt(&name)).await.is_some()
    }

    /// Tells of every change of a CustomResourceDefinition: there may be other kinds then.
    fn follow_definitions(&self, watches: &mut JoinSet<()>) -> Arc<Notify> {
        let changed = Arc::new(Notify::new());
        let cache: Cache<PartialObjectMeta<CustomResourceDefinition>> = Cache::default();
        let told = changed.clone();
        cache.on_change(move |_, _| told.notify_one());
        let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(self.client.clone());
        watches.spawn(async move { cache.follow(watcher(api, watcher::Config::default())).await });
        changed
    }

    /// Watches the metadata of a kind that no controller needs in full.
    fn follow(&self, kind: &Kind) -> impl Future<Output = ()> + Send + 'static {
        let cache: Cache<PartialObjectMeta<DynamicObject>> = Cache::default();
        let name = Arc::new((kind.resource.api_version.clone(), kind.resource.kind.clone()));
        listen_as(&cache, &self.shared, name);
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(self.client.clone(), &kind.resource);
        async move { cache.follow(watcher(api, watcher::Config::default())).await }
    }

    async fn collect(&self, kinds: &[Kind], uid: &str) -> kube::Result<()> {
        let (item, unknown) = {
            let graph = self.shared.graph();
            let Some(item) = graph.get(uid).cloned() else { return Ok(()) };
            let unknown = graph.unknown_owners(&item);
            (item, unknown)
        };
        let mut gone = BTreeSet::new();
        if !item.leaving {
            for owner in unknown {
                let known = self.shared.graph().is_gone(&owner.uid);
                if known || !self.exists(kinds, &item, &owner).await? {
                    gone.insert(owner.uid);
                }
            }
        }
        let actions = plan(&self.shared.graph(), &item, &gone);
        for action in actions {
            match self.act(kinds, action).await {
                Err(error) if write::is(&error, 404) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Whether the very owner that a reference means exists. What cannot be asked for does, as far
    /// as we know.
    async fn exists(
        &self,
        kinds: &[Kind],
        item: &Item,
        owner: &OwnerReference,
    ) -> kube::Result<bool> {
        let Some(kind) = kinds.iter().find(|kind| {
            kind.resource.kind == owner.kind && kind.resource.group == group(&owner.api_version)
        }) else {
            return Ok(true);
        };
        let found = self.api(kind, &item.key).get_metadata_opt(&owner.name).await?;
        Ok(found.is_some_and(|found| found.metadata.uid.as_ref() == Some(&owner.uid)))
    }

    async fn act(&self, kinds: &[Kind], action: Action) -> kube::Result<()> {
        let (item, metadata) = match action {
            Action::Delete(item, policy) => return self.delete(kinds, &item, policy).await,
            Action::Owners(item, owners) => {
                (item, json!({ "ownerReferences": none_if_empty(owners) }))
            }
            Action::Finalizers(item, left) => (item, json!({ "finalizers": none_if_empty(left) })),
        };
        let Some(kind) = find(kinds, &item) else { return Ok(()) };
        let mut patch = json!({ "metadata": metadata });
        patch["metadata"]["uid"] = json!(item.uid);
        patch["metadata"]["resourceVersion"] = json!(item.version);
        let api = self.api(kind, &item.key);
        let patch = Patch::Merge(&patch);
        api.patch_metadata(&item.key.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn delete(&self, kinds: &[Kind], item: &Item, policy: Policy) -> kube::Result<()> {
        let Some(kind) = find(kinds, item) else { return Ok(()) };
        let api = self.api(kind, &item.key);
        // It may have been orphaned since: that comes by another watch than the end of its owner.
        let live = api.get_metadata_opt(&item.key.name).await?;
        if live.is_none_or(|live| live.metadata.owner_references.unwrap_or_default() != item.owners)
        {
            return Ok(());
        }
        let parameters = DeleteParams {
            propagation_policy: Some(match policy {
                Policy::Background => PropagationPolicy::Background,
                Policy::Foreground => PropagationPolicy::Foreground,
                Policy::Orphan => PropagationPolicy::Orphan,
            }),
            preconditions: Some(Preconditions {
                uid: Some(item.uid.clone()),
                resource_version: None,
            }),
            ..Default::default()
        };
        api.delete(&item.key.name, &parameters).await?;
        Ok(())
    }

    fn api(&self, kind: &Kind, key: &Key) -> Api<DynamicObject> {
        match kind.namespaced {
            true => Api::namespaced_with(self.client.clone(), &key.namespace, &kind.resource),
            false => Api::all_with(self.client.clone(), &kind.resource),
        }
    }
}

impl Shared {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// All objects of a kind are gone with it.
    fn forget(&self, resource: &ApiResource) {
        let (look, emptied) = self.graph().remove_kind(&resource.group, &resource.kind);
        emptied.iter().for_each(|namespace| (self.emptied)(namespace));
        look.into_iter().for_each(|uid| self.queue.add(uid));
    }

    fn note(
        &self,
        kind: &Arc<(String, String)>,
        before: Option<&ObjectMeta>,
        after: Option<&ObjectMeta>,
    ) {
        let uid = |meta: &ObjectMeta| meta.uid.clone().unwrap_or_default();
        let mut look = Vec::new();
        if let Some(before) = before
            && after.map(uid) != Some(uid(before))
        {
            look.extend(self.graph().remove(&uid(before)));
            (self.emptied)(before.namespace.as_deref().unwrap_or_default());
        }
        if let Some(after) = after {
            look.extend(self.graph().put(Item::new(kind.clone(), after)));
        }
        look.into_iter().for_each(|uid| self.queue.add(uid));
    }
}

fn listen<K>(cache: &Cache<K>, shared: &Arc<Shared>)
where
    K: Resource<DynamicType = ()> + 'static,
{
    let name = (K::api_version(&()).into_owned(), K::kind(&()).into_owned());
    listen_as(cache, shared, Arc::new(name));
}

fn listen_as<K: Resource + 'static>(
    cache: &Cache<K>,
    shared: &Arc<Shared>,
    name: Arc<(String, String)>,
) {
    let shared = shared.clone();
    cache.on_change(move |before: Option<&K>, after| {
        shared.note(&name, before.map(Resource::meta), after.map(Resource::meta));
    });
}

/// Whether [`World`] watches a kind anyway, or it is none of the collector's business.
fn is_watched(resource: &ApiResource) -> bool {
    let known = match &*resource.group {
        "" => [
            "Pod",
            "Service",
            "Endpoints",
            "Namespace",
            "ServiceAccount",
            "Node",
            "ConfigMap",
            "Event",
        ]
        .as_slice(),
        "apps" => ["Deployment", "ReplicaSet"].as_slice(),
        "discovery.k8s.io" => ["EndpointSlice"].as_slice(),
        _ => return false,
    };
    known.contains(&&*resource.kind)
}

fn find<'a>(kinds: &'a [Kind], item: &Item) -> Option<&'a Kind> {
    let (api_version, kind) = &*item.kind;
    kinds
        .iter()
        .find(|known| known.resource.kind == *kind && known.resource.group == group(api_version))
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// A merge patch removes with null; an empty list would stay.
fn none_if_empty<T: serde::Serialize>(list: Vec<T>) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use std::{convert::Infallible, time::Instant};

    /// How often the API fails before it answers that there is nothing.
    const FAILURES: usize = 7;

    /// A collector whose API is in trouble at first, and when it was asked.
    fn in_trouble() -> (Collector, Arc<Mutex<Vec<Instant>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = asked.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let mut asked = notes.lock().unwrap();
            asked.push(Instant::now());
            let (status, answer) = match request.uri().path() {
                _ if asked.len() <= FAILURES => (500, json!({})),
                "/api/v1" => (200, list("APIResourceList", "resources")),
                "/apis" => (200, list("APIGroupList", "groups")),
                _ => (404, json!({ "status": "Failure", "code": 404, "reason": "NotFound" })),
            };
            let answer = Body::from(answer.to_string().into_bytes());
            let answer = Response::builder().status(status).body(answer).unwrap();
            async move { Ok::<_, Infallible>(answer) }
        });
        let world = World::new(Client::new(service, "default"));
        (Collector::new(&world, |_| {}), asked)
    }

    /// An empty list of what an API tells of itself.
    fn list(kind: &str, of: &str) -> Value {
        json!({ "apiVersion": "v1", "kind": kind, "groupVersion": "v1", of: [] })
    }

    /// What comes of it, asked for after pauses that grow.
    async fn persistent<T>(asked: &Mutex<Vec<Instant>>, work: impl Future<Output = T>) -> T {
        let result = tokio::time::timeout(Duration::from_secs(20), work).await;
        let asked = asked.lock().unwrap();
        let result = result.unwrap_or_else(|_| panic!("no answer after {} times", asked.len()));
        // A sleep may last longer, but never less.
        let pauses = asked.iter().zip(&asked[1..]).map(|(one, next)| *next - *one);
        for (pause, least) in pauses.zip([1, 2, 4, 8, 16, 32, 64]) {
            assert!(pause >= Duration::from_millis(least), "{pause:?} instead of {least} ms");
        }
        result
    }

    #[tokio::test]
    async fn a_server_in_trouble_is_asked_less_and_less_often() {
        let (collector, asked) = in_trouble();
        assert!(persistent(&asked, collector.kinds()).await.is_empty());
        let (collector, asked) = in_trouble();
        let gvk = kube::core::GroupVersionKind::gvk("example.com", "v1", "Widget");
        let widgets = ApiResource::from_gvk(&gvk);
        assert!(!persistent(&asked, collector.is_defined(&widgets)).await);
    }
}
