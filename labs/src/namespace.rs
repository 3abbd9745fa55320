//! The namespace the labs work in, together with the lock that keeps two runs apart. A namespace that
//! no lab made is somebody's own and is never touched.

use crate::{
    kubernetes::wait::{Config, Seen, until},
    lock::{self, Lock},
};
use anyhow::{Context as _, bail};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Namespace, Pod, Secret},
};
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use std::{collections::BTreeMap, sync::OnceLock, time::Duration};
use tokio::sync::{Mutex, watch};

/// The article's namespace.
pub const PRODUCTION: &str = "production";
/// Label and value that mark what a lab made.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "canary-labs");

/// Names the run that made a namespace, as its Lease does.
const RUN: &str = "canary-labs.dev/run";

/// Makes the namespace once a run, and takes it away at the end.
#[derive(Debug)]
pub struct Production {
    /// Made in each namespace of this run.
    secret: Option<Secret>,
    state: Mutex<State>,
    /// This run's name, once it has the Lease.
    holder: OnceLock<String>,
    lost: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    lock: Option<Lock>,
    made: Made,
}

/// Which namespace is this run's.
#[derive(Debug, Default, PartialEq)]
enum Made {
    #[default]
    None,
    /// The call that makes it may have been interrupted when the API had already made it.
    Perhaps,
    /// That with this uid, and no other of the name.
    Uid(String),
}

impl Made {
    /// Whether it is this one.
    fn is(&self, found: &Namespace, holder: Option<&String>) -> bool {
        match self {
            Self::None => false,
            Self::Perhaps => {
                let by = found.metadata.annotations.as_ref().and_then(|all| all.get(RUN));
                by.is_some() && by == holder
            }
            Self::Uid(uid) => found.metadata.uid.as_ref() == Some(uid),
        }
    }
}

impl Default for Production {
    fn default() -> Self {
        let (state, holder) = Default::default();
        Self { secret: None, state, holder, lost: watch::Sender::new(None) }
    }
}

impl Production {
    /// One in which the nodes find what it takes to pull the images, wherever it is made.
    pub fn with(secret: Option<Secret>) -> Self {
        Self { secret, ..Self::default() }
    }

    /// Makes the namespace, or leaves it if this run has made it. What an earlier run left behind is
    /// deleted first, so that a run always starts from nothing.
    pub async fn own(&self, client: &kube::Client, patience: Duration) -> anyhow::Result<()> {
        self.make(client, patience, false).await
    }

    /// The same, and also deletes what this run has made, as the article does before its second half.
    pub async fn renew(&self, client: &kube::Client, patience: Duration) -> anyhow::Result<()> {
        self.make(client, patience, true).await
    }

    async fn make(
        &self,
        client: &kube::Client,
        patience: Duration,
        anew: bool,
    ) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        if state.made != Made::None && !anew {
            return Ok(());
        }
        if state.lock.is_none() {
            let lock = Lock::take(client).await?;
            self.pass_on(lock.lost());
            _ = self.holder.set(lock.holder().to_owned());
            state.lock = Some(lock);
        } else if let Some(why) = self.taken_over(client).await {
            bail!(why);
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        if let Some(found) = namespaces.get_opt(PRODUCTION).await.context("reading namespaces")? {
            if !is_ours(&found) {
                bail!(
                    "the namespace `{PRODUCTION}` was not made by these labs, so they leave it \
                     alone; use another cluster, or delete it yourself if nothing in it matters: \
                     kubectl delete namespace {PRODUCTION}"
                );
            }
            remove(client, found, patience).await?;
        }
        state.made = Made::Perhaps;
        let namespace = namespace(self.holder.get());
        let made = namespaces.create(&PostParams::default(), &namespace).await;
        let made = made.with_context(|| format!("creating the namespace `{PRODUCTION}`"))?;
        state.made = Made::Uid(made.metadata.uid.unwrap_or_default());
        if let Some(secret) = &self.secret {
            let secrets: Api<Secret> = Api::namespaced(client.clone(), PRODUCTION);
            let made = secrets.create(&PostParams::default(), secret).await;
            made.context("creating the pull secret")?;
        }
        Ok(())
    }

    /// Whether there is nothing on the cluster that [`Production::release`] would take away.
    pub async fn has_nothing(&self) -> bool {
        let state = self.state.lock().await;
        state.made == Made::None && state.lock.is_none()
    }

