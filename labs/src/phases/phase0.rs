//! Phase 0: the environment. It changes nothing on the cluster.

use crate::claim::{Claim, Verdict};
use crate::context::Context;
use crate::kubernetes::nodes;
use crate::kubernetes::wait::{self, Objects, Progress, split_infra_errors, until};
use crate::lab::Lab;
use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use std::time::Instant;

mod steps;

/// The entry of this phase in the list of labs.
pub const LAB: Lab = Lab {
    name: "phase0",
    title: "The environment",
    summary: "Looks at the cluster that the provider handed over: its API and its nodes.",
    article: "“Phase 0: Prepping the Environment”. Container Engine is Google Kubernetes Engine \
              today, and kubectl needs `gke-gcloud-auth-plugin` there; any other cluster will do.",
    claims: &[
        Claim::new("cluster-answers", "One command yields a cluster whose API endpoints respond."),
        Claim::new(
            "cluster-has-workers",
            "There is a control plane and more than one node that takes pods, all Ready.",
        )
        .needs(&["cluster-answers"]),
    ],
    steps: steps::ALL,
    uses_namespace: false,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &Context) -> anyhow::Result<()> {
    check_api(context).await?;
    check_nodes(context).await
}

async fn check_api(context: &Context) -> anyhow::Result<()> {
    let _step = context.step(&steps::API).await;
    let sent = Instant::now();
    let client = context.client();
    let response = tokio::time::timeout(context.address_timeout(), client.apiserver_version());
    let version = match response.await {
        Ok(version) => version.with_context(|| {
            let path = context.environment().kubeconfig.display();
            format!("the cluster of {path} does not respond; is it still running?")
        })?,
        Err(_) => {
            let seconds = context.address_timeout().as_secs();
            anyhow::bail!("the cluster's API does not respond within {seconds} s")
        }
    };
    let took = 1000.0 * sent.elapsed().as_secs_f64();
    let mut line = format!("Kubernetes {} responded in {took:.1} ms", version.git_version);
    match context.environment().started_in {
        Some(seconds) => line += &format!(", {seconds:.2} s after the cluster was started"),
        None => line += ", on a cluster that was already running",
    }
    let data = json!({ "version": version.git_version, "milliseconds": took,
        "startedIn": context.environment().started_in });
    context.require("cluster-answers", Verdict::holds(line).with(data)).await
}

async fn check_nodes(context: &Context) -> anyhow::Result<()> {
    let _step = context.step(&steps::NODES).await;
    let all_ready = until(
        Api::<Node>::all(context.client()),
        wait::Config::default(),
        "readiness of every node",
        context.rollout_timeout(),
        |nodes: &Objects<Node>| {
            let found: Vec<_> = nodes.values().map(|node| NodeInfo::of(node)).collect();
            let unready: Vec<_> = found.iter().filter(|n| !n.ready).map(|n| &*n.name).collect();
            if found.is_empty() {
                Progress::Pending("no nodes".to_owned())
            } else if unready.is_empty() {
                Progress::Done(found)
            } else {
                Progress::Pending(format!("not ready: {}", unready.join(", ")))
            }
        },
    );
    let verdict = match split_infra_errors(all_ready.await)? {
        Ok(nodes) => judge(&nodes),
        Err(why) => Verdict::fails(why),
    };
    context.judge("cluster-has-workers", verdict).await?;
    Ok(())
}

/// The properties of a node that the claim is about.
#[derive(Debug)]
struct NodeInfo {
    name: String,
    ready: bool,
    control_plane: bool,
    takes_pods: bool,
}

impl NodeInfo {
    fn of(node: &Node) -> Self {
        Self {
            name: node.name_any(),
            ready: nodes::is_ready(node),
            control_plane: node.labels().contains_key("node-role.kubernetes.io/control-plane"),
            takes_pods: nodes::is_schedulable(node),
        }
    }
}

fn judge(nodes: &[NodeInfo]) -> Verdict {
    let list = |is: fn(&NodeInfo) -> bool| {
        nodes.iter().filter(|node| is(node)).map(|node| &*node.name).collect::<Vec<_>>()
    };
    let (control_plane, workers) = (list(|node| node.control_plane), list(|node| node.takes_pods));
    let place = match control_plane.as_slice() {
        // A managed control plane has no nodes; its API server has responded.
        [] => "control plane outside the nodes".to_owned(),
        names => format!("control plane on {}", names.join(", ")),
    };
    let line = format!(
        "{} nodes, all Ready; {place}; pods go to {}",
        nodes.len(),
        if workers.is_empty() { "none".to_owned() } else { workers.join(", ") }
    );
    let data = json!({ "controlPlane": control_plane, "takePods": workers });
    Verdict::of(workers.len() > 1, line).with(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Outcome;

    fn node(name: &str, spec: serde_json::Value, control: bool) -> NodeInfo {
        let labels = match control {
            true => json!({"node-role.kubernetes.io/control-plane": ""}),
            false => json!({}),
        };
        let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let node =
            json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status});
        NodeInfo::of(&serde_json::from_value(node).unwrap())
    }

    #[test]
    fn claim_needs_more_than_one_schedulable_node() {
        let tainted = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let preferred = json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]});
        let cordoned = json!({"unschedulable": true});
        let free = json!({});
        for (specs, outcome, ending) in [
            (vec![&free, &free], Outcome::Holds, "pods go to n0, n1"),
            (vec![&tainted, &free, &preferred], Outcome::Holds, "pods go to n1, n2"),
            (vec![&tainted, &free], Outcome::Fails, "pods go to n1"),
            (vec![&cordoned, &free], Outcome::Fails, "pods go to n1"),
            (vec![&tainted], Outcome::Fails, "pods go to none"),
        ] {
            let nodes = specs.iter().enumerate();
            let nodes: Vec<_> =
                nodes.map(|(i, spec)| node(&format!("n{i}"), (*spec).clone(), i == 0)).collect();
            let verdict = judge(&nodes);
            assert_eq!(verdict.outcome, outcome, "{specs:?}");
            assert!(verdict.evidence.ends_with(ending), "{}", verdict.evidence);
        }
    }
}
