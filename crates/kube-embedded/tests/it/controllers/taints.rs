//! Eviction by taints.

use crate::fixture::controllers::ControllerFixture;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

fn pod(name: &str, tolerations: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "nodeName": "node-2",
            "containers": [{ "name": "app", "image": "kubeapp:1.0" }],
            "tolerations": tolerations,
        },
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_do_not_tolerate_a_no_execute_taint_are_evicted() {
    let fixture = ControllerFixture::new().await;
    let tolerates = |seconds: Option<u32>| json!([{ "key": "disk", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds }]);
    for (name, tolerations) in [
        ("none", json!([])),
        ("brief", tolerates(Some(1))),
        ("long", tolerates(Some(3600))),
        ("forever", tolerates(None)),
    ] {
        fixture.create(&pod(name, tolerations)).await;
    }
    fixture.hold_deletions(true);
    let nodes: Api<Node> = Api::all(fixture.client());
    let taint = |taints: Value| {
        let (nodes, patch) = (nodes.clone(), json!({ "spec": { "taints": taints } }));
        async move {
            nodes.patch("node-2", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        }
    };
    taint(json!([{ "key": "disk", "value": "broken", "effect": "NoExecute" }])).await;
    let is_evicted = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    for name in ["none", "brief"] {
        let pod = fixture.wait_for::<Pod>(name, is_evicted).await;
        let conditions = pod.status.unwrap().conditions.unwrap();
        let target = conditions.iter().find(|known| known.type_ == "DisruptionTarget").unwrap();
        assert_eq!(target.reason.as_deref(), Some("DeletionByTaintManager"));
    }
    taint(json!([])).await;
    fixture
        .wait_for_any::<Event>(|event| {
            event.message.as_deref() == Some("Cancelling deletion of Pod shop/long")
        })
        .await;
    let left = fixture.list::<Pod>().await;
    let left = left.iter().filter(|pod| !is_evicted(pod)).map(ResourceExt::name_any);
    assert_eq!(left.collect::<Vec<_>>(), ["forever", "long"]);
    fixture.hold_deletions(false);
}
