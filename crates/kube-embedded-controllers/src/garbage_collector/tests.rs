//! Requests to an API server that fails.

use super::*;
use http::{Request, Response};
use kube::client::Body;
use std::convert::Infallible;
use tokio::time::Instant;

/// The number of requests that fail before the API server responds that nothing exists.
const FAILURES: usize = 7;

/// Returns a collector whose API server fails at first, and the times of its requests.
fn with_failing_api() -> (GarbageCollector, Arc<Mutex<Vec<Instant>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = requests.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let mut requests = log.lock().unwrap();
        requests.push(Instant::now());
        let (status, response) = match request.uri().path() {
            _ if requests.len() <= FAILURES => (500, json!({})),
            "/api/v1" => (200, empty_list("APIResourceList", "resources")),
            "/apis" => (200, empty_list("APIGroupList", "groups")),
            _ => (404, json!({ "status": "Failure", "code": 404, "reason": "NotFound" })),
        };
        let body = Body::from(response.to_string().into_bytes());
        let response = Response::builder().status(status).body(body).unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    let informers = Informers::new(Client::new(service, "default"));
    (GarbageCollector::new(&informers, |_| {}), requests)
}

/// Returns an empty list as discovery responds with.
fn empty_list(kind: &str, field: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": kind, "groupVersion": "v1", field: [] })
}

fn delays(requests: &Mutex<Vec<Instant>>) -> Vec<u128> {
    let requests = requests.lock().unwrap();
    requests.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).take(FAILURES).collect()
}

#[tokio::test(start_paused = true)]
async fn failing_api_server_is_asked_with_backoff() {
    let (collector, requests) = with_failing_api();
    assert!(collector.discover().await.is_empty());
    assert_eq!(delays(&requests), [1, 2, 4, 8, 16, 32, 64]);
    let (collector, requests) = with_failing_api();
    let gvk = kube::core::GroupVersionKind::gvk("example.com", "v1", "Widget");
    assert!(!collector.is_defined(&ApiResource::from_gvk(&gvk)).await);
    assert_eq!(delays(&requests), [1, 2, 4, 8, 16, 32, 64]);
}
