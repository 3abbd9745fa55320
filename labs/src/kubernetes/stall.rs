//! Pods that waiting does not help: a wait ends when one of them is found, long before its timeout.

use super::{
    namespace_client::NamespaceClient,
    pods::{self, Cause, ContainerProblem, waiting_problem},
    wait::{self, Objects, Progress, WaitError, lasting, until},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event, Node, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, LogParams},
};
use std::time::Duration;

/// The timeout of a watch that another wait ends.
const BACKGROUND: Duration = Duration::from_secs(24 * 60 * 60);

/// The stage at which a pod without progress is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The scheduler found no node.
    Unschedulable,
    /// It has a node, but its containers have not started.
    Starting,
    /// It runs but is not ready.
    Unready,
}

impl NamespaceClient {
    /// Completes when waiting for a Deployment's rollout is of no use: a pod of its newest template is
    /// stuck, or the pods cannot be created.
    pub(super) async fn stuck_rollout(&self, name: &str) -> WaitError {
        let awaited = format!("rollout of {name}");
        // Until the controller has observed the newest template, failing pods belong to an older one.
        if let Err(error) = self.wait_observed(name).await {
            return error;
        }
        let newest = match self.replica_sets(name).await {
            Ok(mut sets) => sets.pop().map(|set| set.name_any()),
            Err(source) => return WaitError::Environment { awaited, source },
        };
        let of_newest = |pod: &Pod| {
            let owner = pods::owner(&pod.metadata).map(|owner| owner.name.as_str());
            owner.is_some() && owner == newest.as_deref()
        };
        tokio::select! {
            error = self.stuck_pod(&awaited, true, of_newest) => error,
            why = self.replica_failure(name) => WaitError::Failed { awaited, why },
        }
    }

    /// Completes when waiting for a pod of `selection` is of no use. `ready`: it is to become ready, not
    /// only to run.
    pub(super) async fn stuck_pod(
        &self,
        awaited: &str,
        ready: bool,
        selection: impl Fn(&Pod) -> bool,
    ) -> WaitError {
        let failed = |why| WaitError::Failed { awaited: awaited.to_owned(), why };
        tokio::select! {
            problem = self.container_problem(&selection) => match problem {
                Ok(problem) if problem.cause == Cause::Image && self.provides(&problem.image) => {
                    let source = anyhow::anyhow!("{problem}");
                    WaitError::Environment { awaited: awaited.to_owned(), source }
                }
                Ok(problem) => failed(self.with_last_log_line(&problem).await),
                Err(error) => error,
            },
            why = self.stalled_pod(ready, &selection) => failed(why),
            fault = self.node_fault() => {
                WaitError::Environment { awaited: awaited.to_owned(), source: fault.into() }
            }
        }
    }

    /// Completes when a container has a problem that waiting does not solve.
    async fn container_problem(
        &self,
        selection: impl Fn(&Pod) -> bool,
    ) -> Result<ContainerProblem, WaitError> {
        until(
            self.api(),
            wait::Config::default(),
            "running containers",
            BACKGROUND,
            |pods: &Objects<Pod>| {
                let pods = pods.values().filter(|pod| !pods::is_terminating(pod) && selection(pod));
                let mut problems = pods.filter_map(|pod| waiting_problem(pod));
                match problems.find(|problem| problem.cause != Cause::Transient) {
                    Some(problem) => Progress::Done(problem),
                    None => Progress::Pending(String::new()),
                }
            },
        )
        .await
    }

