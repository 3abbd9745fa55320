//! The edge on the API, with endpoints of the test instead of pods.

use super::*;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Event, Namespace, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube_embedded_apiserver::{api, store::Store};
use kube_embedded_core::network::PodSockets;
use serde_json::{Value, json};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub(super) struct World {
    pub(super) client: Client,
    pub(super) addresses: Addresses,
    network: Arc<Network>,
    running: JoinHandle<()>,
    config: Config,
    bind: Bind,
    /// Keeps other tests and clusters from the block.
    _block: TcpListener,
}

impl Drop for World {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(Sandbox::Plain, Port::bind).await
    }

    pub(super) async fn with(sandbox: Sandbox, bind: Bind) -> Self {
        let (claimed, block) = kube_embedded_core::network::claim_block().unwrap();
        let addresses = Addresses { block, sandbox };
        let client = api::Api::new(Store::default(), addresses).client();
        let namespace: Namespace =
            serde_json::from_value(json!({ "metadata": { "name": "default" } })).unwrap();
        // It may be there from the start.
        let _ = Api::<Namespace>::all(client.clone()).create(&<_>::default(), &namespace).await;
        let nodes = (0..2).map(|n| (format!("node-{}", n + 1), addresses.node(n))).collect();
        let network = Arc::new(Network::default());
        let part = Part::All { nodes, external: true };
        let config = Config { network: network.clone(), addresses, part, only: None };
        let running = tokio::spawn(run_with(client.clone(), config.clone(), bind));
        Self { client, addresses, network, running, config, bind, _block: claimed }
    }

    /// Ends the edge and starts it anew on the same API.
    pub(super) async fn restart(&mut self) {
        self.running.abort();
        let _ = (&mut self.running).await;
        let run = run_with(self.client.clone(), self.config.clone(), self.bind);
        self.running = tokio::spawn(run);
    }

    /// The address of a load balancer, counted from 1.
    fn balancer(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.addresses.block, 1, n)
    }

    /// An endpoint on an address of its own.
    async fn says(&self, host: u8, port: u16, letter: u8) -> SocketAddr {
        says(SocketAddr::from(([127, self.addresses.block, 128, host], port)), letter).await
    }

    pub(super) fn services(&self) -> Api<Service> {
        Api::default_namespaced(self.client.clone())
    }

    pub(super) async fn service(&self, name: &str, spec: Value) -> Service {
        let service = json!({ "metadata": { "name": name }, "spec": spec });
        let service = serde_json::from_value(service).unwrap();
        self.services().create(&PostParams::default(), &service).await.unwrap()
    }

    pub(super) async fn endpoints(&self, service: &str, endpoints: &[SocketAddr]) {
        self.endpoints_of_port(service, "", endpoints).await;
    }

    /// The endpoints of a named port of the Service, in a slice of their own.
    pub(super) async fn endpoints_of_port(
        &self,
        service: &str,
        name: &str,
        endpoints: &[SocketAddr],
    ) {
        let slice_name = format!("{service}{name}");
        let api: Api<EndpointSlice> = Api::default_namespaced(self.client.clone());
        let port = endpoints.first().map_or(1, SocketAddr::port);
        let listed: Vec<Value> = endpoints
            .iter()
            .map(|e| json!({ "addresses": [e.ip()], "conditions": { "ready": true } }))
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": slice_name, "labels": { "kubernetes.io/service-name": service } },
            "addressType": "IPv4",
            "ports": [{ "name": name, "port": port, "protocol": "TCP" }],
            "endpoints": listed,
        });
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        match api.get_opt(&slice_name).await.unwrap() {
            None => drop(api.create(&PostParams::default(), &slice).await.unwrap()),
            Some(_) => {
                let params = PatchParams::default();
                api.patch(&slice_name, &params, &Patch::Merge(&slice)).await.unwrap();
            }
        }
    }

    /// The external address, once there is one.
    async fn external(&self, name: &str) -> SocketAddr {
        eventually("an external address", async || {
            let service = self.services().get(name).await.unwrap();
            let status = balancer::Status::of(&service);
            let moved = status.published_port.clone();
            let port = match moved {
                Some(moved) => moved.split_once('=')?.1.parse().ok()?,
                None => u16::try_from(service.spec?.ports?.first()?.port).ok()?,
            };
            Some(SocketAddr::from((status.address()?, port)))
        })
        .await
    }

    pub(super) async fn event(&self, reason: &str) -> Event {
        let api: Api<Event> = Api::default_namespaced(self.client.clone());
        eventually(reason, async || {
            let events = api.list(&ListParams::default()).await.unwrap();
            events.items.into_iter().find(|e| e.reason.as_deref() == Some(reason))
        })
        .await
    }
}

