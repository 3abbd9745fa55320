//! The labs' namespace, together with the Lease that keeps concurrent runs apart. A namespace that no
//! lab created belongs to the user and is never touched.

use crate::{
    kubernetes::{
        gateway, nodes,
        wait::{Config, Objects, Progress, until},
    },
    lease::{self, RunLease},
    names::{MANAGED_BY, NAMESPACE},
};
use anyhow::{Context as _, bail};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Namespace, Node, Pod, Secret, Service},
    networking::v1::Ingress,
};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams, Preconditions};
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use std::{sync::OnceLock, time::Duration};
use tokio::sync::{Mutex, watch};

/// The annotation that names the run which created a namespace, as its Lease does.
const RUN: &str = "canary-labs.dev/run";

/// Creates the namespace once per run, and deletes it at the end.
#[derive(Debug)]
pub struct OwnedNamespace {
    /// Created in the namespace whenever that is created.
    pull_secret: Option<Secret>,
    state: Mutex<State>,
    /// This run's identity, once it holds the Lease.
    holder: OnceLock<String>,
    lost: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    lease: Option<RunLease>,
    ownership: Ownership,
}

/// Which namespace, if any, belongs to this run.
#[derive(Debug, Default, PartialEq)]
enum Ownership {
    #[default]
    None,
    /// The create request may have been interrupted after the API server had executed it.
    Pending,
    /// The namespace with this uid, and no other of the same name.
    Owned(String),
}

impl Ownership {
    /// Returns true if the namespace is this run's.
    fn matches(&self, found: &Namespace, holder: Option<&String>) -> bool {
        match self {
            Self::None => false,
            Self::Pending => {
                let by = found.metadata.annotations.as_ref().and_then(|all| all.get(RUN));
                by.is_some() && by == holder
            }
            Self::Owned(uid) => found.metadata.uid.as_ref() == Some(uid),
        }
    }
}

impl Default for OwnedNamespace {
    fn default() -> Self {
        let (state, holder) = Default::default();
        Self { pull_secret: None, state, holder, lost: watch::Sender::new(None) }
    }
}

impl OwnedNamespace {
    /// A namespace that contains this pull secret whenever it is created.
    pub fn with_pull_secret(pull_secret: Option<Secret>) -> Self {
        Self { pull_secret, ..Self::default() }
    }

