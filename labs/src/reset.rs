//! Empties a participant's namespace, so that a phase or an exercise starts from nothing. Only a namespace that was
//! created for it is emptied, or one that the participant has confirmed.

use crate::kubernetes::wait::{self, Objects, Progress};
use crate::kubernetes::{apply, namespace_client::NamespaceClient};
use crate::lab::Lab;
use crate::names::MANAGED_BY;
use crate::step::Command;
use anyhow::{Context as _, ensure};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt as _};
use lab_environment::Environment;
use std::time::{Duration, Instant};

/// The label of a namespace that was created for exercises, and may be emptied.
const EXERCISES: &str = "canary-labs.dev/exercises";

/// The annotation of such a namespace with the exercise that was started last.
const EXERCISE: &str = "canary-labs.dev/exercise";

/// Records the exercise that was started.
pub(crate) async fn record_exercise(
    client: &kube::Client,
    name: &str,
    exercise: &str,
) -> anyhow::Result<()> {
    let patch = serde_json::json!({"metadata": {"annotations": {EXERCISE: exercise}}});
    let api = Api::<Namespace>::all(client.clone());
    let patched = api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map(drop).with_context(|| format!("failed to annotate namespace `{name}`"))
}

/// Returns the exercise that was started last in the namespace, if it is there and one was.
pub(crate) async fn recorded_exercise(
    client: &kube::Client,
    name: &str,
) -> anyhow::Result<Option<String>> {
    let failed = || format!("failed to read namespace `{name}`");
    let found = Api::<Namespace>::all(client.clone()).get_opt(name).await.with_context(failed)?;
    Ok(found.and_then(|found| found.annotations().get(EXERCISE).cloned()))
}

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

/// Returns true if the namespace may be emptied without a question: it does not exist, or it was created for that.
pub(crate) async fn is_ours(client: &kube::Client, name: &str) -> anyhow::Result<bool> {
    let failed = || format!("failed to read namespace `{name}`");
    let found = Api::<Namespace>::all(client.clone()).get_opt(name).await.with_context(failed)?;
    Ok(found.is_none_or(|found| {
        let (key, value) = MANAGED_BY;
        let labels = found.labels();
        labels.contains_key(EXERCISES) || labels.get(key).is_some_and(|found| found == value)
    }))
}

/// Empties the namespace, creating it if needed, and applies what the steps before the first claim of the lab apply.
/// Returns the time that it took.
pub(crate) async fn to_the_start(
    lab: &Lab,
    environment: &Environment,
    client: &kube::Client,
    namespace: &NamespaceClient,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut manifests = Vec::new();
    for file in applied_before(lab) {
        manifests.extend(apply::manifests(environment, file)?);
    }
    if Api::<Namespace>::all(client.clone()).get_opt(namespace.name()).await?.is_none() {
        create_exercise_namespace(client, namespace.name()).await?;
    }
    empty(namespace).await?;
    for manifest in &manifests {
        namespace.apply(manifest).await?;
    }
    Ok(started.elapsed())
}

/// The files that a phase builds on: those that its steps apply as they are before the first that does anything else
/// or proves a claim.
fn applied_before(lab: &Lab) -> impl Iterator<Item = &'static str> {
    let only_applies = |command: &Command| matches!(command, Command::Apply(_) | Command::Look(_));
    let first = lab.steps.iter();
    let first = first
        .take_while(move |step| step.proves.is_empty() && step.commands.iter().all(only_applies));
    first.flat_map(|step| step.commands).filter_map(|command| match command {
        Command::Apply(file) => Some(*file),
        _ => None,
    })
}

/// Deletes what a participant makes in the namespace, and waits until the pods are gone. They end at once.
pub(crate) async fn empty(namespace: &NamespaceClient) -> anyhow::Result<()> {
    let params = DeleteParams::background();
    // Owners first: a ReplicaSet would replace its pods.
    delete_all::<Deployment>(namespace, &params).await?;
    delete_all::<ReplicaSet>(namespace, &params).await?;
    let kill = DeleteParams::default().grace_period(0);
    tokio::try_join!(
        delete_all::<Ingress>(namespace, &params),
        delete_all::<Service>(namespace, &params),
        delete_all::<ConfigMap>(namespace, &params),
        delete_certificates(namespace, &params),
        delete_all::<Pod>(namespace, &kill),
    )?;
    let no_pods = |pods: &Objects<Pod>| match pods.values().next() {
        None => Progress::Done(()),
        Some(pod) => Progress::Pending(format!("{} is still there", pod.name_any())),
    };
    let all = wait::Config::default();
    let end = namespace.rollout();
    wait::until(namespace.api::<Pod>(), all, "end of the pods", end, no_pods).await?;
    // A check reads them: those of deleted objects would count as done.
    delete_all::<Event>(namespace, &params).await
}

/// Deletes the Secrets that Ingresses take certificates from. Others may be the cluster's.
async fn delete_certificates(
    namespace: &NamespaceClient,
    params: &DeleteParams,
) -> anyhow::Result<()> {
    let of_tls = ListParams::default().fields("type=kubernetes.io/tls");
    delete_listed::<Secret>(namespace, params, &of_tls).await
}

async fn delete_all<K>(namespace: &NamespaceClient, params: &DeleteParams) -> anyhow::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + k8s_openapi::Resource,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    delete_listed::<K>(namespace, params, &ListParams::default()).await
}

async fn delete_listed<K>(
    namespace: &NamespaceClient,
    params: &DeleteParams,
    which: &ListParams,
) -> anyhow::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + k8s_openapi::Resource,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api = namespace.api::<K>();
    let failed = || format!("failed to delete {}", <K as Resource>::plural(&()));
    let found = api.list_metadata(which).await.with_context(failed)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases;

    #[test]
    fn phase_starts_with_what_it_builds_on() {
        let of = |name: &str| applied_before(phases::find(name).unwrap()).collect::<Vec<_>>();
        assert_eq!(of("phase3"), Vec::<&str>::new());
        assert_eq!(of("phase4"), ["lb/app-lb.yml", "lb/app-production.yml"]);
        assert_eq!(of("phase5"), Vec::<&str>::new());
    }
}
