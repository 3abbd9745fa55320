//! Ingress traffic with the kubectl and curl of this machine, on nodes that run pods.

use crate::{
    article::app_cluster,
    fixture::{eventually, in_time, kubectl::Kubectl},
};
use serde_json::{Value, json};
use std::path::Path;
use tokio::process::Command;

/// The published address and ports of the Ingresses of the namespace `default`.
struct Entry {
    ip: String,
    http: String,
    https: String,
}

impl Entry {
    async fn of(kubectl: &Kubectl, ingress: &str) -> Self {
        let address = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        kubectl.line(&format!("wait --for={address} --timeout=60s ingress/{ingress}")).await;
        let get =
            async |what: &str| kubectl.line(&format!("get ingress {ingress} -o {what}")).await;
        let ip = get(address).await;
        // Where ports 80 and 443 may not be bound, an annotation names their replacements.
        let moved = get(r"jsonpath={.metadata.annotations.canary-labs\.dev/published-port}").await;
        let port = |port: &str| {
            let mut pairs = moved.split(',').filter_map(|pair| pair.split_once('='));
            pairs.find(|(from, _)| *from == port).map_or(port, |(_, to)| to).to_owned()
        };
        Self { ip, http: port("80"), https: port("443") }
    }

    /// Returns the output of curl for a URL of the host, with the HTTP status on a line of its own.
    async fn curl(&self, host: &str, path: &str, ca: Option<&Path>) -> String {
        let (scheme, port) = match ca {
            Some(_) => ("https", &self.https),
            None => ("http", &self.http),
        };
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--write-out", "\n%{http_code}"]);
        curl.arg("--resolve").arg(format!("{host}:{port}:{}", self.ip)).kill_on_drop(true);
        if let Some(ca) = ca {
            curl.arg("--cacert").arg(ca);
        }
        let output = curl.arg(format!("{scheme}://{host}:{port}{path}")).output();
        let output = in_time(output).await.unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        String::from_utf8(text).unwrap()
    }

    /// Polls until the output of curl contains `expected`: the kubelet and the edge follow with a delay.
    async fn expect(&self, host: &str, ca: Option<&Path>, expected: &str) {
        eventually(&format!("{expected:?} from {host}"), async || {
            let output = self.curl(host, "/", ca).await;
            if output.contains(expected) { Ok(()) } else { Err(output) }
        })
        .await;
    }
}

fn service(name: &str, env: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": {
            "selector": { "app": "kubeapp", "env": env },
            "ports": [{ "name": "http", "port": 80, "targetPort": "kubeapp" }],
        },
    })
}

fn ingress(name: &str, rules: &[(&str, &str)], default: Option<&str>) -> Value {
    let backend =
        |service: &str| json!({ "service": { "name": service, "port": { "name": "http" } } });
    let rules: Vec<Value> = rules
        .iter()
        .map(|(host, to)| {
            let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend(to) });
            json!({ "host": host, "http": { "paths": [path] } })
        })
        .collect();
    let mut ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": name },
        "spec": { "ingressClassName": "edge", "rules": rules },
    });
    if let Some(default) = default {
        ingress["spec"]["defaultBackend"] = backend(default);
    }
    ingress
}

async fn apply(kubectl: &Kubectl, object: &Value) {
    kubectl.run(&["apply", "-f", "-"], &object.to_string()).await.unwrap();
}