    /// Returns an error if the namespace exists and is not the labs': they would have to delete it.
    pub(crate) async fn check_free(client: &kube::Client) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let found = namespaces.get_opt(NAMESPACE).await.context("failed to read namespaces")?;
        found.map_or(Ok(()), |found| check_managed(&found))
    }

    /// Creates the namespace unless this run has created it already. One that an earlier run left
    /// behind is deleted first, so that a run always starts from nothing.
    pub async fn ensure(&self, client: &kube::Client, timeout: Duration) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        if state.ownership != Ownership::None {
            return Ok(());
        }
        if state.lease.is_none() {
            let lease = RunLease::acquire(client).await?;
            self.forward_loss(lease.lost());
            _ = self.holder.set(lease.holder().to_owned());
            state.lease = Some(lease);
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let found = namespaces.get_opt(NAMESPACE).await.context("failed to read namespaces")?;
        if let Some(found) = found {
            check_managed(&found)?;
            delete(client, found, timeout).await?;
        }
        state.ownership = Ownership::Pending;
        let namespace = namespace(self.holder.get());
        let created = namespaces.create(&PostParams::default(), &namespace).await;
        let created =
            created.with_context(|| format!("failed to create the namespace `{NAMESPACE}`"))?;
        let uid = created.metadata.uid.unwrap_or_default();
        tracing::info!(namespace = NAMESPACE, uid, "namespace created");
        state.ownership = Ownership::Owned(uid);
        if let Some(secret) = &self.pull_secret {
            let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
            let created = secrets.create(&PostParams::default(), secret).await;
            created.context("failed to create the pull secret")?;
        }
        Ok(())
    }

    /// Deletes the objects of earlier labs of this run. The namespace stays, since real Kubernetes needs
    /// seconds to delete one, however empty.
    pub async fn empty(&self, client: &kube::Client, timeout: Duration) -> anyhow::Result<()> {
        let state = self.state.lock().await;
        if state.ownership == Ownership::None {
            return Ok(());
        }
        if let Some(why) = self.taken_over(client).await {
            bail!(why);
        }
        let all = ListParams::default();
        // Services have no deletion of a collection in older versions.
        let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
        for service in services.list(&all).await.context("failed to list Services")? {
            let name = service.metadata.name.unwrap_or_default();
            let deleted = services.delete(&name, &DeleteParams::default()).await;
            ignore_missing(deleted).with_context(|| format!("failed to delete Service {name}"))?;
        }
        let ingresses: Api<Ingress> = Api::namespaced(client.clone(), NAMESPACE);
        let deleted = ingresses.delete_collection(&DeleteParams::default(), &all).await;
        deleted.context("failed to delete the Ingresses")?;
        for resource in gateway::kinds() {
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), NAMESPACE, &resource);
            let deleted = api.delete_collection(&DeleteParams::default(), &all).await;
            // Where the Gateway API is not served, there is none.
            ignore_missing(deleted)
                .with_context(|| format!("failed to delete the {}", resource.plural))?;
        }
        delete_pods(client, timeout).await.context("failed to delete the pods")
    }

    /// Returns true if [`OwnedNamespace::release`] would have nothing to remove from the cluster.
    pub async fn is_released(&self) -> bool {
        let state = self.state.lock().await;
        state.ownership == Ownership::None && state.lease.is_none()
    }

    /// Deletes the namespace that this run created, unless it is to be kept, waits until it is removed,
    /// and releases the Lease. Touches nothing if another run may have taken over the cluster.
    pub async fn release(
        &self,
        client: &kube::Client,
        keep: bool,
        timeout: Duration,
    ) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        let ownership = std::mem::take(&mut state.ownership);
        if self.taken_over(client).await.is_some() {
            state.lease = None;
            bail!("nothing was deleted: the namespace may belong to another run");
        }
        let removed = if ownership == Ownership::None || keep {
            Ok(())
        } else {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            match namespaces.get_opt(NAMESPACE).await.context("failed to read namespaces") {
                Ok(Some(found)) if ownership.matches(&found, self.holder.get()) => {
                    delete(client, found, timeout).await
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            }
        };
        match state.lease.take() {
            Some(lease) => removed.and(lease.release().await),
            None => removed,
        }
    }

    /// The reason why the cluster no longer belongs to this run, if so.
    pub async fn taken_over(&self, client: &kube::Client) -> Option<String> {
        if let Some(why) = self.lost.borrow().clone() {
            return Some(why);
        }
        lease::holder_changed(self.holder.get()?, client).await
    }

    /// Completes with the reason once the Lease is lost: another run has taken over the cluster, or the
    /// cluster has stopped responding.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    fn forward_loss(&self, mut from: watch::Receiver<Option<String>>) {
        let to = self.lost.clone();
        tokio::spawn(async move {
            if let Ok(reason) = from.wait_for(Option::is_some).await {
                to.send_replace(reason.clone());
            }
        });
    }
}

fn namespace(holder: Option<&String>) -> Namespace {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    let (key, value) = MANAGED_BY;
    namespace.metadata.labels = Some([(key.to_owned(), value.to_owned())].into());
    namespace.metadata.annotations = holder.map(|run| [(RUN.to_owned(), run.clone())].into());
    namespace
}

fn is_managed(namespace: &Namespace) -> bool {
    let labels = namespace.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|by| by == MANAGED_BY.1)
}

/// Returns an error unless the labs created the namespace.
fn check_managed(namespace: &Namespace) -> anyhow::Result<()> {
    if !is_managed(namespace) {
        bail!(
            "the namespace `{NAMESPACE}` exists and was not created by these labs, which would have to \
             empty it: delete it if nothing in it matters (`kubectl delete namespace {NAMESPACE}`), or \
             use another cluster (`cargo xtask down` ends the one of `up`)"
        );
    }
    Ok(())
}

