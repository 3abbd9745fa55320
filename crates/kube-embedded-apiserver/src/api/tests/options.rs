//! Options of requests, of all verbs.

use super::*;
use crate::http::body::Body;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// An API with the config maps `a`, `b` and `c`.
async fn api_with_maps() -> Api {
    let api = api();
    for name in ["a", "b", "c"] {
        let map = json!({ "metadata": { "name": name } });
        assert_eq!(send(&api, Method::POST, MAPS, map).await.0, StatusCode::CREATED);
    }
    api
}

/// Returns the whole response of the administrator's request.
async fn respond(
    api: &Api,
    method: Method,
    path: &str,
    (header, value): (&str, &str),
    body: &'static str,
) -> Response<Body> {
    let request = Request::builder().method(method).uri(path).header(header, value);
    let request = request.extension(User::admin().clone());
    api.handle(request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()).await
}

#[tokio::test]
async fn body_of_a_deletion_replaces_its_query() {
    let api = api_with_maps().await;
    for (body, is_deleted) in [
        (Value::Null, false),
        (json!({ "dryRun": ["All"] }), false),
        (json!({ "kind": "DeleteOptions", "apiVersion": "v1" }), true),
    ] {
        let path = format!("{MAPS}/a?dryRun=All");
        assert_eq!(send(&api, Method::DELETE, &path, body.clone()).await.0, StatusCode::OK);
        let (code, _) = send(&api, Method::GET, &format!("{MAPS}/a"), Value::Null).await;
        assert_eq!(code == StatusCode::NOT_FOUND, is_deleted, "{body}");
    }
    let pod = json!({ "kind": "Pod", "apiVersion": "v1" });
    let (code, status) = send(&api, Method::DELETE, &format!("{MAPS}/b"), pod).await;
    assert_eq!(code, StatusCode::BAD_REQUEST, "{status}");
}

#[tokio::test]
async fn version_of_a_get_is_checked_and_watch_is_no_option_of_it() {
    let api = api_with_maps().await;
    for (query, expected) in [
        ("watch=true", StatusCode::OK),
        ("resourceVersion=0", StatusCode::OK),
        ("resourceVersion=x", StatusCode::INTERNAL_SERVER_ERROR),
        ("resourceVersion=99999", StatusCode::GATEWAY_TIMEOUT),
    ] {
        let (code, body) = send(&api, Method::GET, &format!("{MAPS}/a?{query}"), Value::Null).await;
        assert_eq!(code, expected, "{query} {body}");
    }
}

#[tokio::test]
async fn list_is_checked_and_read_page_by_page() {
    let api = api_with_maps().await;
    let get =
        async |query: &str| send(&api, Method::GET, &format!("{MAPS}?{query}"), Value::Null).await;
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let (code, page) = get(&format!("limit=1&continue={token}")).await;
        assert_eq!(code, StatusCode::OK, "{page}");
        names.push(page["items"][0]["metadata"]["name"].as_str().unwrap().to_owned());
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c"]);
    // What may be old is read from a cache in Kubernetes, which knows no limit.
    assert_eq!(get("limit=1&resourceVersion=0").await.1["items"].as_array().unwrap().len(), 3);
    for (query, message) in [
        ("limit=", "strconv.ParseInt: parsing \"\": invalid syntax"),
        ("continue=!", "invalid continue token: continue key is not valid: illegal base64 data"),
        ("resourceVersion=x", "invalid resource version: resourceVersion: Invalid value: \"x\""),
        ("labelSelector=a%2Fb%2Fc", "unable to parse requirement: <nil>: Invalid value: \"a/b/c\""),
        ("fieldSelector=a", "invalid selector: 'a'; can't understand 'a'"),
    ] {
        let (code, status) = get(query).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{query}");
        assert!(status["message"].as_str().unwrap().starts_with(message), "{query} {status}");
    }
}

#[tokio::test]
async fn failed_write_has_its_warnings() {
    let api = api_with_maps().await;
    let body = r#"{"metadata":{"name":"d"},"nope":1}"#;
    for (method, path) in [(Method::PUT, format!("{MAPS}/d")), (Method::POST, MAPS.to_owned())] {
        let json = ("content-type", "application/json");
        let response = respond(&api, method, &path, json, body).await;
        let warning = response.headers().get(header::WARNING).map(|text| text.to_str().unwrap());
        assert_eq!(warning, Some(r#"299 - "unknown field \"nope\"""#), "{path}");
    }
}

#[tokio::test]
async fn yaml_is_sent_to_those_who_ask_for_it() {
    let api = api_with_maps().await;
    for (path, kind) in [("a", "ConfigMap"), ("absent", "Status"), ("", "ConfigMapList")] {
        let yaml = ("accept", "application/yaml");
        let path = format!("{MAPS}/{path}");
        let response = respond(&api, Method::GET, &path, yaml, "").await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/yaml", "{path}");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value: Value = serde_saphyr::from_slice(&bytes).unwrap();
        assert_eq!(value["kind"], kind, "{path}");
    }
}

#[tokio::test]
async fn refused_update_of_a_pod_shows_what_it_would_change() {
    let api = api();
    let pods = "/api/v1/namespaces/default/pods";
    let account = json!({ "metadata": { "name": "default" } });
    send(&api, Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let container = json!({ "name": "c", "image": "i", "workingDir": "/a" });
    let mut pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [container] } });
    let (code, created) = send(&api, Method::POST, pods, pod.clone()).await;
    assert_eq!(code, StatusCode::CREATED, "{created}");
    pod["spec"] = created["spec"].clone();
    pod["spec"]["containers"][0]["workingDir"] = "/b".into();
    let (code, status) = send(&api, Method::PUT, &format!("{pods}/p"), pod).await;
    let message = status["message"].as_str().unwrap();
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{message}");
    let change = "   \"Args\": null,\n-   \"WorkingDir\": \"/a\",\n+   \"WorkingDir\": \"/b\",\n";
    assert!(message.contains(change), "{message}");
}
