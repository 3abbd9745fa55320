//! Services and slices as YAML, and the listeners and endpoints that follow.

use super::*;
use crate::{
    external::node_ports::{NodeEndpoint, NodePorts},
    services::endpoints::serving_ports,
};
use kube_embedded_core::network::{Addresses, Sandbox};
use serde::de::DeserializeOwned;
use std::{net::Ipv4Addr, sync::Arc};

fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap()
}

fn topology(cluster_ips_on_host: bool) -> Topology {
    let nodes = [("node-1", 11), ("node-2", 12)];
    let nodes = nodes.map(|(name, n)| (name.to_owned(), Ipv4Addr::new(127, 9, 0, n)));
    Topology::Embedded(EmbeddedNodes {
        nodes: nodes.into(),
        addresses: Addresses {
            block: 9,
            sandbox: if cluster_ips_on_host { Sandbox::Plain } else { Sandbox::Namespaced },
        },
        load_balancers: true,
    })
}

fn service(spec: &str) -> Service {
    yaml(&format!("{{metadata: {{name: app, namespace: default, uid: u}}, spec: {spec}}}"))
}

/// A slice with one port, 8080, and endpoints `10.244.0.N` on `node-1` or `node-2` (odd or even N).
fn slice(endpoints: &[(u8, &str)]) -> EndpointSlice {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|(n, conditions)| {
            let node = 2 - n % 2;
            format!(
                "{{addresses: ['10.244.0.{n}'], nodeName: node-{node}, conditions: {conditions}}}"
            )
        })
        .collect();
    yaml(&format!(
        "{{addressType: IPv4, metadata: {{}}, ports: [{{port: 8080, protocol: TCP, name: ''}}],
           endpoints: [{}]}}",
        endpoints.join(",")
    ))
}

const READY: &str = "{ready: true, serving: true, terminating: false}";
const STARTING: &str = "{ready: false, serving: false, terminating: false}";
const TERMINATING: &str = "{ready: false, serving: true, terminating: true}";
const TERMINATED: &str = "{ready: false, serving: false, terminating: true}";

fn backends(list: &[u8]) -> Backends {
    Backends::uniform(list.iter().map(|n| SocketAddr::from(([10, 244, 0, *n], 8080))))
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn route(port: &str, scope: Scope) -> RouteKey {
    RouteKey { port: port.into(), scope }
}

#[test]
fn ready_endpoints_are_used_or_else_terminating_ones_that_serve() {
    let cases: [(&[(u8, &str)], &[u8]); 7] = [
        (&[], &[]),
        (&[(1, READY), (2, READY)], &[1, 2]),
        (&[(1, READY), (2, STARTING)], &[1]),
        (&[(1, READY), (2, TERMINATING)], &[1]),
        (&[(1, STARTING), (2, TERMINATING), (3, TERMINATED)], &[2]),
        (&[(1, TERMINATED), (2, STARTING)], &[]),
        (&[(1, "{}")], &[1]),
    ];
    for (endpoints, expected) in cases {
        let service = service("{clusterIP: 10.96.0.5, ports: [{port: 80}]}");
        let planned = plan(&service, [&slice(endpoints)], &topology(false));
        let key = route("", Scope::Cluster);
        assert_eq!(planned.routes[&key].backends, backends(expected), "{endpoints:?}");
    }
}

#[test]
fn endpoint_in_two_slices_counts_once() {
    let service = service("{clusterIP: 10.96.0.5, ports: [{port: 80}]}");
    let slices = [slice(&[(1, STARTING), (2, READY)]), slice(&[(1, READY), (2, TERMINATING)])];
    let planned = plan(&service, &slices, &topology(false));
    assert_eq!(planned.routes[&route("", Scope::Cluster)].backends, backends(&[1, 2]));
}

#[test]
fn endpoint_outside_the_cluster_is_left_out_and_reported() {
    let listed = |addresses: &[&str]| -> EndpointSlice {
        let endpoints = addresses.iter().map(|a| format!("{{addresses: ['{a}']}}"));
        yaml(&format!(
            "{{addressType: IPv4, metadata: {{}}, ports: [{{port: 6443, name: ''}}], endpoints: [{}]}}",
            endpoints.collect::<Vec<_>>().join(",")
        ))
    };
    let hostile = [
        "127.0.0.1",
        "0.0.0.0",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "192.168.1.1",
        "127.9.0.11",
        "127.9.1.1",
        "127.8.0.1",
    ];
    let service = service("{clusterIP: 10.96.0.5, ports: [{port: 80}]}");
    for (on_host, pod, foreign) in
        [(false, "10.244.2.7", "127.9.130.7"), (true, "127.9.130.7", "10.244.2.7")]
    {
        // The API server is what the `kubernetes` Service has as its endpoint.
        let slice = listed(&[&hostile[..], &[pod, foreign, "127.9.0.1"]].concat());
        let planned = plan(&service, [&slice], &topology(on_host));
        let inside = [pod, "127.9.0.1"].map(|ip| at(&format!("{ip}:6443")));
        let key = route("", Scope::Cluster);
        assert_eq!(planned.routes[&key].backends.len(), 2);
        assert!(inside.iter().all(|at| planned.routes[&key].backends.contains(*at)));
        assert_eq!(planned.outside.len(), hostile.len() + 1);
        let spec = service.spec.as_ref().unwrap();
        let port = &spec.ports.as_ref().unwrap()[0];
        let routing = port_routing(spec, port, [&slice], &topology(on_host));
        assert_eq!(routing.backends.len(), 2, "an Ingress connects to no more");
    }
}

#[test]
fn load_balancer_has_node_ports_and_cluster_ip_as_well() {
    let spec = "{type: LoadBalancer, clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5],
                 ports: [{port: 80, nodePort: 30080, protocol: TCP}]}";
    let everywhere = route("", Scope::Cluster);
    let planned = plan(&service(spec), [], &topology(false));
    let host: Vec<SocketAddr> = planned.host.keys().copied().collect();
    assert_eq!(host, [at("127.9.0.11:30080"), at("127.9.0.12:30080")]);
    assert_eq!(planned.pods[&at("10.96.0.5:80")], FromPods::Anywhere(everywhere.clone()));
    assert_eq!(planned.load_balancer, [LbPort { port: 80, route: everywhere }]);

    let on_host = plan(&service(spec), [], &topology(true));
    assert!(on_host.host.contains_key(&at("10.96.0.5:80")));
    assert!(on_host.pods.is_empty());
}

