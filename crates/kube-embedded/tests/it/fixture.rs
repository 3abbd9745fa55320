//! The fixture of all tests: waiting, a cluster without nodes, and raw requests to its API.

pub(crate) mod controllers;
pub(crate) mod external;
pub(crate) mod kubectl;
pub(crate) mod pods;
pub(crate) mod program;
pub(crate) mod service_accounts;

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use kube_embedded::{Cluster, Config, Sandbox};
use serde_json::{Value, json};
use std::{panic::Location, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// The deadline of every wait: far longer than anything here takes, even on a loaded machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// The interval of [`eventually`].
const POLL: Duration = Duration::from_millis(10);

/// Awaits `work`, and fails the test where that takes longer than [`TIMEOUT`].
#[track_caller]
pub(crate) fn in_time<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let result = timeout(TIMEOUT, work).await;
        result.unwrap_or_else(|_| panic!("{caller}: not done within {TIMEOUT:?}"))
    }
}

/// Polls until the predicate holds, and returns what it found. Fails the test after [`TIMEOUT`], with the
/// last reason why the predicate did not hold.
pub(crate) async fn eventually<O: Outcome>(
    what: &str,
    mut predicate: impl AsyncFnMut() -> O,
) -> O::Found {
    let start = Instant::now();
    loop {
        match predicate().await.into_result() {
            Ok(found) => return found,
            Err(last) => {
                assert!(start.elapsed() < TIMEOUT, "not within {TIMEOUT:?}: {what} {last}")
            }
        }
        sleep(POLL).await;
    }
}

/// The result of a predicate of [`eventually`].
pub(crate) trait Outcome {
    type Found;

    fn into_result(self) -> Result<Self::Found, String>;
}

impl Outcome for bool {
    type Found = ();

    fn into_result(self) -> Result<(), String> {
        if self { Ok(()) } else { Err(String::new()) }
    }
}

impl<T> Outcome for Option<T> {
    type Found = T;

    fn into_result(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<T> Outcome for Result<T, String> {
    type Found = T;

    fn into_result(self) -> Self {
        self.map_err(|last| format!("(last: {last})"))
    }
}

/// Starts a cluster without nodes: nothing runs that a test of the API does not start.
pub(crate) async fn cluster() -> Cluster {
    let config = Config { nodes: 0, sandbox: Some(Sandbox::Plain), ..Config::default() };
    Cluster::start(config).await.unwrap()
}

/// The response of the API server.
pub(crate) struct Response {
    pub(crate) code: u16,
    pub(crate) media_type: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) text: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Returns the HTTP status code and the message of the `Status` object.
    pub(crate) fn status(&self) -> (u16, String) {
        (self.code, self.json()["message"].as_str().unwrap_or_default().to_owned())
    }
}

/// Sends one request to the API in the process.
pub(crate) async fn request(
    cluster: &Cluster,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Vec<u8>>,
) -> Response {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.into())).unwrap();
    let response = in_time(cluster.client().send(request)).await.unwrap();
    let (parts, body) = response.into_parts();
    let header = |name: &str| -> Vec<String> {
        let values = parts.headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let media_type = header("content-type").into_iter().next().unwrap_or_default();
    let text = in_time(body.collect()).await.unwrap().to_bytes();
    Response {
        code: StatusCode::as_u16(&parts.status),
        media_type,
        warnings: header("warning"),
        text: String::from_utf8(text.to_vec()).unwrap(),
    }
}

pub(crate) async fn get(cluster: &Cluster, path: &str) -> Response {
    request(cluster, "GET", path, &[], "").await
}

pub(crate) async fn post(cluster: &Cluster, path: &str, body: &Value) -> Response {
    request(cluster, "POST", path, &[("content-type", "application/json")], body.to_string()).await
}

/// Sends a patch of the media type `application/{format}`.
pub(crate) async fn patch(cluster: &Cluster, path: &str, format: &str, body: &Value) -> Response {
    let media_type = format!("application/{format}");
    request(cluster, "PATCH", path, &[("content-type", &*media_type)], body.to_string()).await
}

pub(crate) async fn delete(cluster: &Cluster, path: &str) -> Response {
    request(cluster, "DELETE", path, &[], "").await
}

/// Waits until the object at `path` no longer exists.
pub(crate) async fn wait_for_deletion(cluster: &Cluster, path: &str) {
    eventually(&format!("deletion of {path}"), async || get(cluster, path).await.code == 404).await;
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
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
