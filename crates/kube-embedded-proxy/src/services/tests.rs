//! Services on a real API, with endpoints of the test instead of pods.

use super::*;
use crate::{
    data_plane::BoundPort,
    load_balancer::{LbStatus, LoadBalanced},
    testing::{ClusterFixture, eventually, is_refused, unprivileged, within},
};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api,
    api::{DeleteParams, Patch},
};
use kube_embedded_core::network::{PodSockets, Sandbox};
use serde_json::{Value, json};
use std::io;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream, UdpSocket},
};

/// Starts an endpoint that sends a letter to each client.
fn letter_endpoint(listener: TcpListener, letter: u8) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.try_write(&[letter]);
        }
    });
    address
}

/// Starts such an endpoint on an address of the fixture's block.
async fn cluster_endpoint(fixture: &ClusterFixture, host: u8, port: u16, letter: u8) -> SocketAddr {
    letter_endpoint(fixture.pod_listener(host, port).await, letter)
}

async fn read_letter(at: SocketAddr) -> io::Result<char> {
    Ok(TcpStream::connect(at).await?.read_u8().await?.into())
}

async fn serves(at: SocketAddr, letter: char) {
    eventually(&format!("{letter} from {at}"), async || {
        read_letter(at).await.ok().filter(|got| *got == letter)
    })
    .await;
}

fn load_balancer() -> Value {
    json!({ "type": "LoadBalancer", "selector": { "app": "app" }, "ports": [{ "port": 80 }] })
}

