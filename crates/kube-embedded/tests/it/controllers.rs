//! The controllers on a real API, with a fake kubelet.

mod jobs;
mod replication_controllers;
mod taints;

use crate::fixture::{
    controllers::{ControllerFixture, NAMESPACE, deployment, is_rolled_out, service},
    eventually, is_ready,
};
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
async fn rollout_completes_on_all_nodes_with_conditions_and_events() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&deployment("web", 3)).await;
    let complete = fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    assert_eq!(complete.annotations()["deployment.kubernetes.io/revision"], "1");
    let status = complete.status.unwrap();
    assert_eq!(status.terminating_replicas, Some(0));
    let reasons: BTreeMap<String, String> = status
        .conditions
        .unwrap()
        .into_iter()
        .map(|condition| (condition.type_, condition.reason.unwrap()))
        .collect();
    assert_eq!(reasons["Available"], "MinimumReplicasAvailable");
    assert_eq!(reasons["Progressing"], "NewReplicaSetAvailable");
    let sets = fixture.list::<ReplicaSet>().await;
    assert_eq!(sets.len(), 1);
    let pods = fixture.list::<Pod>().await;
    let nodes: BTreeSet<_> =
        pods.iter().map(|p| p.spec.as_ref().unwrap().node_name.clone()).collect();
    assert_eq!((pods.len(), nodes.len()), (3, 3));
    for pod in &pods {
        let suffix = pod.name_any().replace(&format!("{}-", sets[0].name_any()), "");
        assert_eq!(suffix.len(), 5, "{}", pod.name_any());
    }
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled"] {
        fixture.wait_for_any::<Event>(|event| event.reason.as_deref() == Some(reason)).await;
    }
    let text = format!("Scaled up replica set {} from 0 to 3", sets[0].name_any());
    fixture.wait_for_any::<Event>(|event| event.message.as_deref() == Some(&text)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_update_stays_within_surge_and_unavailable_and_can_be_undone() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&deployment("web", 3)).await;
    fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    let watch = fixture.watch_pods();
    fixture.set_image("web", "kubeapp:2.0").await;
    let complete = fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    assert_eq!(complete.annotations()["deployment.kubernetes.io/revision"], "2");
    fixture.set_image("web", "kubeapp:1.0").await;
    let complete = fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    assert_eq!(complete.annotations()["deployment.kubernetes.io/revision"], "3");
    let sets = fixture.list::<ReplicaSet>().await;
    assert_eq!(sets.len(), 2, "the old replica set is reused");
    let first = sets
        .iter()
        .find(|set| set.annotations().get("deployment.kubernetes.io/revision-history").is_some());
    assert_eq!(first.unwrap().annotations()["deployment.kubernetes.io/revision-history"], "1");
    let (most, fewest) = watch.stop().await;
    assert!(most <= 4, "{most} pods at a time; maxSurge allows four");
    assert!(fewest >= 3, "only {fewest} ready pods at a time; maxUnavailable allows three");
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_changes_replicas_and_deleted_pods_are_replaced() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&deployment("web", 3)).await;
    fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    for replicas in [5, 3] {
        fixture.patch::<Deployment>("web", json!({ "spec": { "replicas": replicas } })).await;
        let complete = fixture.wait_for::<Deployment>("web", is_rolled_out).await;
        assert_eq!(complete.status.unwrap().replicas, Some(replicas));
    }
    let set = fixture.list::<ReplicaSet>().await.remove(0);
    assert_eq!(set.annotations()["deployment.kubernetes.io/desired-replicas"], "3");
    let deleted = fixture.list::<Pod>().await.remove(0);
    let pods: Api<Pod> = fixture.api();
    pods.delete(&deleted.name_any(), &DeleteParams::default()).await.unwrap();
    fixture
        .wait_for_all::<Pod>(|pods| {
            pods.len() == 3
                && pods.iter().all(is_ready)
                && pods.iter().all(|pod| pod.uid() != deleted.uid())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recreate_strategy_stops_old_pods_before_it_starts_new_ones() {
    let fixture = ControllerFixture::new().await;
    let mut object = deployment("web", 2);
    object.spec.as_mut().unwrap().strategy =
        serde_json::from_value(json!({ "type": "Recreate" })).unwrap();
    fixture.create(&object).await;
    fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    let watch = fixture.watch_pods();
    fixture.set_image("web", "kubeapp:2.0").await;
    fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    let (most, fewest) = watch.stop().await;
    assert_eq!((most, fewest), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_deployment_rolls_out_when_resumed() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&deployment("web", 1)).await;
    fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    fixture.patch::<Deployment>("web", json!({ "spec": { "paused": true } })).await;
    fixture.set_image("web", "kubeapp:2.0").await;
    let reason = |deployment: &Deployment, expected: &str| {
        let generation = deployment.metadata.generation;
        let status = deployment.status.as_ref();
        status.is_some_and(|status| {
            status.observed_generation == generation
                && status.conditions.iter().flatten().any(|c| c.reason.as_deref() == Some(expected))
        })
    };
    fixture.wait_for::<Deployment>("web", |d| reason(d, "DeploymentPaused")).await;
    assert_eq!(fixture.list::<ReplicaSet>().await.len(), 1);
    fixture.patch::<Deployment>("web", json!({ "spec": { "paused": false } })).await;
    fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    assert_eq!(fixture.list::<ReplicaSet>().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_sets_beyond_the_revision_history_limit_are_deleted() {
    let fixture = ControllerFixture::new().await;
    let mut object = deployment("web", 1);
    object.spec.as_mut().unwrap().revision_history_limit = Some(1);
    fixture.create(&object).await;
    fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    for image in ["kubeapp:2.0", "kubeapp:3.0", "kubeapp:4.0"] {
        fixture.set_image("web", image).await;
        fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    }
    fixture.wait_for_all::<ReplicaSet>(|sets| sets.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn propagation_policy_decides_about_dependents() {
    let fixture = ControllerFixture::new().await;
    let api: Api<Deployment> = fixture.api();
    for (name, policy) in
        [("background", DeleteParams::background()), ("foreground", DeleteParams::foreground())]
    {
        fixture.create(&deployment(name, 2)).await;
        fixture.wait_for::<Deployment>(name, is_rolled_out).await;
        api.delete(name, &policy).await.unwrap();
        if name == "foreground" {
            fixture.wait_for_all::<Deployment>(|remaining| remaining.is_empty()).await;
            assert!(
                fixture.list::<ReplicaSet>().await.is_empty(),
                "foreground deletion removes dependents first"
            );
        }
        fixture.wait_for_all::<Pod>(|remaining| remaining.is_empty()).await;
        fixture.wait_for_all::<ReplicaSet>(|remaining| remaining.is_empty()).await;
    }
    fixture.create(&deployment("orphan", 2)).await;
    fixture.wait_for::<Deployment>("orphan", is_rolled_out).await;
    api.delete("orphan", &DeleteParams::orphan()).await.unwrap();
    fixture.wait_for_all::<Deployment>(|remaining| remaining.is_empty()).await;
    let sets = fixture
        .wait_for_all::<ReplicaSet>(|sets| sets.iter().all(|set| set.owner_references().is_empty()))
        .await;
    assert_eq!((sets.len(), fixture.list::<Pod>().await.len()), (1, 2));
    // A new deployment with the same selector and template adopts them.
    fixture.create(&deployment("orphan", 2)).await;
    fixture.wait_for::<Deployment>("orphan", is_rolled_out).await;
    assert_eq!(fixture.list::<ReplicaSet>().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn object_is_deleted_with_its_last_owner() {
    let fixture = ControllerFixture::new().await;
    let maps: Api<ConfigMap> = fixture.api();
    let config_map = |name: &str| ConfigMap {
        metadata: kube::core::ObjectMeta { name: Some(name.into()), ..Default::default() },
        ..Default::default()
    };
    let mut references = Vec::new();
    for name in ["a", "b"] {
        let created = maps.create(&PostParams::default(), &config_map(name)).await.unwrap();
        references.push(OwnerReference {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            name: name.into(),
            uid: created.uid().unwrap(),
            ..Default::default()
        });
    }
    let mut secret = Secret::default();
    secret.metadata.name = Some("owned".into());
    secret.metadata.owner_references = Some(references);
    fixture.create(&secret).await;
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    fixture.wait_for::<Secret>("owned", |secret| secret.owner_references().len() == 1).await;
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    fixture.wait_for_all::<Secret>(|remaining| remaining.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreground_deletion_ends_in_a_circle_of_owners() {
    let fixture = ControllerFixture::new().await;
    let maps: Api<ConfigMap> = fixture.api();
    let mut uids = Vec::new();
    for name in ["a", "b", "c"] {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        uids.push(maps.create(&PostParams::default(), &map).await.unwrap().uid().unwrap());
    }
    for (name, owner, uid) in [("a", "c", &uids[2]), ("b", "a", &uids[0]), ("c", "b", &uids[1])] {
        let reference = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        });
        let patch = json!({ "metadata": { "ownerReferences": [reference] } });
        fixture.patch::<ConfigMap>(name, patch).await;
    }
    maps.delete("a", &DeleteParams::foreground()).await.unwrap();
    fixture
        .wait_for_all::<ConfigMap>(|left| {
            !left.iter().any(|map| uids.contains(&map.uid().unwrap()))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_written_by_hand_are_mirrored_to_slices() {
    let fixture = ControllerFixture::new().await;
    let mut object = service("db");
    object.spec.as_mut().unwrap().selector = None;
    fixture.create(&object).await;
    let subsets = |ip: &str| json!([{ "addresses": [{ "ip": ip }], "ports": [{ "port": 5432 }] }]);
    let endpoints = json!({ "metadata": { "name": "db" }, "subsets": subsets("10.1.2.3") });
    fixture.create(&serde_json::from_value::<Endpoints>(endpoints).unwrap()).await;
    let lists = |slices: &[EndpointSlice], ip: &str| {
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        slices.len() == 1 && endpoints.into_iter().all(|endpoint| endpoint.addresses == [ip])
    };
    let slices = fixture.wait_for_all(|slices| lists(slices, "10.1.2.3")).await;
    assert_eq!(slices[0].labels()["kubernetes.io/service-name"], "db");
    assert_eq!(slices[0].owner_references()[0].kind, "Endpoints");
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(5432));
    fixture.patch::<Endpoints>("db", json!({ "subsets": subsets("10.2.3.4") })).await;
    fixture.wait_for_all(|slices| lists(slices, "10.2.3.4")).await;
    let api: Api<Endpoints> = fixture.api();
    api.delete("db", &DeleteParams::default()).await.unwrap();
    fixture.wait_for_all::<EndpointSlice>(|slices| slices.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_gets_defaults_and_is_deleted_with_its_content() {
    let fixture = ControllerFixture::new().await;
    fixture.wait_for::<ServiceAccount>("default", |_| true).await;
    let root_ca = fixture.wait_for::<ConfigMap>("kube-root-ca.crt", |_| true).await;
    assert!(root_ca.data.unwrap()["ca.crt"].contains("BEGIN CERTIFICATE"));
    let maps: Api<ConfigMap> = fixture.api();
    maps.delete("kube-root-ca.crt", &DeleteParams::default()).await.unwrap();
    fixture
        .wait_for::<ConfigMap>("kube-root-ca.crt", |map| map.uid() != root_ca.metadata.uid)
        .await;

    // An edited copy is restored, the source of all copies as well.
    let all: Api<ConfigMap> = Api::namespaced(fixture.client(), "kube-system");
    for maps in [&maps, &all] {
        let edit = Patch::Merge(json!({ "data": { "ca.crt": "x" } }));
        maps.patch("kube-root-ca.crt", &PatchParams::default(), &edit).await.unwrap();
        eventually("the restored root CA", async || {
            let map = maps.get("kube-root-ca.crt").await.unwrap();
            map.data.unwrap()["ca.crt"].contains("BEGIN CERTIFICATE")
        })
        .await;
    }

    fixture.create(&deployment("web", 3)).await;
    fixture.create(&service("web")).await;
    fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    let hold = json!({ "metadata": { "finalizers": ["example.com/hold"] } });
    let mut held = ConfigMap::default();
    held.metadata.name = Some("held".into());
    fixture.create(&held).await;
    maps.patch("held", &PatchParams::default(), &Patch::Merge(&hold)).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(fixture.client());
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await.unwrap();
    eventually("conditions that say why the namespace remains", async || {
        let namespace = namespaces.get(NAMESPACE).await.unwrap();
        let conditions = namespace.status.unwrap().conditions.unwrap_or_default();
        let message = |kind: &str| {
            let mut held = conditions.iter().filter(|condition| condition.status == "True");
            let found = held.find(|condition| condition.type_ == kind);
            found.and_then(|condition| condition.message.clone())
        };
        let remaining = "Some resources are remaining: configmaps. has 1 resource instances";
        message("NamespaceContentRemaining").as_deref() == Some(remaining)
            && message("NamespaceFinalizersRemaining").is_some_and(|message| {
                message.ends_with("example.com/hold in 1 resource instances")
            })
    })
    .await;
    let release = json!({ "metadata": { "finalizers": null } });
    maps.patch("held", &PatchParams::default(), &Patch::Merge(&release)).await.unwrap();
    fixture.wait_for_deletion::<Namespace>(&namespaces, NAMESPACE).await;
    for count in [
        fixture.list::<Pod>().await.len(),
        fixture.list::<Deployment>().await.len(),
        fixture.list::<EndpointSlice>().await.len(),
        fixture.list::<Event>().await.len(),
        fixture.list::<ServiceAccount>().await.len(),
    ] {
        assert_eq!(count, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_slices_and_endpoints_follow_readiness() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&service("web")).await;
    let empty = fixture.wait_for_any::<EndpointSlice>(|_| true).await;
    assert!(empty.name_any().starts_with("web-"));
    fixture.create(&deployment("web", 3)).await;
    let ready = |slices: &[EndpointSlice]| -> Vec<String> {
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints
            .filter(|endpoint| endpoint.conditions.as_ref().unwrap().ready == Some(true))
            .map(|endpoint| endpoint.target_ref.as_ref().unwrap().name.clone().unwrap())
            .collect()
    };
    let slices = fixture.wait_for_all::<EndpointSlice>(|slices| ready(slices).len() == 3).await;
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0].owner_references()[0].kind, "Service");
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
    let unready = ready(&slices).remove(0);
    fixture.set_ready(&unready, false).await;
    fixture.wait_for_all::<EndpointSlice>(|slices| !ready(slices).contains(&unready)).await;
    fixture
        .wait_for::<Endpoints>("web", |endpoints| {
            let subset = &endpoints.subsets.as_ref().unwrap()[0];
            subset.addresses.iter().flatten().count() == 2
                && subset.not_ready_addresses.iter().flatten().count() == 1
        })
        .await;
    fixture.set_ready(&unready, true).await;
    fixture.wait_for_all::<EndpointSlice>(|slices| ready(slices).len() == 3).await;

    // A terminating pod may still serve, but is not ready: proxies open no new connections to it.
    fixture.hold_deletions(true);
    let pods: Api<Pod> = fixture.api();
    pods.delete(&unready, &DeleteParams::default()).await.unwrap();
    let slices =
        fixture.wait_for_all::<EndpointSlice>(|slices| !ready(slices).contains(&unready)).await;
    let terminating = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .find(|endpoint| endpoint.target_ref.as_ref().unwrap().name.as_ref() == Some(&unready));
    let conditions = terminating.unwrap().conditions.clone().unwrap();
    assert_eq!((conditions.serving, conditions.terminating), (Some(true), Some(true)));
    let services: Api<Service> = fixture.api();
    services.delete("web", &DeleteParams::default()).await.unwrap();
    fixture.wait_for_all::<EndpointSlice>(|remaining| remaining.is_empty()).await;
    fixture.wait_for_all::<Endpoints>(|remaining| remaining.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unschedulable_pod_stays_pending_with_an_event_until_a_node_matches() {
    let fixture = ControllerFixture::new().await;
    let mut object = deployment("web", 1);
    let template = object.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    template.node_selector = Some([("disk".to_owned(), "fast".to_owned())].into());
    fixture.create(&object).await;
    let event =
        fixture.wait_for_any::<Event>(|e| e.reason.as_deref() == Some("FailedScheduling")).await;
    assert_eq!(
        event.message.unwrap(),
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(fixture.client());
    let patch = json!({ "metadata": { "labels": { "disk": "fast" } } });
    nodes.patch("node-2", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    let pods: Api<Pod> = fixture.api();
    let pod = pods.list(&ListParams::default()).await.unwrap().items.remove(0);
    assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("node-2"));
}
