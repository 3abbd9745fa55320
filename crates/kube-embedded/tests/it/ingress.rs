//! Ingresses and IngressClasses in the API. Their traffic is tested in `ingress_traffic`.

use crate::fixture::{cluster, get, kubectl::Kubectl, patch, post, request};
use kube_embedded::{Cluster, Config};
use serde_json::{Value, json};

const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
const CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";

fn ingress(name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": { "name": name },
        "spec": { "defaultBackend": { "service": { "name": "s", "port": { "number": 80 } } } },
    })
}

fn class(name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": { "name": name },
        "spec": { "controller": "example.com/other" },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn ingress_without_class_gets_the_default_class() {
    let cluster = cluster().await;
    let edge = get(&cluster, &format!("{CLASSES}/edge")).await.json();
    assert_eq!(edge["spec"]["controller"], "canary-labs.dev/edge");
    let bare = post(&cluster, INGRESSES, &ingress("bare")).await.json();
    assert_eq!(bare["spec"].get("ingressClassName"), None, "edge is not the default");
    let mut other = class("other");
    let key = "ingressclass.kubernetes.io/is-default-class";
    other["metadata"]["annotations"] = json!({ key: "true" });
    assert_eq!(post(&cluster, CLASSES, &other).await.code, 201);
    let filled = post(&cluster, INGRESSES, &ingress("filled")).await.json();
    assert_eq!(filled["spec"]["ingressClassName"], "other");
    // Fields that admission sets have no field manager.
    let fields = &filled["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"];
    assert!(fields.get("f:ingressClassName").is_none(), "{fields}");
    let mut named = ingress("named");
    named["spec"]["ingressClassName"] = "edge".into();
    let named = post(&cluster, INGRESSES, &named).await.json();
    assert_eq!(named["spec"]["ingressClassName"], "edge");
    let mut annotated = ingress("annotated");
    annotated["metadata"]["annotations"] = json!({ "kubernetes.io/ingress.class": "edge" });
    let annotated = post(&cluster, INGRESSES, &annotated).await.json();
    assert_eq!(annotated["spec"].get("ingressClassName"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn ingress_status_is_a_subresource() {
    // Without the Ingress controller, which would write the same status.
    let config = Config { nodes: 0, load_balancers: false, ..Config::default() };
    let cluster = Cluster::start(config).await.unwrap();
    let mut object = ingress("i");
    object["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "127.0.0.1" }] } });
    let created = post(&cluster, INGRESSES, &object).await.json();
    assert_eq!(created["status"], json!({ "loadBalancer": {} }));
    assert_eq!(created["metadata"]["generation"], 1);
    let (one, merge) = (format!("{INGRESSES}/i"), "merge-patch+json");
    let both = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "127.0.0.1" }] } },
        "spec": { "ingressClassName": "edge" } });
    let updated = patch(&cluster, &format!("{one}/status"), merge, &both).await.json();
    assert_eq!(updated["status"], both["status"]);
    assert_eq!(updated["spec"].get("ingressClassName"), None);
    assert_eq!(updated["metadata"]["generation"], 1);
    let class = json!({ "spec": { "ingressClassName": "edge" }, "status": null });
    let changed = patch(&cluster, &one, merge, &class).await.json();
    assert_eq!(changed["status"], both["status"]);
    assert_eq!(changed["metadata"]["generation"], 2);
    let table = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table = request(&cluster, "GET", &one, &[table], "").await.json();
    let cells = &table["rows"][0]["cells"].as_array().unwrap()[..5];
    assert_eq!(cells, ["i", "edge", "*", "127.0.0.1", "80"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ingress_class_controller_is_immutable() {
    let cluster = cluster().await;
    post(&cluster, CLASSES, &class("c")).await;
    let other = json!({ "spec": { "controller": "example.com/changed" } });
    let response = patch(&cluster, &format!("{CLASSES}/c"), "merge-patch+json", &other).await;
    let expected = "IngressClass.networking.k8s.io \"c\" is invalid: spec.controller: Invalid \
                    value: \"example.com/changed\": field is immutable";
    assert_eq!(response.status(), (422, expected.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_creates_lists_and_explains_ingresses() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    // kubectl sends only this body in protobuf.
    let create = ["create", "ingress", "app", "--rule=foo.bar/*=web:80,tls=cert", "--class=other"];
    let created = kubectl.run(&create, "").await.unwrap();
    assert_eq!(created, "ingress.networking.k8s.io/app created\n");
    let table = kubectl.run(&["get", "ing"], "").await.unwrap();
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words[..6], ["NAME", "CLASS", "HOSTS", "ADDRESS", "PORTS", "AGE"]);
    // No controller serves that class: the address is empty.
    assert_eq!(words[6..11], ["app", "other", "foo.bar", "80,", "443"]);
    let table = kubectl.run(&["get", "ingressclasses"], "").await.unwrap();
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words[..4], ["NAME", "CONTROLLER", "PARAMETERS", "AGE"]);
    assert_eq!(words[4..7], ["edge", "canary-labs.dev/edge", "<none>"]);
    let described = kubectl.run(&["describe", "ingress", "app"], "").await.unwrap();
    assert!(described.contains("cert terminates foo.bar"), "{described}");
    let named = kubectl.run(&["api-resources", "-o", "name"], "").await.unwrap();
    for resource in ["ingresses.networking.k8s.io", "ingressclasses.networking.k8s.io"] {
        assert!(named.lines().any(|line| line == resource), "{named}");
    }
    let explain = ["explain", "ingress.spec.rules.http.paths.pathType"];
    let explained = kubectl.run(&explain, "").await.unwrap();
    assert!(explained.contains("KIND:       Ingress"), "{explained}");
    let rules = r#"{"spec":{"rules":[{"host":"a.b"}]}}"#;
    let patched = kubectl.run(&["patch", "ingress/app", "--type=merge", "-p", rules], "").await;
    assert_eq!(patched.unwrap(), "ingress.networking.k8s.io/app patched\n");
}
