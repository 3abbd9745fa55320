//! The network between pods: who reaches whom, at which address, and as whom.

use crate::{
    exec::exec,
    fixture::{
        eventually,
        pods::{cluster, node_address, run, sandboxes, tool},
        post,
    },
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};
use kube_embedded::{Cluster, Sandbox};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

/// Starts a cluster whose pods have a network between them, where this machine allows that.
async fn linked() -> Option<Cluster> {
    if !sandboxes().await.contains(&Sandbox::Namespaced) {
        return None;
    }
    let (_, reason) = kube_embedded_kubelet::detect();
    if reason.contains("not the addresses of each other") {
        test_support::missing("pod-network", &reason);
        return None;
    }
    Some(cluster(Some(Sandbox::Namespaced)).await)
}

/// The output of the tool in a container.
async fn output(cluster: &Cluster, pod: &str, args: &[&str]) -> String {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let command: Vec<&str> = ["/tool"].iter().chain(args).copied().collect();
    let (out, err, _) = exec(&pods, pod, &command).await;
    (out + &err).trim().to_owned()
}

/// Waits until the tool prints this.
async fn prints(cluster: &Cluster, pod: &str, args: &[&str], expected: &str) {
    eventually(&format!("{args:?} prints {expected}"), async || {
        let found = output(cluster, pod, args).await;
        if found == expected { Ok(()) } else { Err(found) }
    })
    .await;
}

async fn service(cluster: &Cluster, name: &str, spec: Value) -> Value {
    let service = json!({ "metadata": { "name": name }, "spec": spec });
    let response = post(cluster, "/api/v1/namespaces/default/services", &service).await;
    assert_eq!(response.code, 201, "{}", response.text);
    response.json()
}

