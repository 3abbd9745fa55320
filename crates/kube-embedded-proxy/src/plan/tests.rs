//! Services and slices as YAML, and the listeners and endpoints that follow.

use super::*;
use crate::entrance::{Entrance, Ports};
use serde::de::DeserializeOwned;

fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap()
}

fn place(cluster_addresses_on_host: bool) -> Place {
    let nodes = [("node-1", 11), ("node-2", 12)];
    let nodes = nodes.map(|(name, n)| (name.to_owned(), Ipv4Addr::new(127, 9, 0, n)));
    Place::Own(Own { nodes: nodes.into(), cluster_addresses_on_host, balancers: true })
}

fn service(spec: &str) -> Service {
    yaml(&format!("{{metadata: {{name: app, namespace: default, uid: u}}, spec: {spec}}}"))
}

/// A slice with one port, 8080, and endpoints `10.0.0.N` on `node-1` or `node-2` (odd or even N).
fn slice(endpoints: &[(u8, &str)]) -> EndpointSlice {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|(n, conditions)| {
            let node = 2 - n % 2;
            format!(
                "{{addresses: ['10.0.0.{n}'], nodeName: node-{node}, conditions: {conditions}}}"
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
const LEAVING: &str = "{ready: false, serving: true, terminating: true}";
const LEFT: &str = "{ready: false, serving: false, terminating: true}";

fn backends(list: &[u8]) -> Backends {
    Backends::alike(list.iter().map(|n| SocketAddr::from(([10, 0, 0, *n], 8080))))
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn route(port: &str, scope: Scope) -> RouteKey {
    RouteKey { port: port.into(), scope }
}

#[test]
fn only_ready_endpoints_are_used_or_else_those_that_still_serve() {
    let cases: [(&[(u8, &str)], &[u8]); 7] = [
        (&[], &[]),
        (&[(1, READY), (2, READY)], &[1, 2]),
        (&[(1, READY), (2, STARTING)], &[1]),
        (&[(1, READY), (2, LEAVING)], &[1]),
        (&[(1, STARTING), (2, LEAVING), (3, LEFT)], &[2]),
        (&[(1, LEFT), (2, STARTING)], &[]),
        (&[(1, "{}")], &[1]),
    ];
    for (endpoints, expected) in cases {
        let service = service("{clusterIP: 10.96.0.5, ports: [{port: 80}]}");
        let wanted = plan(&service, [&slice(endpoints)], &place(true));
        let key = route("", Scope::Cluster);
        assert_eq!(wanted.routes[&key].backends, backends(expected), "{endpoints:?}");
    }
}

#[test]
fn an_endpoint_in_two_slices_counts_once() {
    let service = service("{clusterIP: 10.96.0.5, ports: [{port: 80}]}");
    let slices = [slice(&[(1, STARTING), (2, READY)]), slice(&[(1, READY), (2, LEAVING)])];
    let wanted = plan(&service, &slices, &place(true));
    assert_eq!(wanted.routes[&route("", Scope::Cluster)].backends, backends(&[1, 2]));
}

#[test]
fn a_load_balancer_has_every_way_in() {
    let spec = "{type: LoadBalancer, clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5],
                 ports: [{port: 80, nodePort: 30080, protocol: TCP}]}";
    let everywhere = route("", Scope::Cluster);
    let wanted = plan(&service(spec), [], &place(false));
    let host: Vec<SocketAddr> = wanted.host.keys().copied().collect();
    assert_eq!(host, [at("127.9.0.11:30080"), at("127.9.0.12:30080")]);
    assert_eq!(wanted.pods[&at("10.96.0.5:80")], FromPods::Anywhere(everywhere.clone()));
    assert_eq!(wanted.balanced, [Balanced { port: 80, route: everywhere }]);

    let on_host = plan(&service(spec), [], &place(true));
    assert!(on_host.host.contains_key(&at("10.96.0.5:80")));
    assert!(on_host.pods.is_empty());
}

#[test]
fn what_has_no_way_in_gets_none() {
    let cases = [
        "{type: ExternalName, externalName: example.com, ports: [{port: 80}]}",
        "{clusterIP: None, ports: [{port: 80}]}",
        "{clusterIP: '', ports: [{port: 80}]}",
        "{clusterIP: 10.96.0.5}",
        "{clusterIP: 10.96.0.5, ports: [{port: 0}]}",
        "{clusterIP: 10.96.0.5, ports: [{port: 70000}]}",
    ];
    for spec in cases {
        let wanted = plan(&service(spec), [], &place(true));
        assert_eq!(wanted, Wanted::default(), "{spec}");
    }
}

#[test]
fn somebody_elses_load_balancer_keeps_its_node_ports() {
    let spec = "{type: LoadBalancer, loadBalancerClass: other.dev/lb, clusterIP: 10.96.0.5,
                 ports: [{port: 80, nodePort: 30080}]}";
    let wanted = plan(&service(spec), [], &place(false));
    assert!(wanted.balanced.is_empty());
    assert_eq!(wanted.host.len(), 2);
}

#[test]
fn ports_that_are_not_tcp_are_named() {
    let spec = "{clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP},
                 {name: dns-tcp, port: 53, protocol: TCP}, {port: 9, protocol: SCTP}]}";
    let wanted = plan(&service(spec), [], &place(true));
    assert_eq!(wanted.unsupported, ["dns/UDP", "9/SCTP"]);
    assert_eq!(wanted.host.len(), 1);
}

