//! The namespace controller and its companions: every namespace gets a default service account and
//! the cluster's CA certificate; a terminating one is emptied before it is deleted.

mod conditions;

use crate::{
    controller::{Controller, Reconciler, enqueue_changed},
    discovery::{self, DiscoveredResource},
    informers::Informers,
    patch,
};
use conditions::Remaining;
use futures::future::try_join;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PropagationPolicy},
    core::DynamicObject,
};
use kube_embedded_core::{informer::ObjectKey, workqueue::Workqueue};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::OnceCell;

const NAME: &str = "namespace-controller";
/// The default of kube-controller-manager's `--concurrent-namespace-syncs`.
const WORKERS: usize = 10;
const SERVICE_ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
/// The namespace in which the API server publishes the root CA that is copied to all others.
const ROOT_CA_SOURCE: &str = "kube-system";
const FINALIZER: &str = "kubernetes";
/// Deletions of watched resources requeue a terminating namespace; this polls for the others.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Furnishes an active namespace and empties a terminating one.
pub(crate) struct NamespaceReconciler {
    informers: Arc<Informers>,
    /// The data of the root CA's ConfigMap, as the API server published it.
    root_ca: OnceCell<BTreeMap<String, String>>,
}

/// Creates the controller and registers its event handlers.
pub(crate) fn controller(informers: &Arc<Informers>) -> Controller<NamespaceReconciler> {
    let queue: Arc<Workqueue<ObjectKey>> = Arc::default();
    enqueue_changed(&informers.namespaces, &queue);
    let enqueued = queue.clone();
    informers.service_accounts.add_event_handler(move |old, new| {
        if let (Some(old), None) = (old, new) {
            enqueue_namespace_of(&enqueued, &old.metadata, SERVICE_ACCOUNT);
        }
    });
    let enqueued = queue.clone();
    informers.config_maps.add_event_handler(move |old, _| {
        // Deleted, or edited.
        if let Some(old) = old {
            enqueue_namespace_of(&enqueued, &old.metadata, ROOT_CA);
        }
    });
    let reconciler = NamespaceReconciler { informers: informers.clone(), root_ca: OnceCell::new() };
    Controller::new(NAME, WORKERS, queue, reconciler)
}

/// Returns a function that requeues a namespace after one of its objects was deleted: if it is
/// terminating, it may be empty now.
pub(crate) fn requeue_terminating(
    informers: &Arc<Informers>,
    controller: &Controller<NamespaceReconciler>,
) -> impl Fn(&str) + Send + Sync + 'static {
    let (queue, informers) = (controller.queue().clone(), Arc::downgrade(informers));
    move |namespace| {
        // Called with an empty name from handlers of namespaces, which are locked then.
        if namespace.is_empty() {
            return;
        }
        let key = ObjectKey::cluster_scoped(namespace);
        if let Some(informers) = informers.upgrade()
            && informers.namespaces.get(&key).is_some_and(|namespace| is_terminating(&namespace))
        {
            queue.add(key);
        }
    }
}

impl Reconciler for NamespaceReconciler {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(namespace) = self.informers.namespaces.get(key) else { return Ok(None) };
        if is_terminating(&namespace) {
            return self.finalize(&namespace, &key.name).await;
        }
        let account = self.ensure_service_account(&key.name);
        try_join(account, self.ensure_root_ca(&key.name)).await?;
        Ok(None)
    }
}

impl NamespaceReconciler {
    /// Creates the service account that pods run under by default.
    async fn ensure_service_account(&self, namespace: &str) -> kube::Result<()> {
        let informer = &self.informers.service_accounts;
        if informer.get(&ObjectKey::new(namespace, SERVICE_ACCOUNT)).is_some() {
            return Ok(());
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.informers.client.clone(), namespace);
        let account = ServiceAccount { metadata: named(SERVICE_ACCOUNT), ..Default::default() };
        ignore_conflict(patch::create(&api, informer, &account).await.map(drop))
    }

    /// Returns the data of the root CA's ConfigMap, which is read once: copies may be edited, the source among them.
    async fn root_ca(&self) -> kube::Result<&BTreeMap<String, String>> {
        let read = async || {
            let client = self.informers.client.clone();
            let source: Api<ConfigMap> = Api::namespaced(client, ROOT_CA_SOURCE);
            let source = source.get_opt(ROOT_CA).await?;
            Ok(source.and_then(|source| source.data).unwrap_or_default())
        };
        self.root_ca.get_or_try_init(read).await
    }

