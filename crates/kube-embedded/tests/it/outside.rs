//! The edge on the host of a cluster that gives no addresses itself, as one of kind: over TLS, with
//! nothing but the kubeconfig, and pods that say their names.

mod ingress;
mod others;
mod program;
mod services;
mod turns;

use crate::pods::{in_time, testing, tool, tool_archive, until};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Pod, Service},
        networking::v1::Ingress,
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::Kubeconfig,
    runtime::wait::await_condition,
};
use kube_embedded::{Cluster, Config, Sandbox};
use kube_embedded_proxy::{
    PUBLISHED_PORT,
    external::{ExternalEdge, Options},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Debug, io, net::SocketAddr};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Where Services of these tests listen; who is not root may bind it, too.
const PORT: u16 = 8080;
/// An address that somebody else gave.
const FOREIGN: &str = "203.0.113.7";

/// A cluster that gives no addresses.
struct World {
    cluster: Cluster,
}

impl World {
    /// With two nodes that run pods.
    async fn new() -> Self {
        let folder = testing::Folder::new();
        let images = vec![tool_archive(&folder)];
        Self::with(Config { nodes: 2, images, ..Config::default() }).await
    }

    /// With an API and nothing to lead traffic to.
    async fn empty() -> Self {
        Self::with(Config { nodes: 0, sandbox: Some(Sandbox::Plain), ..Config::default() }).await
    }

    async fn with(config: Config) -> Self {
        Self { cluster: Cluster::start(Config { load_balancers: false, ..config }).await.unwrap() }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::default_namespaced(self.cluster.client())
    }

    async fn config(&self) -> kube::Config {
        let kubeconfig = Kubeconfig::from_yaml(&self.cluster.kubeconfig()).unwrap();
        kube::Config::from_custom_kubeconfig(kubeconfig, &<_>::default()).await.unwrap()
    }

    async fn edge(&self, options: Options) -> ExternalEdge {
        in_time(ExternalEdge::start(self.config().await, options)).await.unwrap()
    }

    /// Pods of an app that are ready, and say their names.
    async fn ready<const N: usize>(&self, app: &str, names: [&str; N]) -> [Pod; N] {
        let all = names.map(|name| async move {
            self.pod(app, name, &["name", "8080"]).await;
            let ready = await_condition(self.api::<Pod>(), name, is_ready);
            in_time(ready).await.unwrap().unwrap()
        });
        futures::future::join_all(all).await.try_into().unwrap()
    }

