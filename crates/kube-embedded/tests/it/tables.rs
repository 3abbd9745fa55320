//! Server-side tables, as kubectl prints them with `-o wide`.

use crate::fixture::{
    controllers::{ControllerFixture, NAMESPACE, deployment, is_rolled_out, service},
    post, request,
};
use insta::{Settings, assert_snapshot};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

/// Returns the Table at `path` as text: the columns, with their priority unless it is 0, then the rows.
async fn table(fixture: &ControllerFixture, path: &str) -> String {
    let accept = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table = request(&fixture.cluster, "GET", path, &[accept], "").await.json();
    assert_eq!(table["kind"], "Table", "{table}");
    let columns = table["columnDefinitions"].as_array().unwrap();
    let heads: Vec<String> = columns
        .iter()
        .map(|column| {
            let name = column["name"].as_str().unwrap().to_uppercase();
            match column["priority"].as_i64() {
                None | Some(0) => name,
                Some(priority) => format!("{name}({priority})"),
            }
        })
        .collect();
    let row = |row: &Value| -> Vec<String> {
        let cells = row["cells"].as_array().unwrap();
        assert_eq!(cells.len(), columns.len(), "{row}");
        let text = |(head, cell): (&String, &Value)| match cell {
            // Ages depend on the speed of the machine.
            _ if head == "AGE" => "[age]".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        heads.iter().zip(cells).map(text).collect()
    };
    let rows = table["rows"].as_array().unwrap().iter().map(row);
    let lines: Vec<String> =
        std::iter::once(heads.clone()).chain(rows).map(|cells| cells.join(" | ")).collect();
    lines.join("\n")
}

/// Replaces cluster IPs and node ports, which differ between clusters.
fn redactions() -> Settings {
    let mut settings = Settings::clone_current();
    // The range depends on the sandbox.
    settings.add_filter(r"(10\.96|127\.\d+)\.\d+\.\d+", "[cluster IP]");
    settings.add_filter(r":3\d{4}/", ":[node port]/");
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn deployment_table_matches_its_snapshot() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&deployment("web", 2)).await;
    fixture.wait_for::<Deployment>("web", is_rolled_out).await;
    fixture.create(&deployment("idle", 0)).await;
    fixture.wait_for::<Deployment>("idle", is_rolled_out).await;
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
    assert_snapshot!("table-deployments", table(&fixture, &path).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_table_matches_its_snapshot() {
    let fixture = ControllerFixture::new().await;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let container = |name: &str| json!({ "name": name, "image": "kubeapp:1.0" });
    for (name, spec) in [
        // The fake kubelet makes this one ready.
        (
            "running",
            json!({ "nodeName": "node-1", "containers": [container("a"), container("b")] }),
        ),
        // No node has this label.
        ("pending", json!({ "nodeSelector": { "disk": "fast" }, "containers": [container("a")] })),
    ] {
        let pod = json!({ "metadata": { "name": name }, "spec": spec });
        let created = post(&fixture.cluster, &path, &pod).await;
        assert_eq!(created.code, 201, "{}", created.text);
    }
    let has_ip = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some());
    fixture.wait_for::<Pod>("running", has_ip).await;
    let container_status = |name: &str, restarts: u32, state: Value| {
        json!({
            "name": name, "image": "kubeapp:1.0", "imageID": "", "restartCount": restarts,
            "ready": state.get("running").is_some(), "state": state,
        })
    };
    let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
    let statuses =
        [container_status("a", 0, json!({ "running": {} })), container_status("b", 2, waiting)];
    let patch = Patch::Merge(json!({ "status": { "containerStatuses": statuses } }));
    let pods: Api<Pod> = fixture.api();
    pods.patch_status("running", &PatchParams::default(), &patch).await.unwrap();
    assert_snapshot!("table-pods", table(&fixture, &path).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn service_table_matches_its_snapshot() {
    let fixture = ControllerFixture::new().await;
    fixture.create(&service("cluster-ip")).await;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/services");
    for (name, spec) in [
        ("headless", json!({ "clusterIP": "None", "ports": [{ "port": 80 }] })),
        (
            "node-port",
            json!({ "type": "NodePort", "selector": { "app": "web", "env": "canary" },
                "ports": [{ "name": "http", "port": 80 }, { "name": "https", "port": 443 }] }),
        ),
        ("external-name", json!({ "type": "ExternalName", "externalName": "example.com" })),
    ] {
        let service = json!({ "metadata": { "name": name }, "spec": spec });
        let created = post(&fixture.cluster, &path, &service).await;
        assert_eq!(created.code, 201, "{}", created.text);
    }
    let table = table(&fixture, &path).await;
    redactions().bind(|| assert_snapshot!("table-services", table));
}