/// Treats an object that does not exist as deleted.
fn ignore_missing<T>(deleted: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match deleted {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes the pods with their owners and waits until they are removed.
async fn delete_pods(client: &kube::Client, timeout: Duration) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), NAMESPACE);
    let (params, all) = (DeleteParams::background(), ListParams::default());
    // Owners first, or they would create replacements.
    deployments.delete_collection(&params, &all).await?;
    sets.delete_collection(&params, &all).await?;
    pods.delete_collection(&params, &all).await?;
    // No kubelet confirms the end of a pod on a node that is lost or does not exist.
    let nodes = Api::<Node>::all(client.clone()).list(&all).await?;
    for pod in pods.list(&all).await? {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        let is_ready = |name| {
            let mut named = nodes.iter().filter(|node| node.metadata.name.as_ref() == Some(name));
            named.next().is_some_and(nodes::is_ready)
        };
        if node.is_some_and(|name| !is_ready(name)) {
            let name = pod.metadata.name.unwrap_or_default();
            ignore_missing(pods.delete(&name, &DeleteParams::default().grace_period(0)).await)?;
        }
    }
    let none_left = |pods: &Objects<Pod>| match pods.len() {
        0 => Progress::Done(()),
        left => Progress::Pending(format!("{left} pods")),
    };
    Ok(until(pods, Config::default(), "end of the pods", timeout, none_left).await?)
}

async fn delete(client: &kube::Client, found: Namespace, timeout: Duration) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    // Best effort: deleting the namespace removes whatever is left. Without this, the namespace controller
    // that finds pods still terminating looks again only after half their grace period.
    _ = delete_pods(client, timeout).await;
    let uid = found.metadata.uid.unwrap_or_default();
    let preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::background() };
    match namespaces.delete(NAMESPACE, &params).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        // Some versions of Kubernetes respond so while the namespace is terminating.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => {
            return Err(error).context(format!("failed to delete the namespace `{NAMESPACE}`"));
        }
    }
    let removed = await_condition(namespaces.clone(), NAMESPACE, is_deleted(&uid));
    match tokio::time::timeout(timeout, removed).await {
        Ok(Ok(_)) => {
            tracing::info!(namespace = NAMESPACE, uid, "namespace deleted");
            Ok(())
        }
        Ok(Err(error)) => Err(error).context("failed to wait for the namespace's removal"),
        Err(_) => bail!(
            "the namespace `{NAMESPACE}` was deleted but still exists after {} s; see \
             `kubectl get namespace {NAMESPACE} -o yaml` for what blocks it",
            timeout.as_secs()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_without_our_label_is_not_managed() {
        assert!(is_managed(&namespace(None)));
        let mut other = namespace(None);
        other.metadata.labels = None;
        assert!(!is_managed(&other));
        other.metadata.labels = Some([(MANAGED_BY.0.to_owned(), "helm".to_owned())].into());
        assert!(!is_managed(&other));
    }

    #[test]
    fn ownership_matches_only_this_runs_namespace() {
        let (this, another) = ("this".to_owned(), "another".to_owned());
        let found = |run: &String, uid: &str| {
            let mut found = namespace(Some(run));
            found.metadata.uid = Some(uid.to_owned());
            found
        };
        let uid = Ownership::Owned("1".to_owned());
        assert!(uid.matches(&found(&this, "1"), Some(&this)));
        assert!(!uid.matches(&found(&this, "2"), Some(&this)));
        assert!(Ownership::Pending.matches(&found(&this, "2"), Some(&this)));
        assert!(!Ownership::Pending.matches(&found(&another, "2"), Some(&this)));
        assert!(!Ownership::Pending.matches(&namespace(None), None));
        assert!(!Ownership::None.matches(&found(&this, "1"), Some(&this)));
    }
}
