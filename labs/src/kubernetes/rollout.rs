//! Deployments as `kubectl rollout status` judges them, and the few ways the labs change them.

use super::{
    Scope,
    pods::trouble,
    wait::{self, Seen, WaitError, until},
};
use anyhow::{Context as _, anyhow};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

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
    /// Ends before the deadline when the progress deadline is exceeded; and when a pod waits for an
    /// image that is not to be had, which is the environment's fault: the error names pod, image and
    /// reason.
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
        // Longer than the rollout may take: it only ever ends early, never the other way.
        let patience = self.rollout + Duration::from_secs(60);
        let prefix = format!("{name}-");
        let stuck = until(
            self.api(),
            wait::Config::default(),
            &awaited,
            patience,
            |pods: &BTreeMap<String, Pod>| {
                let ours = pods.values().filter(|pod| pod.name_any().starts_with(&prefix));
                match ours.filter_map(trouble).find(|trouble| trouble.image) {
                    Some(trouble) => Seen::<WaitError>::Never(trouble.to_string()),
                    None => Seen::Waiting(String::new()),
                }
            },
        );
        let result = tokio::select! {
            biased;
            rolled = rolled => rolled,
            stuck = stuck => Err(match stuck {
                Ok(error) | Err(error @ WaitError::Environment { .. }) => error,
                Err(error) => WaitError::Environment { awaited, source: anyhow!("{error}") },
            }),
        };
        match result {
            Err(WaitError::TimedOut { awaited, seen, after }) => {
                let seen = self.with_troubles(seen, &prefix).await;
                Err(WaitError::TimedOut { awaited, seen, after })
            }
            Err(WaitError::Never { awaited, why }) => {
                let why = self.with_troubles(why, &prefix).await;
                Err(WaitError::Never { awaited, why })
            }
            other => other,
        }
    }

    /// Adds to a sentence what ails the pods, so that a rollout that hangs names its reason.
    async fn with_troubles(&self, said: String, prefix: &str) -> String {
        let pods = self.api::<Pod>().list(&Default::default()).await.map(|list| list.items);
        let troubles: Vec<String> = pods
            .unwrap_or_default()
            .iter()
            .filter(|pod| pod.name_any().starts_with(prefix))
            .filter_map(trouble)
            .map(|trouble| trouble.to_string())
            .filter(|trouble| !said.contains(trouble.as_str()))
            .collect();
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