fn ip(pod: &Pod) -> String {
    pod.status.as_ref().unwrap().pod_ip.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_and_themselves_on_any_port() {
    let Some(cluster) = linked().await else { return };
    let server = ip(&run(&cluster, "server", tool(&["tell", "0.0.0.0:7777"])).await);
    let client = ip(&run(&cluster, "client", tool(&["wait"])).await);
    let at = format!("{server}:7777");
    prints(&cluster, "client", &["reach", &at], &client).await;
    prints(&cluster, "server", &["reach", &at], &server).await;
    prints(&cluster, "server", &["reach", "127.0.0.1:7777"], "127.0.0.1").await;
    // Told at once, wherever nobody listens.
    for (nobody, told) in [
        (format!("{server}:1"), "connection refused"),
        ("10.96.0.1:1".to_owned(), "connection refused"),
        ("10.96.77.77:80".to_owned(), "connection refused"),
        ("10.244.200.9:80".to_owned(), "host unreachable"),
        ("192.0.2.1:80".to_owned(), "network unreachable"),
    ] {
        assert_eq!(output(&cluster, "client", &["reach", &nobody]).await, told, "{nobody}");
    }
    // The cluster comes from the first address of the node, and not from the pod itself.
    let at = SocketAddr::new(server.parse().unwrap(), 7777);
    let mut text = String::new();
    cluster.connect(at).await.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "10.244.0.1");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_host_is_in_reach_of_a_pod() {
    let Some(cluster) = linked().await else { return };
    run(&cluster, "client", tool(&["wait"])).await;
    let host = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = host.local_addr().unwrap().port();
    let node = node_address(&cluster).await;
    let IpAddr::V4(node) = node else { panic!("{node}") };
    let [_, block, ..] = node.octets();
    for address in ["127.0.0.1".to_owned(), node.to_string(), format!("127.{block}.0.1")] {
        TcpStream::connect(format!("{address}:{port}")).await.expect("the host reaches itself");
        let found = output(&cluster, "client", &["reach", &format!("{address}:{port}")]).await;
        assert_eq!(found, "connection refused", "{address}");
    }
    let api = format!("127.{block}.0.1:6443");
    assert_eq!(output(&cluster, "client", &["reach", &api]).await, "connection refused");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_listens_on_ports_that_services_have() {
    let Some(cluster) = linked().await else { return };
    let backend = run(&cluster, "backend", tool(&["tell", "0.0.0.0:9000"])).await;
    let selector = json!({ "app": "backend" });
    let ports = json!([{ "port": 8080, "targetPort": 9000 }]);
    let created = service(&cluster, "web", json!({ "selector": selector, "ports": ports })).await;
    let web = format!("{}:8080", created["spec"]["clusterIP"].as_str().unwrap());
    run(&cluster, "client", tool(&["wait"])).await;
    let router = "10.244.0.1";
    prints(&cluster, "client", &["reach", &web], router).await;
    // Those of the Services web, kubernetes and kube-dns, none of them declared.
    for port in ["8080", "443", "53"] {
        let name = format!("own-{port}");
        let address = format!("0.0.0.0:{port}");
        let own = ip(&run(&cluster, &name, tool(&["tell", &address])).await);
        prints(&cluster, &name, &["reach", &format!("{own}:{port}")], &own).await;
        prints(&cluster, &name, &["reach", &web], router).await;
        prints(&cluster, &name, &["resolve", "web"], web.trim_end_matches(":8080")).await;
        let pod = Api::<Pod>::default_namespaced(cluster.client()).get(&name).await.unwrap();
        let statuses = pod.status.unwrap().container_statuses.unwrap();
        assert_eq!(statuses[0].restart_count, 0, "{name}");
    }
    // A pod reaches itself through a Service.
    prints(&cluster, "backend", &["reach", &web], router).await;
    assert!(ip(&backend).starts_with("10.244.0."));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_node_ports_and_load_balancers() {
    let Some(cluster) = linked().await else { return };
    run(&cluster, "backend", tool(&["tell", "0.0.0.0:9000"])).await;
    run(&cluster, "client", tool(&["wait"])).await;
    let spec = json!({
        "type": "LoadBalancer", "selector": { "app": "backend" },
        "ports": [{ "port": 80, "targetPort": 9000 }],
    });
    let created = service(&cluster, "web", spec).await;
    let node_port = created["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    let node = node_address(&cluster).await;
    let at = format!("{node}:{node_port}");
    prints(&cluster, "client", &["reach", &at], "10.244.0.1").await;
    let IpAddr::V4(node) = node else { panic!("{node}") };
    let balancer = format!("127.{}.1.1:80", node.octets()[1]);
    prints(&cluster, "client", &["reach", &balancer], "10.244.0.1").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_reach_services_of_both_protocols() {
    let Some(cluster) = linked().await else { return };
    let mut both = tool(&["echo", "0.0.0.0:5000"]);
    let name = json!({ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } });
    both["containers"][0]["env"] = json!([name]);
    let mut tcp = both["containers"][0].clone();
    tcp["name"] = "tcp".into();
    tcp["args"] = json!(["tell", "0.0.0.0:5000"]);
    both["containers"].as_array_mut().unwrap().push(tcp);
    let server = ip(&run(&cluster, "server", both).await);
    run(&cluster, "client", tool(&["wait"])).await;
    let spec = json!({
        "type": "NodePort", "selector": { "app": "server" },
        "ports": [
            { "name": "udp", "port": 80, "targetPort": 5000, "protocol": "UDP" },
            { "name": "tcp", "port": 80, "targetPort": 5000 },
        ],
    });
    let created = service(&cluster, "both", spec).await;
    prints(&cluster, "client", &["ask", &format!("{server}:5000"), "hello"], "server hello").await;
    prints(&cluster, "client", &["ask", "both:80", "hello"], "server hello").await;
    prints(&cluster, "client", &["reach", "both:80"], "10.244.0.1").await;

    let node = node_address(&cluster).await;
    let node_port = created["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    let at = format!("{node}:{node_port}");
    prints(&cluster, "client", &["ask", &at, "again"], "server again").await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(&at).await.unwrap();
    let answer = eventually("an answer to the host", async || {
        socket.send(b"from outside").await.ok()?;
        let mut datagram = [0; 100];
        let wait = std::time::Duration::from_millis(500);
        let length = timeout(wait, socket.recv(&mut datagram)).await.ok()?.ok()?;
        Some(String::from_utf8_lossy(&datagram[..length]).into_owned())
    })
    .await;
    assert_eq!(answer, "server from outside");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_cannot_send_from_the_address_of_another() {
    let Some(cluster) = linked().await else { return };
    let server = ip(&run(&cluster, "server", tool(&["hear", "0.0.0.0:5000"])).await);
    let client = ip(&run(&cluster, "client", tool(&["wait"])).await);
    let other = ip(&run(&cluster, "other", tool(&["wait"])).await);
    let at = format!("{server}:5000");
    for from in [&other, "10.96.0.1", "10.244.0.1", "127.0.0.1", &client] {
        assert_eq!(output(&cluster, "client", &["forge", from, &at]).await, "sent");
    }
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let heard = eventually("the honest datagram, which comes last", async || {
        let log = pods.logs("server", &LogParams::default()).await.unwrap();
        log.contains(&client).then_some(log)
    })
    .await;
    assert_eq!(heard, format!("listening\nfrom {client}\n"));
    cluster.stop().await;
}
