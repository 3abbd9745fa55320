//! kubectl on the API: apply, get, scale, delete, watch, and how errors look.

use crate::fixture::{cluster, config_map, deployment, in_time, kubectl::Kubectl};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_gets_scales_and_deletes() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let manifest = deployment("web", 0).to_string();
    let apply = ["apply", "-f", "-"];
    assert_eq!(kubectl.run(&apply, &manifest).await.unwrap(), "deployment.apps/web created\n");
    assert_eq!(kubectl.run(&apply, &manifest).await.unwrap(), "deployment.apps/web unchanged\n");
    let changed = manifest.replace("kubeapp:1.0", "kubeapp:2.0");
    assert_eq!(kubectl.run(&apply, &changed).await.unwrap(), "deployment.apps/web configured\n");
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    let image = kubectl.run(&["get", "deploy", "web", "-o", image], "").await.unwrap();
    assert_eq!(image, "kubeapp:2.0");
    let table = kubectl.run(&["get", "deployments"], "").await.unwrap();
    assert!(table.starts_with("NAME"), "{table}");
    assert!(table.contains("\nweb "), "{table}");
    let scale = ["scale", "deployment/web", "--replicas=2"];
    assert_eq!(kubectl.run(&scale, "").await.unwrap(), "deployment.apps/web scaled\n");
    let side = ["apply", "--server-side", "-f", "-"];
    let other = deployment("other", 0).to_string();
    let applied = kubectl.run(&side, &other).await.unwrap();
    assert_eq!(applied, "deployment.apps/other serverside-applied\n");
    let deleted = kubectl.run(&["delete", "deployment/web"], "").await.unwrap();
    // Newer versions append the namespace.
    assert!(deleted.starts_with("deployment.apps \"web\" deleted"), "{deleted}");
    let error = kubectl.run(&["get", "deployment", "web"], "").await.unwrap_err();
    assert_eq!(error, "Error from server (NotFound): deployments.apps \"web\" not found\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_reports_unknown_fields_and_resource_types() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let typo = deployment("web", 0).to_string().replace("\"replicas\"", "\"replica\"");
    let error = kubectl.run(&["apply", "-f", "-"], &typo).await.unwrap_err();
    assert!(error.contains("unknown field \"spec.replica\""), "{error}");
    let error = kubectl.run(&["get", "nopes"], "").await.unwrap_err();
    assert_eq!(error, "error: the server doesn't have a resource type \"nopes\"\n");
}

