//! Waits for the rollout of a Deployment, as `kubectl rollout status` does.

use crate::Cluster;
use futures::StreamExt;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, watch_object},
    },
};
use std::{pin::pin, time::Duration};

/// An error that ends [`Cluster::wait_for_rollout`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutError {
    /// The rollout will not be complete without a change, or was not in time.
    #[error("deployment {name} is not rolled out: {reason}")]
    Incomplete {
        /// The name of the Deployment.
        name: String,
        /// What is missing, and what its pods wait for.
        reason: String,
    },
    /// The API server responds with an error.
    #[error(transparent)]
    Api(Box<kube::Error>),
}

impl Cluster {
    /// Waits until all pods of a Deployment are of its current template and available.
    ///
    /// ```
    /// # use kube_embedded::{Cluster, Config};
    /// # use std::time::Duration;
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = Cluster::start(Config { nodes: 0, ..Config::default() }).await?;
    /// let missing = cluster.wait_for_rollout("default", "web", Duration::from_millis(10)).await;
    /// assert_eq!(
    ///     missing.unwrap_err().to_string(),
    ///     "deployment web is not rolled out: it does not exist",
    /// );
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`RolloutError::Incomplete`] at the deadline, or as soon as the Deployment reports that its
    /// own progress deadline has passed.
    pub async fn wait_for_rollout(
        &self,
        namespace: &str,
        name: &str,
        timeout: Duration,
    ) -> Result<(), RolloutError> {
        let api: Api<Deployment> = Api::namespaced(self.client(), namespace);
        let mut last = Progress::Missing("it does not exist".to_owned());
        let wait = async {
            let changes = watch_object(api, name).default_backoff();
            let mut changes = pin!(changes);
            while let Some(change) = changes.next().await {
                match change {
                    Ok(deployment) => last = progress(deployment.as_ref()),
                    Err(watcher::Error::InitialListFailed(error)) => return Err(error),
                    Err(error) => tracing::debug!(%error, "watch of a rollout failed"),
                }
                if !matches!(last, Progress::Missing(_)) {
                    break;
                }
            }
            Ok(())
        };
        // At the deadline, `last` says what is missing.
        if let Ok(Err(error)) = tokio::time::timeout(timeout, wait).await {
            return Err(RolloutError::Api(Box::new(error)));
        }
        let (Progress::Missing(reason) | Progress::Failed(reason)) = last else { return Ok(()) };
        let waiting = waiting_pods(self.client(), namespace, name).await;
        let reason = std::iter::once(reason).chain(waiting).collect::<Vec<_>>().join("; ");
        Err(RolloutError::Incomplete { name: name.to_owned(), reason })
    }
}

enum Progress {
    Complete,
    Missing(String),
    Failed(String),
}

fn progress(deployment: Option<&Deployment>) -> Progress {
    let Some(deployment) = deployment else {
        return Progress::Missing("it does not exist".to_owned());
    };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation < deployment.metadata.generation {
        return Progress::Missing("its latest change is not observed yet".to_owned());
    }
    let failed = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "Progressing"
            && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    });
    if let Some(condition) = failed {
        return Progress::Failed(condition.message.clone().unwrap_or_default());
    }
    let count = |n: Option<i32>| n.unwrap_or_default();
    let (all, updated) = (count(status.replicas), count(status.updated_replicas));
    let available = count(status.available_replicas);
    if updated < wanted {
        Progress::Missing(format!("{updated} of {wanted} new replicas have been updated"))
    } else if all > updated {
        Progress::Missing(format!("{} old replicas are pending termination", all - updated))
    } else if available < updated {
        Progress::Missing(format!("{available} of {updated} updated replicas are available"))
    } else {
        Progress::Complete
    }
}

/// Says what each pod of the Deployment waits for. Names tell which pods are its own: this only
/// explains, so a pod too many does no harm.
async fn waiting_pods(client: Client, namespace: &str, name: &str) -> Vec<String> {
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let Ok(pods) = pods.list(&ListParams::default()).await else { return Vec::new() };
    let prefix = format!("{name}-");
    let of_deployment =
        |pod: &&Pod| pod.metadata.name.as_deref().is_some_and(|name| name.starts_with(&prefix));
    pods.items.iter().filter(of_deployment).filter_map(waits_for).collect()
}

fn waits_for(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref()?;
    let status = pod.status.as_ref()?;
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    let waiting =
        containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref()).next();
    let (reason, message) = match waiting {
        Some(waiting) => (waiting.reason.as_ref()?, waiting.message.as_ref()),
        None => {
            let mut conditions = status.conditions.iter().flatten();
            let condition = conditions.find(|c| c.status == "False" && c.reason.is_some())?;
            (condition.reason.as_ref()?, condition.message.as_ref())
        }
    };
    Some(match message {
        Some(message) => format!("pod {name}: {reason}: {message}"),
        None => format!("pod {name}: {reason}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn judged(status: Value) -> String {
        let deployment = serde_json::from_value(json!({
            "metadata": { "name": "web", "generation": 2 },
            "spec": { "replicas": 3, "selector": {}, "template": {} },
            "status": status,
        }));
        match progress(Some(&deployment.unwrap())) {
            Progress::Complete => "complete".to_owned(),
            Progress::Missing(reason) => reason,
            Progress::Failed(reason) => format!("failed: {reason}"),
        }
    }

    #[test]
    fn progress_is_judged_as_kubectl_does() {
        let complete = json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3 });
        let failed = json!({ "observedGeneration": 2, "conditions": [
            { "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late" },
        ]});
        for (status, expected) in [
            (json!({}), "its latest change is not observed yet"),
            (json!({ "observedGeneration": 2 }), "0 of 3 new replicas have been updated"),
            (
                json!({ "observedGeneration": 2, "replicas": 4, "updatedReplicas": 3, "availableReplicas": 4 }),
                "1 old replicas are pending termination",
            ),
            (
                json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 1 }),
                "1 of 3 updated replicas are available",
            ),
            (failed, "failed: late"),
            (complete, "complete"),
        ] {
            assert_eq!(judged(status.clone()), expected, "{status}");
        }
    }
}
