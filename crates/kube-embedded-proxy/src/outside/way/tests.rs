//! Nodes as YAML, and the ways that follow.

use super::*;

fn node(name: &str, labels: &str, ready: &str, address: &str) -> Node {
    let text = format!(
        "{{metadata: {{name: {name}, labels: {labels}}}, status: {{
            conditions: [{{type: MemoryPressure, status: 'False'}}, {{type: Ready, status: '{ready}'}}],
            addresses: [{{type: Hostname, address: {name}}}, {{type: InternalIP, address: {address}}}]}}}}"
    );
    serde_saphyr::from_str(&text).unwrap()
}

fn names(nodes: &[Node]) -> Vec<String> {
    through(nodes.iter()).iter().map(|entrance| entrance.node.clone()).collect()
}

#[test]
fn traffic_enters_by_ready_nodes_that_are_not_kept_out() {
    let out = format!("{{{EXCLUDED}: ''}}");
    let control = node("control", &out, "True", "10.0.0.2");
    let one = node("one", "{}", "True", "10.0.0.3");
    let two = node("two", "{}", "Unknown", "10.0.0.4");
    assert_eq!(names(&[control.clone(), one.clone(), two.clone()]), ["one"]);
    assert_eq!(names(std::slice::from_ref(&control)), ["control"], "there is no other");
    assert_eq!(names(&[control.clone(), two.clone()]), ["control"], "the other is not ready");
    assert_eq!(names(&[two]), [""; 0]);

    let nameless = node("three", "{}", "True", "three.example");
    assert_eq!(names(&[one.clone(), nameless]), ["one"], "nowhere to dial");
    let entrances = through([&one].into_iter());
    assert!(entrances.lead_to("10.0.0.3".parse().unwrap()));
    assert!(!entrances.lead_to("10.0.0.2".parse().unwrap()));
}

#[test]
fn the_api_is_where_its_slices_say() {
    let slice: EndpointSlice = serde_saphyr::from_str(
        "{addressType: IPv4, metadata: {}, ports: [{name: https, port: 6443}],
          endpoints: [{addresses: [10.0.0.2]}, {addresses: [nonsense]}, {addresses: ['fd00::2']}]}",
    )
    .unwrap();
    let shown: Vec<String> = addresses(&slice).iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.2:6443", "[fd00::2]:6443"]);
}

#[tokio::test]
async fn a_node_has_to_prove_that_it_is_one() {
    let config = kube::Config::new("https://127.0.0.1:1".parse().unwrap());
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let api = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(proof(&config, &[ip("127.3.0.11")], &[]).await, Ok(()), "it never leaves this host");
    for (nodes, apis, part) in [
        (vec![], vec![api("10.0.0.2:6443")], "no node has an internal address"),
        (vec![ip("192.0.2.2")], vec![api("192.0.2.9:443")], "the API listens on no node"),
        // One node here, one elsewhere: who answers at the first says nothing of the second.
        (
            vec![ip("127.0.0.9"), ip("192.0.2.2")],
            vec![api("127.0.0.9:1")],
            "does not answer at 127",
        ),
    ] {
        let why = proof(&config, &nodes, &apis).await.unwrap_err();
        assert!(why.contains(part), "{why}");
    }
}

#[tokio::test]
async fn somebody_else_at_a_nodes_address_is_no_proof() {
    // It speaks TLS, with a certificate that the cluster's authority has not signed.
    let theirs =
        kube_embedded::Cluster::start(kube_embedded::Config { nodes: 0, ..<_>::default() })
            .await
            .unwrap();
    let ours = kube_embedded::Cluster::start(kube_embedded::Config { nodes: 0, ..<_>::default() })
        .await
        .unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&ours.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &<_>::default()).await.unwrap();
    let at =
        |cluster: &kube_embedded::Cluster| SocketAddr::from((cluster.api_address().ip(), 6443));
    // An address that is not of this host is among the nodes, so that proof is asked for.
    let nodes = |at: SocketAddr| [at.ip(), "192.0.2.2".parse().unwrap()];
    assert_eq!(proof(&config, &nodes(at(&ours)), &[at(&ours)]).await, Ok(()));
    for accept_invalid_certs in [false, true] {
        let mut config = config.clone();
        config.accept_invalid_certs = accept_invalid_certs;
        let why = proof(&config, &nodes(at(&theirs)), &[at(&theirs)]).await.unwrap_err();
        assert!(why.contains("the control plane does not answer at"), "{why}");
        // Before anything is said to it, such as a token.
        assert!(why.contains("invalid peer certificate"), "{why}");
    }
}
