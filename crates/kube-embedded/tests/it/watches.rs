//! Watches and paged lists: resource versions, bookmarks, and expiry.

use crate::fixture::{CONFIG_MAPS, cluster, config_map, delete, get, in_time, patch, post};
use serde_json::{Value, json};

/// Returns the events of a watch that ends after a second.
async fn events(cluster: &kube_embedded::Cluster, query: &str) -> Vec<Value> {
    let response = get(cluster, &format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1&{query}")).await;
    response.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns type and name of each event.
fn summary(events: &[Value]) -> Vec<String> {
    let name = |event: &Value| event["object"]["metadata"]["name"].as_str().map(str::to_owned);
    events
        .iter()
        .map(|event| {
            format!("{} {}", event["type"].as_str().unwrap(), name(event).unwrap_or_default())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_reports_changes_since_a_resource_version() {
    let cluster = cluster().await;
    let first = post(&cluster, CONFIG_MAPS, &config_map("a")).await.json();
    let since = first["metadata"]["resourceVersion"].as_str().unwrap();
    post(&cluster, CONFIG_MAPS, &config_map("b")).await;
    let labels = json!({ "metadata": { "labels": { "x": "1" } } });
    patch(&cluster, &format!("{CONFIG_MAPS}/a"), "merge-patch+json", &labels).await;
    let labels = json!({ "metadata": { "labels": { "x": null } } });
    patch(&cluster, &format!("{CONFIG_MAPS}/a"), "merge-patch+json", &labels).await;
    delete(&cluster, &format!("{CONFIG_MAPS}/b")).await;
    // The cluster creates this config map at some time after its start.
    let mine = "fieldSelector=metadata.name!%3Dkube-root-ca.crt";
    let query = format!("resourceVersion={since}&{mine}");
    assert_eq!(
        summary(&events(&cluster, &query).await),
        ["ADDED b", "MODIFIED a", "MODIFIED a", "DELETED b"]
    );
    let selected = format!("{query}&labelSelector=x");
    assert_eq!(
        summary(&events(&cluster, &selected).await),
        ["ADDED a", "DELETED a"],
        "an object that starts or stops matching the selector is added or deleted"
    );
    assert_eq!(
        summary(&events(&cluster, mine).await),
        ["ADDED a"],
        "without a version, existing objects are added first"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_events_end_with_a_bookmark() {
    let cluster = cluster().await;
    post(&cluster, CONFIG_MAPS, &config_map("a")).await;
    let query = "sendInitialEvents=true&allowWatchBookmarks=true&\
                 resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3Da";
    let events = events(&cluster, query).await;
    assert_eq!(summary(&events[..2]), ["ADDED a", "BOOKMARK "]);
    let annotations = &events[1]["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn compacted_resource_version_is_expired() {
    let cluster = cluster().await;
    let first = post(&cluster, CONFIG_MAPS, &config_map("a")).await.json();
    let since = first["metadata"]["resourceVersion"].as_str().unwrap();
    for n in 0..2100 {
        let data = json!({ "data": { "k": n.to_string() } });
        patch(&cluster, &format!("{CONFIG_MAPS}/a"), "merge-patch+json", &data).await;
    }
    let events = events(&cluster, &format!("resourceVersion={since}")).await;
    assert_eq!(events[0]["type"], "ERROR");
    assert_eq!(
        (&events[0]["object"]["code"], &events[0]["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    let response = get(&cluster, &format!("{CONFIG_MAPS}?watch=1&resourceVersion=zz")).await;
    assert_eq!(response.code, 500);
}

/// Returns the names of a page and its continue token.
fn page(list: &Value) -> (Vec<&str>, Option<&str>) {
    let items = list["items"].as_array().unwrap();
    let names = items.iter().map(|item| item["metadata"]["name"].as_str().unwrap());
    (names.collect(), list["metadata"]["continue"].as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_list_have_one_resource_version() {
    let cluster = cluster().await;
    for name in ["a", "c", "e"] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({ "paged": "yes" });
        post(&cluster, CONFIG_MAPS, &map).await;
    }
    let list = format!("{CONFIG_MAPS}?labelSelector=paged&limit=1");
    let first = get(&cluster, &list).await.json();
    let (names, token) = page(&first);
    assert_eq!(names, ["a"]);
    let mut late = config_map("d");
    late["metadata"]["labels"] = json!({ "paged": "yes" });
    post(&cluster, CONFIG_MAPS, &late).await;
    delete(&cluster, &format!("{CONFIG_MAPS}/e")).await;

    let rest = format!("{CONFIG_MAPS}?labelSelector=paged&continue={}", token.unwrap());
    let second = get(&cluster, &rest).await.json();
    assert_eq!(page(&second), (vec!["c", "e"], None));
    let version = |list: &Value| list["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&second), version(&first));
    let exactly = format!(
        "{CONFIG_MAPS}?labelSelector=paged&resourceVersionMatch=Exact&resourceVersion={}",
        version(&first).as_str().unwrap()
    );
    assert_eq!(page(&get(&cluster, &exactly).await.json()).0, ["a", "c", "e"]);

    for n in 0..2100 {
        let data = json!({ "data": { "k": n.to_string() } });
        patch(&cluster, &format!("{CONFIG_MAPS}/a"), "merge-patch+json", &data).await;
    }
    assert_eq!(get(&cluster, &exactly).await.json()["reason"], "Expired");
    let expired = get(&cluster, &rest).await.json();
    assert_eq!((&expired["code"], &expired["reason"]), (&json!(410), &json!("Expired")));
    let token = expired["metadata"]["continue"].as_str().unwrap();
    let rest = format!("{CONFIG_MAPS}?labelSelector=paged&continue={token}");
    assert_eq!(page(&get(&cluster, &rest).await.json()), (vec!["c", "d"], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn future_resource_version_is_rejected() {
    let cluster = cluster().await;
    let response = get(&cluster, &format!("{CONFIG_MAPS}?resourceVersion=99999999")).await;
    let status = response.json();
    assert_eq!((response.code, &status["reason"]), (504, &json!("Timeout")));
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    let both = format!("{CONFIG_MAPS}?resourceVersionMatch=Exact");
    assert_eq!(get(&cluster, &both).await.code, 422);
}

/// A client that does not read must not buffer events without limit nor delay writers. It gets 410 as soon as
/// it reads on.
#[tokio::test(flavor = "multi_thread")]
async fn watch_that_is_not_read_expires() {
    let cluster = cluster().await;
    let first = post(&cluster, CONFIG_MAPS, &config_map("a")).await.json();
    let since = first["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = |query: String| {
        let request = http::Request::get(format!("{CONFIG_MAPS}?watch=1&{query}"));
        let request = request.body(kube::client::Body::empty()).unwrap();
        let client = cluster.client();
        async move { client.send(request).await }
    };
    let idle = watch(format!("resourceVersion={since}")).await.unwrap();
    let path = format!("{CONFIG_MAPS}/a");
    for n in 0..2100 {
        let data = json!({ "data": { "k": n.to_string() } });
        assert_eq!(patch(&cluster, &path, "merge-patch+json", &data).await.code, 200);
    }
    let body =
        in_time(http_body_util::BodyExt::collect(idle.into_body())).await.unwrap().to_bytes();
    let events: Vec<Value> = String::from_utf8(body.to_vec())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 1, "one event, then the end");
    assert_eq!((&events[0]["type"], &events[0]["object"]["code"]), (&json!("ERROR"), &json!(410)));
}