pub(super) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// An endpoint that says a letter to whoever connects.
async fn says(at: SocketAddr, letter: u8) -> SocketAddr {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.try_write(&[letter]);
        }
    });
    address
}

async fn ask(at: SocketAddr) -> io::Result<char> {
    Ok(TcpStream::connect(at).await?.read_u8().await?.into())
}

async fn answers(at: SocketAddr, letter: char) {
    eventually(&format!("{letter} from {at}"), async || {
        ask(at).await.ok().filter(|got| *got == letter)
    })
    .await;
}

async fn refuses(at: SocketAddr) {
    eventually(&format!("{at} refuses"), async || {
        let error = ask(at).await.err()?;
        (error.kind() == io::ErrorKind::ConnectionRefused).then_some(())
    })
    .await;
}

fn balanced() -> Value {
    json!({ "type": "LoadBalancer", "selector": { "app": "app" }, "ports": [{ "port": 80 }] })
}

/// The addresses of a Service port: cluster address and node ports.
fn inside(world: &World, service: &Service) -> Vec<SocketAddr> {
    let spec = service.spec.as_ref().unwrap();
    let port = &spec.ports.as_ref().unwrap()[0];
    let cluster: IpAddr = spec.cluster_ip.as_ref().unwrap().parse().unwrap();
    let mut all = vec![SocketAddr::new(cluster, port.port as u16)];
    if let Some(node_port) = port.node_port {
        let on = |n| SocketAddr::from((world.addresses.node(n), node_port as u16));
        all.extend((0..2).map(on));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_follows_its_endpoints_and_goes_with_its_service() {
    let world = World::new().await;
    let service = world.service("app", balanced()).await;
    let external = world.external("app").await;
    assert_eq!(external.ip(), world.balancer(1));
    assert_eq!(
        world.event("EnsuringLoadBalancer").await.source.unwrap().component.unwrap(),
        "service-controller"
    );
    world.event("EnsuredLoadBalancer").await;
    let mut ways = inside(&world, &service);
    // Cluster addresses below 1024 need a privilege that the test may not have.
    ways.retain(|at| at.port() >= 1024 || external.port() == at.port());
    ways.push(external);
    for at in &ways {
        refuses(*at).await;
    }
    let first = world.says(1, 0, b'a').await;
    let second = world.says(2, first.port(), b'b').await;
    world.endpoints("app", &[first]).await;
    for at in &ways {
        answers(*at, 'a').await;
    }
    world.endpoints("app", &[first, second]).await;
    for at in &ways {
        answers(*at, 'b').await;
        answers(*at, 'a').await;
    }
    world.endpoints("app", &[second]).await;
    eventually("no a any more", async || {
        let mut letters = String::new();
        for _ in 0..10 {
            letters.push(ask(external).await.unwrap());
        }
        (letters == "bbbbbbbbbb").then_some(())
    })
    .await;
    world.endpoints("app", &[]).await;
    refuses(external).await;
    world.endpoints("app", &[first]).await;
    answers(external, 'a').await;
    world.services().delete("app", &DeleteParams::default()).await.unwrap();
    for at in &ways {
        refuses(*at).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn external_addresses_are_stable_and_given_back() {
    let world = World::new().await;
    world.service("one", balanced()).await;
    let one = world.external("one").await;
    let mut asked = balanced();
    asked["loadBalancerIP"] = json!(world.balancer(77));
    world.service("two", asked).await;
    assert_eq!(world.external("two").await.ip(), world.balancer(77));
    let mut refused = balanced();
    refused["loadBalancerIP"] = json!("192.0.2.1");
    world.service("three", refused).await;
    assert_eq!(world.external("three").await.ip(), world.balancer(2));
    assert!(world.event("LoadBalancerIPNotAvailable").await.message.unwrap().contains("192.0.2.1"));

    let patch = json!({ "spec": { "ports": [{ "port": 8080 }] } });
    world.services().patch("three", &<_>::default(), &Patch::Merge(patch)).await.unwrap();
    eventually("the other port", async || {
        let at = world.external("three").await;
        (at == SocketAddr::from((world.balancer(2), 8080))).then_some(())
    })
    .await;

    let patch = json!({ "spec": { "type": "ClusterIP" } });
    world.services().patch("one", &<_>::default(), &Patch::Merge(patch)).await.unwrap();
    eventually("no external address", async || {
        let service = world.services().get("one").await.unwrap();
        (balancer::Status::of(&service) == balancer::Status::default()).then_some(())
    })
    .await;
    world.service("four", balanced()).await;
    assert_eq!(world.external("four").await.ip(), one.ip(), "given back and given again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_said_once_and_tried_again() {
    let world = World::new().await;
    let spec = json!({ "ports": [
        { "name": "dns", "port": 5353, "protocol": "UDP" },
        { "name": "web", "port": 8080 },
    ]});
    world.service("mixed", spec).await;
    let event = world.event("UnsupportedProtocol").await;
    assert_eq!(event.message.unwrap(), "port dns/UDP is not served: only TCP is");

    let taken = TcpListener::bind((world.addresses.node(0), 30_999)).await.unwrap();
    let spec = json!({ "type": "NodePort", "ports": [{ "port": 8081, "nodePort": 30_999 }] });
    let service = world.service("late", spec).await;
    let event = world.event("PortNotBound").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let endpoint = world.says(1, 0, b'x').await;
    world.endpoints("late", &[endpoint]).await;
    let ways = inside(&world, &service);
    answers(ways[2], 'x').await;
    drop(taken);
    answers(ways[1], 'x').await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_edge_closes_its_ports() {
    let world = World::new().await;
    let spec = json!({ "type": "NodePort", "ports": [{ "port": 8080 }] });
    let service = world.service("app", spec).await;
    let endpoint = world.says(1, 0, b'x').await;
    world.endpoints("app", &[endpoint]).await;
    let ways = inside(&world, &service);
    answers(ways[1], 'x').await;
    world.running.abort();
    eventually("the edge ends", async || world.running.is_finished().then_some(())).await;
    for at in ways {
        assert!(std::net::TcpListener::bind(at).is_ok(), "{at} is still bound");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_port_in_use_is_avoided_or_published_elsewhere() {
    let world = World::new().await;
    let _taken = TcpListener::bind((world.balancer(1), 8080)).await.unwrap();
    let mut spec = balanced();
    spec["ports"] = json!([{ "port": 8080 }]);
    world.service("anywhere", spec.clone()).await;
    let next = SocketAddr::from((world.balancer(2), 8080));
    assert_eq!(world.external("anywhere").await, next);

    spec["loadBalancerIP"] = json!(world.balancer(1));
    world.service("exactly", spec).await;
    let detour = SocketAddr::from((world.balancer(1), 18_080));
    assert_eq!(world.external("exactly").await, detour);
    let event = world.event("PortNotBound").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert!(event.message.unwrap().contains(&format!("published as {detour}")));

    let endpoint = world.says(1, 0, b'x').await;
    for (service, at) in [("anywhere", next), ("exactly", detour)] {
        world.endpoints(service, &[endpoint]).await;
        answers(at, 'x').await;
    }
}

/// As for a user who may not bind ports below 1024.
pub(super) fn unprivileged(at: SocketAddr) -> io::Result<Port> {
    match at.port() {
        ..1024 => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Port::bind(at),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn port_80_is_published_elsewhere_for_who_may_not_bind_it() {
    let world = World::with(Sandbox::Plain, unprivileged).await;
    let service = world.service("app", balanced()).await;
    let at = world.external("app").await;
    assert_eq!(at, SocketAddr::from((world.balancer(1), 10_080)));
    let published = balancer::Status::of(&world.services().get("app").await.unwrap());
    assert_eq!(published.published_port.as_deref(), Some("80=10080"));
    let ports = published.ingress[0].ports.as_ref().unwrap();
    assert_eq!(ports[0].port, 10_080);
    assert_eq!(world.event("PortNotBound").await.type_.as_deref(), Some("Warning"));

    let endpoint = world.says(1, 0, b'x').await;
    world.endpoints("app", &[endpoint]).await;
    answers(at, 'x').await;
    let node_ports = inside(&world, &service).split_off(1);
    assert_eq!(node_ports.len(), 2);
    for at in node_ports {
        answers(at, 'x').await;
    }

    let patch = json!({ "spec": { "type": "ClusterIP" } });
    world.services().patch("app", &<_>::default(), &Patch::Merge(patch)).await.unwrap();
    world.event("DeletedLoadBalancer").await;
    eventually("neither address nor annotation", async || {
        let service = world.services().get("app").await.unwrap();
        (balancer::Status::of(&service) == balancer::Status::default()).then_some(())
    })
    .await;
    refuses(at).await;
}

/// A pod's network namespace, in which each address is a port of the host's loopback.
struct FakePod {
    listening: mpsc::UnboundedSender<(SocketAddr, SocketAddr)>,
}

impl PodSockets for FakePod {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect((Ipv4Addr::LOCALHOST, to.port())))
    }

    fn listen(&self, on: SocketAddr) -> BoxFuture<'_, io::Result<TcpListener>> {
        Box::pin(async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let _ = self.listening.send((on, listener.local_addr()?));
            Ok(listener)
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_services_at_their_cluster_addresses() {
    let world = World::with(Sandbox::Namespaced, Port::bind).await;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(world.client.clone());
    let account = json!({ "metadata": { "name": "default" } });
    accounts.create(&<_>::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
    let pod = json!({
        "metadata": { "name": "caller" },
        "spec": { "nodeName": "node-1", "containers": [{
            "name": "c", "image": "i", "ports": [{ "containerPort": 9090 }],
        }]},
    });
    pods.create(&<_>::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let status = json!({ "status": { "podIP": "10.244.0.9", "podIPs": [{ "ip": "10.244.0.9" }] } });
    pods.patch_status("caller", &<_>::default(), &Patch::Merge(status)).await.unwrap();
    let (listening, mut opened) = mpsc::unbounded_channel();
    world.network.attach("10.244.0.9".parse().unwrap(), Arc::new(FakePod { listening }));

    let ports = json!([{ "name": "own", "port": 9090 }, { "name": "web", "port": 8080 }]);
    let service = world.service("app", json!({ "ports": ports })).await;
    let endpoint = says("127.0.0.1:0".parse().unwrap(), b'x').await;
    let inside_of_a_pod = SocketAddr::from(([10, 244, 0, 9], endpoint.port()));
    world.endpoints_of_port("app", "web", &[inside_of_a_pod]).await;
    world.endpoints_of_port("app", "own", &[inside_of_a_pod]).await;

    let opening = time::timeout(Duration::from_secs(10), opened.recv());
    let (on, really) = opening.await.unwrap().unwrap();
    let cluster: IpAddr = service.spec.unwrap().cluster_ip.unwrap().parse().unwrap();
    assert_eq!(on, SocketAddr::new(cluster, 8080));
    answers(really, 'x').await;
    world.services().delete("app", &DeleteParams::default()).await.unwrap();
    refuses(really).await;
    assert!(opened.try_recv().is_err(), "the pod's own port is left to the pod");
}