/// Returns the cluster IP and the node ports of a Service.
fn cluster_addresses(fixture: &ClusterFixture, service: &Service) -> Vec<SocketAddr> {
    let spec = service.spec.as_ref().unwrap();
    let port = &spec.ports.as_ref().unwrap()[0];
    let cluster: IpAddr = spec.cluster_ip.as_ref().unwrap().parse().unwrap();
    let mut all = vec![SocketAddr::new(cluster, port.port as u16)];
    if let Some(node_port) = port.node_port {
        let on = |n| SocketAddr::from((fixture.addresses.node(n), node_port as u16));
        all.extend((0..2).map(on));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn load_balancer_follows_endpoints_and_ends_with_its_service() {
    let fixture = ClusterFixture::new().await;
    let service = fixture.service("app", load_balancer()).await;
    let external = fixture.external("app").await;
    assert_eq!(external.ip(), fixture.load_balancer(1));
    assert_eq!(
        fixture.event("EnsuringLoadBalancer").await.source.unwrap().component.unwrap(),
        "service-controller"
    );
    fixture.event("EnsuredLoadBalancer").await;
    let mut addresses = cluster_addresses(&fixture, &service);
    // Cluster IPs with ports below 1024 need a privilege that the test may not have.
    addresses.retain(|at| at.port() >= 1024 || external.port() == at.port());
    addresses.push(external);
    for at in &addresses {
        is_refused(*at).await;
    }
    let first = cluster_endpoint(&fixture, 1, 0, b'a').await;
    let second = cluster_endpoint(&fixture, 2, first.port(), b'b').await;
    fixture.endpoints("app", &[first]).await;
    for at in &addresses {
        serves(*at, 'a').await;
    }
    fixture.endpoints("app", &[first, second]).await;
    for at in &addresses {
        serves(*at, 'b').await;
        serves(*at, 'a').await;
    }
    fixture.endpoints("app", &[second]).await;
    eventually("the removed endpoint to get no connections", async || {
        let mut letters = String::new();
        for _ in 0..10 {
            letters.push(read_letter(external).await.unwrap());
        }
        (letters == "bbbbbbbbbb").then_some(())
    })
    .await;
    fixture.endpoints("app", &[]).await;
    is_refused(external).await;
    fixture.endpoints("app", &[first]).await;
    serves(external, 'a').await;
    fixture.services().delete("app", &DeleteParams::default()).await.unwrap();
    for at in &addresses {
        is_refused(*at).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn program_of_the_host_is_not_reached_through_a_slice_made_by_hand() {
    let fixture = ClusterFixture::new().await;
    fixture.service("app", load_balancer()).await;
    let external = fixture.external("app").await;
    // The API accepts no loopback address; this one is of a network for documentation.
    fixture.endpoints("app", &["192.0.2.1:80".parse().unwrap()]).await;
    let event = fixture.event("EndpointOutsideCluster").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let message = event.message.unwrap();
    assert!(message.contains("no pod of this cluster can have the address 192.0.2.1"), "{message}");
    is_refused(external).await;
    // At the address of a pod, but there is no such pod.
    let no_pod = fixture.pod_listener(77, 0).await;
    let network = &fixture.network;
    fixture.endpoints("app", &[no_pod.local_addr().unwrap()]).await;
    network.detach(no_pod.local_addr().unwrap().ip());
    eventually("a connection that ends", async || read_letter(external).await.err()).await;
    assert!(no_pod.accept().now_or_never().is_none(), "the proxy connected to the host");
}

#[tokio::test(flavor = "multi_thread")]
async fn external_address_is_kept_until_released() {
    let fixture = ClusterFixture::new().await;
    fixture.service("one", load_balancer()).await;
    let one = fixture.external("one").await;
    let mut asked = load_balancer();
    asked["loadBalancerIP"] = json!(fixture.load_balancer(77));
    fixture.service("two", asked).await;
    assert_eq!(fixture.external("two").await.ip(), fixture.load_balancer(77));
    let mut refused = load_balancer();
    refused["loadBalancerIP"] = json!("192.0.2.1");
    fixture.service("three", refused).await;
    assert_eq!(fixture.external("three").await.ip(), fixture.load_balancer(2));
    assert!(
        fixture.event("LoadBalancerIPNotAvailable").await.message.unwrap().contains("192.0.2.1")
    );

    let patch = json!({ "spec": { "ports": [{ "port": 8080 }] } });
    fixture.services().patch("three", &<_>::default(), &Patch::Merge(patch)).await.unwrap();
    eventually("the new port", async || {
        let at = fixture.external("three").await;
        (at == SocketAddr::from((fixture.load_balancer(2), 8080))).then_some(())
    })
    .await;

    let patch = json!({ "spec": { "type": "ClusterIP" } });
    fixture.services().patch("one", &<_>::default(), &Patch::Merge(patch)).await.unwrap();
    eventually("no external address", async || {
        let service = fixture.services().get("one").await.unwrap();
        (service.lb_status() == LbStatus::default()).then_some(())
    })
    .await;
    fixture.service("four", load_balancer()).await;
    assert_eq!(
        fixture.external("four").await.ip(),
        one.ip(),
        "a released address is assigned again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unserved_port_is_reported_and_retried() {
    let fixture = ClusterFixture::new().await;
    let spec = json!({ "ports": [
        { "name": "dns", "port": 5353, "protocol": "SCTP" },
        { "name": "web", "port": 8080 },
    ]});
    fixture.service("mixed", spec).await;
    let event = fixture.event("UnsupportedProtocol").await;
    assert_eq!(
        event.message.unwrap(),
        "port dns/SCTP is not served: its protocol is not supported"
    );

    let taken = TcpListener::bind((fixture.addresses.node(0), 30_999)).await.unwrap();
    let spec = json!({ "type": "NodePort", "ports": [{ "port": 8081, "nodePort": 30_999 }] });
    let service = fixture.service("late", spec).await;
    let event = fixture.event("PortNotBound").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let endpoint = cluster_endpoint(&fixture, 1, 0, b'x').await;
    fixture.endpoints("late", &[endpoint]).await;
    let addresses = cluster_addresses(&fixture, &service);
    serves(addresses[2], 'x').await;
    drop(taken);
    serves(addresses[1], 'x').await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_proxy_closes_its_ports() {
    let fixture = ClusterFixture::new().await;
    let spec = json!({ "type": "NodePort", "ports": [{ "port": 8080 }] });
    let service = fixture.service("app", spec).await;
    let endpoint = cluster_endpoint(&fixture, 1, 0, b'x').await;
    fixture.endpoints("app", &[endpoint]).await;
    let addresses = cluster_addresses(&fixture, &service);
    serves(addresses[1], 'x').await;
    fixture.running.abort();
    eventually("the proxy to end", async || fixture.running.is_finished().then_some(())).await;
    for at in addresses {
        assert!(std::net::TcpListener::bind(at).is_ok(), "{at} is still bound");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn external_port_in_use_is_avoided_or_published_elsewhere() {
    let fixture = ClusterFixture::new().await;
    let _taken = TcpListener::bind((fixture.load_balancer(1), 8080)).await.unwrap();
    let mut spec = load_balancer();
    spec["ports"] = json!([{ "port": 8080 }]);
    fixture.service("anywhere", spec.clone()).await;
    let next = SocketAddr::from((fixture.load_balancer(2), 8080));
    assert_eq!(fixture.external("anywhere").await, next);

    spec["loadBalancerIP"] = json!(fixture.load_balancer(1));
    fixture.service("exactly", spec).await;
    let fallback = SocketAddr::from((fixture.load_balancer(1), 18_080));
    assert_eq!(fixture.external("exactly").await, fallback);
    let event = fixture.event("PortNotBound").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert!(event.message.unwrap().contains(&format!("published as {fallback}")));

    let endpoint = cluster_endpoint(&fixture, 1, 0, b'x').await;
    for (service, at) in [("anywhere", next), ("exactly", fallback)] {
        fixture.endpoints(service, &[endpoint]).await;
        serves(at, 'x').await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_port_is_published_elsewhere_for_ordinary_users() {
    let fixture = ClusterFixture::with(Sandbox::Plain, unprivileged).await;
    let service = fixture.service("app", load_balancer()).await;
    let at = fixture.external("app").await;
    assert_eq!(at, SocketAddr::from((fixture.load_balancer(1), 10_080)));
    let published = fixture.services().get("app").await.unwrap().lb_status();
    assert_eq!(published.published_port.as_deref(), Some("80=10080"));
    let ports = published.ingress[0].ports.as_ref().unwrap();
    assert_eq!(ports[0].port, 10_080);
    assert_eq!(fixture.event("PortNotBound").await.type_.as_deref(), Some("Warning"));

    let endpoint = cluster_endpoint(&fixture, 1, 0, b'x').await;
    fixture.endpoints("app", &[endpoint]).await;
    serves(at, 'x').await;
    let node_ports = cluster_addresses(&fixture, &service).split_off(1);
    assert_eq!(node_ports.len(), 2);
    for at in node_ports {
        serves(at, 'x').await;
    }

    let patch = json!({ "spec": { "type": "ClusterIP" } });
    fixture.services().patch("app", &<_>::default(), &Patch::Merge(patch)).await.unwrap();
    fixture.event("DeletedLoadBalancer").await;
    eventually("neither address nor annotation", async || {
        let service = fixture.services().get("app").await.unwrap();
        (service.lb_status() == LbStatus::default()).then_some(())
    })
    .await;
    is_refused(at).await;
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

    fn bind_udp(&self, _: SocketAddr) -> BoxFuture<'_, io::Result<UdpSocket>> {
        Box::pin(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_reaches_services_at_their_cluster_ips() {
    let fixture = ClusterFixture::with(Sandbox::Namespaced, BoundPort::bind).await;
    let accounts: Api<ServiceAccount> = Api::default_namespaced(fixture.client.clone());
    let account = json!({ "metadata": { "name": "default" } });
    accounts.create(&<_>::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(fixture.client.clone());
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
    fixture.network.attach("10.244.0.9".parse().unwrap(), Arc::new(FakePod { listening }));

    let ports = json!([{ "name": "own", "port": 9090 }, { "name": "web", "port": 8080 }]);
    let service = fixture.service("app", json!({ "ports": ports })).await;
    let endpoint = letter_endpoint(TcpListener::bind("127.0.0.1:0").await.unwrap(), b'x');
    let inside_a_pod = SocketAddr::from(([10, 244, 0, 9], endpoint.port()));
    fixture.endpoints_of_port("app", "web", &[inside_a_pod]).await;
    fixture.endpoints_of_port("app", "own", &[inside_a_pod]).await;

    let (on, really) = within(opened.recv()).await.unwrap();
    let cluster: IpAddr = service.spec.unwrap().cluster_ip.unwrap().parse().unwrap();
    assert_eq!(on, SocketAddr::new(cluster, 8080));
    serves(really, 'x').await;
    fixture.services().delete("app", &DeleteParams::default()).await.unwrap();
    is_refused(really).await;
    assert!(opened.try_recv().is_err(), "the pod's own port is left to the pod");
}
