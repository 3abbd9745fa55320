//! Ingress as one tries it by hand: the kubectl and curl of this machine, on nodes that run pods.

use crate::{
    article::{lab, say},
    kubectl::Kubectl,
};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};
use tokio::{process::Command, time};

const PATIENCE: Duration = Duration::from_secs(60);

/// What is published for the Ingresses of the namespace `default`.
struct Door {
    ip: String,
    http: String,
    https: String,
}

impl Door {
    async fn of(kubectl: &Kubectl, ingress: &str) -> Self {
        let address = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        say(kubectl, &format!("wait --for={address} --timeout=60s ingress/{ingress}")).await;
        let get =
            async |what: &str| say(kubectl, &format!("get ingress {ingress} -o {what}")).await;
        let ip = get(address).await;
        // Who may not bind 80 and 443 finds here where they are instead.
        let moved = get(r"jsonpath={.metadata.annotations.canary-labs\.dev/published-port}").await;
        let port = |port: &str| {
            let mut pairs = moved.split(',').filter_map(|pair| pair.split_once('='));
            pairs.find(|(from, _)| *from == port).map_or(port, |(_, to)| to).to_owned()
        };
        Self { ip, http: port("80"), https: port("443") }
    }

    /// What curl prints for a URL of the host, and the status on a line of its own.
    async fn curl(&self, host: &str, path: &str, authority: Option<&Path>) -> String {
        let (scheme, port) = match authority {
            Some(_) => ("https", &self.https),
            None => ("http", &self.http),
        };
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--write-out", "\n%{http_code}"]);
        curl.arg("--resolve").arg(format!("{host}:{port}:{}", self.ip)).kill_on_drop(true);
        if let Some(authority) = authority {
            curl.arg("--cacert").arg(authority);
        }
        let output = curl.arg(format!("{scheme}://{host}:{port}{path}")).output().await.unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        String::from_utf8(text).unwrap()
    }

    /// Until the answer is so: the kubelet and the edge take a moment to follow.
    async fn answers(&self, host: &str, authority: Option<&Path>, expected: &str) {
        let mut last = String::new();
        let wait = async {
            loop {
                last = self.curl(host, "/", authority).await;
                if last.contains(expected) {
                    return;
                }
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        let done = time::timeout(PATIENCE, wait).await;
        assert!(done.is_ok(), "{host}: {last}, never {expected}");
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

/// The events of an Ingress, once the reason is among them, as kubectl describes them.
async fn described(kubectl: &Kubectl, ingress: &str, expected: &str) -> String {
    let wait = async {
        loop {
            let text = say(kubectl, &format!("describe ingress {ingress}")).await;
            if text.contains(expected) {
                return text;
            }
        }
    };
    let found = time::timeout(PATIENCE, wait).await;
    found.unwrap_or_else(|_| panic!("ingress {ingress} never said {expected}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_lead_to_pods_over_http_and_tls() {
    let Some((cluster, kubectl)) = lab().await else { return };
    if !test_support::runs("curl", &["--version"]) {
        return test_support::missing("curl", "`apt-get install curl` installs one");
    }
    let kubectl = &kubectl;
    for (manifest, env) in [("app-production", "production"), ("app-canary", "canary")] {
        say(kubectl, &format!("apply -f manifests/lb/{manifest}.yml")).await;
        apply(kubectl, &service(env, env)).await;
    }
    let hosts = [("foo.bar", "production"), ("canary.foo.bar", "canary")];
    apply(kubectl, &ingress("app", &hosts, Some("production"))).await;
    let door = Door::of(kubectl, "app").await;
    // Whatever was there first, pods get requests once they are ready.
    door.answers("foo.bar", None, "Version 1.0").await;
    door.answers("canary.foo.bar", None, "Version 2.0").await;
    door.answers("other.bar", None, "Version 1.0").await;
    let listed = say(kubectl, "get ingress app").await;
    assert!(listed.contains("foo.bar,canary.foo.bar") && listed.contains(&door.ip), "{listed}");
    let text = described(kubectl, "app", "Scheduled for sync").await;
    assert!(text.contains("ingress-controller"), "{text}");
    assert!(!text.contains("Warning") || door.http != "80", "{text}");

    // Without a default backend, what no rule knows is not found.
    apply(kubectl, &ingress("app", &hosts, None)).await;
    door.answers("other.bar", None, "\n404").await;
    door.answers("foo.bar", None, "Version 1.0").await;

    // A Service that is not there is 503 for its own host, and heals.
    apply(kubectl, &ingress("late", &[("late.bar", "late"), ("foo.bar", "late")], None)).await;
    door.answers("late.bar", None, "\n503").await;
    described(kubectl, "late", "Service \"late\" does not exist").await;
    let text = described(kubectl, "late", "Conflict").await;
    assert!(text.contains("belongs to Ingress \"app\""), "{text}");
    door.answers("foo.bar", None, "Version 1.0").await;
    apply(kubectl, &service("late", "canary")).await;
    door.answers("late.bar", None, "Version 2.0").await;

    // Pods that go unready get nothing; nobody else is harmed.
    let unready = json!({ "spec": {
        "strategy": { "type": "Recreate", "rollingUpdate": null },
        "template": { "spec": { "containers": [{
            "name": "kubeapp", "readinessProbe": { "httpGet": { "path": "/nothing" } },
        }]}},
    }});
    let patch = ["patch", "deployment", "kubeapp-canary", "--patch", &unready.to_string()];
    kubectl.run(&patch, "").await.unwrap();
    door.answers("canary.foo.bar", None, "\n503").await;
    door.answers("foo.bar", None, "Version 1.0").await;
    say(kubectl, "rollout undo deployment/kubeapp-canary").await;
    door.answers("canary.foo.bar", None, "Version 2.0").await;

    // TLS by name, and another certificate while it runs.
    let mut secured = ingress("app", &hosts, None);
    secured["spec"]["tls"] = json!([{ "hosts": ["foo.bar"], "secretName": "app-tls" }]);
    apply(kubectl, &secured).await;
    described(kubectl, "app", "Secret \"app-tls\" does not exist").await;
    for name in ["first", "second"] {
        let file = |end: &str| cluster.state_dir().join(format!("{name}.{end}"));
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["foo.bar".to_owned()]).unwrap();
        std::fs::write(file("crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        let shown = |end: &str| file(end).to_string_lossy().into_owned();
        let create = format!(
            "create secret tls app-tls --cert={} --key={} --dry-run=client -o json",
            shown("crt"),
            shown("key"),
        );
        apply(kubectl, &serde_json::from_str(&say(kubectl, &create).await).unwrap()).await;
        door.answers("foo.bar", Some(&file("crt")), "Version 1.0").await;
        let refused = door.curl("canary.foo.bar", "/", Some(&file("crt"))).await;
        assert!(refused.starts_with("curl: (60)"), "of another name: {refused}");
    }
    say(kubectl, "delete ingress app late").await;
    let gone = async {
        while !door.curl("foo.bar", "/", None).await.starts_with("curl: (7)") {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(PATIENCE, gone).await.expect("the port is closed with the last Ingress");
}
