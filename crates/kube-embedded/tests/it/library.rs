//! The library as Rust developers use it: a controller under test, with a CustomResourceDefinition, and
//! several clusters in one process. Each test is an example to copy.

use crate::{
    crds,
    fixture::{eventually, in_time},
};
use futures::StreamExt;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Event as CoreEvent, Pod, ServiceAccount},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        events::{Event, EventType, Recorder, Reporter},
        finalizer::{Event as Finalizer, finalizer},
        reflector,
        wait::{await_condition, conditions},
        watcher,
    },
};
use kube_embedded::{Cluster, Config};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{borrow::Cow, sync::Arc, time::Duration};

/// A custom resource as `#[derive(CustomResource)]` would generate it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Canary {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: CanarySpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<CanaryStatus>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct CanarySpec {
    weight: i32,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct CanaryStatus {
    phase: String,
}

impl Resource for Canary {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "Canary".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "shop.example.com".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "canaries".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Canary {
    fn new(name: &str, weight: i32) -> Self {
        Self {
            api_version: "shop.example.com/v1".into(),
            kind: "Canary".into(),
            metadata: ObjectMeta { name: Some(name.into()), ..Default::default() },
            spec: CanarySpec { weight },
            status: None,
        }
    }
}

/// Starts an API and its controllers, without nodes: enough for most tests of a controller.
async fn cluster() -> Cluster {
    Cluster::start(Config { nodes: 0, ..Config::default() }).await.unwrap()
}

/// Installs the definition and waits until it is served.
async fn install(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = serde_json::from_value(crds::definition()).unwrap();
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    let established = conditions::is_crd_established();
    in_time(await_condition(definitions, "canaries.shop.example.com", established)).await.unwrap();
}

/// Runs a controller that applies a config map for each canary, reports it in an event and in the status, and
/// cleans up before a canary is deleted.
async fn run_controller(client: Client) {
    let recorder = Recorder::new(client.clone(), Reporter::from("canary-controller"));
    let context = Arc::new((client.clone(), recorder));
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    Controller::new(Api::<Canary>::default_namespaced(client), watcher::Config::default())
        .owns(maps, watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(50)), context)
        .for_each(|_| async {})
        .await;
}

type Context = (Client, Recorder);

async fn reconcile(canary: Arc<Canary>, context: Arc<Context>) -> Result<Action, kube::Error> {
    let api: Api<Canary> = Api::default_namespaced(context.0.clone());
    let result = finalizer(&api, "shop.example.com/cleanup", canary, |event| async {
        match event {
            Finalizer::Apply(canary) => apply(&canary, &context).await,
            Finalizer::Cleanup(canary) => clean_up(&canary, &context.0).await,
        }
    });
    match result.await {
        Ok(action) => Ok(action),
        // A conflict, for example. The output is shown if the test fails.
        Err(error) => {
            println!("requeued after {error:?}");
            Ok(Action::requeue(Duration::from_millis(50)))
        }
    }
}

async fn apply(canary: &Canary, (client, recorder): &Context) -> Result<Action, kube::Error> {
    let name = canary.name_any();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "ownerReferences": [canary.controller_owner_ref(&())] },
        "data": { "weight": canary.spec.weight.to_string() },
    });
    let manager = PatchParams::apply("canary-controller").force();
    maps.patch(&name, &manager, &Patch::Apply(map)).await?;
    if canary.status.is_none() {
        let event = Event {
            type_: EventType::Normal,
            reason: "Configured".into(),
            note: Some(format!("weight {}", canary.spec.weight)),
            action: "Configure".into(),
            secondary: None,
        };
        recorder.publish(&event, &canary.object_ref(&())).await?;
        let canaries: Api<Canary> = Api::default_namespaced(client.clone());
        let status = json!({ "status": { "phase": "Configured" } });
        canaries.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
    }
    Ok(Action::await_change())
}

async fn clean_up(canary: &Canary, client: &Client) -> Result<Action, kube::Error> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let marker = ConfigMap {
        metadata: ObjectMeta { name: Some("cleaned-up".into()), ..Default::default() },
        data: Some([(canary.name_any(), "deleted".into())].into()),
        ..Default::default()
    };
    maps.create(&PostParams::default(), &marker).await?;
    Ok(Action::await_change())
}