#[test]
fn ports_find_their_endpoints_by_name() {
    let spec = "{clusterIP: 10.96.0.5, ports: [{name: web, port: 80}, {name: admin, port: 81}]}";
    let named: EndpointSlice = yaml(
        "{addressType: IPv4, metadata: {}, endpoints: [{addresses: ['10.0.0.1']}],
          ports: [{name: web, port: 8080}, {name: admin, port: 9090}, {name: web, protocol: UDP, port: 1}]}",
    );
    let wanted = plan(&service(spec), [&named], &place(true));
    assert_eq!(wanted.routes[&route("web", Scope::Cluster)].backends, backends(&[1]));
    let admin = Backends::alike([at("10.0.0.1:9090")]);
    assert_eq!(wanted.routes[&route("admin", Scope::Cluster)].backends, admin);
    assert_eq!(wanted.host[&at("10.96.0.5:81")], route("admin", Scope::Cluster));
}

#[test]
fn the_external_policy_local_keeps_to_the_node() {
    let spec = "{type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 10.96.0.5,
                 ports: [{port: 80, nodePort: 30080}]}";
    let endpoints = slice(&[(1, READY), (2, LEAVING), (3, READY)]);
    let wanted = plan(&service(spec), [&endpoints], &place(false));
    let node = |n: &str| route("", Scope::Node(n.into()));
    assert_eq!(wanted.host[&at("127.9.0.11:30080")], node("node-1"));
    assert_eq!(wanted.routes[&node("node-1")].backends, backends(&[1, 3]));
    assert_eq!(wanted.routes[&node("node-2")].backends, backends(&[2]));
    let from_outside = route("", Scope::Nodes);
    assert_eq!(wanted.balanced[0].route, from_outside);
    let address = |n| SocketAddr::from(([10, 0, 0, n], 8080));
    let by_node = Backends::grouped([vec![address(1), address(3)], vec![address(2)]]);
    assert_eq!(wanted.routes[&from_outside].backends, by_node);
    // Pods inside of the cluster are not concerned.
    let inside = route("", Scope::Cluster);
    assert_eq!(wanted.pods[&at("10.96.0.5:80")], FromPods::Anywhere(inside.clone()));
    assert_eq!(wanted.routes[&inside].backends, backends(&[1, 3]));
}

#[test]
fn the_internal_policy_local_keeps_pods_to_their_node() {
    let spec = "{internalTrafficPolicy: Local, clusterIP: 10.96.0.5, ports: [{port: 80}]}";
    let endpoints = slice(&[(1, READY)]);
    let wanted = plan(&service(spec), [&endpoints], &place(false));
    assert_eq!(wanted.pods[&at("10.96.0.5:80")], FromPods::SameNode { port: String::new() });
    let of = |n: &str| wanted.routes[&route("", Scope::Node(n.into()))].backends.clone();
    assert_eq!(of("node-1"), backends(&[1]));
    assert_eq!(of("node-2"), backends(&[]));
}

#[test]
fn affinity_has_kubernetes_default_timeout() {
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
        let wanted = plan(&service(&spec), [], &place(true));
        let routing = &wanted.routes[&route("", Scope::Cluster)];
        assert_eq!(routing.affinity, seconds.map(Duration::from_secs), "{spec}");
    }
}

#[test]
fn only_what_differs_is_closed_and_opened() {
    let (a, b) = (route("a", Scope::Cluster), route("b", Scope::Cluster));
    let doors = |list: &[(&str, &RouteKey)]| -> BTreeMap<SocketAddr, RouteKey> {
        list.iter().map(|(address, key)| (at(address), (*key).clone())).collect()
    };
    let bound = doors(&[("127.0.0.1:1", &a), ("127.0.0.1:2", &a), ("127.0.0.1:3", &a)]);
    let wanted = doors(&[("127.0.0.1:1", &a), ("127.0.0.1:2", &b), ("127.0.0.1:4", &a)]);
    let expected = [
        Action::Close(at("127.0.0.1:2")),
        Action::Close(at("127.0.0.1:3")),
        Action::Open(at("127.0.0.1:2"), b),
        Action::Open(at("127.0.0.1:4"), a),
    ];
    assert_eq!(changes(&wanted, &bound), expected);
    assert_eq!(changes(&bound, &bound), []);
}

#[test]
fn pods_are_known_by_the_ports_they_serve() {
    let serving: Vec<SocketAddr> = serving_ports(&slice(&[(1, READY), (2, STARTING)])).collect();
    assert_eq!(serving, [at("10.0.0.1:8080"), at("10.0.0.2:8080")]);
}

