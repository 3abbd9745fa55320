//! The namespace the labs work in. One that no lab made is somebody's own and is never touched.

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::wait::await_condition;
use std::time::Duration;
use tokio::sync::Mutex;

/// The article's namespace.
pub const PRODUCTION: &str = "production";
/// Marks what a lab made.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "canary-labs");

/// Makes the namespace once a run, and takes it away at the end.
#[derive(Debug, Default)]
pub struct Production {
    owned: Mutex<bool>,
}

impl Production {
    /// Makes the namespace, or leaves it if this run has made it. What an earlier run left behind is
    /// deleted first, so that a run always starts from nothing.
    pub async fn own(&self, client: &kube::Client, patience: Duration) -> anyhow::Result<()> {
        let mut owned = self.owned.lock().await;
        if *owned {
            return Ok(());
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        if let Some(found) = namespaces.get_opt(PRODUCTION).await.context("reading namespaces")? {
            let labels = found.metadata.labels.unwrap_or_default();
            if labels.get(MANAGED_BY.0).map(String::as_str) != Some(MANAGED_BY.1) {
                bail!(
                    "the namespace `{PRODUCTION}` was not made by these labs, so they leave it \
                     alone; use another cluster, or delete it yourself if nothing in it matters"
                );
            }
            remove(&namespaces, patience).await?;
        }
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(PRODUCTION.to_owned());
        let label = (MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
        namespace.metadata.labels = Some([label].into());
        let made = namespaces.create(&PostParams::default(), &namespace).await;
        made.with_context(|| format!("creating the namespace `{PRODUCTION}`"))?;
        *owned = true;
        Ok(())
    }

    /// Deletes the namespace if this run made it, and waits until it is gone.
    pub async fn release(&self, client: &kube::Client, patience: Duration) -> anyhow::Result<()> {
        let mut owned = self.owned.lock().await;
        if std::mem::take(&mut *owned) {
            remove(&Api::all(client.clone()), patience).await?;
        }
        Ok(())
    }
}

async fn remove(namespaces: &Api<Namespace>, patience: Duration) -> anyhow::Result<()> {
    match namespaces.delete(PRODUCTION, &DeleteParams::background()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error).context(format!("deleting `{PRODUCTION}`")),
    }
    let gone = |namespace: Option<&Namespace>| namespace.is_none();
    let waited = await_condition(namespaces.clone(), PRODUCTION, gone);
    match tokio::time::timeout(patience, waited).await {
        Ok(result) => result.map(drop).context("waiting for the namespace to go"),
        Err(_) => bail!(
            "the namespace `{PRODUCTION}` was deleted but is still there after {} s",
            patience.as_secs()
        ),
    }
}