#[test]
fn service_without_addresses_has_an_empty_plan() {
    let cases = [
        "{type: ExternalName, externalName: example.com, ports: [{port: 80}]}",
        "{clusterIP: None, ports: [{port: 80}]}",
        "{clusterIP: '', ports: [{port: 80}]}",
        "{clusterIP: 10.96.0.5}",
        "{clusterIP: 10.96.0.5, ports: [{port: 0}]}",
        "{clusterIP: 10.96.0.5, ports: [{port: 70000}]}",
    ];
    for spec in cases {
        let planned = plan(&service(spec), [], &topology(true));
        assert_eq!(planned, ServicePlan::default(), "{spec}");
    }
}

#[test]
fn load_balancer_of_another_class_has_only_node_ports() {
    let spec = "{type: LoadBalancer, loadBalancerClass: other.dev/lb, clusterIP: 10.96.0.5,
                 ports: [{port: 80, nodePort: 30080}]}";
    let planned = plan(&service(spec), [], &topology(false));
    assert!(planned.load_balancer.is_empty());
    assert_eq!(planned.host.len(), 2);
}

#[test]
fn udp_ports_are_apart_from_tcp_ports_and_sctp_is_unsupported() {
    let spec = "{clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP},
                 {name: dns-tcp, port: 53, protocol: TCP}, {port: 9, protocol: SCTP}]}";
    let slice: EndpointSlice = yaml(
        "{addressType: IPv4, metadata: {}, endpoints: [{addresses: ['10.244.0.1']}],
          ports: [{name: dns, port: 8080, protocol: UDP}, {name: dns, port: 1}]}",
    );
    let planned = plan(&service(spec), [&slice], &topology(false));
    assert_eq!(planned.unsupported, ["9/SCTP"]);
    let (tcp, udp) = (route("dns-tcp", Scope::Cluster), route("dns", Scope::Cluster));
    let service = at("10.96.0.10:53");
    assert_eq!(planned.pods, [(service, FromPods::Anywhere(tcp))].into());
    assert_eq!(planned.udp_pods, [(service, FromPods::Anywhere(udp.clone()))].into());
    assert_eq!(planned.routes[&udp].backends, backends(&[1]));
}

#[test]
fn port_selects_endpoints_by_name() {
    let spec = "{clusterIP: 10.96.0.5, ports: [{name: web, port: 80}, {name: admin, port: 81}]}";
    let named: EndpointSlice = yaml(
        "{addressType: IPv4, metadata: {}, endpoints: [{addresses: ['10.244.0.1']}],
          ports: [{name: web, port: 8080}, {name: admin, port: 9090}, {name: web, protocol: UDP, port: 1}]}",
    );
    let planned = plan(&service(spec), [&named], &topology(false));
    assert_eq!(planned.routes[&route("web", Scope::Cluster)].backends, backends(&[1]));
    let admin = Backends::uniform([at("10.244.0.1:9090")]);
    assert_eq!(planned.routes[&route("admin", Scope::Cluster)].backends, admin);
    assert_eq!(
        planned.pods[&at("10.96.0.5:81")],
        FromPods::Anywhere(route("admin", Scope::Cluster))
    );
}

