//! People and programs that change a cluster behind a lab's back, for faults that no manifest can
//! express. Each goes on until it is dropped.

use futures::StreamExt as _;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::{
        wait::await_condition,
        watcher::{self, Event, watcher},
    },
};
use serde_json::{Value, json};
use std::{fmt::Debug, pin::pin};

pub(crate) const PRODUCTION: &str = "kubeapp-production";
pub(crate) const CANARY: &str = "kubeapp-canary";

/// Watches one kind of object in `production` and acts on whatever `moved` says yes to, once.
pub(crate) async fn once<K, F>(
    client: Client,
    seen: impl Fn(&K) -> bool,
    act: impl FnOnce(Client) -> F,
) where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + Debug
        + Send
        + 'static,
    F: Future<Output = ()>,
{
    let api: Api<K> = Api::namespaced(client.clone(), "production");
    let mut events = pin!(watcher(api, watcher::Config::default()));
    while let Some(event) = events.next().await {
        if let Ok(Event::Apply(object) | Event::InitApply(object)) = event
            && seen(&object)
        {
            act(client).await;
            break;
        }
    }
    std::future::pending().await
}

/// Whether this is production after its template was changed in that way.
pub(crate) fn production(deployment: &Deployment, changed: impl Fn(&Value) -> bool) -> bool {
    let value = serde_json::to_value(deployment).expect("JSON");
    deployment.metadata.name.as_deref() == Some(PRODUCTION) && changed(&value)
}

/// Whether production was told to run that image.
pub(crate) fn promoted(deployment: &Deployment) -> bool {
    production(deployment, |value| {
        value.pointer("/spec/template/spec/containers/0/image") == Some(&json!("kubeapp:2.0"))
    })
}

/// A merge patch of a Deployment.
pub(crate) async fn patch_deployment(client: Client, name: &str, patch: Value) {
    let api: Api<Deployment> = Api::namespaced(client, "production");
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.expect("a patched Deployment");
}

/// Sets a Deployment's replicas, also whenever somebody else has set them, while it is there.
pub(crate) async fn insist_on_replicas(client: Client, name: &str, replicas: i32) {
    let api: Api<Deployment> = Api::namespaced(client.clone(), "production");
    let count = |deployment: &Deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas);
    loop {
        let other = |found: Option<&Deployment>| found.is_some_and(|d| count(d) != Some(replicas));
        await_condition(api.clone(), name, other).await.expect("a watch of a Deployment");
        let patch = json!({"spec": {"replicas": replicas}});
        // It may have gone in the meantime.
        _ = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    }
}

/// A merge patch of a Service.
pub(crate) async fn patch_service(client: Client, name: &str, patch: Value) {
    let api: Api<Service> = Api::namespaced(client, "production");
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.expect("a patched Service");
}

/// A strategic merge patch of a Deployment.
pub(crate) async fn strategic_patch_deployment(client: Client, name: &str, patch: Value) {
    let api: Api<Deployment> = Api::namespaced(client, "production");
    let patched = api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    patched.expect("a patched Deployment");
}

/// Deletes pods by label, without grace.
pub(crate) async fn delete_pods_now(client: Client, labels: &'static str) {
    let api: Api<Pod> = Api::namespaced(client, "production");
    let selected = ListParams::default().labels(labels);
    let now = DeleteParams::default().grace_period(0);
    let pods = api.list(&selected).await.expect("pods");
    for pod in pods {
        let name = pod.metadata.name.unwrap_or_default();
        _ = api.delete(&name, &now).await.expect("a deleted pod");
    }
}
