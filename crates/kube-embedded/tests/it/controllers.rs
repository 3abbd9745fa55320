//! The controllers on a real API. There is no kubelet: a stand-in makes pods ready as soon as they
//! have a node, and lets them go when they are deleted.

mod fixture;
mod jobs;

use fixture::{World, deployment, is_ready, is_rolled_out};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{ConfigMap, Endpoints, Event, Namespace, Pod, Secret, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_completes_spread_over_the_nodes_and_tells_its_story() {
    let world = World::new().await;
    world.create(&deployment("web", 3)).await;
    let done = world.until::<Deployment>("web", is_rolled_out).await;
    assert_eq!(done.annotations()["deployment.kubernetes.io/revision"], "1");
    let status = done.status.unwrap();
    assert_eq!(status.terminating_replicas, Some(0));
    let reasons: BTreeMap<String, String> = status
        .conditions
        .unwrap()
        .into_iter()
        .map(|condition| (condition.type_, condition.reason.unwrap()))
        .collect();
    assert_eq!(reasons["Available"], "MinimumReplicasAvailable");
    assert_eq!(reasons["Progressing"], "NewReplicaSetAvailable");
    let sets = world.list::<ReplicaSet>().await;
    assert_eq!(sets.len(), 1);
    let pods = world.list::<Pod>().await;
    let nodes: BTreeSet<_> =
        pods.iter().map(|p| p.spec.as_ref().unwrap().node_name.clone()).collect();
    assert_eq!((pods.len(), nodes.len()), (3, 3));
    for pod in &pods {
        let suffix = pod.name_any().replace(&format!("{}-", sets[0].name_any()), "");
        assert_eq!(suffix.len(), 5, "{}", pod.name_any());
    }
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled"] {
        world.until_any::<Event>(|event| event.reason.as_deref() == Some(reason)).await;
    }
    let text = format!("Scaled up replica set {} from 0 to 3", sets[0].name_any());
    world.until_any::<Event>(|event| event.message.as_deref() == Some(&text)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_keeps_its_bounds_at_every_moment_and_can_be_undone() {
    let world = World::new().await;
    world.create(&deployment("web", 3)).await;
    world.until::<Deployment>("web", is_rolled_out).await;
    let watch = world.watch_pods();
    world.set_image("web", "kubeapp:2.0").await;
    let done = world.until::<Deployment>("web", is_rolled_out).await;
    assert_eq!(done.annotations()["deployment.kubernetes.io/revision"], "2");
    world.set_image("web", "kubeapp:1.0").await;
    let done = world.until::<Deployment>("web", is_rolled_out).await;
    assert_eq!(done.annotations()["deployment.kubernetes.io/revision"], "3");
    let sets = world.list::<ReplicaSet>().await;
    assert_eq!(sets.len(), 2, "an old replica set is used again");
    let first = sets
        .iter()
        .find(|set| set.annotations().get("deployment.kubernetes.io/revision-history").is_some());
    assert_eq!(first.unwrap().annotations()["deployment.kubernetes.io/revision-history"], "1");
    let (most, fewest) = watch.end().await;
    assert!(most <= 4, "{most} pods at a time, one more than three is allowed");
    assert!(fewest >= 3, "only {fewest} ready pods at a time");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_follow_what_is_asked_and_pods_are_replaced() {
    let world = World::new().await;
    world.create(&deployment("web", 3)).await;
    world.until::<Deployment>("web", is_rolled_out).await;
    for replicas in [5, 3] {
        world.patch::<Deployment>("web", json!({ "spec": { "replicas": replicas } })).await;
        let done = world.until::<Deployment>("web", is_rolled_out).await;
        assert_eq!(done.status.unwrap().replicas, Some(replicas));
    }
    let set = world.list::<ReplicaSet>().await.remove(0);
    assert_eq!(set.annotations()["deployment.kubernetes.io/desired-replicas"], "3");
    let victim = world.list::<Pod>().await.remove(0);
    let pods: Api<Pod> = world.api();
    pods.delete(&victim.name_any(), &DeleteParams::default()).await.unwrap();
    world
        .until_all::<Pod>(|pods| {
            pods.len() == 3
                && pods.iter().all(is_ready)
                && pods.iter().all(|pod| pod.uid() != victim.uid())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recreate_ends_all_old_pods_before_it_starts_new_ones() {
    let world = World::new().await;
    let mut wanted = deployment("web", 2);
    wanted.spec.as_mut().unwrap().strategy =
        serde_json::from_value(json!({ "type": "Recreate" })).unwrap();
    world.create(&wanted).await;
    world.until::<Deployment>("web", is_rolled_out).await;
    let watch = world.watch_pods();
    world.set_image("web", "kubeapp:2.0").await;
    world.until::<Deployment>("web", is_rolled_out).await;
    let (most, fewest) = watch.end().await;
    assert_eq!((most, fewest), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_deployments_roll_when_resumed() {
    let world = World::new().await;
    world.create(&deployment("web", 1)).await;
    world.until::<Deployment>("web", is_rolled_out).await;
    world.patch::<Deployment>("web", json!({ "spec": { "paused": true } })).await;
    world.set_image("web", "kubeapp:2.0").await;
    let reason = |deployment: &Deployment, wanted: &str| {
        let generation = deployment.metadata.generation;
        let status = deployment.status.as_ref();
        status.is_some_and(|status| {
            status.observed_generation == generation
                && status.conditions.iter().flatten().any(|c| c.reason.as_deref() == Some(wanted))
        })
    };
    world.until::<Deployment>("web", |d| reason(d, "DeploymentPaused")).await;
    assert_eq!(world.list::<ReplicaSet>().await.len(), 1);
    world.patch::<Deployment>("web", json!({ "spec": { "paused": false } })).await;
    world.until::<Deployment>("web", is_rolled_out).await;
    assert_eq!(world.list::<ReplicaSet>().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_replica_sets_beyond_the_history_go() {
    let world = World::new().await;
    let mut wanted = deployment("web", 1);
    wanted.spec.as_mut().unwrap().revision_history_limit = Some(1);
    world.create(&wanted).await;
    world.until::<Deployment>("web", is_rolled_out).await;
    for image in ["kubeapp:2.0", "kubeapp:3.0", "kubeapp:4.0"] {
        world.set_image("web", image).await;
        world.until::<Deployment>("web", is_rolled_out).await;
    }
    world.until_all::<ReplicaSet>(|sets| sets.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_dependents_is_for_the_deleter_to_say() {
    let world = World::new().await;
    let api: Api<Deployment> = world.api();
    for (name, policy) in
        [("background", DeleteParams::background()), ("foreground", DeleteParams::foreground())]
    {
        world.create(&deployment(name, 2)).await;
        world.until::<Deployment>(name, is_rolled_out).await;
        api.delete(name, &policy).await.unwrap();
        if name == "foreground" {
            world.until_all::<Deployment>(|left| left.is_empty()).await;
            assert!(world.list::<ReplicaSet>().await.is_empty(), "dependents go first");
        }
        world.until_all::<Pod>(|left| left.is_empty()).await;
        world.until_all::<ReplicaSet>(|left| left.is_empty()).await;
    }
    world.create(&deployment("orphan", 2)).await;
    world.until::<Deployment>("orphan", is_rolled_out).await;
    api.delete("orphan", &DeleteParams::orphan()).await.unwrap();
    world.until_all::<Deployment>(|left| left.is_empty()).await;
    let sets = world
        .until_all::<ReplicaSet>(|sets| sets.iter().all(|set| set.owner_references().is_empty()))
        .await;
    assert_eq!((sets.len(), world.list::<Pod>().await.len()), (1, 2));
    // A new deployment with the same selector and template takes them over.
    world.create(&deployment("orphan", 2)).await;
    world.until::<Deployment>("orphan", is_rolled_out).await;
    assert_eq!(world.list::<ReplicaSet>().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_kind_goes_with_its_last_owner() {
    let world = World::new().await;
    let maps: Api<ConfigMap> = world.api();
    let owner = |name: &str| ConfigMap {
        metadata: kube::core::ObjectMeta { name: Some(name.into()), ..Default::default() },
        ..Default::default()
    };
    let mut references = Vec::new();
    for name in ["a", "b"] {
        let made = maps.create(&PostParams::default(), &owner(name)).await.unwrap();
        references.push(OwnerReference {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            name: name.into(),
            uid: made.uid().unwrap(),
            ..Default::default()
        });
    }
    let mut secret = Secret::default();
    secret.metadata.name = Some("owned".into());
    secret.metadata.owner_references = Some(references);
    world.create(&secret).await;
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    world.until::<Secret>("owned", |secret| secret.owner_references().len() == 1).await;
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    world.until_all::<Secret>(|left| left.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_furnished_and_go_with_all_they_hold() {
    let world = World::new().await;
    world.until::<ServiceAccount>("default", |_| true).await;
    let authority = world.until::<ConfigMap>("kube-root-ca.crt", |_| true).await;
    assert!(authority.data.unwrap()["ca.crt"].contains("BEGIN CERTIFICATE"));
    let maps: Api<ConfigMap> = world.api();
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    world.until::<ConfigMap>("kube-root-ca.crt", |map| map.uid() != authority.metadata.uid).await;

    world.create(&deployment("web", 3)).await;
    world.create(&fixture::service("web")).await;
    world.until::<Deployment>("web", is_rolled_out).await;
    let namespaces: Api<Namespace> = Api::all(world.client());
    namespaces.delete(fixture::NAMESPACE, &DeleteParams::default()).await.unwrap();
    world.until_gone::<Namespace>(&namespaces, fixture::NAMESPACE).await;
    for count in [
        world.list::<Pod>().await.len(),
        world.list::<Deployment>().await.len(),
        world.list::<EndpointSlice>().await.len(),
        world.list::<Event>().await.len(),
        world.list::<ServiceAccount>().await.len(),
    ] {
        assert_eq!(count, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_follow_readiness() {
    let world = World::new().await;
    world.create(&fixture::service("web")).await;
    let empty = world.until_any::<EndpointSlice>(|_| true).await;
    assert!(empty.name_any().starts_with("web-"));
    world.create(&deployment("web", 3)).await;
    let ready = |slices: &[EndpointSlice]| -> Vec<String> {
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints
            .filter(|endpoint| endpoint.conditions.as_ref().unwrap().ready == Some(true))
            .map(|endpoint| endpoint.target_ref.as_ref().unwrap().name.clone().unwrap())
            .collect()
    };
    let slices = world.until_all::<EndpointSlice>(|slices| ready(slices).len() == 3).await;
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0].owner_references()[0].kind, "Service");
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
    let unready = ready(&slices).remove(0);
    world.set_ready(&unready, false).await;
    world.until_all::<EndpointSlice>(|slices| !ready(slices).contains(&unready)).await;
    world
        .until::<Endpoints>("web", |endpoints| {
            let subset = &endpoints.subsets.as_ref().unwrap()[0];
            subset.addresses.iter().flatten().count() == 2
                && subset.not_ready_addresses.iter().flatten().count() == 1
        })
        .await;
    world.set_ready(&unready, true).await;
    world.until_all::<EndpointSlice>(|slices| ready(slices).len() == 3).await;

    // A pod that is leaving still serves, but gets no new connections.
    world.hold_deletions(true);
    let pods: Api<Pod> = world.api();
    pods.delete(&unready, &DeleteParams::default()).await.unwrap();
    let slices = world.until_all::<EndpointSlice>(|slices| !ready(slices).contains(&unready)).await;
    let leaving = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .find(|endpoint| endpoint.target_ref.as_ref().unwrap().name.as_ref() == Some(&unready));
    let conditions = leaving.unwrap().conditions.clone().unwrap();
    assert_eq!((conditions.serving, conditions.terminating), (Some(true), Some(true)));
    let services: Api<Service> = world.api();
    services.delete("web", &DeleteParams::default()).await.unwrap();
    world.until_all::<EndpointSlice>(|left| left.is_empty()).await;
    world.until_all::<Endpoints>(|left| left.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_fit_nowhere_wait_and_say_why() {
    let world = World::new().await;
    let mut wanted = deployment("web", 1);
    let template = wanted.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    template.node_selector = Some([("disk".to_owned(), "fast".to_owned())].into());
    world.create(&wanted).await;
    let event = world.until_any::<Event>(|e| e.reason.as_deref() == Some("FailedScheduling")).await;
    assert_eq!(
        event.message.unwrap(),
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(world.client());
    let patch = json!({ "metadata": { "labels": { "disk": "fast" } } });
    nodes.patch("node-2", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    world.until::<Deployment>("web", is_rolled_out).await;
    let pods: Api<Pod> = world.api();
    let pod = pods.list(&ListParams::default()).await.unwrap().items.remove(0);
    assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("node-2"));
}
