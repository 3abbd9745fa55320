//! Deployments: rollout status by the rules of `kubectl rollout status`, and the changes the labs make.

use super::{
    namespace_client::NamespaceClient,
    pods::{self, waiting_problem},
    wait::{self, Objects, Progress, WaitError, until},
};
use crate::names::FIELD_MANAGER;
use anyhow::Context as _;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event, Pod},
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use std::collections::BTreeSet;

/// Returns the progress of a rollout, by the rules and in the words of `kubectl rollout status`.
fn status(deployment: &Deployment) -> Progress<()> {
    let spec = deployment.spec.as_ref();
    let status = deployment.status.clone().unwrap_or_default();
    if deployment.metadata.generation.unwrap_or(0) > status.observed_generation.unwrap_or(0) {
        return Progress::Pending(UNOBSERVED.into());
    }
    let conditions = status.conditions.unwrap_or_default();
    if let Some(progressing) = conditions.iter().find(|c| c.type_ == "Progressing")
        && progressing.reason.as_deref() == Some("ProgressDeadlineExceeded")
    {
        let message = progressing.message.clone().unwrap_or_default();
        return Progress::Failed(format!("ProgressDeadlineExceeded: {message}"));
    }
    let wanted = spec.and_then(|s| s.replicas).unwrap_or(1);
    let updated = status.updated_replicas.unwrap_or(0);
    let total = status.replicas.unwrap_or(0);
    let available = status.available_replicas.unwrap_or(0);
    if updated < wanted {
        Progress::Pending(format!("{updated} of {wanted} new replicas have been updated"))
    } else if total > updated {
        Progress::Pending(format!("{} old replicas are pending termination", total - updated))
    } else if available < updated {
        Progress::Pending(format!("{available} of {updated} updated replicas are available"))
    } else {
        Progress::Done(())
    }
}

const UNOBSERVED: &str = "the change has not been observed yet";

impl NamespaceClient {
    /// Waits until a Deployment has rolled out, and returns it.
    ///
    /// # Errors
    /// Ends before the timeout if the progress deadline is exceeded, or if a pod of the newest template
    /// is stuck (see [`super::stall`]). The error names pod and reason.
    pub(crate) async fn wait_rolled_out(&self, name: &str) -> Result<Deployment, WaitError> {
        let awaited = format!("rollout of {name}");
        let rolled = until(
            self.api(),
            wait::by_name(name),
            &awaited,
            self.rollout(),
            |found: &Objects<Deployment>| match found.get(name) {
                None => Progress::Pending("no such Deployment".into()),
                Some(deployment) => match status(deployment) {
                    Progress::Done(()) => Progress::Done(Deployment::clone(deployment)),
                    Progress::Pending(what) => Progress::Pending(what),
                    Progress::Failed(why) => Progress::Failed(why),
                },
            },
        );
        let result = tokio::select! {
            biased;
            rolled = rolled => rolled,
            stuck = self.stuck_rollout(name) => return Err(stuck),
        };
        match result {
            Err(WaitError::TimedOut { awaited, last_seen, after }) => {
                let last_seen = self.with_pod_problems(last_seen, name).await;
                Err(WaitError::TimedOut { awaited, last_seen, after })
            }
            Err(WaitError::Failed { awaited, why }) => {
                let why = self.with_pod_problems(why, name).await;
                Err(WaitError::Failed { awaited, why })
            }
            other => other,
        }
    }

    /// Adds the problems of a Deployment's pods to a message, so that a stuck rollout names its reason.
    async fn with_pod_problems(&self, message: String, name: &str) -> String {
        let all = ListParams::default();
        let pods = self.api::<Pod>().list(&all).await.map(|list| list.items).unwrap_or_default();
        let events = self.api::<Event>().list(&all).await.map(|l| l.items).unwrap_or_default();
        let prefix = format!("{name}-");
        let owned = pods
            .iter()
            .filter(|pod| !pods::is_terminating(pod) && pod.name_any().starts_with(&prefix));
        let problems: BTreeSet<String> = owned
            .filter(|pod| !pods::is_ready(pod))
            .filter_map(|pod| match waiting_problem(pod) {
                Some(problem) => Some(problem.to_string()),
                None => {
                    let why = pods::last_probe_failure(&pod.name_any(), &events)?;
                    Some(format!("pod {}: {why}", pod.name_any()))
                }
            })
            .filter(|problem| !message.contains(problem.as_str()))
            .collect();
        let problems: Vec<String> = problems.into_iter().collect();
        if problems.is_empty() { message } else { format!("{message}; {}", problems.join("; ")) }
    }

    /// `kubectl scale deployment NAME --replicas=N`.
    pub(crate) async fn scale(&self, name: &str, replicas: i32) -> anyhow::Result<()> {
        self.performs(format!("scale deployment/{name} --replicas={replicas}"));
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.api::<Deployment>()
            .patch_scale(name, &self.patch_params(), &patch)
            .await
            .with_context(|| format!("failed to scale {name} to {replicas}"))?;
        Ok(())
    }

    /// `kubectl set image deployment/NAME CONTAINER=IMAGE`.
    pub(crate) async fn set_image(
        &self,
        name: &str,
        container: &str,
        image: &str,
    ) -> anyhow::Result<()> {
        self.performs(format!("set image deployment/{name} {container}={image}"));
        let containers = json!([{"name": container, "image": image}]);
        let template = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        let what = format!("failed to set the image of {name} to {image}");
        self.patch(name, Patch::Strategic(template)).await.context(what)
    }

