//! Load balancers, by all three ways into a cluster.

use super::*;
use kube_embedded_proxy::external::Reachability;
use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::net::{TcpListener, TcpSocket};

fn unreachable() -> Options {
    Options { unreachable: true, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_ports_lead_to_every_pod_that_is_ready_and_to_no_other() {
    let world = World::new().await;
    let (pods, ()) = tokio::join!(
        world.ready("web", ["web-1", "web-2", "web-3"]),
        world.pod("web", "web-4", &["name", "8080", "unready"]),
    );
    world.service("web", json!({})).await;
    let edge = world.edge(Options::default()).await;
    assert_eq!(*edge.reachability(), Reachability::NodePorts);
    let at = world.balancer(&edge, "web").await;
    until_answers(at, "", &["web-1", "web-2", "web-3"]).await;
    const ASKED: usize = 300;
    let counts = count(at, "", ASKED).await;
    let expected = ASKED as f64 / 3.0;
    let chi: f64 = counts.values().map(|n| (*n as f64 - expected).powi(2) / expected).sum();
    // Chance alone gets there in one of 10^7 runs.
    assert!(counts.len() == 3 && chi < 32.0, "{chi} {counts:?}");

    world.unready(&pods[0]).await;
    until_answers(at, "", &["web-2", "web-3"]).await;
    assert_eq!(names(at, "", 100).await, ["web-2", "web-3"]);

    world.delete_pods(&["web-2", "web-3"]).await;
    until_refused(at).await;
    world.ready("web", ["web-5"]).await;
    until_answers(at, "", &["web-5"]).await;
    edge.stop().await;
    until_refused(at).await;
}

/// Behind a node port all clients look alike, so a Service that wants them kept apart is led to pods.
#[tokio::test(flavor = "multi_thread")]
async fn clients_stay_with_their_pod_where_the_service_asks_for_it() {
    let world = World::new().await;
    world.ready("web", ["web-1"]).await;
    world.service("web", json!({ "sessionAffinity": "ClientIP" })).await;
    let edge = world.edge(Options::default()).await;
    let at = world.balancer(&edge, "web").await;
    until_answers(at, "", &["web-1"]).await;
    world.ready("web", ["web-2"]).await;
    assert_eq!(names(at, "", 30).await, ["web-1"], "whatever comes later");
    let (mut clients, mut seen) = (1_u16.., BTreeSet::new());
    until("another pod for other clients", async || {
        for client in clients.by_ref().take(8) {
            let [high, low] = client.to_be_bytes();
            seen.insert(ask_from(Ipv4Addr::new(127, 1, high, low), at).await);
        }
        seen.len() == 2
    })
    .await;
}

/// The name of the pod that the client gets.
async fn ask_from(client: Ipv4Addr, at: SocketAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((client, 0))).unwrap();
    let mut stream = BufReader::new(in_time(socket.connect(at)).await.unwrap());
    ask_on(&mut stream, "", "/").await.unwrap().1
}

/// Leads connections on as Docker does with ports that are published, and counts them.
async fn forwarder(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
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
    (at, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn published_node_ports_are_used_and_all_else_goes_through_the_api() {
    let world = World::new().await;
    let web = ["web-1", "web-2"];
    tokio::join!(world.ready("web", web), world.ready("inner", ["inner-1"]));
    let ports = json!([{ "port": PORT, "targetPort": 8080, "nodePort": 30080 }]);
    world.service("web", json!({ "ports": ports })).await;
    world.service("inner", json!({})).await;
    let node = SocketAddr::from((crate::pods::node_address(&world.cluster).await, 30080));
    let (published, connections) = forwarder(node).await;
    let options = Options { published: [(30080, published)].into(), ..unreachable() };
    let edge = world.edge(options).await;
    assert_eq!(*edge.reachability(), Reachability::Published([(30080, published)].into()));
    let (at, inner) = (world.balancer(&edge, "web").await, world.balancer(&edge, "inner").await);
    until_answers(at, "", &web).await;
    let before = connections.load(Ordering::Relaxed);
    assert!(before > 0);
    assert_eq!(names(at, "", 30).await, web);
    assert_eq!(connections.load(Ordering::Relaxed), before + 30);
    until_answers(inner, "", &["inner-1"]).await;
    assert_eq!(connections.load(Ordering::Relaxed), before + 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_reached_through_the_api_where_no_node_is() {
    let world = World::new().await;
    let (pods, ()) = tokio::join!(
        world.ready("web", ["web-1", "web-2"]),
        world.pod("web", "web-3", &["name", "8080", "unready"]),
    );
    world.service("web", json!({})).await;
    world.service("inner", json!({ "type": "ClusterIP", "selector": { "app": "web" } })).await;
    world.ingress("web", None, &[("web.test", "inner")]).await;
    let edge = world.edge(unreachable()).await;
    assert_eq!(
        edge.reachability().to_string(),
        "the API, pod by pod (disabled by --nodes-unreachable)"
    );
    let at = world.balancer(&edge, "web").await;
    until_answers(at, "", &["web-1", "web-2"]).await;
    let http = world.published::<Ingress>(&edge, "web", 80).await;
    until_answers(http, "web.test", &["web-1", "web-2"]).await;
    for (at, host) in [(at, ""), (http, "web.test")] {
        let (status, big) = ask(at, host, "/big").await.unwrap();
        assert_eq!((status, big.len()), (200, 8 << 20));
        assert!(big.as_bytes().chunks(16).all(|part| part == b"0123456789abcdef"));
    }

    // Who has said all still gets the answer.
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(b"GET /big HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = Vec::new();
    in_time(stream.read_to_end(&mut text)).await.unwrap();
    assert!(text.len() > 8 << 20, "{} bytes", text.len());

    // One that is no longer ready gets no more, also on connections that were kept.
    let mut kept = BufReader::new(TcpStream::connect(http).await.unwrap());
    until("an answer of web-1", async || {
        ask_on(&mut kept, "web.test", "/").await.unwrap().1 == "web-1"
    })
    .await;
    world.unready(&pods[0]).await;
    until_answers(at, "", &["web-2"]).await;
    until_answers(http, "web.test", &["web-2"]).await;
    for _ in 0..30 {
        assert_eq!(ask_on(&mut kept, "web.test", "/").await.unwrap().1, "web-2");
    }
}

/// An answer that breaks off must not look complete. Of a program that is killed, the kernel says
/// that it has ended, unless it left something unread: more nobody can tell, edge or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_resets_is_a_reset_through_every_way() {
    let world = World::new().await;
    let pods = world.ready("web", ["web-1", "web-2"]).await;
    // Each has one pod, which dies once.
    for pod in ["web-1", "web-2"] {
        let change = Patch::Merge(json!({ "metadata": { "labels": { "app": pod } } }));
        world.api::<Pod>().patch(pod, &PatchParams::default(), &change).await.unwrap();
        world.service(pod, json!({})).await;
    }
    for (pod, options) in pods.iter().zip([Options::default(), unreachable()]) {
        let name = pod.name_any();
        let edge = world.edge(options).await;
        let at = world.balancer(&edge, &name).await;
        until_answers(at, "", &[&name]).await;
        let half = async |unread: &str| {
            let mut stream = TcpStream::connect(at).await.unwrap();
            let request = format!("GET /half HTTP/1.1\r\n\r\n{unread}");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = Vec::new();
            while !text.ends_with(name.as_bytes()) {
                text.push(in_time(stream.read_u8()).await.unwrap());
            }
            stream
        };
        let (mut ends, mut breaks_off) = (half("").await, half("and more").await);
        let mut stream = world.inside(pod).await;
        // There is nobody left to answer.
        ask_on(&mut stream, "", "/crash").await.unwrap_err();
        let ended = in_time(ends.read(&mut [0; 16])).await;
        assert_eq!(ended.map_err(|error| error.kind()), Ok(0), "{}", edge.reachability());
        let broken = in_time(breaks_off.read(&mut [0; 16])).await;
        let reset = Err(io::ErrorKind::ConnectionReset);
        assert_eq!(broken.map_err(|error| error.kind()), reset, "{}", edge.reachability());
        edge.stop().await;
    }
}
