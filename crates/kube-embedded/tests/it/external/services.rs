//! Load balancers of an external cluster, with each kind of reachability: node ports, published node ports,
//! and port-forward.

use crate::fixture::{
    eventually,
    external::{
        EdgeFixture, PORT, count, get_on, http_get, names, wait_for_pods, wait_for_refusal,
    },
    in_time,
    pods::node_address,
};
use k8s_openapi::api::{core::v1::Pod, networking::v1::Ingress};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use kube_embedded_proxy::external::{Options, Reachability};
use serde_json::json;
use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
};

fn nodes_unreachable() -> Options {
    Options { unreachable: true, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_ports_reach_every_ready_pod_evenly_and_no_other() {
    let fixture = EdgeFixture::new().await;
    let (pods, ()) = tokio::join!(
        fixture.ready_pods("web", ["web-1", "web-2", "web-3"]),
        fixture.create_pod("web", "web-4", &["name", "8080", "unready"]),
    );
    fixture.create_service("web", json!({})).await;
    let edge = fixture.edge(Options::default()).await;
    assert_eq!(*edge.reachability(), Reachability::NodePorts);
    let address = fixture.load_balancer(&edge, "web").await;
    wait_for_pods(address, "", &["web-1", "web-2", "web-3"]).await;
    const REQUESTS: usize = 300;
    let counts = count(address, "", REQUESTS).await;
    let expected = REQUESTS as f64 / 3.0;
    let chi: f64 = counts.values().map(|n| (*n as f64 - expected).powi(2) / expected).sum();
    // An even choice exceeds this in one of 10^7 runs.
    assert!(counts.len() == 3 && chi < 32.0, "{chi} {counts:?}");

    fixture.make_unready(&pods[0]).await;
    wait_for_pods(address, "", &["web-2", "web-3"]).await;
    assert_eq!(names(address, "", 100).await, ["web-2", "web-3"]);

    fixture.delete_pods(&["web-2", "web-3"]).await;
    wait_for_refusal(address).await;
    fixture.ready_pods("web", ["web-5"]).await;
    wait_for_pods(address, "", &["web-5"]).await;
    edge.stop().await;
    wait_for_refusal(address).await;
}

/// A node port hides the client's address, so the edge connects to pods itself where a Service has session
/// affinity.
#[tokio::test(flavor = "multi_thread")]
async fn session_affinity_keeps_each_client_at_its_pod() {
    let fixture = EdgeFixture::new().await;
    fixture.ready_pods("web", ["web-1"]).await;
    fixture.create_service("web", json!({ "sessionAffinity": "ClientIP" })).await;
    let edge = fixture.edge(Options::default()).await;
    let address = fixture.load_balancer(&edge, "web").await;
    wait_for_pods(address, "", &["web-1"]).await;
    fixture.ready_pods("web", ["web-2"]).await;
    assert_eq!(
        names(address, "", 30).await,
        ["web-1"],
        "a new pod changes nothing for a known client"
    );
    let (mut clients, mut seen) = (1_u16.., BTreeSet::new());
    eventually("another pod for other clients", async || {
        for client in clients.by_ref().take(8) {
            let [high, low] = client.to_be_bytes();
            seen.insert(pod_of_client(Ipv4Addr::new(127, 1, high, low), address).await);
        }
        seen.len() == 2
    })
    .await;
}

/// Returns the name of the pod that responds to a client address.
async fn pod_of_client(client: Ipv4Addr, address: SocketAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((client, 0))).unwrap();
    let mut stream = BufReader::new(in_time(socket.connect(address)).await.unwrap());
    get_on(&mut stream, "", "/").await.unwrap().1
}

/// Forwards connections as Docker does for published ports, and counts them.
async fn forwarder(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut node = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
            });
        }
    });
    (address, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn published_node_ports_are_used_and_others_are_port_forwarded() {
    let fixture = EdgeFixture::new().await;
    let web = ["web-1", "web-2"];
    tokio::join!(fixture.ready_pods("web", web), fixture.ready_pods("inner", ["inner-1"]));
    let ports = json!([{ "port": PORT, "targetPort": 8080, "nodePort": 30080 }]);
    fixture.create_service("web", json!({ "ports": ports })).await;
    fixture.create_service("inner", json!({})).await;
    let node = SocketAddr::from((node_address(&fixture.cluster).await, 30080));
    let (published, connections) = forwarder(node).await;
    let options = Options { published: [(30080, published)].into(), ..nodes_unreachable() };
    let edge = fixture.edge(options).await;
    assert_eq!(*edge.reachability(), Reachability::Published([(30080, published)].into()));
    let (address, inner) =
        (fixture.load_balancer(&edge, "web").await, fixture.load_balancer(&edge, "inner").await);
    wait_for_pods(address, "", &web).await;
    let before = connections.load(Ordering::Relaxed);
    assert!(before > 0);
    assert_eq!(names(address, "", 30).await, web);
    assert_eq!(connections.load(Ordering::Relaxed), before + 30);
    wait_for_pods(inner, "", &["inner-1"]).await;
    assert_eq!(connections.load(Ordering::Relaxed), before + 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_port_forwarded_where_no_node_is_reachable() {
    let fixture = EdgeFixture::new().await;
    let (pods, ()) = tokio::join!(
        fixture.ready_pods("web", ["web-1", "web-2"]),
        fixture.create_pod("web", "web-3", &["name", "8080", "unready"]),
    );
    fixture.create_service("web", json!({})).await;
    fixture
        .create_service("inner", json!({ "type": "ClusterIP", "selector": { "app": "web" } }))
        .await;
    fixture.create_ingress("web", None, &[("web.test", "inner")]).await;
    let edge = fixture.edge(nodes_unreachable()).await;
    assert_eq!(
        edge.reachability().to_string(),
        "the API, pod by pod (disabled by --nodes-unreachable)"
    );
    let address = fixture.load_balancer(&edge, "web").await;
    wait_for_pods(address, "", &["web-1", "web-2"]).await;
    let http = fixture.published::<Ingress>(&edge, "web", 80).await;
    wait_for_pods(http, "web.test", &["web-1", "web-2"]).await;
    for (address, host) in [(address, ""), (http, "web.test")] {
        let (status, big) = http_get(address, host, "/big").await.unwrap();
        assert_eq!((status, big.len()), (200, 8 << 20));
        assert!(big.as_bytes().chunks(16).all(|part| part == b"0123456789abcdef"));
    }

    // A client that half-closes its connection still gets the response.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /big HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = Vec::new();
    in_time(stream.read_to_end(&mut text)).await.unwrap();
    assert!(text.len() > 8 << 20, "{} bytes", text.len());

    // An unready pod gets no more requests, on keep-alive connections as well.
    let mut keep_alive = BufReader::new(TcpStream::connect(http).await.unwrap());
    eventually("a response of web-1", async || {
        get_on(&mut keep_alive, "web.test", "/").await.unwrap().1 == "web-1"
    })
    .await;
    fixture.make_unready(&pods[0]).await;
    wait_for_pods(address, "", &["web-2"]).await;
    wait_for_pods(http, "web.test", &["web-2"]).await;
    for _ in 0..30 {
        assert_eq!(get_on(&mut keep_alive, "web.test", "/").await.unwrap().1, "web-2");
    }
}

/// A truncated response must not look complete. For a process that is killed, the kernel closes the
/// connection in order (FIN) unless there was unread input (RST), with or without an edge.
#[tokio::test(flavor = "multi_thread")]
async fn reset_by_a_pod_reaches_the_client_with_any_reachability() {
    let fixture = EdgeFixture::new().await;
    let pods = fixture.ready_pods("web", ["web-1", "web-2"]).await;
    // A pod can crash once, so each reachability has one of its own.
    for pod in ["web-1", "web-2"] {
        let change = Patch::Merge(json!({ "metadata": { "labels": { "app": pod } } }));
        fixture.api::<Pod>().patch(pod, &PatchParams::default(), &change).await.unwrap();
        fixture.create_service(pod, json!({})).await;
    }
    for (pod, options) in pods.iter().zip([Options::default(), nodes_unreachable()]) {
        let name = pod.name_any();
        let edge = fixture.edge(options).await;
        let address = fixture.load_balancer(&edge, &name).await;
        wait_for_pods(address, "", &[&name]).await;
        let read_half = async |unread: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET /half HTTP/1.1\r\n\r\n{unread}");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = Vec::new();
            while !text.ends_with(name.as_bytes()) {
                text.push(in_time(stream.read_u8()).await.unwrap());
            }
            stream
        };
        let (mut closed, mut reset) = (read_half("").await, read_half("and more").await);
        let mut stream = fixture.connect_to_pod(pod).await;
        // The process exits without a response.
        get_on(&mut stream, "", "/crash").await.unwrap_err();
        let end = in_time(closed.read(&mut [0; 16])).await;
        assert_eq!(end.map_err(|error| error.kind()), Ok(0), "{}", edge.reachability());
        let end = in_time(reset.read(&mut [0; 16])).await;
        let expected = Err(io::ErrorKind::ConnectionReset);
        assert_eq!(end.map_err(|error| error.kind()), expected, "{}", edge.reachability());
        edge.stop().await;
    }
}