/// Two ConfigMaps, and between them an object of a kind that is not served.
const WITH_UNKNOWN_KIND: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: before}
data: {a: b}
---
apiVersion: example.com/v1
kind: Widget
metadata: {name: w}
---
apiVersion: apps/v1
kind: NoSuchSet
metadata: {name: s}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: after}
data: {a: b}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_names_unknown_kinds_and_goes_on_with_the_rest() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let maps = async || {
        let names = kubectl.line("get configmaps before after -o name --ignore-not-found").await;
        names.lines().count()
    };
    for verb in ["apply", "apply --server-side", "create", "delete"] {
        let line = format!("{verb} -f -");
        let error = kubectl.try_line(&line, WITH_UNKNOWN_KIND).await.unwrap_err();
        for missing in [
            "no matches for kind \"Widget\" in version \"example.com/v1\"",
            "no matches for kind \"NoSuchSet\" in version \"apps/v1\"",
        ] {
            assert!(error.contains(missing), "{verb}: {error}");
        }
        assert!(error.contains("ensure CRDs are installed first"), "{verb}: {error}");
        let expected = if verb == "delete" { 0 } else { 2 };
        assert_eq!(maps().await, expected, "{verb}: {error}");
        if verb.starts_with("apply") {
            kubectl.line("delete configmaps before after").await;
        }
    }
    // With any server, `diff` ends at the first of them.
    let error = kubectl.try_line("diff -f -", WITH_UNKNOWN_KIND).await.unwrap_err();
    assert!(error.contains("no matches for kind \"Widget\""), "{error}");
    let error = kubectl.try_line("wait --for=delete widget/w", "").await.unwrap_err();
    assert!(error.contains("doesn't have a resource type \"widget\""), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_prunes_what_is_no_longer_in_the_file() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let labeled = |name: &str| {
        let mut object = deployment(name, 0);
        object["metadata"]["labels"] = json!({ "set": "x" });
        object.to_string()
    };
    // Not JSON from the start: kubectl would take all of it for JSON.
    let both = format!("---\n{}\n---\n{}", labeled("one"), labeled("two"));
    kubectl.line_with_stdin("apply -f -", &both).await;
    let pruned = kubectl.line_with_stdin("apply --prune -l set=x -f -", &labeled("one")).await;
    assert!(pruned.contains("deployment.apps/two pruned"), "{pruned}");
    let left = kubectl.line("get deployments -o name").await;
    assert_eq!(left, "deployment.apps/one\n");
    // Kinds that are listed and not acted upon are refused with the reason.
    let set = labeled("one").replace("\"Deployment\"", "\"StatefulSet\"");
    let error = kubectl.try_line("apply -f -", &set).await.unwrap_err();
    assert!(error.contains("this cluster runs no stateful sets"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_lists_and_custom_resources_before_their_definition() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [
        config_map("one"), deployment("web", 0),
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
          "spec": { "ports": [{ "port": 80, "targetPort": "http" }] } },
    ] });
    for (command, outcome) in
        [("create", "created"), ("apply", "configured"), ("replace", "replaced")]
    {
        let done = kubectl.line_with_stdin(&format!("{command} -f -"), &list.to_string()).await;
        assert_eq!(done.matches(outcome).count(), 3, "{command}: {done}");
    }
    // Lists are validated by the client, with the schemas of OpenAPI v2.
    let typo = list.to_string().replace("\"replicas\"", "\"replica\"");
    let error = kubectl.try_line("apply -f -", &typo).await.unwrap_err();
    assert!(error.contains("unknown field \"replica\""), "{error}");

    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com",
            "names": { "plural": "widgets", "kind": "Widget" },
            "scope": "Namespaced",
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": {
                "openAPIV3Schema": { "type": "object", "properties": { "spec": {
                    "type": "object", "properties": {
                        "size": { "x-kubernetes-int-or-string": true },
                        "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                        "list": { "type": "array", "nullable": true, "items": { "type": "string" } },
                    },
                } } },
            } }],
        },
    });
    let widget = json!({
        "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "w" },
        "spec": { "size": "5", "free": { "a": [1] }, "list": null },
    });
    // Not JSON from the start: kubectl would take all of it for JSON.
    let file = format!("---\n{widget}\n---\n{definition}\n");
    let error = kubectl.try_line("apply -f -", &file).await.unwrap_err();
    assert!(error.contains("no matches for kind \"Widget\""), "{error}");
    kubectl.line("wait --for=condition=Established crd/widgets.example.com --timeout=60s").await;
    let applied = kubectl.line_with_stdin("apply -f -", &file).await;
    assert!(applied.contains("widget.example.com/w created"), "{applied}");
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [widget] });
    let applied = kubectl.line_with_stdin("apply -f -", &list.to_string()).await;
    assert_eq!(applied, "widget.example.com/w unchanged\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_autoscale_is_rejected_unless_dry_run() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    kubectl.run(&["apply", "-f", "-"], &deployment("web", 0).to_string()).await.unwrap();
    // kubectl sends protobuf, of autoscaling/v1 or v2 depending on its version.
    let autoscale = ["autoscale", "deployment/web", "--max=3"];
    let error = kubectl.run(&autoscale, "").await.unwrap_err();
    // Newer versions fall back to v1 and, without `--cpu`, report only that.
    let messages = ["this cluster has no metrics to scale by", "incompatible with autoscaling/v1"];
    assert!(messages.iter().any(|message| error.contains(message)), "{error}");
    let dry_run = [&autoscale[..], &["--dry-run=server", "-o", "name"]].concat();
    assert_eq!(
        kubectl.run(&dry_run, "").await.unwrap(),
        "horizontalpodautoscaler.autoscaling/web\n"
    );
    let described = kubectl.run(&["describe", "namespace", "default"], "").await.unwrap();
    assert!(described.contains("No resource quota.\n\nNo LimitRange resource."), "{described}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_watch_prints_a_created_object() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let mut watch = kubectl.command(&["get", "deployments", "-w", "--no-headers"]).spawn().unwrap();
    let manifest = deployment("web", 0).to_string();
    kubectl.run(&["apply", "-f", "-"], &manifest).await.unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let line = in_time(lines.next_line()).await.unwrap().unwrap();
    assert!(line.starts_with("web "), "{line}");
}
