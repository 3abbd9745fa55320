//! ReplicationControllers, which the controller of replica sets serves.

use crate::fixture::{
    self,
    controllers::{ControllerFixture, NAMESPACE},
    get, is_ready,
};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::{Api, ResourceExt, api::DeleteParams};
use serde_json::json;

fn replication_controller(replicas: i32) -> ReplicationController {
    serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": { "replicas": replicas, "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "app", "image": "kubeapp:1.0" }] },
        } },
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_created_scaled_released_and_orphaned() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&replication_controller(2)).await;
    let ready = |controller: &ReplicationController, count: i32| {
        let status = controller.status.as_ref();
        status.is_some_and(|status| {
            status.ready_replicas.unwrap_or(0) == count && status.replicas == count
        })
    };
    fixture.wait_for("web", |controller| ready(controller, 2)).await;
    let pods = fixture.list::<Pod>().await;
    let owner = pods[0].owner_references()[0].clone();
    assert_eq!((&*owner.api_version, &*owner.kind), ("v1", "ReplicationController"));
    let path = format!("/api/v1/namespaces/{NAMESPACE}/replicationcontrollers/web/scale");
    let scale = get(&fixture.cluster, &path).await.json();
    assert_eq!(scale["spec"]["replicas"], 2);
    assert_eq!(scale["status"]["selector"], "app=web");
    fixture.patch::<ReplicationController>("web", json!({ "spec": { "replicas": 1 } })).await;
    fixture.wait_for_all::<Pod>(|pods| pods.len() == 1 && pods.iter().all(is_ready)).await;
    // A pod that is no longer selected is released and replaced.
    let released = fixture.list::<Pod>().await.remove(0).name_any();
    fixture.patch::<Pod>(&released, json!({ "metadata": { "labels": { "app": "old" } } })).await;
    fixture.wait_for::<Pod>(&released, |pod| pod.owner_references().is_empty()).await;
    fixture.wait_for_all::<Pod>(|pods| pods.len() == 2 && pods.iter().all(is_ready)).await;
    // Without a policy, the pods stay.
    let api: Api<ReplicationController> = fixture.api();
    api.delete("web", &DeleteParams::default()).await.unwrap();
    fixture.wait_for_deletion(&api, "web").await;
    let pods = fixture.list::<Pod>().await;
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().all(|pod| pod.owner_references().is_empty()));
    // Another of the same selector adopts the one that matches.
    fixture.create(&replication_controller(1)).await;
    fixture
        .wait_for_any::<Pod>(|pod| pod.name_any() != released && !pod.owner_references().is_empty())
        .await;
    assert_eq!(fixture.list::<Pod>().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_template_is_stored_with_defaults_and_generation() {
    let cluster = fixture::cluster().await;
    let path = "/api/v1/namespaces/default/podtemplates";
    let template = json!({ "metadata": { "name": "t" }, "template": {
        "spec": { "containers": [{ "name": "app", "image": "kubeapp:1.0" }] },
    } });
    let created = fixture::post(&cluster, path, &template).await.json();
    assert_eq!(created["template"]["spec"]["restartPolicy"], "Always");
    assert_eq!(created["metadata"]["generation"], 1);
    let patch = json!({ "template": { "metadata": { "labels": { "a": "b" } } } });
    let patched =
        fixture::patch(&cluster, &format!("{path}/t"), "merge-patch+json", &patch).await.json();
    assert_eq!(patched["metadata"]["generation"], 2);
}
