//! Deployments as `kubectl rollout status` judges them, and the few ways the labs change them.

use super::{
    Scope,
    pods::{self, Blame, Trouble, is_wanted, trouble},
    wait::{self, Seen, WaitError, until},
};
use anyhow::{Context as _, anyhow};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event, Pod},
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Whether a rollout is through, by the rules and in the words of `kubectl rollout status`.
pub fn status(deployment: &Deployment) -> Seen<()> {
    let spec = deployment.spec.as_ref();
    let status = deployment.status.clone().unwrap_or_default();
    if deployment.metadata.generation.unwrap_or(0) > status.observed_generation.unwrap_or(0) {
        return Seen::Waiting(UNOBSERVED.into());
    }
    let conditions = status.conditions.unwrap_or_default();
    if let Some(progressing) = conditions.iter().find(|c| c.type_ == "Progressing")
        && progressing.reason.as_deref() == Some("ProgressDeadlineExceeded")
    {
        let message = progressing.message.clone().unwrap_or_default();
        return Seen::Never(format!("ProgressDeadlineExceeded: {message}"));
    }
    let wanted = spec.and_then(|s| s.replicas).unwrap_or(1);
    let updated = status.updated_replicas.unwrap_or(0);
    let all = status.replicas.unwrap_or(0);
    let available = status.available_replicas.unwrap_or(0);
    if updated < wanted {
        Seen::Waiting(format!("{updated} of {wanted} new replicas have been updated"))
    } else if all > updated {
        Seen::Waiting(format!("{} old replicas are pending termination", all - updated))
    } else if available < updated {
        Seen::Waiting(format!("{available} of {updated} updated replicas are available"))
    } else {
        Seen::Done(())
    }
}

const UNOBSERVED: &str = "the change has not been observed yet";

impl Scope {
    /// Waits until a Deployment has rolled out, and hands it over.
    ///
    /// # Errors
    /// Ends before the deadline when the progress deadline is exceeded; when a pod of the newest
    /// template does not stay up; and when one waits for an image that is not to be had, which is the
    /// environment's fault. The error names pod, image and reason.
    pub async fn rolled_out(&self, name: &str) -> Result<Deployment, WaitError> {
        let awaited = format!("rollout of {name}");
        let rolled = until(
            self.api(),
            wait::named(name),
            &awaited,
            self.rollout,
            |found: &BTreeMap<String, Deployment>| match found.get(name) {
                None => Seen::Waiting("no such Deployment".into()),
                Some(deployment) => match status(deployment) {
                    Seen::Done(()) => Seen::Done(deployment.clone()),
                    Seen::Waiting(what) => Seen::Waiting(what),
                    Seen::Never(why) => Seen::Never(why),
                },
            },
        );
        let result = tokio::select! {
            biased;
            rolled = rolled => rolled,
            stuck = self.stuck(name) => {
                let trouble = stuck?;
                return Err(match trouble.blame {
                    Blame::Image => {
                        WaitError::Environment { awaited, source: anyhow!("{trouble}") }
                    }
                    _ => WaitError::Never { awaited, why: self.with_last_words(&trouble).await },
                });
            }
        };
        match result {
            Err(WaitError::TimedOut { awaited, seen, after }) => {
                let seen = self.with_troubles(seen, name).await;
                Err(WaitError::TimedOut { awaited, seen, after })
            }
            Err(WaitError::Never { awaited, why }) => {
                let why = self.with_troubles(why, name).await;
                Err(WaitError::Never { awaited, why })
            }
            other => other,
        }
    }

    /// Ends when a pod of a Deployment's newest template is in trouble that waiting does not heal.
    async fn stuck(&self, name: &str) -> Result<Trouble, WaitError> {
        // Until the controller has seen the newest template, pods in trouble are of an older one.
        self.observed(name).await?;
        let newest = self.replica_sets(name).await;
        let awaited = format!("rollout of {name}");
        let newest = newest
            .map_err(|source| WaitError::Environment { awaited: awaited.clone(), source })?
            .pop()
            .map(|set| set.name_any());
        until(
            self.api(),
            wait::Config::default(),
            &awaited,
            // Longer than the rollout may take: this only ever ends early.
            self.rollout + Duration::from_secs(60),
            |pods: &BTreeMap<String, Pod>| {
                let ours = pods.values().filter(|pod| {
                    let owner = pods::owner(&pod.metadata).map(|owner| owner.name.as_str());
                    is_wanted(pod) && owner.is_some() && owner == newest.as_deref()
                });
                match ours.filter_map(trouble).find(|trouble| trouble.blame != Blame::Unclear) {
                    Some(trouble) => Seen::Done(trouble),
                    None => Seen::Waiting(String::new()),
                }
            },
        )
        .await
    }

    /// Adds to what ails a container the last line that its program wrote.
    async fn with_last_words(&self, trouble: &Trouble) -> String {
        let before = LogParams { previous: true, tail_lines: Some(1), ..LogParams::default() };
        let log = self.api::<Pod>().logs(&trouble.pod, &before).await.unwrap_or_default();
        match log.trim() {
            "" => trouble.to_string(),
            line => format!("{trouble}, and last wrote: {line}"),
        }
    }

