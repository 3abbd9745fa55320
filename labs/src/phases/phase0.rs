//! Phase 0: the environment. It changes nothing on the cluster.

use crate::claim::{Claim, Verdict};
use crate::context::Context;
use crate::kubernetes::wait::{self, Seen, evidence, until};
use crate::lab::Lab;
use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Instant;

/// This phase, as the list of labs shows it.
pub const LAB: Lab = Lab {
    name: "phase0",
    title: "The environment",
    summary: "Looks at the cluster that the provider handed over: its API and its nodes.",
    article: "“Phase 0: Prepping the Environment”. Container Engine is Google Kubernetes Engine \
              today, and kubectl needs `gke-gcloud-auth-plugin` there; any other cluster will do.",
    claims: &[
        Claim {
            id: "cluster-answers",
            sentence: "One command yields a cluster whose API endpoints answer.",
        },
        Claim {
            id: "cluster-has-workers",
            sentence: "There is a control plane and more than one node that takes pods, all Ready.",
        },
    ],
    run: |context| Box::pin(run(context)),
};

async fn run(context: &Context) -> anyhow::Result<()> {
    answers(context).await?;
    workers(context).await
}

async fn answers(context: &Context) -> anyhow::Result<()> {
    let _step = context.step("asking the API for its version");
    let asked = Instant::now();
    let client = context.client();
    let answer = tokio::time::timeout(context.address_patience(), client.apiserver_version());
    let version = match answer.await {
        Ok(version) => version.with_context(|| {
            let path = context.environment().kubeconfig.display();
            format!("the cluster of {path} does not answer; is it still running?")
        })?,
        Err(_) => {
            let seconds = context.address_patience().as_secs();
            anyhow::bail!("the cluster's API does not answer within {seconds} s")
        }
    };
    let took = 1000.0 * asked.elapsed().as_secs_f64();
    let mut line = format!("Kubernetes {} answered in {took:.1} ms", version.git_version);
    match context.environment().started_in {
        Some(seconds) => line += &format!(", {seconds:.2} s after the cluster was started"),
        None => line += ", on a cluster that was already running",
    }
    let data = json!({ "version": version.git_version, "milliseconds": took,
        "startedIn": context.environment().started_in });
    context.require("cluster-answers", Verdict::holds(line).with(data))
}

async fn workers(context: &Context) -> anyhow::Result<()> {
    let _step = context.step("looking at the nodes");
    let all_ready = until(
        Api::<Node>::all(context.client()),
        wait::Config::default(),
        "readiness of every node",
        context.rollout_patience(),
        |nodes: &BTreeMap<String, Node>| {
            let found: Vec<_> = nodes.values().map(Seat::of).collect();
            let unready: Vec<_> = found.iter().filter(|n| !n.ready).map(|n| &*n.name).collect();
            if found.is_empty() {
                Seen::Waiting("no nodes".to_owned())
            } else if unready.is_empty() {
                Seen::Done(found)
            } else {
                Seen::Waiting(format!("not ready: {}", unready.join(", ")))
            }
        },
    );
    let verdict = match evidence(all_ready.await)? {
        Ok(nodes) => judge(&nodes),
        Err(why) => Verdict::fails(why),
    };
    context.judge("cluster-has-workers", verdict)?;
    Ok(())
}

/// The nodes that take pods, by name.
pub(super) async fn nodes_for_pods(context: &Context) -> anyhow::Result<Vec<Node>> {
    let nodes = Api::<Node>::all(context.client()).list(&ListParams::default()).await;
    let mut nodes = nodes.context("failed to list the nodes")?.items;
    nodes.retain(|node| Seat::of(node).takes_pods);
    Ok(nodes)
}

/// What matters of a node.
#[derive(Debug)]
struct Seat {
    name: String,
    ready: bool,
    control_plane: bool,
    takes_pods: bool,
}

impl Seat {
    fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let kept_off = taints.iter().any(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
        let cordoned = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        Self {
            name: node.name_any(),
            ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            control_plane: node.labels().contains_key("node-role.kubernetes.io/control-plane"),
            takes_pods: !kept_off && !cordoned,
        }
    }
}

fn judge(nodes: &[Seat]) -> Verdict {
    let list = |is: fn(&Seat) -> bool| {
        nodes.iter().filter(|node| is(node)).map(|node| &*node.name).collect::<Vec<_>>()
    };
    let (control, takers) = (list(|node| node.control_plane), list(|node| node.takes_pods));
    let place = match control.as_slice() {
        // A managed control plane shows itself by its API alone, which has answered.
        [] => "control plane outside the nodes".to_owned(),
        names => format!("control plane on {}", names.join(", ")),
    };
    let line = format!(
        "{} nodes, all Ready; {place}; pods go to {}",
        nodes.len(),
        if takers.is_empty() { "none".to_owned() } else { takers.join(", ") }
    );
    Verdict::of(takers.len() > 1, line).with(json!({ "controlPlane": control, "takePods": takers }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Outcome;

    fn node(name: &str, spec: serde_json::Value, control: bool) -> Seat {
        let labels = match control {
            true => json!({"node-role.kubernetes.io/control-plane": ""}),
            false => json!({}),
        };
        let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let node =
            json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status});
        Seat::of(&serde_json::from_value(node).unwrap())
    }

    #[test]
    fn more_than_one_node_must_take_pods() {
        let tainted = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let preferred = json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]});
        let cordoned = json!({"unschedulable": true});
        let free = json!({});
        for (specs, outcome, takers) in [
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
            assert!(verdict.evidence.ends_with(takers), "{}", verdict.evidence);
        }
    }
}
