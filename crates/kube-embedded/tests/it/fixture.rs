//! A cluster for each test, and raw requests to it.

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use kube_embedded::{Cluster, Config, Sandbox};
use serde_json::{Value, json};

/// A cluster without nodes: nothing runs that a test of the API does not ask for.
pub(crate) async fn cluster() -> Cluster {
    let config = Config { nodes: 0, sandbox: Some(Sandbox::Plain), ..Config::default() };
    Cluster::start(config).await.expect("a cluster")
}

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) media_type: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Code and message of a refusal.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.code, self.json()["message"].as_str().unwrap_or_default().to_owned())
    }
}

/// One request to the API in the process.
pub(crate) async fn ask(
    cluster: &Cluster,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Vec<u8>>,
) -> Answer {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.into())).unwrap();
    let response = cluster.client().send(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let header = |name: &str| -> Vec<String> {
        let values = parts.headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let media_type = header("content-type").into_iter().next().unwrap_or_default();
    let text = body.collect().await.unwrap().to_bytes();
    Answer {
        code: StatusCode::as_u16(&parts.status),
        media_type,
        warnings: header("warning"),
        text: String::from_utf8(text.to_vec()).unwrap(),
    }
}

pub(crate) async fn get(cluster: &Cluster, path: &str) -> Answer {
    ask(cluster, "GET", path, &[], "").await
}

pub(crate) async fn post(cluster: &Cluster, path: &str, body: &Value) -> Answer {
    ask(cluster, "POST", path, &[("content-type", "application/json")], body.to_string()).await
}

pub(crate) async fn patch(cluster: &Cluster, path: &str, kind: &str, body: &Value) -> Answer {
    let media_type = format!("application/{kind}");
    ask(cluster, "PATCH", path, &[("content-type", &*media_type)], body.to_string()).await
}

pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) fn config_map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "k": "v" } })
}

pub(crate) fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "c", "image": "kubeapp:1.0" }] },
            },
        },
    })
}