    /// Adds to a sentence what ails the pods of a Deployment, so that a rollout that hangs names its
    /// reason.
    async fn with_troubles(&self, said: String, name: &str) -> String {
        let all = ListParams::default();
        let pods = self.api::<Pod>().list(&all).await.map(|list| list.items).unwrap_or_default();
        let events = self.api::<Event>().list(&all).await.map(|l| l.items).unwrap_or_default();
        let prefix = format!("{name}-");
        let ours = pods.iter().filter(|pod| is_wanted(pod) && pod.name_any().starts_with(&prefix));
        let troubles: BTreeSet<String> = ours
            .filter(|pod| !pods::is_ready(pod))
            .filter_map(|pod| match trouble(pod) {
                Some(trouble) => Some(trouble.to_string()),
                None => {
                    let why = pods::unhealthy(&pod.name_any(), &events)?;
                    Some(format!("pod {}: {why}", pod.name_any()))
                }
            })
            .filter(|trouble| !said.contains(trouble.as_str()))
            .collect();
        let troubles: Vec<String> = troubles.into_iter().collect();
        if troubles.is_empty() { said } else { format!("{said}; {}", troubles.join("; ")) }
    }

    /// `kubectl scale deployment NAME --replicas=N`.
    pub async fn scale(&self, name: &str, replicas: i32) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.api::<Deployment>()
            .patch_scale(name, &self.patching(), &patch)
            .await
            .with_context(|| format!("failed to scale {name} to {replicas}"))?;
        Ok(())
    }

    /// `kubectl set image deployment/NAME CONTAINER=IMAGE`.
    pub async fn set_image(&self, name: &str, container: &str, image: &str) -> anyhow::Result<()> {
        let containers = json!([{"name": container, "image": image}]);
        let what = format!("failed to set the image of {name} to {image}");
        self.patch_template(name, json!({"spec": {"containers": containers}})).await.context(what)
    }

    /// A strategic merge patch of a Deployment's pod template.
    pub async fn patch_template(
        &self,
        name: &str,
        template: serde_json::Value,
    ) -> anyhow::Result<()> {
        let patch = Patch::Strategic(json!({"spec": {"template": template}}));
        self.api::<Deployment>()
            .patch(name, &self.patching(), &patch)
            .await
            .with_context(|| format!("failed to patch the template of {name}"))?;
        Ok(())
    }

    /// Deletes a Deployment with all that it owns, and waits until it and its pods are gone or going
    /// (pods may still drain). No error if there is none.
    pub async fn delete_deployment(&self, name: &str) -> anyhow::Result<Result<(), WaitError>> {
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
            self.rollout,
            |pods: &BTreeMap<String, Pod>| {
                let left: Vec<&str> = pods
                    .values()
                    .filter(|pod| pod.metadata.deletion_timestamp.is_none())
                    .filter_map(|pod| pod.metadata.name.as_deref())
                    .filter(|pod| pod.starts_with(&prefix))
                    .collect();
                if left.is_empty() { Seen::Done(()) } else { Seen::Waiting(left.join(", ")) }
            },
        )
        .await)
    }

    /// `kubectl rollout pause` or `resume`.
    pub async fn pause(&self, name: &str, paused: bool) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"spec": {"paused": paused}}));
        self.api::<Deployment>()
            .patch(name, &self.patching(), &patch)
            .await
            .with_context(|| format!("failed to pause or resume {name}"))?;
        Ok(())
    }

    /// Waits until the controller has seen the newest change of a Deployment.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn observed(&self, name: &str) -> Result<(), WaitError> {
        until(
            self.api(),
            wait::named(name),
            &format!("notice of the change of {name}"),
            self.rollout,
            |found: &BTreeMap<String, Deployment>| match found.get(name).map(status) {
                None => Seen::Waiting("no such Deployment".into()),
                Some(Seen::Waiting(why)) if why == UNOBSERVED => Seen::Waiting(why),
                Some(_) => Seen::Done(()),
            },
        )
        .await
    }

    fn patching(&self) -> PatchParams {
        PatchParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollouts_are_judged_as_kubectl_does() {
        let waiting = |s: &str| Seen::Waiting(s.to_owned());
        // generation, observed, wanted, updated, all, available
        for (numbers, expected) in [
            ([2, 1, 3, 3, 3, 3], waiting("the change has not been observed yet")),
            ([1, 1, 3, 2, 3, 3], waiting("2 of 3 new replicas have been updated")),
            ([1, 1, 3, 3, 4, 3], waiting("1 old replicas are pending termination")),
            ([1, 1, 3, 3, 3, 2], waiting("2 of 3 updated replicas are available")),
            ([1, 1, 3, 3, 3, 3], Seen::Done(())),
            ([1, 1, 0, 0, 0, 0], Seen::Done(())),
        ] {
            let [generation, observed, wanted, updated, all, available] = numbers;
            let deployment = json!({
                "metadata": {"generation": generation},
                "spec": {"replicas": wanted, "selector": {}, "template": {}},
                "status": {"observedGeneration": observed, "updatedReplicas": updated,
                    "replicas": all, "availableReplicas": available},
            });
            let deployment = serde_json::from_value(deployment).unwrap();
            assert_eq!(status(&deployment), expected, "{numbers:?}");
        }
    }

    #[test]
    fn an_exceeded_deadline_ends_the_wait() {
        let deployment = json!({
            "metadata": {"generation": 1},
            "spec": {"replicas": 1, "selector": {}, "template": {}},
            "status": {"observedGeneration": 1, "conditions": [{"type": "Progressing",
                "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too long"}]},
        });
        let said = status(&serde_json::from_value(deployment).unwrap());
        assert_eq!(said, Seen::Never("ProgressDeadlineExceeded: too long".into()));
    }
}
