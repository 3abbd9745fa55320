//! The crate as Rust developers use it: a controller under test, with a CustomResourceDefinition of
//! its own, against clusters side by side. Each test is an example to copy.

use crate::custom;
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

/// What `#[derive(CustomResource)]` makes, by hand.
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

/// An API and its controllers, without nodes: what most tests of a controller need.
async fn cluster() -> Cluster {
    Cluster::start(Config { nodes: 0, ..Config::default() }).await.expect("a cluster")
}

/// Installs the definition and waits until it is served.
async fn install(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = serde_json::from_value(custom::definition()).unwrap();
    definitions.create(&PostParams::default(), &definition).await.unwrap();
    let established = conditions::is_crd_established();
    in_time(await_condition(definitions, "canaries.shop.example.com", established)).await.unwrap();
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it takes too long")
}

/// A controller that keeps a config map for each canary, tells what it did in an event and in the
/// status, and cleans up before a canary goes.
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
    let done = finalizer(&api, "shop.example.com/cleanup", canary, |event| async {
        match event {
            Finalizer::Apply(canary) => apply(&canary, &context).await,
            Finalizer::Cleanup(canary) => clean_up(&canary, &context.0).await,
        }
    });
    match done.await {
        Ok(action) => Ok(action),
        // Somebody else was quicker, say; where a test fails, its output tells.
        Err(error) => {
            println!("again after {error:?}");
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
    let seen = ConfigMap {
        metadata: ObjectMeta { name: Some("cleaned-up".into()), ..Default::default() },
        data: Some([(canary.name_any(), "gone".into())].into()),
        ..Default::default()
    };
    maps.create(&PostParams::default(), &seen).await?;
    Ok(Action::await_change())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_under_test() {
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
    let weight = |wanted: &'static str| {
        move |map: Option<&ConfigMap>| {
            let data = map.and_then(|map| map.data.as_ref());
            data.and_then(|data| data.get("weight")).is_some_and(|weight| weight == wanted)
        }
    };
    in_time(await_condition(maps.clone(), "red", weight("10"))).await.unwrap();
    let change = Patch::Merge(json!({ "spec": { "weight": 20 } }));
    canaries.patch("red", &PatchParams::default(), &change).await.unwrap();
    in_time(await_condition(maps.clone(), "red", weight("20"))).await.unwrap();
    // What it owns comes back.
    maps.delete("red", &DeleteParams::default()).await.unwrap();
    in_time(await_condition(maps.clone(), "red", weight("20"))).await.unwrap();

    let events: Api<CoreEvent> = Api::default_namespaced(client.clone());
    let about = ListParams::default().fields("involvedObject.name=red,reason=Configured");
    assert_eq!(events.list(&about).await.unwrap().items[0].message.as_deref(), Some("weight 10"));

    let uid = canaries.get("red").await.unwrap().uid().unwrap();
    canaries.delete("red", &DeleteParams::default()).await.unwrap();
    in_time(await_condition(canaries, "red", conditions::is_deleted(&uid))).await.unwrap();
    assert!(maps.get_opt("cleaned-up").await.unwrap().is_some());
    let gone = |map: Option<&ConfigMap>| map.is_none();
    in_time(await_condition(maps, "red", gone)).await.unwrap();
    controller.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_of_one_cluster_are_not_those_of_another() {
    let (one, two) = tokio::join!(cluster(), cluster());
    install(&one.client()).await;
    let there: Api<Canary> = Api::default_namespaced(one.client());
    there.create(&PostParams::default(), &Canary::new("red", 1)).await.unwrap();
    let elsewhere: Api<Canary> = Api::default_namespaced(two.client());
    let kube::Error::Api(refused) = elsewhere.list(&ListParams::default()).await.unwrap_err()
    else {
        panic!("no refusal")
    };
    assert_eq!(refused.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_keeps_up() {
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
    in_time(async {
        store.wait_until_ready().await.unwrap();
        let mut names = Vec::new();
        while names.len() != 10 || names.contains(&"c9".to_owned()) {
            names = store.state().iter().map(|canary| canary.name_any()).collect();
            tokio::task::yield_now().await;
        }
    })
    .await;
    follow.abort();
}

/// Who holds the lease leads; who finds it taken waits until it is given back or has run out.
async fn try_to_lead(leases: &Api<Lease>, who: &str, now: jiff::Timestamp) -> bool {
    let held = match leases.get_opt("leader").await.unwrap() {
        None => {
            let spec = json!({ "holderIdentity": who, "leaseDurationSeconds": 15, "renewTime": MicroTime(now) });
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": "leader" }, "spec": spec,
            });
            let lease = serde_json::from_value(lease).unwrap();
            return leases.create(&PostParams::default(), &lease).await.is_ok();
        }
        Some(held) => held,
    };
    let spec = held.spec.clone().unwrap_or_default();
    let lasts = i64::from(spec.lease_duration_seconds.unwrap_or(0));
    let renewed = spec.renew_time.as_ref().map_or(0, |at| at.0.as_second());
    let mine = spec.holder_identity.as_deref() == Some(who);
    if !mine && renewed + lasts > now.as_second() {
        return false;
    }
    let mut next = held;
    let spec = next.spec.get_or_insert_default();
    spec.holder_identity = Some(who.to_owned());
    spec.renew_time = Some(MicroTime(now));
    // Its resource version makes sure that only one of two gets it.
    leases.replace("leader", &PostParams::default(), &next).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_leads() {
    let cluster = cluster().await;
    let leases: Api<Lease> = Api::default_namespaced(cluster.client());
    let now = jiff::Timestamp::now();
    let all = futures::future::join_all((0..8).map(|n| {
        let leases = leases.clone();
        async move { try_to_lead(&leases, &format!("replica-{n}"), now).await }
    }));
    assert_eq!(all.await.into_iter().filter(|leads| *leads).count(), 1);
    assert!(!try_to_lead(&leases, "late", now).await);
    let later = now + jiff::SignedDuration::from_secs(16);
    assert!(try_to_lead(&leases, "late", later).await);
    assert!(try_to_lead(&leases, "late", later).await, "the holder renews");
}

/// Nothing of a cluster outlives its handle: no folder, no port, no process, no watch.
#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_cluster_stops_everything() {
    let cluster = Cluster::start(Config::default()).await.unwrap();
    let (folder, address) = (cluster.state_dir().to_owned(), cluster.api_address());
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let mut watch = watcher(maps, watcher::Config::default()).boxed();
    in_time(watch.next()).await;
    drop(cluster);
    assert!(!folder.exists());
    // Tasks end at their next step.
    in_time(async {
        while std::net::TcpListener::bind(address).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// With the runtime of a plain `#[tokio::test]`: kubelets, controllers, the API over TLS.
#[tokio::test]
async fn one_thread_is_enough() {
    let cluster = Cluster::start(Config { nodes: 1, ..Config::default() }).await.unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&cluster.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    let pods = Api::<Pod>::default_namespaced(Client::try_from(config.unwrap()).unwrap());
    let pod = json!({
        "metadata": { "name": "one" },
        "spec": { "containers": [{ "name": "c", "image": "nowhere:1", "imagePullPolicy": "Never" }] },
    });
    let accounts = Api::<ServiceAccount>::default_namespaced(cluster.client());
    let there = |account: Option<&ServiceAccount>| account.is_some();
    let looked_at = |pod: Option<&Pod>| {
        let status = pod.and_then(|pod| pod.status.as_ref());
        let all = status.and_then(|status| status.container_statuses.as_ref());
        let first = all.and_then(|all| all.first()?.state.as_ref()?.waiting.as_ref());
        first.is_some_and(|waiting| waiting.reason.as_deref() == Some("ErrImageNeverPull"))
    };
    let all = async {
        await_condition(accounts, "default", there).await.unwrap();
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        await_condition(pods, "one", looked_at).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("the kubelet's word in time");
    cluster.stop().await;
}
