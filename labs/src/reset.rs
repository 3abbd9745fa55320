//! Empties a participant's namespace, so that a phase or an exercise starts from nothing.

use crate::kubernetes::namespace_client::NamespaceClient;
use anyhow::{Context as _, ensure};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Resource, ResourceExt as _};

/// The label of a namespace that was created for exercises, and may be emptied.
const EXERCISES: &str = "canary-labs.dev/exercises";

/// Returns an error unless the namespace was created for exercises.
pub(crate) async fn expect_exercise_namespace(
    client: &kube::Client,
    name: &str,
) -> anyhow::Result<()> {
    let failed = || format!("failed to read namespace `{name}`");
    let found = Api::<Namespace>::all(client.clone()).get(name).await.with_context(failed)?;
    ensure!(
        found.labels().contains_key(EXERCISES),
        "namespace `{name}` was not created for exercises, and this one is judged by a rollout; start the exercise \
         in a namespace of its own"
    );
    Ok(())
}

/// Creates the namespace for exercises. One that is there already has to have been created by this function: nothing
/// else is deleted.
pub(crate) async fn create_exercise_namespace(
    client: &kube::Client,
    name: &str,
) -> anyhow::Result<()> {
    let api = Api::<Namespace>::all(client.clone());
    let failed = || format!("failed to create namespace `{name}`");
    if let Some(found) = api.get_opt(name).await.with_context(failed)? {
        ensure!(
            found.labels().contains_key(EXERCISES),
            "namespace `{name}` was not created for exercises, and starting one deletes what is in it; name another \
             one with --namespace, or allow it with `kubectl label namespace {name} {EXERCISES}=`"
        );
        return Ok(());
    }
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    namespace.labels_mut().insert(EXERCISES.to_owned(), String::new());
    api.create(&PostParams::default(), &namespace).await.map(drop).with_context(failed)
}

/// Creates the namespace unless it exists.
pub(crate) async fn create_namespace(client: &kube::Client, name: &str) -> anyhow::Result<()> {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    match Api::all(client.clone()).create(&PostParams::default(), &namespace).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(error) => Err(error).with_context(|| format!("failed to create namespace `{name}`")),
    }
}

/// Deletes what a participant makes in the namespace. Pods end at once.
pub(crate) async fn empty(namespace: &NamespaceClient) -> anyhow::Result<()> {
    let params = DeleteParams::background();
    delete_all::<Deployment>(namespace, &params).await?;
    delete_all::<Ingress>(namespace, &params).await?;
    delete_all::<Service>(namespace, &params).await?;
    delete_all::<ConfigMap>(namespace, &params).await?;
    delete_all::<Pod>(namespace, &DeleteParams::default().grace_period(0)).await?;
    // A check reads them: those of deleted objects would count as done.
    delete_all::<Event>(namespace, &params).await
}

async fn delete_all<K>(namespace: &NamespaceClient, params: &DeleteParams) -> anyhow::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + k8s_openapi::Resource,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api = namespace.api::<K>();
    let failed = || format!("failed to delete {}", <K as Resource>::plural(&()));
    let found = api.list_metadata(&ListParams::default()).await.with_context(failed)?;
    for name in found.items.into_iter().filter_map(|object| object.metadata.name) {
        if name == "kube-root-ca.crt" || name == "kubernetes" {
            continue;
        }
        match api.delete(&name, params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error).with_context(failed),
        }
    }
    Ok(())
}
