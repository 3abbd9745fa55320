//! Changes to a cluster while a lab runs, for faults that no manifest can express. Each runs until it is
//! dropped.

use futures::StreamExt as _;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event as Recorded, Pod, Service},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{
        wait::await_condition,
        watcher::{self, Event, watcher},
    },
};
use serde_json::{Value, json};
use std::{fmt::Debug, pin::pin};

pub(crate) const PRODUCTION: &str = "kubeapp-production";
pub(crate) const CANARY: &str = "kubeapp-canary";

/// Watches one resource in `production` and acts once, on the first object that `trigger` accepts.
pub(crate) async fn once<K, F>(
    client: Client,
    trigger: impl Fn(&K) -> bool,
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
            && trigger(&object)
        {
            act(client).await;
            break;
        }
    }
    std::future::pending().await
}

/// Returns true if this is production's Deployment and its JSON satisfies the predicate.
pub(crate) fn production(deployment: &Deployment, predicate: impl Fn(&Value) -> bool) -> bool {
    let value = serde_json::to_value(deployment).expect("JSON");
    deployment.metadata.name.as_deref() == Some(PRODUCTION) && predicate(&value)
}

/// Returns true if production's template has the canary's image.
pub(crate) fn promoted(deployment: &Deployment) -> bool {
    production(deployment, |value| {
        value.pointer("/spec/template/spec/containers/0/image") == Some(&json!("kubeapp:2.0"))
    })
}

/// Applies a merge patch to a Deployment.
pub(crate) async fn patch_deployment(client: Client, name: &str, patch: Value) {
    let api: Api<Deployment> = Api::namespaced(client, "production");
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.expect("a patched Deployment");
}

/// Sets a Deployment's replicas, and again whenever they are changed, while it exists.
pub(crate) async fn insist_on_replicas(client: Client, name: &str, replicas: i32) {
    let api: Api<Deployment> = Api::namespaced(client.clone(), "production");
    let count = |deployment: &Deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas);
    loop {
        let other = |found: Option<&Deployment>| found.is_some_and(|d| count(d) != Some(replicas));
        await_condition(api.clone(), name, other).await.expect("a watch of a Deployment");
        let patch = json!({"spec": {"replicas": replicas}});
        // It may have been deleted in the meantime.
        _ = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    }
}

/// Applies a merge patch to a Service.
pub(crate) async fn patch_service(client: Client, name: &str, patch: Value) {
    let api: Api<Service> = Api::namespaced(client, "production");
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.expect("a patched Service");
}

/// Applies a strategic merge patch to a Deployment.
pub(crate) async fn strategic_patch_deployment(client: Client, name: &str, patch: Value) {
    let api: Api<Deployment> = Api::namespaced(client, "production");
    let patched = api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    patched.expect("a patched Deployment");
}

/// Deletes pods by label, without a grace period.
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

/// Acts as the kubelet of a node that creates no sandboxes: it records that it failed, twice, and removes pods that end.
pub(crate) async fn broken_kubelet(client: Client, node: &str) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "production");
    let recorded: Api<Recorded> = Api::namespaced(client, "production");
    let of_node = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = pin!(watcher(pods.clone(), of_node));
    while let Some(event) = events.next().await {
        let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { continue };
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_some() {
            _ = pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
            continue;
        }
        for attempt in 1..=2 {
            let about = json!({"kind": "Pod", "name": name, "namespace": "production",
                "uid": pod.metadata.uid});
            let event = json!({"metadata": {"name": format!("{name}.{attempt}")}, "type": "Warning",
                "involvedObject": about, "reason": "FailedCreatePodSandBox", "message": "no cgroup",
                "lastTimestamp": format!("2026-01-01T00:00:0{attempt}Z")});
            let event = serde_json::from_value(event).expect("an event");
            _ = recorded.create(&PostParams::default(), &event).await;
        }
    }
}

/// Removes every pod from a Service long enough for load balancers to notice, and restores them before the lab takes
/// that for a lasting fault.
pub(crate) async fn interrupt(client: Client, service: &str) {
    let selector = |app: &str| json!({"spec": {"selector": {"app": app}}});
    patch_service(client.clone(), service, selector("none")).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    patch_service(client, service, selector("kubeapp")).await;
}

/// Interrupts traffic while the first pod of the canary ends. A finalizer keeps the pod until then, or it could be
/// gone before this sees that it ends.
pub(crate) async fn interrupt_while_canary_ends(client: Client) {
    const FINALIZER: &str = "canary-labs.dev/test";
    let api: Api<Pod> = Api::namespaced(client.clone(), "production");
    let set_finalizers = async |name: &str, finalizers: &[&str]| {
        let patch = json!({"metadata": {"finalizers": finalizers}});
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.expect("a patched pod");
    };
    let canaries = watcher::Config::default().labels("env=canary");
    let mut events = pin!(watcher(api.clone(), canaries));
    let mut kept = false;
    while let Some(event) = events.next().await {
        let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { continue };
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_none() {
            if !kept {
                set_finalizers(&name, &[FINALIZER]).await;
                kept = true;
            }
        } else if pod.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            interrupt(client.clone(), "app-lb").await;
            set_finalizers(&name, &[]).await;
            break;
        }
    }
    std::future::pending().await
}