#[tokio::test(flavor = "multi_thread")]
async fn controller_applies_restores_and_cleans_up() {
    let cluster = cluster().await;
    let client = cluster.client();
    install(&client).await;
    let controller = tokio::spawn(run_controller(client.clone()));
    let canaries: Api<Canary> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());

    canaries.create(&PostParams::default(), &Canary::new("red", 10)).await.unwrap();
    let configured = |canary: Option<&Canary>| {
        canary.and_then(|c| c.status.as_ref()).is_some_and(|status| status.phase == "Configured")
    };
    in_time(await_condition(canaries.clone(), "red", configured)).await.unwrap();
    let weight = |expected: &'static str| {
        move |map: Option<&ConfigMap>| {
            let data = map.and_then(|map| map.data.as_ref());
            data.and_then(|data| data.get("weight")).is_some_and(|weight| weight == expected)
        }
    };
    in_time(await_condition(maps.clone(), "red", weight("10"))).await.unwrap();
    let change = Patch::Merge(json!({ "spec": { "weight": 20 } }));
    canaries.patch("red", &PatchParams::default(), &change).await.unwrap();
    in_time(await_condition(maps.clone(), "red", weight("20"))).await.unwrap();
    // The controller re-creates what it owns.
    maps.delete("red", &DeleteParams::default()).await.unwrap();
    in_time(await_condition(maps.clone(), "red", weight("20"))).await.unwrap();

    let events: Api<CoreEvent> = Api::default_namespaced(client.clone());
    let about = ListParams::default().fields("involvedObject.name=red,reason=Configured");
    assert_eq!(events.list(&about).await.unwrap().items[0].message.as_deref(), Some("weight 10"));

    let uid = canaries.get("red").await.unwrap().uid().unwrap();
    canaries.delete("red", &DeleteParams::default()).await.unwrap();
    in_time(await_condition(canaries, "red", conditions::is_deleted(&uid))).await.unwrap();
    assert!(maps.get_opt("cleaned-up").await.unwrap().is_some());
    let deleted = |map: Option<&ConfigMap>| map.is_none();
    in_time(await_condition(maps, "red", deleted)).await.unwrap();
    controller.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn definition_is_served_by_its_own_cluster_only() {
    let (one, two) = tokio::join!(cluster(), cluster());
    install(&one.client()).await;
    let canaries: Api<Canary> = Api::default_namespaced(one.client());
    canaries.create(&PostParams::default(), &Canary::new("red", 1)).await.unwrap();
    let other: Api<Canary> = Api::default_namespaced(two.client());
    let kube::Error::Api(status) = other.list(&ListParams::default()).await.unwrap_err() else {
        panic!("the list was not rejected")
    };
    assert_eq!(status.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn reflector_follows_concurrent_changes() {
    let cluster = cluster().await;
    install(&cluster.client()).await;
    let api: Api<Canary> = Api::default_namespaced(cluster.client());
    let (store, writer) = reflector::store();
    let config = watcher::Config::default().streaming_lists();
    let watch = reflector(writer, watcher(api.clone(), config)).default_backoff();
    let follow = tokio::spawn(watch.for_each(|_| async {}));
    for n in 0..20 {
        api.create(&PostParams::default(), &Canary::new(&format!("c{n}"), n)).await.unwrap();
    }
    for n in 0..10 {
        api.delete(&format!("c{n}"), &DeleteParams::default()).await.unwrap();
    }
    in_time(store.wait_until_ready()).await.unwrap();
    eventually("the ten remaining canaries", async || {
        let names: Vec<String> = store.state().iter().map(|canary| canary.name_any()).collect();
        if names.len() == 10 && !names.contains(&"c9".to_owned()) {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    })
    .await;
    follow.abort();
}

/// Acquires or renews the Lease, unless another holder has one that is not expired.
async fn try_acquire(leases: &Api<Lease>, identity: &str, now: jiff::Timestamp) -> bool {
    let lease = match leases.get_opt("leader").await.unwrap() {
        None => {
            let spec = json!({ "holderIdentity": identity, "leaseDurationSeconds": 15, "renewTime": MicroTime(now) });
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": "leader" }, "spec": spec,
            });
            let lease = serde_json::from_value(lease).unwrap();
            return leases.create(&PostParams::default(), &lease).await.is_ok();
        }
        Some(lease) => lease,
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let duration = i64::from(spec.lease_duration_seconds.unwrap_or(0));
    let renewed = spec.renew_time.as_ref().map_or(0, |at| at.0.as_second());
    let mine = spec.holder_identity.as_deref() == Some(identity);
    if !mine && renewed + duration > now.as_second() {
        return false;
    }
    let mut next = lease;
    let spec = next.spec.get_or_insert_default();
    spec.holder_identity = Some(identity.to_owned());
    spec.renew_time = Some(MicroTime(now));
    // The resource version makes sure that only one of several candidates succeeds.
    leases.replace("leader", &PostParams::default(), &next).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_elects_one_leader_until_it_expires() {
    let cluster = cluster().await;
    let leases: Api<Lease> = Api::default_namespaced(cluster.client());
    let now = jiff::Timestamp::now();
    let all = futures::future::join_all((0..8).map(|n| {
        let leases = leases.clone();
        async move { try_acquire(&leases, &format!("replica-{n}"), now).await }
    }));
    assert_eq!(all.await.into_iter().filter(|leader| *leader).count(), 1);
    assert!(!try_acquire(&leases, "late", now).await);
    let later = now + jiff::SignedDuration::from_secs(16);
    assert!(try_acquire(&leases, "late", later).await);
    assert!(try_acquire(&leases, "late", later).await, "the holder renews");
}

/// Nothing of a cluster outlives its handle: no directory, no port, no process, no watch.
#[tokio::test(flavor = "multi_thread")]
async fn dropped_cluster_releases_everything() {
    let cluster = Cluster::start(Config::default()).await.unwrap();
    let (directory, address) = (cluster.state_dir().to_owned(), cluster.api_address());
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let mut watch = watcher(maps, watcher::Config::default()).boxed();
    in_time(watch.next()).await;
    drop(cluster);
    assert!(!directory.exists());
    // Tasks are aborted at their next await.
    eventually("the address is free", async || std::net::TcpListener::bind(address).is_ok()).await;
}

/// Kubelets, controllers and the API over TLS share the single thread of a plain `#[tokio::test]`.
#[tokio::test]
async fn cluster_works_on_a_single_threaded_runtime() {
    let cluster = Cluster::start(Config { nodes: 1, ..Config::default() }).await.unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&cluster.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    let pods = Api::<Pod>::default_namespaced(Client::try_from(config.unwrap()).unwrap());
    let pod = json!({
        "metadata": { "name": "one" },
        "spec": { "containers": [{ "name": "c", "image": "nowhere:1", "imagePullPolicy": "Never" }] },
    });
    let accounts = Api::<ServiceAccount>::default_namespaced(cluster.client());
    let exists = |account: Option<&ServiceAccount>| account.is_some();
    let image_rejected = |pod: Option<&Pod>| {
        let status = pod.and_then(|pod| pod.status.as_ref());
        let all = status.and_then(|status| status.container_statuses.as_ref());
        let first = all.and_then(|all| all.first()?.state.as_ref()?.waiting.as_ref());
        first.is_some_and(|waiting| waiting.reason.as_deref() == Some("ErrImageNeverPull"))
    };
    in_time(await_condition(accounts, "default", exists)).await.unwrap();
    let pod = serde_json::from_value(pod).unwrap();
    in_time(pods.create(&PostParams::default(), &pod)).await.unwrap();
    in_time(await_condition(pods, "one", image_rejected)).await.unwrap();
    cluster.stop().await;
}

const WEB: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: shop }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      containers:
      - { name: web, image: \"no/such:1.0\", imagePullPolicy: Never }
---
apiVersion: v1
kind: Secret
metadata: { name: key, namespace: shop }
stringData: { password: s3cret }
";

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_applied_awaited_and_dumped() {
    let cluster = Cluster::start(Config { nodes: 1, ..Config::default() }).await.unwrap();
    for _ in 0..2 {
        let applied = cluster.apply(WEB).await.unwrap();
        let kinds: Vec<_> =
            applied.iter().map(|o| o.types.as_ref().unwrap().kind.as_str()).collect();
        assert_eq!(kinds, ["Namespace", "Deployment", "Secret"]);
    }
    let error = cluster.apply(&WEB.replace("replicas: 2", "replicas: two")).await.unwrap_err();
    assert!(error.to_string().starts_with("failed to apply Deployment web: "), "{error}");
    let error =
        cluster.apply("{apiVersion: no/v1, kind: Nothing, metadata: {name: a}}").await.unwrap_err();
    assert!(error.to_string().starts_with("failed to apply Nothing a: "), "{error}");

    let pods: Api<Pod> = Api::namespaced(cluster.client(), "shop");
    eventually("both pods wait for their image", async || {
        let pods = pods.list(&ListParams::default()).await.unwrap().items;
        pods.iter().filter(|pod| format!("{:?}", pod.status).contains("ErrImageNeverPull")).count()
            == 2
    })
    .await;
    let late = cluster.wait_for_rollout("shop", "web", Duration::from_millis(200)).await;
    let late = late.unwrap_err().to_string();
    assert!(late.contains("0 of 2 updated replicas are available; pod web-"), "{late}");
    assert!(late.contains("ErrImageNeverPull"), "{late}");
    cluster.apply(&WEB.replace("replicas: 2", "replicas: 0")).await.unwrap();
    cluster.wait_for_rollout("shop", "web", Duration::from_secs(60)).await.unwrap();

    let dump = cluster.dump("shop").await;
    for expected in ["kind: Deployment", "kind: Event", "ErrImageNeverPull", "bytes of base64>"] {
        assert!(dump.contains(expected), "no {expected} in {dump}");
    }
    assert!(!dump.contains("managedFields"), "{dump}");
    cluster.stop().await;
}
