//! Service accounts: what pods find of them, and what their tokens open.

use crate::{
    fixture::{ask, get, post},
    kubectl::Kubectl,
    pods::{cluster, in_time, run, sandboxes, tool, until},
};
use k8s_openapi::api::{
    authentication::v1::{SelfSubjectReview, TokenRequest},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use kube_embedded::{Cluster, Sandbox};
use kube_embedded_apiserver::credentials::write_private;
use serde_json::json;
use tokio::io::AsyncReadExt;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn kubeconfig(cluster: &Cluster, token: &str) -> Kubeconfig {
    let mut config = Kubeconfig::from_yaml(&cluster.kubeconfig()).unwrap();
    config.contexts[0].context.as_mut().unwrap().user = Some("kubernetes-admin-token".into());
    config.auth_infos[1].auth_info.as_mut().unwrap().token = Some(token.to_owned().into());
    config
}

/// A client that shows nothing but the token.
async fn with(cluster: &Cluster, token: &str) -> Client {
    let config = kubeconfig(cluster, token);
    let options = KubeConfigOptions::default();
    Client::try_from(Config::from_custom_kubeconfig(config, &options).await.unwrap()).unwrap()
}

async fn who(client: Client) -> Result<serde_json::Value, u16> {
    let api: Api<SelfSubjectReview> = Api::all(client);
    match in_time(api.create(&PostParams::default(), &SelfSubjectReview::default())).await {
        Ok(review) => Ok(serde_json::to_value(review.status.unwrap().user_info).unwrap()),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(other) => panic!("{other:?}"),
    }
}

async fn printed(cluster: &Cluster, pod: &str, command: &[&str]) -> String {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let command = command.iter().copied();
    let mut process = in_time(pods.exec(pod, command, &AttachParams::default())).await.unwrap();
    let mut text = String::new();
    in_time(process.stdout().unwrap().read_to_string(&mut text)).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_finds_its_token_and_reaches_the_api() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        let pod = run(&cluster, "one", tool(&["wait"])).await;
        assert_eq!(printed(&cluster, "one", &["/tool", "reach-api"]).await, "reached\n");
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
            printed(&cluster, "one", &["/tool", "cat", &format!("{path}/{name}")]).await
        };
        assert_eq!(file("namespace").await, "default");
        let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
        let authority = maps.get("kube-root-ca.crt").await.unwrap().data.unwrap();
        assert_eq!(file("ca.crt").await, authority["ca.crt"]);
        let client = with(&cluster, &file("token").await).await;
        let user = who(client.clone()).await.unwrap();
        assert_eq!(user["username"], "system:serviceaccount:default:default");
        let groups =
            ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"];
        assert_eq!(user["groups"], json!(groups));
        assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["one"]));
        assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["node-1"]));
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        assert_eq!(in_time(pods.list(&ListParams::default())).await.unwrap().items.len(), 1);
        // The token is good as long as the pod is there.
        in_time(pods.delete("one", &DeleteParams::default().grace_period(0))).await.unwrap();
        until("the token is refused", async || who(client.clone()).await == Err(401)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_follow_what_they_are_made_of() {
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
    let read = async |path: &str| printed(&cluster, "one", &["/tool", "cat", path]).await;
    assert_eq!((read("/v/k").await, read("/v/labels").await), ("old".into(), "app=\"one\"".into()));
    let change = Patch::Merge(json!({ "data": { "k": "new" } }));
    maps.patch("m", &PatchParams::default(), &change).await.unwrap();
    until("the file is another", async || read("/v/k").await == "new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_on_request_within_bounds() {
    let cluster = crate::fixture::cluster().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let robot = json!({ "metadata": { "name": "robot" } });
    assert_eq!(post(&cluster, accounts, &robot).await.code, 201);
    let token_of = format!("{accounts}/robot/token");
    let made = post(&cluster, &token_of, &json!({})).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let request: TokenRequest = serde_json::from_value(made.json()).unwrap();
    assert_eq!(made.json()["spec"]["expirationSeconds"], 3600);
    let token = request.status.unwrap().token.unwrap();
    let client = with(&cluster, &token).await;
    let user = who(client.clone()).await.unwrap();
    assert_eq!(user["username"], "system:serviceaccount:default:robot");
    assert_eq!(who(with(&cluster, &format!("{token}x")).await).await, Err(401));
    assert_eq!(who(with(&cluster, "a.b.c").await).await, Err(401));

    let other = json!({ "spec": { "audiences": ["vault"], "expirationSeconds": 600 } });
    let other = post(&cluster, &token_of, &other).await.json();
    let other = other["status"]["token"].as_str().unwrap();
    assert_eq!(who(with(&cluster, other).await).await, Err(401), "it is for others");
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = async |token: &str, audiences: serde_json::Value| {
        let spec = json!({ "token": token, "audiences": audiences });
        post(&cluster, reviews, &json!({ "spec": spec })).await.json()["status"].clone()
    };
    let status = review(other, json!(["vault", "else"])).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    assert_eq!(review(other, json!(["else"])).await["authenticated"], json!(null));

    let refusal =
        async |path: &str, body: serde_json::Value| post(&cluster, path, &body).await.refusal();
    let short = refusal(&token_of, json!({ "spec": { "expirationSeconds": 10 } })).await;
    assert_eq!((short.0, short.1.contains("less than 10 minutes")), (422, true), "{}", short.1);
    let bound = json!({ "spec": { "boundObjectRef": { "kind": "Pod", "name": "p" } } });
    assert_eq!(refusal(&token_of, bound).await, (404, "pods \"p\" not found".into()));
    let nobody = refusal(&format!("{accounts}/nobody/token"), json!({})).await;
    assert_eq!(nobody, (404, "serviceaccounts \"nobody\" not found".into()));

    // Without the account its tokens are worth nothing.
    assert_eq!(ask(&cluster, "DELETE", &format!("{accounts}/robot"), &[], "").await.code, 200);
    assert_eq!(who(client).await, Err(401));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_run_as_an_account_that_is_there() {
    let cluster = crate::fixture::cluster().await;
    let pod = |name: &str, more: serde_json::Value| {
        let mut spec = json!({ "containers": [{ "name": "c", "image": "i" }] });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "metadata": { "name": name }, "spec": spec })
    };
    let refused = post(&cluster, PODS, &pod("a", json!({ "serviceAccountName": "x" }))).await;
    let why = "pods \"a\" is forbidden: error looking up service account default/x: \
               serviceaccount \"x\" not found";
    assert_eq!(refused.refusal(), (403, why.into()));
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
    // A new namespace has its account before its first pod is refused.
    post(&cluster, "/api/v1/namespaces", &json!({ "metadata": { "name": "new" } })).await;
    let first = post(&cluster, "/api/v1/namespaces/new/pods", &pod("d", json!({}))).await;
    assert_eq!(first.code, 201, "{}", first.text);
    assert!(first.json()["spec"]["volumes"].is_array());
    assert_eq!(get(&cluster, &format!("{PODS}/a")).await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_makes_tokens_and_has_no_complaint_about_nodes() {
    let cluster = cluster(Some(Sandbox::Plain)).await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    run(&cluster, "one", tool(&["wait"])).await;
    let say = async |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        in_time(kubectl.run(&words, "")).await
    };
    let bound =
        "create token default --duration=1h --bound-object-kind=Pod --bound-object-name=one";
    let token = say(bound).await.unwrap();
    let file = cluster.state_dir().join("robot");
    let config = serde_json::to_string(&kubeconfig(&cluster, token.trim())).unwrap();
    // A secret is not shown by whoever prints a kubeconfig, so it is put in by hand.
    let config = config.replace("\"[REDACTED]\"", &json!(token.trim()).to_string());
    write_private(&file, &config).unwrap();
    let whoami = format!("--kubeconfig {} auth whoami", file.display());
    let told = say(&whoami).await.unwrap();
    assert!(told.contains("system:serviceaccount:default:default"), "{told}");

    let leases: Api<Lease> = Api::namespaced(cluster.client(), "kube-node-lease");
    until("the node has a lease", async || leases.get_opt("node-1").await.unwrap().is_some()).await;
    let node = say("describe node node-1").await.unwrap();
    assert!(node.contains("HolderIdentity:  node-1"), "{node}");
    assert!(!node.contains("Failed"), "{node}");
}
