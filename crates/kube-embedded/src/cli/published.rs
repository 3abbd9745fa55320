//! `kube-embedded published`: where load balancers and Ingresses respond.

use super::client;
use clap::Args;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use kube_embedded_proxy::PUBLISHED_PORT;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use tokio::time::{Instant, sleep};

/// The interval at which objects without an address are looked at again.
const POLL: Duration = Duration::from_millis(100);

/// Print where load balancers and Ingresses respond, as JSON, the most recent last.
///
/// Where a port cannot be bound another one is published; this prints the actual one.
#[derive(Args, Debug)]
pub(super) struct Published {
    /// The kubeconfig whose current context to use.
    #[arg(long, value_name = "PATH")]
    kubeconfig: PathBuf,
    /// How long to wait for addresses of those that have none yet.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
}

impl Published {
    pub(super) async fn run(self) -> Result<Value, String> {
        let config = client::config(&self.kubeconfig).await?;
        let client = Client::try_from(config).map_err(|error| error.to_string())?;
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        loop {
            let all = list(&client).await.map_err(|error| format!("failed to list: {error}"))?;
            let pending = all.iter().any(|object| object["http"].is_null());
            if !pending || Instant::now() >= deadline {
                return Ok(Value::Array(all));
            }
            sleep(POLL).await;
        }
    }
}

async fn list(client: &Client) -> kube::Result<Vec<Value>> {
    let mut all = objects(client, "", "Service").await?;
    all.retain(|service| service.data["spec"]["type"] == "LoadBalancer");
    let mut found: Vec<_> =
        all.iter().map(|service| (created(service), of_service(service))).collect();
    let ingresses = objects(client, "networking.k8s.io", "Ingress").await?;
    found.extend(ingresses.iter().map(|ingress| (created(ingress), of_ingress(ingress))));
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found.into_iter().map(|(_, about)| about).collect())
}

async fn objects(client: &Client, group: &str, kind: &str) -> kube::Result<Vec<DynamicObject>> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    Ok(api.list(&ListParams::default()).await?.items)
}

/// Times have a resolution of seconds; resource versions of one cluster only grow.
fn created(object: &DynamicObject) -> (Option<String>, String) {
    let time = object.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    (time, name(object))
}

fn of_service(service: &DynamicObject) -> Value {
    // The first port is the one of `curl http://$SERVICE_URL`; 80 if there is one.
    let ports = service.data["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let ports: Vec<u64> = ports.iter().filter_map(|port| port["port"].as_u64()).collect();
    let port = ports.iter().find(|port| **port == 80).or(ports.first());
    let http = port.and_then(|port| at(service, *port));
    json!({ "kind": "service", "name": name(service), "http": http })
}

fn of_ingress(ingress: &DynamicObject) -> Value {
    let spec = &ingress.data["spec"];
    let rules = spec["rules"].as_array().cloned().unwrap_or_default();
    let hosts: Vec<Value> = rules.iter().filter_map(|rule| rule.get("host").cloned()).collect();
    let tls = spec["tls"].as_array().is_some_and(|tls| !tls.is_empty());
    let https = tls.then(|| at(ingress, 443)).flatten();
    let http = at(ingress, 80);
    json!({ "kind": "ingress", "name": name(ingress), "hosts": hosts, "http": http, "https": https })
}

fn name(object: &DynamicObject) -> String {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", object.metadata.name.as_deref().unwrap_or_default())
}

/// Returns `host:port` where a port of the object is published; `None` while it has no address.
fn at(object: &DynamicObject, port: u64) -> Option<String> {
    let address = &object.data["status"]["loadBalancer"]["ingress"][0];
    let host = address["ip"].as_str().or_else(|| address["hostname"].as_str())?;
    let annotations = object.metadata.annotations.as_ref();
    let moved = annotations.and_then(|all| all.get(PUBLISHED_PORT)).map(String::as_str);
    let moved: BTreeMap<&str, &str> =
        moved.unwrap_or_default().split(',').filter_map(|pair| pair.split_once('=')).collect();
    let port = port.to_string();
    Some(format!("{host}:{}", moved.get(&*port).copied().unwrap_or(&port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn published_ports_replace_those_of_the_object() {
        let service = |annotation: Option<&str>, status: Value| {
            object(json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "s", "namespace": "n", "annotations": {PUBLISHED_PORT: annotation}},
                "spec": {"ports": [{"port": 9000}, {"port": 80}]}, "status": {"loadBalancer": status},
            }))
        };
        let address = || json!({"ingress": [{"ip": "127.9.1.1"}]});
        for (service, expected) in [
            (service(Some("80=10080,443=10443"), address()), json!("127.9.1.1:10080")),
            (service(Some(""), address()), json!("127.9.1.1:80")),
            (service(Some("80=10080"), json!({})), Value::Null),
        ] {
            let found = of_service(&service);
            assert_eq!(found, json!({"kind": "service", "name": "n/s", "http": expected}));
        }
        let ingress = object(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "i", "namespace": "n"},
            "spec": {"rules": [{"host": "foo.bar"}, {}], "tls": [{"secretName": "t"}]},
            "status": {"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}},
        }));
        assert_eq!(
            of_ingress(&ingress),
            json!({"kind": "ingress", "name": "n/i", "hosts": ["foo.bar"],
                "http": "lb.example:80", "https": "lb.example:443"})
        );
    }
}
