//! Tests a controller against a real API: `cargo run --example controller_test`.
//!
//! The controller copies each ConfigMap labeled `mirror: "true"` to a Secret of the same name, owned by
//! it. The test creates and changes one, deletes the copy, and waits for what the controller makes of it.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{Controller, controller::Action, wait::await_condition, watcher},
};
use kube_embedded::{Cluster, Config};
use serde_json::json;
use std::{error::Error, sync::Arc, time::Duration};

/// The code under test. It knows nothing of kube-embedded.
async fn run_controller(client: Client) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let retry = |_, _: &kube::Error, _| Action::requeue(Duration::from_millis(100));
    Controller::new(maps, watcher::Config::default().labels("mirror=true"))
        .owns(secrets, watcher::Config::default())
        .run(reconcile, retry, Arc::new(client))
        .for_each(|_| async {})
        .await;
}

async fn reconcile(map: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, kube::Error> {
    let secrets: Api<Secret> = Api::default_namespaced((*client).clone());
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": map.name_any(), "ownerReferences": [map.controller_owner_ref(&())] },
        "stringData": map.data,
    });
    let params = PatchParams::apply("mirror").force();
    secrets.patch(&map.name_any(), &params, &Patch::Apply(secret)).await?;
    Ok(Action::await_change())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tokio::time::timeout(Duration::from_secs(60), test()).await?
}

/// What a `#[tokio::test]` of yours would contain.
pub(crate) async fn test() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
    let client = cluster.client();
    let controller = tokio::spawn(run_controller(client.clone()));
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let secrets: Api<Secret> = Api::default_namespaced(client);

    let map = serde_json::from_value(json!({
        "metadata": { "name": "greeting", "labels": { "mirror": "true" } },
        "data": { "text": "hello" },
    }))?;
    maps.create(&PostParams::default(), &map).await?;
    await_condition(secrets.clone(), "greeting", holds(b"hello")).await?;

    let change = Patch::Merge(json!({ "data": { "text": "goodbye" } }));
    maps.patch("greeting", &PatchParams::default(), &change).await?;
    await_condition(secrets.clone(), "greeting", holds(b"goodbye")).await?;

    // The controller restores what it owns.
    secrets.delete("greeting", &DeleteParams::default()).await?;
    await_condition(secrets.clone(), "greeting", holds(b"goodbye")).await?;

    // Garbage collection is the cluster's: the copy is deleted with its owner.
    maps.delete("greeting", &DeleteParams::default()).await?;
    await_condition(secrets, "greeting", |secret: Option<&Secret>| secret.is_none()).await?;

    controller.abort();
    cluster.stop().await;
    println!("the controller creates, updates, restores and cleans up");
    Ok(())
}

fn holds(text: &'static [u8]) -> impl Fn(Option<&Secret>) -> bool {
    move |secret| {
        let data = secret.and_then(|secret| secret.data.as_ref());
        data.and_then(|data| data.get("text")).is_some_and(|value| value.0 == text)
    }
}
