//! Watches: what they tell, where they start, when they end.

use crate::fixture::{CONFIG_MAPS, ask, cluster, config_map, get, patch, post};
use serde_json::{Value, json};

/// The lines of a watch that ends after a second.
async fn lines(cluster: &kube_embedded::Cluster, query: &str) -> Vec<Value> {
    let answer = get(cluster, &format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1&{query}")).await;
    answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn told(lines: &[Value]) -> Vec<String> {
    let name = |line: &Value| line["object"]["metadata"]["name"].as_str().map(str::to_owned);
    lines
        .iter()
        .map(|line| {
            format!("{} {}", line["type"].as_str().unwrap(), name(line).unwrap_or_default())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_happened_since_a_version() {
    let cluster = cluster().await;
    let first = post(&cluster, CONFIG_MAPS, &config_map("a")).await.json();
    let since = first["metadata"]["resourceVersion"].as_str().unwrap();
    post(&cluster, CONFIG_MAPS, &config_map("b")).await;
    let labels = json!({ "metadata": { "labels": { "x": "1" } } });
    patch(&cluster, &format!("{CONFIG_MAPS}/a"), "merge-patch+json", &labels).await;
    let labels = json!({ "metadata": { "labels": { "x": null } } });
    patch(&cluster, &format!("{CONFIG_MAPS}/a"), "merge-patch+json", &labels).await;
    ask(&cluster, "DELETE", &format!("{CONFIG_MAPS}/b"), &[], "").await;
    // The cluster's own config map may come at any moment.
    let mine = "fieldSelector=metadata.name!%3Dkube-root-ca.crt";
    let query = format!("resourceVersion={since}&{mine}");
    assert_eq!(
        told(&lines(&cluster, &query).await),
        ["ADDED b", "MODIFIED a", "MODIFIED a", "DELETED b"]
    );
    let selected = format!("{query}&labelSelector=x");
    assert_eq!(
        told(&lines(&cluster, &selected).await),
        ["ADDED a", "DELETED a"],
        "objects come into a selection and leave it"
    );
    assert_eq!(told(&lines(&cluster, mine).await), ["ADDED a"], "without a version: what is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_events_end_with_a_bookmark() {
    let cluster = cluster().await;
    post(&cluster, CONFIG_MAPS, &config_map("a")).await;
    let query = "sendInitialEvents=true&allowWatchBookmarks=true&\
                 resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3Da";
    let lines = lines(&cluster, query).await;
    assert_eq!(told(&lines[..2]), ["ADDED a", "BOOKMARK "]);
    let annotations = &lines[1]["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_forgotten_is_gone() {
    let cluster = cluster().await;
    let first = post(&cluster, CONFIG_MAPS, &config_map("a")).await.json();
    let since = first["metadata"]["resourceVersion"].as_str().unwrap();
    for n in 0..2100 {
        let data = json!({ "data": { "k": n.to_string() } });
        patch(&cluster, &format!("{CONFIG_MAPS}/a"), "merge-patch+json", &data).await;
    }
    let lines = lines(&cluster, &format!("resourceVersion={since}")).await;
    assert_eq!(lines[0]["type"], "ERROR");
    assert_eq!(
        (&lines[0]["object"]["code"], &lines[0]["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    let answer = get(&cluster, &format!("{CONFIG_MAPS}?watch=1&resourceVersion=zz")).await;
    assert_eq!(answer.code, 500);
}

/// The names of a page, and its continue token.
fn page(list: &Value) -> (Vec<&str>, Option<&str>) {
    let items = list["items"].as_array().unwrap();
    let names = items.iter().map(|item| item["metadata"]["name"].as_str().unwrap());
    (names.collect(), list["metadata"]["continue"].as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_a_list_are_of_one_moment() {
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
    ask(&cluster, "DELETE", &format!("{CONFIG_MAPS}/e"), &[], "").await;

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
async fn a_version_that_is_not_there_yet_is_refused() {
    let cluster = cluster().await;
    let answer = get(&cluster, &format!("{CONFIG_MAPS}?resourceVersion=99999999")).await;
    let status = answer.json();
    assert_eq!((answer.code, &status["reason"]), (504, &json!("Timeout")));
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    let both = format!("{CONFIG_MAPS}?resourceVersionMatch=Exact");
    assert_eq!(get(&cluster, &both).await.code, 422);
}

/// Whoever takes nothing costs no more than a place in the history, holds nobody up, and is told that
/// it missed something as soon as it asks again.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_is_cut_off() {
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
    let told = http_body_util::BodyExt::collect(idle.into_body()).await.unwrap().to_bytes();
    let lines: Vec<Value> = String::from_utf8(told.to_vec())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1, "one line, and the end");
    assert_eq!((&lines[0]["type"], &lines[0]["object"]["code"]), (&json!("ERROR"), &json!(410)));
}
