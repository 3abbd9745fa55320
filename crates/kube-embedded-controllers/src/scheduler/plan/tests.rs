//! Scheduling decisions.

use super::*;
use k8s_openapi::api::core::v1::{NodeCondition, NodeSpec, NodeStatus, PodSpec};
use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference};

fn node(name: &str) -> Node {
    let mut node = Node { spec: Some(NodeSpec::default()), ..Default::default() };
    node.metadata.name = Some(name.into());
    node.status = Some(NodeStatus {
        allocatable: Some([("cpu".to_owned(), Quantity("1".into()))].into()),
        conditions: Some(vec![NodeCondition {
            type_: "Ready".into(),
            status: "True".into(),
            ..Default::default()
        }]),
        ..Default::default()
    });
    node
}

fn pod(name: &str, node: Option<&str>, cpu: &str) -> Pod {
    let container = serde_json::json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } });
    let mut pod = Pod { spec: Some(PodSpec::default()), ..Default::default() };
    let spec = pod.spec.as_mut().unwrap();
    spec.containers = vec![serde_json::from_value(container).unwrap()];
    spec.node_name = node.map(str::to_owned);
    pod.metadata.name = Some(name.into());
    pod.metadata.uid = Some(name.into());
    pod.metadata.owner_references = Some(vec![OwnerReference {
        uid: "set".into(),
        controller: Some(true),
        ..Default::default()
    }]);
    pod
}

fn decided(pod: &Pod, nodes: Vec<Node>, pods: Vec<Pod>, assumed: &[(&str, &str)]) -> Decision {
    let nodes: Vec<Arc<Node>> = nodes.into_iter().map(Arc::new).collect();
    let pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
    let assumed = assumed.iter().map(|(pod, node)| ((*pod).into(), (*node).into())).collect();
    decide(pod, &nodes, &pods, &assumed, &[])
}

#[test]
fn pods_of_one_owner_spread_over_nodes_including_assumed_ones() {
    let pods = vec![pod("a", Some("n1"), "100m"), pod("b", None, "100m")];
    let nodes = vec![node("n1"), node("n2"), node("n3")];
    let found = decided(&pod("c", None, "100m"), nodes, pods, &[("b", "n2")]);
    assert_eq!(found, Decision::Bind("n3".into()));
}

#[test]
fn full_and_cordoned_nodes_have_different_reasons() {
    let mut cordoned = node("n2");
    cordoned.spec.as_mut().unwrap().unschedulable = Some(true);
    let pods = vec![pod("a", Some("n1"), "900m")];
    let found = decided(&pod("b", None, "200m"), vec![node("n1"), cordoned], pods, &[]);
    assert_eq!(
        found,
        Decision::Unschedulable(
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. \
             preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, \
             1 Preemption is not helpful for scheduling."
                .into()
        )
    );
}

#[test]
fn pod_without_nodes_is_unschedulable() {
    let found = decided(&pod("a", None, "1"), vec![], vec![], &[]);
    assert_eq!(found, Decision::Unschedulable("no nodes available to schedule pods".into()));
}