/// Waits until `kubectl describe` shows the expected event, and returns its output.
async fn describe(kubectl: &Kubectl, ingress: &str, expected: &str) -> String {
    eventually(&format!("{expected:?} at Ingress {ingress}"), async || {
        let output = kubectl.line(&format!("describe ingress {ingress}")).await;
        if output.contains(expected) { Ok(output) } else { Err(output) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn ingress_routes_hosts_to_pods_over_http_and_tls() {
    let Some((cluster, kubectl)) = app_cluster().await else { return };
    if !test_support::runs("curl", &["--version"]) {
        return test_support::missing("curl", "`apt-get install curl` installs one");
    }
    let kubectl = &kubectl;
    for (manifest, env) in [("app-production", "production"), ("app-canary", "canary")] {
        kubectl.line(&format!("apply -f manifests/lb/{manifest}.yml")).await;
        apply(kubectl, &service(env, env)).await;
    }
    let hosts = [("foo.bar", "production"), ("canary.foo.bar", "canary")];
    apply(kubectl, &ingress("app", &hosts, Some("production"))).await;
    let entry = Entry::of(kubectl, "app").await;
    // The order of creation does not matter: pods get requests once they are ready.
    entry.expect("foo.bar", None, "Version 1.0").await;
    entry.expect("canary.foo.bar", None, "Version 2.0").await;
    entry.expect("other.bar", None, "Version 1.0").await;
    let listed = kubectl.line("get ingress app").await;
    assert!(listed.contains("foo.bar,canary.foo.bar") && listed.contains(&entry.ip), "{listed}");
    let text = describe(kubectl, "app", "Scheduled for sync").await;
    assert!(text.contains("ingress-controller"), "{text}");
    assert!(!text.contains("Warning") || entry.http != "80", "{text}");

    // Without a default backend, other hosts are not found.
    apply(kubectl, &ingress("app", &hosts, None)).await;
    entry.expect("other.bar", None, "\n404").await;
    entry.expect("foo.bar", None, "Version 1.0").await;

    // A missing Service is 503 for its own host alone, until it exists.
    apply(kubectl, &ingress("late", &[("late.bar", "late"), ("foo.bar", "late")], None)).await;
    entry.expect("late.bar", None, "\n503").await;
    describe(kubectl, "late", "Service \"late\" does not exist").await;
    let text = describe(kubectl, "late", "Conflict").await;
    assert!(text.contains("belongs to Ingress \"app\""), "{text}");
    entry.expect("foo.bar", None, "Version 1.0").await;
    apply(kubectl, &service("late", "canary")).await;
    entry.expect("late.bar", None, "Version 2.0").await;

    // Unready pods get no requests; other hosts are not affected.
    let unready = json!({ "spec": {
        "strategy": { "type": "Recreate", "rollingUpdate": null },
        "template": { "spec": { "containers": [{
            "name": "kubeapp", "readinessProbe": { "httpGet": { "path": "/nothing" } },
        }]}},
    }});
    let patch = ["patch", "deployment", "kubeapp-canary", "--patch", &unready.to_string()];
    kubectl.run(&patch, "").await.unwrap();
    entry.expect("canary.foo.bar", None, "\n503").await;
    entry.expect("foo.bar", None, "Version 1.0").await;
    kubectl.line("rollout undo deployment/kubeapp-canary").await;
    entry.expect("canary.foo.bar", None, "Version 2.0").await;

    // TLS with a certificate by host name, which is replaced while it is in use.
    let mut secured = ingress("app", &hosts, None);
    secured["spec"]["tls"] = json!([{ "hosts": ["foo.bar"], "secretName": "app-tls" }]);
    apply(kubectl, &secured).await;
    describe(kubectl, "app", "Secret \"app-tls\" does not exist").await;
    for name in ["first", "second"] {
        let file = |end: &str| cluster.state_dir().join(format!("{name}.{end}"));
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["foo.bar".to_owned()]).unwrap();
        std::fs::write(file("crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        let path = |end: &str| file(end).to_string_lossy().into_owned();
        let create = format!(
            "create secret tls app-tls --cert={} --key={} --dry-run=client -o json",
            path("crt"),
            path("key"),
        );
        apply(kubectl, &serde_json::from_str(&kubectl.line(&create).await).unwrap()).await;
        entry.expect("foo.bar", Some(&file("crt")), "Version 1.0").await;
        let rejected = entry.curl("canary.foo.bar", "/", Some(&file("crt"))).await;
        assert!(
            rejected.starts_with("curl: (60)"),
            "the certificate is for another name: {rejected}"
        );
    }
    kubectl.line("delete ingress app late").await;
    eventually("the port is closed with the last Ingress", async || {
        entry.curl("foo.bar", "/", None).await.starts_with("curl: (7)")
    })
    .await;
}