/// Nodes `node-1` and `node-2` of somebody else's cluster at 172.18.0.1 and 172.18.0.2.
fn outside(nodes: &[u8], ports: Ports) -> Place {
    let entrance = |n: &u8| Entrance {
        node: format!("node-{n}"),
        address: IpAddr::from([172, 18, 0, *n]),
        ports: ports.clone(),
    };
    Place::Outside(Arc::new(nodes.iter().map(entrance).collect()))
}

fn node_port(node: u8) -> SocketAddr {
    SocketAddr::from(([172, 18, 0, node], 30080))
}

/// One after the other, as any of them leads to all pods.
fn any(nodes: &[u8]) -> Backends {
    Backends::grouped(nodes.iter().map(|node| vec![node_port(*node)]))
}

/// Each for its own pods.
fn each(nodes: &[u8]) -> Backends {
    Backends::alike(nodes.iter().map(|node| node_port(*node)))
}

#[test]
fn an_outside_cluster_is_entered_by_node_ports_where_these_do_what_is_asked_for() {
    let all = || outside(&[1, 2], Ports::All);
    let published = |port| outside(&[1], Ports::Published([port].into()));
    let port = "ports: [{port: 80, nodePort: 30080, targetPort: 8080}]";
    let balancer = |more: &str| service(&format!("{{type: LoadBalancer, {more} {port}}}"));
    let local = "externalTrafficPolicy: Local,";
    let sticky = "sessionAffinity: ClientIP,";
    // Endpoint N is on node 2 - N % 2.
    let three = [(1, READY), (2, READY), (3, READY)];
    let cases: [(&str, Place, &str, &[(u8, &str)], Backends, bool); 12] = [
        ("any node", all(), "", &three, any(&[1, 2]), true),
        ("none is ready", all(), "", &[(1, STARTING)], Backends::default(), true),
        ("the last serves on", all(), "", &[(1, LEAVING)], any(&[1, 2]), true),
        ("no node is known", outside(&[], Ports::All), "", &three, backends(&[1, 2, 3]), false),
        ("published", published(30080), "", &three, each(&[1]), true),
        ("another is published", published(30081), "", &three, backends(&[1, 2, 3]), false),
        ("own pods of each", all(), local, &three, each(&[1, 2]), true),
        ("one has pods", all(), local, &[(1, READY), (2, STARTING)], each(&[1]), true),
        ("none of it", all(), local, &[(1, LEFT)], Backends::default(), true),
        (
            "a node of pods is no way in",
            published(30080),
            local,
            &three,
            Backends::grouped([1, 2].map(|node| {
                let here = [1_u8, 2, 3].into_iter().filter(|n| 2 - n % 2 == node);
                here.map(|n| SocketAddr::from(([10, 0, 0, n], 8080))).collect()
            })),
            false,
        ),
        ("it is in again", published(30080), local, &[(1, READY)], each(&[1]), true),
        ("clients have to be told apart", all(), sticky, &three, backends(&[1, 2, 3]), false),
    ];
    for (what, place, more, endpoints, backends, relayed) in cases {
        let slices = [slice(endpoints)];
        let wanted = plan(&balancer(more), &slices, &place);
        assert!(
            wanted.host.is_empty() && wanted.pods.is_empty(),
            "{what}: that is its own proxy's"
        );
        let [balanced] = &*wanted.balanced else { panic!("{what}: {wanted:?}") };
        let routing = &wanted.routes[&balanced.route];
        assert_eq!((&routing.backends, routing.relayed), (&backends, relayed), "{what}");
    }
}

#[test]
fn an_ingress_is_even_over_pods_wherever_they_are() {
    let port = "ports: [{port: 80, nodePort: 30080, targetPort: 8080}]";
    let spec = |text: &str| service(text).spec.unwrap();
    let ask = |spec: &ServiceSpec| {
        let slices = [slice(&[(1, READY), (2, READY), (3, READY)])];
        let port = spec.ports.as_ref().unwrap().first().unwrap();
        routing(spec, port, &slices, &outside(&[1, 2], Ports::All))
    };
    let local = ask(&spec(&format!("{{type: NodePort, externalTrafficPolicy: Local, {port}}}")));
    assert_eq!(local.backends, each(&[1, 1, 2]), "two of three pods are on node 1");
    let anywhere = ask(&spec(&format!("{{type: NodePort, {port}}}")));
    assert_eq!((anywhere.backends, anywhere.relayed), (any(&[1, 2]), true));
    // A number without the type is what is left of an earlier one.
    let inside = ask(&spec(&format!("{{type: ClusterIP, {port}}}")));
    assert_eq!((inside.backends, inside.relayed), (backends(&[1, 2, 3]), false));
}

#[test]
fn without_balancers_a_cluster_of_our_own_publishes_nothing() {
    let own = Own { nodes: Vec::new(), cluster_addresses_on_host: false, balancers: false };
    let service = service("{type: LoadBalancer, ports: [{port: 80, nodePort: 30080}]}");
    assert_eq!(plan(&service, [], &Place::Own(own)).balanced, []);
}
