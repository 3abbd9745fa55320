//! Responses of the API server to valid and invalid requests.

use crate::fixture::{
    CONFIG_MAPS, cluster, config_map, delete, deployment, get, patch, post, request,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn invalid_request_gets_the_status_of_kubernetes() {
    let cluster = cluster().await;
    for (body, code, message) in [
        (
            "{not json",
            400,
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get \
             version/kind; json parse error: invalid character 'n' looking for beginning of object \
             key string ({not json)",
        ),
        (
            r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#,
            400,
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to \
             (core.ConfigMap): unknown conversion",
        ),
        (
            r#"{"metadata":{"name":"x","namespace":"elsewhere"}}"#,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            r#"{"metadata":{}}"#,
            422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is \
             required",
        ),
    ] {
        let response = request(&cluster, "POST", CONFIG_MAPS, &[JSON], body).await;
        assert_eq!(response.status(), (code, message.to_owned()), "{body}");
        assert_eq!(response.json()["kind"], "Status");
    }
    let response = post(&cluster, "/api/v1/namespaces/no/configmaps", &config_map("x")).await;
    assert_eq!(response.status(), (404, "namespaces \"no\" not found".into()));
    let response = get(&cluster, "/api/v1/namespaces/default/nosuchthings").await;
    assert_eq!(response.status(), (404, "the server could not find the requested resource".into()));
    let protobuf = ("content-type", "application/vnd.kubernetes.protobuf");
    assert_eq!(request(&cluster, "POST", CONFIG_MAPS, &[protobuf], "k8s\0").await.code, 400);
    let unknown = ("content-type", "text/plain");
    assert_eq!(request(&cluster, "POST", CONFIG_MAPS, &[unknown], "{}").await.code, 415);
    let long = vec![b' '; 3 * 1024 * 1024 + 1];
    assert_eq!(request(&cluster, "POST", CONFIG_MAPS, &[JSON], long).await.code, 413);
    assert_eq!(request(&cluster, "PUT", CONFIG_MAPS, &[JSON], "{}").await.code, 405);
    let protobuf = ("accept", "application/vnd.kubernetes.protobuf");
    assert_eq!(request(&cluster, "GET", CONFIG_MAPS, &[protobuf], "").await.code, 406);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_field_is_dropped_warned_about_or_rejected() {
    let cluster = cluster().await;
    let mut typo = config_map("typo");
    typo["dta"] = json!({});
    let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let (code, message) = post(&cluster, &strict, &typo).await.status();
    assert_eq!(code, 400);
    assert!(message.ends_with("strict decoding error: unknown field \"dta\""), "{message}");
    let response = post(&cluster, CONFIG_MAPS, &typo).await;
    assert_eq!(response.warnings, ["299 - \"unknown field \\\"dta\\\"\""]);
    assert_eq!(response.json().get("dta"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_resource_version_conflicts_and_unchanged_object_keeps_it() {
    let cluster = cluster().await;
    let first = post(&cluster, CONFIG_MAPS, &config_map("one")).await.json();
    let one = format!("{CONFIG_MAPS}/one");
    let mut stale = first.clone();
    stale["metadata"]["resourceVersion"] = "1".into();
    stale["data"]["k"] = "w".into();
    let response = request(&cluster, "PUT", &one, &[JSON], stale.to_string()).await;
    let expected = "Operation cannot be fulfilled on configmaps \"one\": the object has been \
                    modified; please apply your changes to the latest version and try again";
    assert_eq!(response.status(), (409, expected.into()));
    let same = request(&cluster, "PUT", &one, &[JSON], first.to_string()).await.json();
    assert_eq!(same["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let again = post(&cluster, CONFIG_MAPS, &config_map("one")).await;
    assert_eq!(again.status(), (409, "configmaps \"one\" already exists".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_patches_lose_no_update() {
    let cluster = cluster().await;
    post(&cluster, CONFIG_MAPS, &config_map("one")).await;
    let one = format!("{CONFIG_MAPS}/one");
    let writers: Vec<_> = (0..64)
        .map(|n| {
            let maps = Api::<ConfigMap>::default_namespaced(cluster.client());
            tokio::spawn(async move {
                let data = Patch::Merge(json!({ "data": { format!("k{n}"): "v" } }));
                maps.patch("one", &PatchParams::default(), &data).await.is_ok()
            })
        })
        .collect();
    for written in futures::future::join_all(writers).await {
        assert!(written.unwrap());
    }
    assert_eq!(get(&cluster, &one).await.json()["data"].as_object().unwrap().len(), 65);
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_stores_nothing() {
    let cluster = cluster().await;
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    assert_eq!(post(&cluster, &dry, &config_map("dry")).await.code, 201);
    assert_eq!(get(&cluster, &format!("{CONFIG_MAPS}/dry")).await.code, 404);
    let invalid = format!("{CONFIG_MAPS}?dryRun=Some");
    assert_eq!(post(&cluster, &invalid, &config_map("dry")).await.code, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_honors_selectors_and_pages() {
    let cluster = cluster().await;
    for (name, env) in [("a", "prod"), ("b", "canary"), ("c", "prod")] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({ "env": env });
        assert_eq!(post(&cluster, CONFIG_MAPS, &object).await.code, 201);
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let list = |query: &'static str| {
        let cluster = &cluster;
        async move { get(cluster, &format!("{CONFIG_MAPS}?{query}")).await.json() }
    };
    assert_eq!(names(&list("&labelSelector=env%3Dprod").await), ["a", "c"]);
    assert_eq!(names(&list("labelSelector=env+notin+(prod),env").await), ["b"]);
    assert_eq!(names(&list("fieldSelector=metadata.name%3Db").await), ["b"]);
    let first = list("labelSelector=env&limit=2").await;
    assert_eq!(names(&first), ["a", "b"]);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = format!("{CONFIG_MAPS}?labelSelector=env&limit=2&continue={token}");
    let rest = get(&cluster, &rest).await.json();
    assert_eq!(names(&rest), ["c"]);
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(list("continue=rubbish").await["code"], 400);
    assert_eq!(list("labelSelector=a%3D%3D%3Db").await["code"], 400);
    assert_eq!(list("fieldSelector=data.k%3Dv").await["code"], 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizer_keeps_a_deleted_object() {
    let cluster = cluster().await;
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    post(&cluster, CONFIG_MAPS, &held).await;
    let path = format!("{CONFIG_MAPS}/held");
    let terminating = delete(&cluster, &path).await.json();
    assert_eq!(terminating["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(get(&cluster, &path).await.code, 200);
    let release = json!({ "metadata": { "finalizers": null } });
    assert_eq!(patch(&cluster, &path, "merge-patch+json", &release).await.code, 200);
    assert_eq!(get(&cluster, &path).await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_honors_preconditions_and_protected_namespaces() {
    let cluster = cluster().await;
    post(&cluster, CONFIG_MAPS, &config_map("one")).await;
    let path = format!("{CONFIG_MAPS}/one");
    let other = json!({ "preconditions": { "uid": "00000000-0000-0000-0000-000000000000" } });
    let response = request(&cluster, "DELETE", &path, &[JSON], other.to_string()).await;
    assert_eq!(response.code, 409);
    let response = delete(&cluster, "/api/v1/namespaces/default").await;
    let expected = "namespaces \"default\" is forbidden: this namespace may not be deleted";
    assert_eq!(response.status(), (403, expected.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn generation_counts_spec_changes_and_status_is_a_subresource() {
    let cluster = cluster().await;
    let created = post(&cluster, DEPLOYMENTS, &deployment("d", 0)).await.json();
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{DEPLOYMENTS}/d");
    let merge = "merge-patch+json";
    let change = json!({ "spec": { "replicas": 0, "paused": true }, "status": { "replicas": 7 } });
    let spec = patch(&cluster, &path, merge, &change).await.json();
    assert_eq!(spec["metadata"]["generation"], 2);
    assert_ne!(spec["status"]["replicas"], 7);
    let change = json!({ "spec": { "replicas": 9 }, "status": { "observedGeneration": 2 } });
    let status = patch(&cluster, &format!("{path}/status"), merge, &change).await.json();
    assert_eq!(status["spec"]["replicas"], 0);
    assert_eq!(status["status"]["observedGeneration"], 2);
    assert_eq!(status["metadata"]["generation"], 2);
    let scale = format!("{path}/scale");
    let scaled = patch(&cluster, &scale, merge, &json!({ "spec": { "replicas": 2 } })).await.json();
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scaled["status"]["selector"], "app=d");
    assert_eq!(get(&cluster, &path).await.json()["metadata"]["generation"], 3);
    let negative = patch(&cluster, &scale, merge, &json!({ "spec": { "replicas": -1 } })).await;
    assert_eq!(negative.code, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn service_gets_cluster_ip_and_node_port() {
    let cluster = cluster().await;
    let path = "/api/v1/namespaces/default/services";
    let kubernetes = get(&cluster, &format!("{path}/kubernetes")).await.json();
    let kubernetes = kubernetes["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let service = |name: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name },
            "spec": { "type": "NodePort", "ports": [{ "port": 80 }], "selector": { "app": "x" } },
        })
    };
    let created = post(&cluster, path, &service("a")).await.json();
    let address = created["spec"]["clusterIP"].as_str().unwrap();
    assert_ne!(address, kubernetes);
    assert_eq!(created["spec"]["clusterIPs"], json!([address]));
    let port = created["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port));
    let mut second = service("b");
    second["spec"]["ports"][0]["nodePort"] = port.into();
    let (code, message) = post(&cluster, path, &second).await.status();
    assert_eq!(code, 422);
    assert!(message.contains("provided port is already allocated"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn response_has_the_format_of_the_accept_header() {
    let cluster = cluster().await;
    post(&cluster, CONFIG_MAPS, &config_map("one")).await;
    let list_as = |accept: &'static str| {
        let cluster = &cluster;
        async move { request(cluster, "GET", CONFIG_MAPS, &[("accept", accept)], "").await.json() }
    };
    let table = list_as("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    let rows = table["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["cells"][0] == "one").unwrap();
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    let partial = list_as("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"].as_array().unwrap().iter().all(|item| item.get("data").is_none()));
    let plain = list_as("application/json").await;
    assert_eq!(plain["kind"], "ConfigMapList");
    assert!(plain["items"][0].get("kind").is_none(), "items of a list have no kind");
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_openapi_list_served_resources() {
    let cluster = cluster().await;
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let response = request(&cluster, "GET", "/apis", &[("accept", aggregated)], "").await;
    assert_eq!(response.media_type, aggregated);
    let groups = response.json();
    let apps = groups["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps");
    let resources = &apps.unwrap()["versions"][0]["resources"];
    assert!(resources.as_array().unwrap().iter().any(|r| r["resource"] == "deployments"));
    assert_eq!(get(&cluster, "/api").await.json()["versions"], json!(["v1"]));
    let core = get(&cluster, "/api/v1").await.json();
    assert!(core["resources"].as_array().unwrap().iter().any(|r| r["name"] == "pods/log"));
    let index = get(&cluster, "/openapi/v3").await.json();
    let apps = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(get(&cluster, &apps).await.json()["components"]["schemas"].is_object());
    let older = get(&cluster, "/openapi/v2").await.json();
    assert!(older["definitions"]["io.k8s.api.apps.v1.Deployment"].is_object());
    assert_eq!(core["resources"][0]["storageVersionHash"].as_str().map(str::len), Some(12));
    assert_eq!(get(&cluster, "/healthz").await.text, "ok");
    assert_eq!(get(&cluster, "/version").await.json()["major"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_is_bound_once_and_deleted_after_its_grace_period() {
    let cluster = cluster().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name },
            "spec": { "containers": [{ "name": "c", "image": "i" }] },
        })
    };
    for name in ["a", "b"] {
        assert_eq!(post(&cluster, pods, &pod(name)).await.code, 201);
    }
    let binding = json!({
        "metadata": { "name": "a", "labels": { "zone": "z" } },
        "target": { "kind": "Node", "name": "n" },
    });
    let bind = format!("{pods}/a/binding");
    for (field, value, code, message) in [
        ("/metadata/name", json!("b"), 400, "name in URL does not match name in Binding object"),
        ("/metadata/name", json!(null), 400, "name in URL does not match name in Binding object"),
        ("/metadata/uid", json!("x"), 409, "Precondition failed: UID in precondition: x"),
        ("/target/name", json!(""), 500, "target.name: Required value"),
        ("/target/kind", json!("Pod"), 500, "target.kind: Unsupported value: \"Pod\""),
    ] {
        let mut wrong = binding.clone();
        wrong["metadata"]["uid"] = json!(null);
        *wrong.pointer_mut(field).unwrap() = value;
        let (found, text) = post(&cluster, &bind, &wrong).await.status();
        assert_eq!(found, code, "{text}");
        assert!(text.contains(message), "{text}");
    }
    let evict = json!({ "metadata": { "name": "b" } });
    let (code, text) = post(&cluster, &format!("{pods}/a/eviction"), &evict).await.status();
    assert_eq!((code, &*text), (400, "name in URL does not match name in Eviction object"));
    assert_eq!(post(&cluster, &bind, &binding).await.code, 201);
    assert_eq!(post(&cluster, &bind, &binding).await.code, 409);
    let bound = get(&cluster, &format!("{pods}/a")).await.json();
    assert_eq!(bound["spec"]["nodeName"], "n");
    assert_eq!(bound["metadata"]["labels"], json!({ "zone": "z" }));
    let terminating = delete(&cluster, &format!("{pods}/a")).await.json();
    assert_eq!(terminating["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(get(&cluster, &format!("{pods}/a")).await.code, 200);
    let now = format!("{pods}/a?gracePeriodSeconds=0");
    assert_eq!(delete(&cluster, &now).await.code, 200);
    assert_eq!(get(&cluster, &format!("{pods}/a")).await.code, 404);
    delete(&cluster, &format!("{pods}/b")).await;
    assert_eq!(
        get(&cluster, &format!("{pods}/b")).await.code,
        404,
        "an unscheduled pod is removed at once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_without_a_controller_are_accepted_only_as_dry_run() {
    let cluster = cluster().await;
    let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "d" });
    let scaler = json!({ "maxReplicas": 3, "scaleTargetRef": target });
    let hard = json!({ "hard": { "pods": "4" } });
    for (path, kind, spec, reason) in [
        (
            "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
            "HorizontalPodAutoscaler",
            &scaler,
            "this cluster has no metrics to scale by: use kubectl scale",
        ),
        (
            "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
            "HorizontalPodAutoscaler",
            &scaler,
            "this cluster has no metrics to scale by: use kubectl scale",
        ),
        (
            "/api/v1/namespaces/default/resourcequotas",
            "ResourceQuota",
            &hard,
            "this cluster enforces no quotas",
        ),
    ] {
        let body = json!({ "kind": kind, "metadata": { "name": "x" }, "spec": spec });
        assert_eq!(post(&cluster, &format!("{path}?dryRun=All"), &body).await.code, 201, "{path}");
        let (code, message) = post(&cluster, path, &body).await.status();
        assert_eq!(code, 403);
        assert!(message.ends_with(&format!("\"x\" is forbidden: {reason}")), "{message}");
        let list = get(&cluster, path).await.json();
        assert_eq!(list["items"], json!([]));
    }
}