    /// Deletes the namespace that this run made, unless it is to be kept, waits until it is gone, and
    /// lets other runs in. Once another run may have taken the cluster over, nothing is touched.
    pub async fn release(
        &self,
        client: &kube::Client,
        keep: bool,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        let made = std::mem::take(&mut state.made);
        if self.taken_over(client).await.is_some() {
            state.lock = None;
            bail!("nothing was deleted, since what is there may be another run's by now");
        }
        let removed = if made == Made::None || keep {
            Ok(())
        } else {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            match namespaces.get_opt(PRODUCTION).await.context("reading namespaces") {
                Ok(Some(found)) if made.is(&found, self.holder.get()) => {
                    remove(client, found, patience).await
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            }
        };
        match state.lock.take() {
            Some(lock) => removed.and(lock.release().await),
            None => removed,
        }
    }

    /// Why the cluster is not this run's any more, if it is not.
    pub async fn taken_over(&self, client: &kube::Client) -> Option<String> {
        if let Some(why) = self.lost.borrow().clone() {
            return Some(why);
        }
        lock::taken_from(self.holder.get()?, client).await
    }

    /// Ends with the reason once another run has taken the cluster over, or the cluster has fallen
    /// silent; else never.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    fn pass_on(&self, mut from: watch::Receiver<Option<String>>) {
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
    namespace.metadata.name = Some(PRODUCTION.to_owned());
    let (key, value) = MANAGED_BY;
    namespace.metadata.labels = Some([(key.to_owned(), value.to_owned())].into());
    namespace.metadata.annotations = holder.map(|run| [(RUN.to_owned(), run.clone())].into());
    namespace
}

fn is_ours(namespace: &Namespace) -> bool {
    let labels = namespace.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY.0)).is_some_and(|by| by == MANAGED_BY.1)
}

/// Ends the pods, and waits until they are gone. A namespace in which there are pods still is looked at
/// again only after half their grace period, however soon they end.
async fn empty(client: &kube::Client, patience: Duration) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), PRODUCTION);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), PRODUCTION);
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), PRODUCTION);
    let (params, all) = (DeleteParams::background(), ListParams::default());
    let ended = async {
        // Whoever makes others goes before them.
        deployments.delete_collection(&params, &all).await?;
        sets.delete_collection(&params, &all).await?;
        pods.delete_collection(&params, &all).await?;
        Ok::<(), kube::Error>(())
    };
    // What fails here is the namespace's to end.
    if ended.await.is_ok() {
        let gone = |pods: &BTreeMap<String, Pod>| match pods.len() {
            0 => Seen::Done(()),
            left => Seen::Waiting(format!("{left} pods")),
        };
        let _ = until(pods, Config::default(), "end of the pods", patience, gone).await;
    }
}

async fn remove(client: &kube::Client, found: Namespace, patience: Duration) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    empty(client, patience).await;
    let uid = found.metadata.uid.unwrap_or_default();
    let preconditions = Some(Preconditions { uid: Some(uid.clone()), resource_version: None });
    let delete = DeleteParams { preconditions, ..DeleteParams::background() };
    match namespaces.delete(PRODUCTION, &delete).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        // Already being deleted: some versions answer so.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error).context(format!("deleting `{PRODUCTION}`")),
    }
    let gone = await_condition(namespaces.clone(), PRODUCTION, is_deleted(&uid));
    match tokio::time::timeout(patience, gone).await {
        Ok(result) => result.map(drop).context("waiting for the namespace to go"),
        Err(_) => bail!(
            "the namespace `{PRODUCTION}` was deleted, but is still there after {} s; see \
             `kubectl get namespace {PRODUCTION} -o yaml` for what holds it",
            patience.as_secs()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_namespace_with_the_label_is_ours() {
        assert!(is_ours(&namespace(None)));
        let mut other = namespace(None);
        other.metadata.labels = None;
        assert!(!is_ours(&other));
        other.metadata.labels = Some([(MANAGED_BY.0.to_owned(), "helm".to_owned())].into());
        assert!(!is_ours(&other));
    }
    #[test]
    fn a_run_knows_its_own_namespace() {
        let (this, another) = ("this".to_owned(), "another".to_owned());
        let found = |run: &String, uid: &str| {
            let mut found = namespace(Some(run));
            found.metadata.uid = Some(uid.to_owned());
            found
        };
        let uid = Made::Uid("1".to_owned());
        assert!(uid.is(&found(&this, "1"), Some(&this)));
        assert!(!uid.is(&found(&this, "2"), Some(&this)));
        assert!(Made::Perhaps.is(&found(&this, "2"), Some(&this)));
        assert!(!Made::Perhaps.is(&found(&another, "2"), Some(&this)));
        assert!(!Made::Perhaps.is(&namespace(None), None));
        assert!(!Made::None.is(&found(&this, "1"), Some(&this)));
    }
}