    /// Copies the CA certificate that pods verify the API server with, and restores a copy that was edited.
    async fn ensure_root_ca(&self, namespace: &str) -> kube::Result<()> {
        let Informers { client, config_maps, .. } = &*self.informers;
        let data = self.root_ca().await?;
        if data.is_empty() {
            return Ok(());
        }
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        // The informer has only the metadata.
        if config_maps.get(&ObjectKey::new(namespace, ROOT_CA)).is_some()
            && let Some(mut found) = api.get_opt(ROOT_CA).await?
        {
            if found.data.as_ref() == Some(data) {
                return Ok(());
            }
            found.data = Some(data.clone());
            let restored = api.replace(ROOT_CA, &patch::post_params(), &found).await;
            return ignore_conflict(restored.map(drop));
        }
        let mut copy =
            ConfigMap { metadata: named(ROOT_CA), data: Some(data.clone()), ..Default::default() };
        // In the words of kube-controller-manager's root-ca-certificate-publisher.
        let description = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
             internal endpoints such as the internal service IP or kubernetes.default.svc. \
             No other usage is guaranteed across distributions of Kubernetes clusters.";
        let annotations = copy.metadata.annotations.get_or_insert_default();
        annotations.insert("kubernetes.io/description".into(), description.into());
        ignore_conflict(api.create(&patch::post_params(), &copy).await.map(drop))
    }

    /// Deletes the content of a terminating namespace, and removes its finalizer when it is empty.
    async fn finalize(&self, namespace: &Namespace, name: &str) -> kube::Result<Option<Duration>> {
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
        if !finalizers.into_iter().flatten().any(|known| known == FINALIZER) {
            return Ok(None);
        }
        let remaining = self.delete_content(name).await?;
        let api: Api<Namespace> = Api::all(self.informers.client.clone());
        if !remaining.is_empty() {
            tracing::debug!(?remaining, "namespace is not empty yet");
            self.report(&api, namespace, &remaining).await?;
            return Ok(Some(POLL_INTERVAL));
        }
        let Some(mut current) = api.get_opt(name).await? else { return Ok(None) };
        let finalizers = current.spec.get_or_insert_default().finalizers.get_or_insert_default();
        finalizers.retain(|known| known != FINALIZER);
        match api.replace_subresource("finalize", name, &patch::post_params(), &current).await {
            Err(error) if patch::is_status(&error, 404) => Ok(None),
            other => other.map(|_| None),
        }
    }

    /// Writes the conditions that say why a namespace remains.
    async fn report(
        &self,
        api: &Api<Namespace>,
        namespace: &Namespace,
        remaining: &Remaining,
    ) -> kube::Result<()> {
        let mut new = namespace.clone();
        let status = new.status.get_or_insert_default();
        let old = status.conditions.clone().unwrap_or_default();
        status.conditions = Some(conditions::plan(&old, remaining, Timestamp::now()));
        let written = patch::update_status(api, &self.informers.namespaces, namespace, &new).await;
        match written {
            // Written by another since, or gone: the next attempt sees that.
            Err(error) if patch::is_status(&error, 409) || patch::is_status(&error, 404) => Ok(()),
            other => other,
        }
    }

    /// Deletes what a namespace contains and returns what remains. Pods are deleted first: until their end they may
    /// need everything else.
    async fn delete_content(&self, namespace: &str) -> kube::Result<Remaining> {
        let client = &self.informers.client;
        let mut resources = discovery::resources(client).await?;
        resources.retain(|resource| resource.namespaced);
        let is_pods = |resource: &DiscoveredResource| resource.resource.kind == "Pod";
        resources.sort_by_key(|resource| !is_pods(resource));
        let mut remaining = Remaining::default();
        for resource in &resources {
            let api = Api::namespaced_with(client.clone(), namespace, &resource.resource);
            let name = format!("{}.{}", resource.resource.plural, resource.resource.group);
            delete_all(&api, &name, &mut remaining).await?;
            if is_pods(resource) && !remaining.is_empty() {
                break;
            }
        }
        Ok(remaining)
    }
}

/// Deletes all objects of a resource and counts those that still exist.
async fn delete_all(
    api: &Api<DynamicObject>,
    resource: &str,
    remaining: &mut Remaining,
) -> kube::Result<()> {
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        ..Default::default()
    };
    let mut count = |metadata: &ObjectMeta| {
        remaining.add(resource, metadata.finalizers.as_deref().unwrap_or_default());
    };
    let mut failure = None;
    for object in api.list_metadata(&ListParams::default()).await? {
        if object.metadata.deletion_timestamp.is_some() {
            count(&object.metadata);
            continue;
        }
        let name = object.metadata.name.clone().unwrap_or_default();
        match api.delete(&name, &parameters).await {
            Ok(response) => {
                let left = response.left();
                if let Some(left) = left.filter(|o| o.metadata.deletion_timestamp.is_some()) {
                    count(&left.metadata);
                }
            }
            Err(error) if patch::is_status(&error, 404) => {}
            Err(error) => {
                count(&object.metadata);
                failure = Some(format!("failed to delete {resource} {name:?}: {error}"));
            }
        }
    }
    remaining.failures.extend(failure);
    Ok(())
}

/// Enqueues the namespace of a deleted object that every namespace has to have.
fn enqueue_namespace_of(queue: &Workqueue<ObjectKey>, meta: &ObjectMeta, name: &str) {
    if meta.name.as_deref() == Some(name)
        && let Some(namespace) = &meta.namespace
    {
        queue.add(ObjectKey::cluster_scoped(namespace));
    }
}

fn is_terminating(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..Default::default() }
}

/// Counts an object that exists already as created.
fn ignore_conflict(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(error) if patch::is_status(&error, 409) => Ok(()),
        other => other,
    }
}