#[test]
fn external_policy_local_selects_endpoints_of_the_node() {
    let spec = "{type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 10.96.0.5,
                 ports: [{port: 80, nodePort: 30080}]}";
    let endpoints = slice(&[(1, READY), (2, TERMINATING), (3, READY)]);
    let planned = plan(&service(spec), [&endpoints], &topology(false));
    let node = |n: &str| route("", Scope::Node(n.into()));
    assert_eq!(planned.host[&at("127.9.0.11:30080")], node("node-1"));
    assert_eq!(planned.routes[&node("node-1")].backends, backends(&[1, 3]));
    assert_eq!(planned.routes[&node("node-2")].backends, backends(&[2]));
    let by_nodes = route("", Scope::Nodes);
    assert_eq!(planned.load_balancer[0].route, by_nodes);
    let address = |n| SocketAddr::from(([10, 244, 0, n], 8080));
    let by_node = Backends::grouped([vec![address(1), address(3)], vec![address(2)]]);
    assert_eq!(planned.routes[&by_nodes].backends, by_node);
    // Pods are not affected.
    let inside = route("", Scope::Cluster);
    assert_eq!(planned.pods[&at("10.96.0.5:80")], FromPods::Anywhere(inside.clone()));
    assert_eq!(planned.routes[&inside].backends, backends(&[1, 3]));
}

#[test]
fn internal_policy_local_selects_endpoints_of_the_pods_node() {
    let spec = "{internalTrafficPolicy: Local, clusterIP: 10.96.0.5, ports: [{port: 80}]}";
    let endpoints = slice(&[(1, READY)]);
    let planned = plan(&service(spec), [&endpoints], &topology(false));
    assert_eq!(planned.pods[&at("10.96.0.5:80")], FromPods::SameNode { port: String::new() });
    let of = |n: &str| planned.routes[&route("", Scope::Node(n.into()))].backends.clone();
    assert_eq!(of("node-1"), backends(&[1]));
    assert_eq!(of("node-2"), backends(&[]));
}

#[test]
fn session_affinity_has_the_default_timeout_of_kubernetes() {
    let cases = [
        ("{ports: [{port: 80}]}", None),
        ("{sessionAffinity: None, ports: [{port: 80}]}", None),
        ("{sessionAffinity: ClientIP, ports: [{port: 80}]}", Some(10_800)),
        (
            "{sessionAffinity: ClientIP, ports: [{port: 80}],
              sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}}",
            Some(5),
        ),
    ];
    for (spec, seconds) in cases {
        let spec = spec.replacen('{', "{clusterIP: 10.96.0.5, ", 1);
        let planned = plan(&service(&spec), [], &topology(true));
        let routing = &planned.routes[&route("", Scope::Cluster)];
        assert_eq!(routing.affinity, seconds.map(Duration::from_secs), "{spec}");
    }
}

#[test]
fn listener_with_the_same_route_is_not_touched() {
    let (a, b) = (route("a", Scope::Cluster), route("b", Scope::Cluster));
    let listeners = |list: &[(&str, &RouteKey)]| -> BTreeMap<SocketAddr, RouteKey> {
        list.iter().map(|(address, key)| (at(address), (*key).clone())).collect()
    };
    let bound = listeners(&[("127.0.0.1:1", &a), ("127.0.0.1:2", &a), ("127.0.0.1:3", &a)]);
    let plan = listeners(&[("127.0.0.1:1", &a), ("127.0.0.1:2", &b), ("127.0.0.1:4", &a)]);
    let expected = [
        Action::Close(at("127.0.0.1:2")),
        Action::Close(at("127.0.0.1:3")),
        Action::Open(at("127.0.0.1:2"), b),
        Action::Open(at("127.0.0.1:4"), a),
    ];
    assert_eq!(changes(&plan, &bound), expected);
    assert_eq!(changes(&bound, &bound), []);
}

#[test]
fn serving_ports_are_those_of_the_slice() {
    let serving: Vec<SocketAddr> = serving_ports(&slice(&[(1, READY), (2, STARTING)])).collect();
    assert_eq!(serving, [at("10.244.0.1:8080"), at("10.244.0.2:8080")]);
}

/// Nodes `node-1` and `node-2` of an external cluster, at 172.18.0.1 and 172.18.0.2.
fn external(nodes: &[u8], ports: NodePorts) -> Topology {
    let node = |n: &u8| NodeEndpoint {
        node: format!("node-{n}"),
        address: IpAddr::from([172, 18, 0, *n]),
        ports: ports.clone(),
    };
    Topology::External(Arc::new(nodes.iter().map(node).collect()))
}

fn node_port(node: u8) -> SocketAddr {
    SocketAddr::from(([172, 18, 0, node], 30080))
}