    async fn pod(&self, app: &str, name: &str, args: &[&str]) {
        let mut spec = tool(args);
        let container = &mut spec["containers"][0];
        container["env"] = json!([{ "name": "POD_NAME", "value": name }]);
        container["readinessProbe"] = json!({
            "httpGet": { "path": "/ready", "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1,
        });
        let pod = json!({ "metadata": { "name": name, "labels": { "app": app } }, "spec": spec });
        self.make::<Pod>(pod).await;
    }

    /// A Service of the app that is called so.
    async fn service(&self, app: &str, more: Value) -> Service {
        let mut spec = json!({
            "type": "LoadBalancer", "selector": { "app": app },
            "ports": [{ "port": PORT, "targetPort": 8080 }],
        });
        let more = more.as_object().cloned().unwrap_or_default();
        spec.as_object_mut().unwrap().extend(more);
        self.make(json!({ "metadata": { "name": app }, "spec": spec })).await
    }

    /// An Ingress that leads hosts to Services.
    async fn ingress(&self, name: &str, class: Option<&str>, hosts: &[(&str, &str)]) -> Ingress {
        let rule = |(host, service): &(&str, &str)| {
            let backend = json!({ "service": { "name": service, "port": { "number": PORT } } });
            let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
            json!({ "host": host, "http": { "paths": [path] } })
        };
        let rules: Vec<Value> = hosts.iter().map(rule).collect();
        let spec = json!({ "ingressClassName": class, "rules": rules });
        self.make(json!({ "metadata": { "name": name }, "spec": spec })).await
    }

    async fn make<K>(&self, object: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned + serde::Serialize,
    {
        let object = serde_json::from_value(object).unwrap();
        in_time(self.api::<K>().create(&PostParams::default(), &object)).await.unwrap()
    }

    /// The pod is told to say that it is not ready, wherever traffic may come from.
    async fn unready(&self, pod: &Pod) {
        let mut stream = self.inside(pod).await;
        assert_eq!(ask_on(&mut stream, "", "/unready").await.unwrap().0, 200);
    }

    /// A connection that does not go through any edge.
    async fn inside(&self, pod: &Pod) -> BufReader<TcpStream> {
        let ip = pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap();
        let to = SocketAddr::new(ip.parse().unwrap(), 8080);
        BufReader::new(in_time(self.cluster.connect(to)).await.unwrap())
    }

    async fn delete_pods(&self, names: &[&str]) {
        for name in names {
            let at_once = DeleteParams::default().grace_period(0);
            in_time(self.api::<Pod>().delete(name, &at_once)).await.unwrap();
        }
    }

    /// Writes the addresses as a controller of somebody else's would, or takes them away.
    async fn give<K: External>(&self, name: &str, address: Option<&str>) -> K {
        let ingress = address.map(|ip| json!([{ "ip": ip }]));
        let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
        let params = PatchParams::default();
        let patch = Patch::Merge(&status);
        in_time(self.api::<K>().patch_status(name, &params, &patch)).await.unwrap()
    }

    async fn get<K: External>(&self, name: &str) -> K {
        in_time(self.api::<K>().get(name)).await.unwrap()
    }

    /// Where the edge has published a port, once it has.
    async fn published<K: External>(
        &self,
        edge: &ExternalEdge,
        name: &str,
        port: u16,
    ) -> SocketAddr {
        let mut at = None;
        until(&format!("an address for {name}"), async || {
            at = published(&self.get::<K>(name).await, port);
            at.is_some_and(|at| at.ip().to_string().starts_with(&block(edge)))
        })
        .await;
        at.unwrap()
    }

    /// The load balancer's address, once there is one.
    async fn balancer(&self, edge: &ExternalEdge, name: &str) -> SocketAddr {
        self.published::<Service>(edge, name, PORT).await
    }
}

/// What has an external address.
trait External:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned
{
    fn address(&self) -> Option<String>;
}

impl External for Service {
    fn address(&self) -> Option<String> {
        self.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?.ip.clone()
    }
}

impl External for Ingress {
    fn address(&self) -> Option<String> {
        self.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?.ip.clone()
    }
}

/// How addresses of the edge begin.
fn block(edge: &ExternalEdge) -> String {
    format!("127.{}.", edge.addresses().block)
}

/// Who may not bind 80 and 443 finds in an annotation where they are instead.
fn published(object: &impl External, port: u16) -> Option<SocketAddr> {
    let moved = object.annotations().get(PUBLISHED_PORT).cloned().unwrap_or_default();
    let mut moved = moved.split(',').filter_map(|pair| pair.split_once('='));
    let to = moved.find(|(from, _)| from.parse() == Ok(port)).map(|(_, to)| to.parse().unwrap());
    Some(SocketAddr::new(object.address()?.parse().unwrap(), to.unwrap_or(port)))
}

fn is_ready(pod: Option<&Pod>) -> bool {
    let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Status and body of an answer, on a connection of its own.
async fn ask(at: SocketAddr, host: &str, path: &str) -> io::Result<(u16, String)> {
    in_time(async {
        let mut stream = BufReader::new(TcpStream::connect(at).await?);
        ask_on(&mut stream, host, path).await
    })
    .await
}

/// One of many requests on a connection.
async fn ask_on(
    stream: &mut BufReader<impl AsyncRead + AsyncWrite + Unpin>,
    host: &str,
    path: &str,
) -> io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    in_time(async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        read_answer(stream).await
    })
    .await
}

async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u16, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
    let mut body = vec![0; length.unwrap_or("0").parse().unwrap()];
    stream.read_exact(&mut body).await?;
    Ok((status, String::from_utf8(body).unwrap()))
}

/// How often each pod answers, asked on a connection each.
async fn count(at: SocketAddr, host: &str, times: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        let (status, name) = ask(at, host, "/").await.unwrap();
        assert_eq!(status, 200, "{name}");
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// The names of all that answer.
async fn names(at: SocketAddr, host: &str, times: usize) -> Vec<String> {
    count(at, host, times).await.into_keys().collect()
}

/// Until these and no others answer. One of three is missed by chance in one of 10^7 runs.
async fn until_answers(at: SocketAddr, host: &str, expected: &[&str]) {
    until(&format!("answers of {expected:?} alone"), async || {
        let mut seen = BTreeMap::new();
        for _ in 0..40 {
            match ask(at, host, "/").await {
                Ok((200, name)) => seen.insert(name, ()),
                _ => return false,
            };
        }
        seen.into_keys().eq(expected.iter().copied())
    })
    .await;
}

/// Until nobody listens there.
async fn until_refused(at: SocketAddr) {
    until(&format!("{at} refuses"), async || {
        let refused = TcpStream::connect(at).await.map_err(|error| error.kind());
        matches!(refused, Err(io::ErrorKind::ConnectionRefused))
    })
    .await;
}
