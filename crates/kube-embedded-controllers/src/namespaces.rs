//! Namespaces: each gets a default service account and the authority's certificate, and on its way
//! out is emptied before it goes.

use super::{World, cache::Key, discovered, queue::Queue, write};
use futures::future::try_join;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PropagationPolicy},
    core::DynamicObject,
};
use std::{sync::Arc, time::Duration};

const ACCOUNT: &str = "default";
const AUTHORITY: &str = "kube-root-ca.crt";
/// Where the API puts the certificate that is copied everywhere.
const SOURCE: &str = "kube-system";
const FINALIZER: &str = "kubernetes";

/// The controller, listening to what it depends on.
pub(crate) struct Controller {
    world: Arc<World>,
    queue: Arc<Queue<String>>,
}

impl Controller {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let queue = Arc::new(Queue::default());
        let wake = queue.clone();
        world.namespaces.on_change(move |before: Option<&Namespace>, after| {
            if let Some(name) = after.or(before).and_then(|ns| ns.metadata.name.clone()) {
                wake.add(name);
            }
        });
        let wake = queue.clone();
        world.service_accounts.on_change(move |before: Option<&ServiceAccount>, after| {
            if let (Some(before), None) = (before, after) {
                give_again(&wake, &before.metadata, ACCOUNT);
            }
        });
        let wake = queue.clone();
        world.config_maps.on_change(move |before, after| {
            if let (Some(before), None) = (before, after) {
                give_again(&wake, &before.metadata, AUTHORITY);
            }
        });
        Self { world: world.clone(), queue }
    }

    /// Tells that something of a namespace is gone: it may be empty now.
    pub(crate) fn emptied(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let (queue, world) = (self.queue.clone(), Arc::downgrade(&self.world));
        move |namespace| {
            // What has no namespace is no content; and this may be called while namespaces change.
            if !namespace.is_empty()
                && let Some(world) = world.upgrade()
                && world.namespaces.get(&Key::new("", namespace)).is_some_and(|ns| is_leaving(&ns))
            {
                queue.add(namespace.to_owned());
            }
        }
    }

    pub(crate) async fn run(self) {
        loop {
            let name = self.queue.next().await;
            let outcome = self.reconcile(&name).await;
            self.queue.looked(name, outcome);
        }
    }

    async fn reconcile(&self, name: &str) -> kube::Result<Option<Duration>> {
        let Some(namespace) = self.world.namespaces.get(&Key::new("", name)) else {
            return Ok(None);
        };
        if is_leaving(&namespace) {
            return self.empty(&namespace, name).await;
        }
        try_join(self.give_account(name), self.give_authority(name)).await?;
        Ok(None)
    }

    async fn give_account(&self, namespace: &str) -> kube::Result<()> {
        let cache = &self.world.service_accounts;
        if cache.get(&Key::new(namespace, ACCOUNT)).is_some() {
            return Ok(());
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.world.client.clone(), namespace);
        let account = ServiceAccount { metadata: named(ACCOUNT), ..Default::default() };
        settled(write::create(&api, cache, &account).await.map(|_| ()))
    }

    async fn give_authority(&self, namespace: &str) -> kube::Result<()> {
        if self.world.config_maps.get(&Key::new(namespace, AUTHORITY)).is_some() {
            return Ok(());
        }
        let source: Api<ConfigMap> = Api::namespaced(self.world.client.clone(), SOURCE);
        let Some(source) = source.get_opt(AUTHORITY).await? else { return Ok(()) };
        let api: Api<ConfigMap> = Api::namespaced(self.world.client.clone(), namespace);
        let mut map =
            ConfigMap { metadata: named(AUTHORITY), data: source.data, ..Default::default() };
        let about = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
                     internal endpoints such as the internal service IP or kubernetes.default.svc. \
                     No other usage is guaranteed across distributions of Kubernetes clusters.";
        let annotations = map.metadata.annotations.get_or_insert_default();
        annotations.insert("kubernetes.io/description".into(), about.into());
        settled(api.create(&write::post(), &map).await.map(|_| ()))
    }

    /// Deletes what is in a namespace, pods before anything they might still need, and lets the
    /// namespace go when nothing is left.
    async fn empty(&self, namespace: &Namespace, name: &str) -> kube::Result<Option<Duration>> {
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
        if !finalizers.into_iter().flatten().any(|known| known == FINALIZER) {
            return Ok(None);
        }
        let mut kinds = discovered::kinds(&self.world.client).await?;
        kinds.retain(|kind| kind.namespaced);
        let is_pod = |kind: &discovered::Kind| kind.resource.kind == "Pod";
        kinds.sort_by_key(|kind| !is_pod(kind));
        let mut left = 0;
        for kind in &kinds {
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.world.client.clone(), name, &kind.resource);
            left += drain(&api).await?;
            if is_pod(kind) && left > 0 {
                break;
            }
        }
        if left > 0 {
            // Whatever goes tells; this is for what nobody watches.
            return Ok(Some(Duration::from_secs(1)));
        }
        let api: Api<Namespace> = Api::all(self.world.client.clone());
        let Some(mut current) = api.get_opt(name).await? else { return Ok(None) };
        let finalizers = current.spec.get_or_insert_default().finalizers.get_or_insert_default();
        finalizers.retain(|known| known != FINALIZER);
        match api.replace_subresource("finalize", name, &write::post(), &current).await {
            Err(error) if write::is(&error, 404) => Ok(None),
            other => other.map(|_| None),
        }
    }
}

/// Deletes all of a kind; how many are still there.
async fn drain(api: &Api<DynamicObject>) -> kube::Result<usize> {
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        ..Default::default()
    };
    let mut left = 0;
    for object in api.list_metadata(&ListParams::default()).await? {
        if object.metadata.deletion_timestamp.is_some() {
            left += 1;
            continue;
        }
        let name = object.metadata.name.unwrap_or_default();
        match api.delete(&name, &parameters).await {
            Ok(answer) => {
                left += usize::from(
                    answer.left().is_some_and(|o| o.metadata.deletion_timestamp.is_some()),
                );
            }
            Err(error) if write::is(&error, 404) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(left)
}

fn give_again(queue: &Queue<String>, meta: &ObjectMeta, wanted: &str) {
    if meta.name.as_deref() == Some(wanted)
        && let Some(namespace) = &meta.namespace
    {
        queue.add(namespace.clone());
    }
}

fn is_leaving(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..Default::default() }
}

/// That it is there already is as good.
fn settled(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(error) if write::is(&error, 409) => Ok(()),
        other => other,
    }
}
