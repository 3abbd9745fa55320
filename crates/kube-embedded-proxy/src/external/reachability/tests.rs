//! Nodes as YAML, and how they can be reached.

use super::*;
use crate::testing::ApiServer;

fn node(name: &str, labels: &str, ready: &str, address: &str) -> Node {
    let text = format!(
        "{{metadata: {{name: {name}, labels: {labels}}}, status: {{
            conditions: [{{type: MemoryPressure, status: 'False'}}, {{type: Ready, status: '{ready}'}}],
            addresses: [{{type: Hostname, address: {name}}}, {{type: InternalIP, address: {address}}}]}}}}"
    );
    serde_saphyr::from_str(&text).unwrap()
}

fn names(nodes: &[Node]) -> Vec<String> {
    node_endpoints(&nodes.iter().cloned().map(Arc::new).collect::<Vec<_>>())
        .iter()
        .map(|node| node.node.clone())
        .collect()
}

#[test]
fn ready_nodes_that_are_not_excluded_are_endpoints() {
    let out = format!("{{{EXCLUDED}: ''}}");
    let control = node("control", &out, "True", "10.0.0.2");
    let one = node("one", "{}", "True", "10.0.0.3");
    let two = node("two", "{}", "Unknown", "10.0.0.4");
    assert_eq!(names(&[control.clone(), one.clone(), two.clone()]), ["one"]);
    assert_eq!(names(std::slice::from_ref(&control)), ["control"], "all nodes are excluded");
    assert_eq!(names(&[control.clone(), two.clone()]), ["control"], "the other is not ready");
    assert_eq!(names(&[two]), [""; 0]);

    let nameless = node("three", "{}", "True", "three.example");
    assert_eq!(names(&[one.clone(), nameless]), ["one"], "no address to connect to");
    let nodes = node_endpoints(&[Arc::new(one)]);
    assert!(nodes.contains("10.0.0.3".parse().unwrap()));
    assert!(!nodes.contains("10.0.0.2".parse().unwrap()));
}

#[test]
fn api_addresses_are_those_of_its_slices() {
    let slice: EndpointSlice = serde_saphyr::from_str(
        "{addressType: IPv4, metadata: {}, ports: [{name: https, port: 6443}],
          endpoints: [{addresses: [10.0.0.2]}, {addresses: [nonsense]}, {addresses: ['fd00::2']}]}",
    )
    .unwrap();
    let shown: Vec<String> = slice_addresses(&slice).iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.2:6443", "[fd00::2]:6443"]);
}

#[tokio::test]
async fn node_address_has_to_be_verified() {
    let config = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let api = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(
        probe(&config, &[ip("127.3.0.11")], &[]).await,
        Ok(()),
        "loopback never leaves this host"
    );
    for (nodes, apis, part) in [
        (vec![], vec![api("10.0.0.2:6443")], "no node has an internal address"),
        (vec![ip("192.0.2.2")], vec![api("192.0.2.9:443")], "no node address could be verified"),
        // A response at one address proves nothing about another.
        (
            vec![ip("127.0.0.9"), ip("192.0.2.2")],
            vec![api("127.0.0.9:1")],
            "does not respond at 127",
        ),
    ] {
        let reason = probe(&config, &nodes, &apis).await.unwrap_err();
        assert!(reason.contains(part), "{reason}");
    }
}

#[tokio::test]
async fn other_server_at_a_node_address_is_rejected() {
    // It speaks TLS, with a certificate that the cluster's authority has not signed.
    let (ours, theirs) = (ApiServer::start().await, ApiServer::start().await);
    let config = ours.config().await;
    // An address that is not of this host is among the nodes, so that verification is needed.
    let nodes = |api: &ApiServer| [api.address.ip(), "192.0.2.2".parse().unwrap()];
    assert_eq!(probe(&config, &nodes(&ours), &[ours.address]).await, Ok(()));
    for accept_invalid_certs in [false, true] {
        let mut config = config.clone();
        config.accept_invalid_certs = accept_invalid_certs;
        let reason = probe(&config, &nodes(&theirs), &[theirs.address]).await.unwrap_err();
        assert!(reason.contains("the control plane does not respond at"), "{reason}");
        // Before anything is sent, such as a token.
        assert!(reason.contains("invalid peer certificate"), "{reason}");
    }
}
