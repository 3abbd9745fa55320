//! Informers on a real watch.

use crate::api;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::watcher,
};
use kube_embedded_core::{
    informer::{Informer, ObjectKey, WATCH_BACKOFF},
    task::{panic_count, spawn_named},
};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(60);

fn named(name: &str) -> Namespace {
    serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
}

async fn wait_until(predicate: impl Fn() -> bool) {
    let polled = async {
        while !predicate() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, polled).await.expect("it becomes true");
}

#[tokio::test(start_paused = true)]
async fn informer_follows_list_and_watch() {
    let api: Api<Namespace> = Api::all(api::client());
    api.create(&PostParams::default(), &named("listed")).await.unwrap();
    let informer: Arc<Informer<Namespace>> = Arc::default();
    let by_label = informer.add_index(|ns: &Namespace| ns.metadata.labels.clone()?.remove("tier"));
    let (watched, watch_api) = (informer.clone(), api.clone());
    let watch = spawn_named("informer", async move {
        watched.watch(watch_api, watcher::Config::default(), WATCH_BACKOFF).await;
    });
    informer.wait_synced().await;
    let exists = |name: &str| informer.get(&ObjectKey::cluster_scoped(name)).is_some();
    assert!(exists("listed"));
    let created = api.create(&PostParams::default(), &named("created")).await.unwrap();
    informer.observe_own_write(created);
    assert!(exists("created"), "an own write is visible at once");
    let patch = Patch::Merge(json!({ "metadata": { "labels": { "tier": "web" } } }));
    api.patch("listed", &PatchParams::default(), &patch).await.unwrap();
    wait_until(|| by_label.get("web").len() == 1).await;
    // Its finalizer keeps the namespace until it is empty.
    api.delete("listed", &DeleteParams::default()).await.unwrap();
    let mut terminating = api.get("listed").await.unwrap();
    terminating.spec.get_or_insert_default().finalizers = None;
    let params = PostParams::default();
    api.replace_subresource("finalize", "listed", &params, &terminating).await.unwrap();
    wait_until(|| !exists("listed") && by_label.get("web").is_empty()).await;
    watch.cancel().await;
}

#[tokio::test(start_paused = true)]
async fn informer_lists_again_after_panicking_handler() {
    let api: Api<Namespace> = Api::all(api::client());
    let (informer, armed) = (Arc::new(Informer::default()), Arc::new(AtomicBool::new(true)));
    let disarm = armed.clone();
    informer.add_event_handler(move |_, new: Option<&Arc<Namespace>>| {
        let is_bait = new.is_some_and(|new| new.metadata.name.as_deref() == Some("bait"));
        assert!(!(is_bait && disarm.swap(false, Ordering::Relaxed)), "handler is broken");
    });
    let before = panic_count();
    let (watched, watch_api) = (informer.clone(), api.clone());
    let watch = spawn_named("informer", async move {
        watched.watch(watch_api, watcher::Config::default(), WATCH_BACKOFF).await;
    });
    informer.wait_synced().await;
    for name in ["bait", "later"] {
        api.create(&PostParams::default(), &named(name)).await.unwrap();
    }
    wait_until(|| informer.get(&ObjectKey::cluster_scoped("later")).is_some()).await;
    assert!(informer.get(&ObjectKey::cluster_scoped("bait")).is_some());
    assert!(panic_count() > before && !armed.load(Ordering::Relaxed));
    watch.cancel().await;
}