    /// A strategic merge patch of a Deployment's pod template.
    pub(crate) async fn patch_template(
        &self,
        name: &str,
        template: serde_json::Value,
    ) -> anyhow::Result<()> {
        let patch = json!({"spec": {"template": template}});
        self.performs(format!("patch deployment/{name} -p '{patch}'"));
        let patched = self.patch(name, Patch::Strategic(patch)).await;
        patched.with_context(|| format!("failed to patch the template of {name}"))
    }

    /// `kubectl set env deployment/NAME A=1 B-`: a variable without a value is removed.
    pub(crate) async fn set_env(
        &self,
        name: &str,
        container: &str,
        variables: &[(&str, Option<&str>)],
    ) -> anyhow::Result<()> {
        let text = variables.iter().map(|(variable, value)| match value {
            Some(value) => format!("{variable}={value}"),
            None => format!("{variable}-"),
        });
        let text = text.collect::<Vec<_>>().join(" ");
        self.performs(format!("set env deployment/{name} {text}"));
        let env: Vec<_> = variables
            .iter()
            .map(|(variable, value)| match value {
                Some(value) => json!({"name": variable, "value": value}),
                None => json!({"name": variable, "$patch": "delete"}),
            })
            .collect();
        let containers = json!([{"name": container, "env": env}]);
        let template = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        let patched = self.patch(name, Patch::Strategic(template)).await;
        patched.with_context(|| format!("failed to set {text} of {name}"))
    }

    async fn patch(&self, name: &str, patch: Patch<serde_json::Value>) -> anyhow::Result<()> {
        self.api::<Deployment>().patch(name, &self.patch_params(), &patch).await?;
        Ok(())
    }

    /// Deletes a Deployment with everything it owns, and waits until its pods are removed or terminating
    /// (they may still drain). No error if it does not exist.
    pub(crate) async fn delete_deployment(
        &self,
        name: &str,
    ) -> anyhow::Result<Result<(), WaitError>> {
        self.performs(format!("delete deployment/{name}"));
        let api = self.api::<Deployment>();
        match api.delete(name, &DeleteParams::background()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Ok(())),
            Err(error) => {
                return Err(error).with_context(|| format!("failed to delete {name}"));
            }
        }
        let prefix = format!("{name}-");
        Ok(until(
            self.api(),
            wait::Config::default(),
            &format!("end of the pods of {name}"),
            self.rollout(),
            |pods: &Objects<Pod>| {
                let left: Vec<&str> = pods
                    .values()
                    .filter(|pod| !pods::is_terminating(pod))
                    .filter_map(|pod| pod.metadata.name.as_deref())
                    .filter(|pod| pod.starts_with(&prefix))
                    .collect();
                if left.is_empty() {
                    Progress::Done(())
                } else {
                    Progress::Pending(left.join(", "))
                }
            },
        )
        .await)
    }

    /// `kubectl rollout pause` or `resume`.
    pub(crate) async fn pause(&self, name: &str, paused: bool) -> anyhow::Result<()> {
        let verb = if paused { "pause" } else { "resume" };
        self.performs(format!("rollout {verb} deployment/{name}"));
        let patched = self.patch(name, Patch::Merge(json!({"spec": {"paused": paused}}))).await;
        patched.with_context(|| format!("failed to {verb} the rollout of {name}"))
    }

    /// Waits until the deployment controller has observed the newest change.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_observed(&self, name: &str) -> Result<(), WaitError> {
        until(
            self.api(),
            wait::by_name(name),
            &format!("observation of the change of {name}"),
            self.rollout(),
            |found: &Objects<Deployment>| match found.get(name).map(|found| status(found)) {
                None => Progress::Pending("no such Deployment".into()),
                Some(Progress::Pending(why)) if why == UNOBSERVED => Progress::Pending(why),
                Some(_) => Progress::Done(()),
            },
        )
        .await
    }

    fn patch_params(&self) -> PatchParams {
        PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollout_status_matches_kubectl() {
        let pending = |s: &str| Progress::Pending(s.to_owned());
        // generation, observed, replicas, updated, total, available
        for (numbers, expected) in [
            ([2, 1, 3, 3, 3, 3], pending("the change has not been observed yet")),
            ([1, 1, 3, 2, 3, 3], pending("2 of 3 new replicas have been updated")),
            ([1, 1, 3, 3, 4, 3], pending("1 old replicas are pending termination")),
            ([1, 1, 3, 3, 3, 2], pending("2 of 3 updated replicas are available")),
            ([1, 1, 3, 3, 3, 3], Progress::Done(())),
            ([1, 1, 0, 0, 0, 0], Progress::Done(())),
        ] {
            let [generation, observed, wanted, updated, total, available] = numbers;
            let deployment = json!({
                "metadata": {"generation": generation},
                "spec": {"replicas": wanted, "selector": {}, "template": {}},
                "status": {"observedGeneration": observed, "updatedReplicas": updated,
                    "replicas": total, "availableReplicas": available},
            });
            let deployment = serde_json::from_value(deployment).unwrap();
            assert_eq!(status(&deployment), expected, "{numbers:?}");
        }
    }

    #[test]
    fn exceeded_progress_deadline_fails_the_wait() {
        let deployment = json!({
            "metadata": {"generation": 1},
            "spec": {"replicas": 1, "selector": {}, "template": {}},
            "status": {"observedGeneration": 1, "conditions": [{"type": "Progressing",
                "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too long"}]},
        });
        let found = status(&serde_json::from_value(deployment).unwrap());
        assert_eq!(found, Progress::Failed("ProgressDeadlineExceeded: too long".into()));
    }
}
