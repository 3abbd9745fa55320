//! Service accounts: the token volumes of pods, and authentication with tokens.

use crate::fixture::{
    self, delete, eventually, get, in_time,
    kubectl::Kubectl,
    pods::{cluster, run, sandboxes, tool},
    post,
    service_accounts::{client_with_token, kubeconfig},
};
use k8s_openapi::api::{
    authentication::v1::{SelfSubjectReview, TokenRequest},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use kube_embedded::{Cluster, Sandbox};
use kube_embedded_apiserver::credentials::write_private;
use serde_json::json;
use tokio::io::AsyncReadExt;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Returns the user that the API server authenticates, or the HTTP status of the rejection.
async fn user_info(client: Client) -> Result<serde_json::Value, u16> {
    let api: Api<SelfSubjectReview> = Api::all(client);
    match in_time(api.create(&PostParams::default(), &SelfSubjectReview::default())).await {
        Ok(review) => Ok(serde_json::to_value(review.status.unwrap().user_info).unwrap()),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(other) => panic!("{other:?}"),
    }
}

/// Runs a command in a pod and returns its stdout.
async fn exec(cluster: &Cluster, pod: &str, command: &[&str]) -> String {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let command = command.iter().copied();
    let mut process = in_time(pods.exec(pod, command, &AttachParams::default())).await.unwrap();
    let mut text = String::new();
    in_time(process.stdout().unwrap().read_to_string(&mut text)).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_reaches_the_api_with_its_mounted_token() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        let pod = run(&cluster, "one", tool(&["wait"])).await;
        assert_eq!(exec(&cluster, "one", &["/tool", "reach-api"]).await, "reached\n");
        let spec = serde_json::to_value(pod.spec.unwrap()).unwrap();
        let (volume, mount) = (&spec["volumes"][0], &spec["containers"][0]["volumeMounts"][0]);
        let name = volume["name"].as_str().unwrap();
        assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
        let path = "/var/run/secrets/kubernetes.io/serviceaccount";
        assert_eq!(*mount, json!({ "mountPath": path, "name": name, "readOnly": true }));
        if sandbox == Sandbox::Plain {
            continue;
        }
        let file = async |name: &str| {
            exec(&cluster, "one", &["/tool", "cat", &format!("{path}/{name}")]).await
        };
        assert_eq!(file("namespace").await, "default");
        let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
        let root_ca = maps.get("kube-root-ca.crt").await.unwrap().data.unwrap();
        assert_eq!(file("ca.crt").await, root_ca["ca.crt"]);
        let client = client_with_token(&cluster, &file("token").await).await;
        let user = user_info(client.clone()).await.unwrap();
        assert_eq!(user["username"], "system:serviceaccount:default:default");
        let groups =
            ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"];
        assert_eq!(user["groups"], json!(groups));
        assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["one"]));
        assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["node-1"]));
        // It may read the pods of its namespace once a binding says so.
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let refused = in_time(pods.list(&ListParams::default())).await.unwrap_err();
        let expected = "pods is forbidden: User \"system:serviceaccount:default:default\" cannot list \
                        resource \"pods\" in API group \"\" in the namespace \"default\"";
        assert!(refused.to_string().contains(expected), "{refused}");
        let binding = json!({
            "metadata": { "name": "edit" },
            "roleRef": { "kind": "ClusterRole", "name": "system:aggregate-to-edit" },
            "subjects": [{ "kind": "ServiceAccount", "name": "default" }],
        });
        let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
        assert_eq!(post(&cluster, bindings, &binding).await.code, 201);
        // A bound token is valid as long as its pod exists.
        in_time(pods.delete("one", &DeleteParams::default().grace_period(0))).await.unwrap();
        eventually("the token of a deleted pod is rejected", async || {
            user_info(client.clone()).await == Err(401)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn projected_volume_follows_its_config_map() {
    if !sandboxes().await.contains(&Sandbox::Namespaced) {
        return test_support::missing("user-namespaces", "the plain sandbox has no volumes");
    }
    let cluster = cluster(None).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let map = json!({ "metadata": { "name": "m" }, "data": { "k": "old" } });
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    let mut spec = tool(&["wait"]);
    spec["automountServiceAccountToken"] = json!(false);
    spec["volumes"] = json!([{ "name": "v", "projected": { "sources": [
        { "configMap": { "name": "m" } },
        { "downwardAPI": { "items": [
            { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
        ] } },
    ] } }]);
    spec["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    run(&cluster, "one", spec).await;
    let read = async |path: &str| exec(&cluster, "one", &["/tool", "cat", path]).await;
    assert_eq!((read("/v/k").await, read("/v/labels").await), ("old".into(), "app=\"one\"".into()));
    let change = Patch::Merge(json!({ "data": { "k": "new" } }));
    maps.patch("m", &PatchParams::default(), &change).await.unwrap();
    eventually("the file is updated", async || read("/v/k").await == "new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_request_honors_audience_expiration_and_binding() {
    let cluster = fixture::cluster().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let robot = json!({ "metadata": { "name": "robot" } });
    assert_eq!(post(&cluster, accounts, &robot).await.code, 201);
    let token_path = format!("{accounts}/robot/token");
    let created = post(&cluster, &token_path, &json!({})).await;
    assert_eq!(created.code, 201, "{}", created.text);
    let request: TokenRequest = serde_json::from_value(created.json()).unwrap();
    assert_eq!(created.json()["spec"]["expirationSeconds"], 3600);
    let token = request.status.unwrap().token.unwrap();
    let client = client_with_token(&cluster, &token).await;
    let user = user_info(client.clone()).await.unwrap();
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    assert_eq!(user_info(client_with_token(&cluster, &format!("{token}x")).await).await, Err(401));
    assert_eq!(user_info(client_with_token(&cluster, "a.b.c").await).await, Err(401));

    let other = json!({ "spec": { "audiences": ["vault"], "expirationSeconds": 600 } });
    let other = post(&cluster, &token_path, &other).await.json();
    let other = other["status"]["token"].as_str().unwrap();
    assert_eq!(
        user_info(client_with_token(&cluster, other).await).await,
        Err(401),
        "the token has another audience"
    );
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = async |token: &str, audiences: serde_json::Value| {
        let spec = json!({ "token": token, "audiences": audiences });
        post(&cluster, reviews, &json!({ "spec": spec })).await.json()["status"].clone()
    };
    let status = review(other, json!(["vault", "else"])).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    assert_eq!(review(other, json!(["else"])).await["authenticated"], json!(null));

    let error =
        async |path: &str, body: serde_json::Value| post(&cluster, path, &body).await.status();
    let short = error(&token_path, json!({ "spec": { "expirationSeconds": 10 } })).await;
    assert_eq!((short.0, short.1.contains("less than 10 minutes")), (422, true), "{}", short.1);
    let bound = json!({ "spec": { "boundObjectRef": { "kind": "Pod", "name": "p" } } });
    assert_eq!(error(&token_path, bound).await, (404, "pods \"p\" not found".into()));
    let missing = error(&format!("{accounts}/missing/token"), json!({})).await;
    assert_eq!(missing, (404, "serviceaccounts \"missing\" not found".into()));

    // Tokens of a deleted account are invalid.
    assert_eq!(delete(&cluster, &format!("{accounts}/robot")).await.code, 200);
    assert_eq!(user_info(client).await, Err(401));
}

#[tokio::test(flavor = "multi_thread")]
async fn service_account_admission_requires_the_account() {
    let cluster = fixture::cluster().await;
    let pod = |name: &str, overrides: serde_json::Value| {
        let mut spec = json!({ "containers": [{ "name": "c", "image": "i" }] });
        spec.as_object_mut().unwrap().extend(overrides.as_object().unwrap().clone());
        json!({ "metadata": { "name": name }, "spec": spec })
    };
    let response = post(&cluster, PODS, &pod("a", json!({ "serviceAccountName": "x" }))).await;
    let expected = "pods \"a\" is forbidden: error looking up service account default/x: \
               serviceaccount \"x\" not found";
    assert_eq!(response.status(), (403, expected.into()));
    let off = json!({ "automountServiceAccountToken": false });
    let without = post(&cluster, PODS, &pod("b", off)).await.json();
    assert_eq!(without["spec"].get("volumes"), None);
    let accounts: Api<ServiceAccount> = Api::default_namespaced(cluster.client());
    let off = Patch::Merge(json!({ "automountServiceAccountToken": false }));
    accounts.patch("default", &PatchParams::default(), &off).await.unwrap();
    assert_eq!(
        post(&cluster, PODS, &pod("c", json!({}))).await.json()["spec"].get("volumes"),
        None
    );
    // A new namespace has its default account before its first pod is admitted.
    post(&cluster, "/api/v1/namespaces", &json!({ "metadata": { "name": "new" } })).await;
    let first = post(&cluster, "/api/v1/namespaces/new/pods", &pod("d", json!({}))).await;
    assert_eq!(first.code, 201, "{}", first.text);
    assert!(first.json()["spec"]["volumes"].is_array());
    assert_eq!(get(&cluster, &format!("{PODS}/a")).await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_create_token_and_describe_node_succeed() {
    let cluster = cluster(Some(Sandbox::Plain)).await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    run(&cluster, "one", tool(&["wait"])).await;
    let bound =
        "create token default --duration=1h --bound-object-kind=Pod --bound-object-name=one";
    let token = kubectl.line(bound).await;
    let file = cluster.state_dir().join("robot");
    let config = serde_json::to_string(&kubeconfig(&cluster, token.trim())).unwrap();
    // kube redacts tokens when it serializes a kubeconfig.
    let config = config.replace("\"[REDACTED]\"", &json!(token.trim()).to_string());
    write_private(&file, &config).unwrap();
    let whoami = format!("--kubeconfig {} auth whoami", file.display());
    let user = kubectl.line(&whoami).await;
    assert!(user.contains("system:serviceaccount:default:default"), "{user}");

    let leases: Api<Lease> = Api::namespaced(cluster.client(), "kube-node-lease");
    eventually("the node has a Lease", async || leases.get_opt("node-1").await.unwrap().is_some())
        .await;
    let node = kubectl.line("describe node node-1").await;
    assert!(node.contains("HolderIdentity:  node-1"), "{node}");
    assert!(!node.contains("Failed"), "{node}");
}

#[tokio::test(flavor = "multi_thread")]
async fn issuer_publishes_its_keys_where_pods_reach_them() {
    let cluster = fixture::cluster().await;
    let found = get(&cluster, "/.well-known/openid-configuration").await.json();
    let issuer = found["issuer"].as_str().unwrap();
    assert_eq!(issuer, "https://kubernetes.default.svc.cluster.local");
    assert_eq!(found["jwks_uri"], format!("{issuer}/openid/v1/jwks"));
    let keys = get(&cluster, "/openid/v1/jwks").await.json();
    let key = &keys["keys"][0];
    assert_eq!(
        (&key["kty"], &key["alg"], &key["use"]),
        (&json!("EC"), &json!("ES256"), &json!("sig"))
    );
}