    /// Completes when a pod has made no progress for [`NamespaceClient::stall`] and the cluster says why.
    pub(crate) async fn stalled_pod(
        &self,
        ready: bool,
        selection: impl Fn(&Pod) -> bool,
    ) -> String {
        loop {
            let stalled = |pods: &Objects<Pod>| {
                let pods = pods.values().filter(|pod| !pods::is_terminating(pod) && selection(pod));
                let mut stages = pods.filter_map(|pod| Some((pod.name_any(), stage(pod)?)));
                stages.find(|(_, stage)| ready || *stage != Stage::Unready)
            };
            let (pod, stage) =
                lasting(self.api(), wait::Config::default(), self.stall(), stalled).await;
            if let Some(why) = self.stall_reason(&pod, stage).await {
                return format!("{why}, for {} s", self.stall().as_secs());
            }
        }
    }

    /// Returns why a pod makes no progress, if that is conclusive.
    async fn stall_reason(&self, name: &str, stage: Stage) -> Option<String> {
        let pod = self.api::<Pod>().get_opt(name).await.ok()??;
        let events = self.api::<Event>().list(&ListParams::default()).await.ok()?.items;
        match stage {
            Stage::Unschedulable => {
                let why = pods::unscheduled(&pod)?;
                Some(format!("pod {name} has no node: {why}"))
            }
            Stage::Unready => {
                let why = pods::last_probe_failure(name, &events)?;
                // A busy pod may respond too late, and a slow one not at all.
                let conclusive = why.contains("statuscode") || why.contains("refused");
                conclusive.then(|| format!("pod {name} runs but is not ready: {why}"))
            }
            Stage::Starting => {
                let node = pod.spec?.node_name?;
                let nodes: Api<Node> = Api::all(self.client.clone());
                if nodes.get_opt(&node).await.ok()?.is_none() {
                    return Some(format!("pod {name} has no node: there is no node {node}"));
                }
                let why = pods::last_start_failure(name, &events)?;
                Some(format!("pod {name} does not start: {why}"))
            }
        }
    }

    /// Completes when the pods of a Deployment cannot be created. Briefly that is normal: the default
    /// ServiceAccount is created after its namespace.
    async fn replica_failure(&self, name: &str) -> String {
        let selection = wait::by_name(name);
        lasting(self.api(), selection, self.stall(), |found: &Objects<Deployment>| {
            pods::replica_failure(found.get(name)?)
        })
        .await
    }

    /// Adds to a container's problem the last line that its program wrote.
    async fn with_last_log_line(&self, problem: &ContainerProblem) -> String {
        let before = LogParams { previous: true, tail_lines: Some(1), ..LogParams::default() };
        let log = self.api::<Pod>().logs(&problem.pod, &before).await.unwrap_or_default();
        match log.trim() {
            "" => problem.to_string(),
            line => format!("{problem}, and last wrote: {line}"),
        }
    }
}

/// Returns the stage of a pod that is not ready yet.
fn stage(pod: &Pod) -> Option<Stage> {
    if pods::is_ready(pod) {
        return None;
    }
    if pods::unscheduled(pod).is_some() {
        return Some(Stage::Unschedulable);
    }
    pod.spec.as_ref()?.node_name.as_ref()?;
    Some(if pods::is_running(pod) { Stage::Unready } else { Stage::Starting })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stage_of_a_pod_is_read_from_its_status() {
        let unscheduled =
            json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]);
        let container = |state: &str| {
            json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {state: {}}}])
        };
        let ready = json!([{"type": "Ready", "status": "True"}]);
        for (node, status, expected) in [
            (None, json!({}), None),
            (None, json!({"conditions": unscheduled}), Some(Stage::Unschedulable)),
            (Some("n"), json!({}), Some(Stage::Starting)),
            (Some("n"), json!({"containerStatuses": container("waiting")}), Some(Stage::Starting)),
            (Some("n"), json!({"containerStatuses": container("running")}), Some(Stage::Unready)),
            (
                Some("n"),
                json!({"containerStatuses": container("running"), "conditions": ready}),
                None,
            ),
        ] {
            let spec = json!({"nodeName": node, "containers": []});
            let pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
            let found = stage(&serde_json::from_value(pod).unwrap());
            assert_eq!(found, expected, "{status}");
        }
    }
}