/// Tried in order: each reaches all pods.
fn any(nodes: &[u8]) -> Backends {
    Backends::grouped(nodes.iter().map(|node| vec![node_port(*node)]))
}

/// Chosen at random: each reaches its own pods.
fn each(nodes: &[u8]) -> Backends {
    Backends::uniform(nodes.iter().map(|node| node_port(*node)))
}

#[test]
fn external_cluster_is_entered_through_node_ports_if_they_suffice() {
    let all = || external(&[1, 2], NodePorts::All);
    let published = |port| external(&[1], NodePorts::Published([port].into()));
    let port = "ports: [{port: 80, nodePort: 30080, targetPort: 8080}]";
    let balancer = |more: &str| service(&format!("{{type: LoadBalancer, {more} {port}}}"));
    let local = "externalTrafficPolicy: Local,";
    let sticky = "sessionAffinity: ClientIP,";
    // Endpoint N is on node 2 - N % 2.
    let three = [(1, READY), (2, READY), (3, READY)];
    let cases: [(&str, Topology, &str, &[(u8, &str)], Backends, bool); 12] = [
        ("any node", all(), "", &three, any(&[1, 2]), true),
        ("none is ready", all(), "", &[(1, STARTING)], Backends::default(), true),
        ("the last serves on", all(), "", &[(1, TERMINATING)], any(&[1, 2]), true),
        (
            "no node is known",
            external(&[], NodePorts::All),
            "",
            &three,
            backends(&[1, 2, 3]),
            false,
        ),
        ("published", published(30080), "", &three, each(&[1]), true),
        ("another is published", published(30081), "", &three, backends(&[1, 2, 3]), false),
        ("own pods of each", all(), local, &three, each(&[1, 2]), true),
        ("one has pods", all(), local, &[(1, READY), (2, STARTING)], each(&[1]), true),
        ("none of it", all(), local, &[(1, TERMINATED)], Backends::default(), true),
        (
            "a node with pods is not published",
            published(30080),
            local,
            &three,
            Backends::grouped([1, 2].map(|node| {
                let here = [1_u8, 2, 3].into_iter().filter(|n| 2 - n % 2 == node);
                here.map(|n| SocketAddr::from(([10, 244, 0, n], 8080))).collect()
            })),
            false,
        ),
        (
            "the published node has all pods",
            published(30080),
            local,
            &[(1, READY)],
            each(&[1]),
            true,
        ),
        (
            "session affinity needs client addresses",
            all(),
            sticky,
            &three,
            backends(&[1, 2, 3]),
            false,
        ),
    ];
    for (what, topology, more, endpoints, backends, via_node_port) in cases {
        let slices = [slice(endpoints)];
        let planned = plan(&balancer(more), &slices, &topology);
        assert!(
            planned.host.is_empty() && planned.pods.is_empty(),
            "{what}: kube-proxy serves those"
        );
        let [lb_port] = &*planned.load_balancer else { panic!("{what}: {planned:?}") };
        let routing = &planned.routes[&lb_port.route];
        assert_eq!(
            (&routing.backends, routing.via_node_port),
            (&backends, via_node_port),
            "{what}"
        );
    }
}

#[test]
fn ingress_is_weighted_by_pods_on_any_node() {
    let port = "ports: [{port: 80, nodePort: 30080, targetPort: 8080}]";
    let spec = |text: &str| service(text).spec.unwrap();
    let ask = |spec: &ServiceSpec| {
        let slices = [slice(&[(1, READY), (2, READY), (3, READY)])];
        let port = spec.ports.as_ref().unwrap().first().unwrap();
        port_routing(spec, port, &slices, &external(&[1, 2], NodePorts::All))
    };
    let local = ask(&spec(&format!("{{type: NodePort, externalTrafficPolicy: Local, {port}}}")));
    assert_eq!(local.backends, each(&[1, 1, 2]), "two of three pods are on node 1");
    let anywhere = ask(&spec(&format!("{{type: NodePort, {port}}}")));
    assert_eq!((anywhere.backends, anywhere.via_node_port), (any(&[1, 2]), true));
    // A node port without the type is left over from an earlier type.
    let inside = ask(&spec(&format!("{{type: ClusterIP, {port}}}")));
    assert_eq!((inside.backends, inside.via_node_port), (backends(&[1, 2, 3]), false));
}

#[test]
fn embedded_cluster_without_load_balancers_publishes_nothing() {
    let addresses = Addresses { block: 9, sandbox: Sandbox::Namespaced };
    let embedded = EmbeddedNodes { nodes: Vec::new(), addresses, load_balancers: false };
    let service = service("{type: LoadBalancer, ports: [{port: 80, nodePort: 30080}]}");
    assert_eq!(plan(&service, [], &Topology::Embedded(embedded)).load_balancer, []);
}
