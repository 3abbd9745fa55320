//! Trials: faults that are seen only under load, as during a rollout.

use crate::kubernetes::{namespace_client::NamespaceClient, wait::split_infra_errors};
use crate::sampler::Sampler;
use crate::verdicts;
use crate::{claim::Outcome, sampler::Sample};
use k8s_openapi::api::core::v1::Service;
use serde::Deserialize;

/// Where the requests are sent.
const BALANCER: &str = "app-lb";
const PORT: u16 = 80;
/// Enough for several to be under way in each pod whenever one ends.
const IN_FLIGHT: usize = 32;
/// The rate limits of requests per second: with a rollout as in the phases; else little enough for a limit of memory
/// that is measured four times a second to be noticed.
const ROLLOUT_RATE: u32 = 4000;
const LOAD_RATE: u32 = 500;
/// The minimum number of requests during and right after a rollout.
const UNDER_ROLLOUT: usize = 200;
/// What users see: unlike `/version`, it may be slow.
const PAGE: &str = "/";

/// A test of a release: no request may fail.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Trial {
    /// This Deployment is restarted under load.
    Rollout(String),
    /// This number of requests is sent.
    Requests(usize),
}

impl Trial {
    /// Returns true if it does more than to send requests.
    pub(super) fn changes_the_cluster(&self) -> bool {
        matches!(self, Self::Rollout(_))
    }

    /// Returns what went wrong.
    ///
    /// # Errors
    /// If the cluster does not respond.
    pub(super) async fn run(&self, namespace: &NamespaceClient) -> anyhow::Result<Option<String>> {
        let external = namespace.wait_external_address::<Service>(BALANCER, PORT).await;
        let external = match split_infra_errors(external)? {
            Ok(external) => external,
            Err(why) => return Ok(Some(why)),
        };
        let sampler = namespace.sampler(&external).path(PAGE).in_flight(IN_FLIGHT);
        let (what, sample) = match self {
            Self::Requests(n) => {
                let load = sampler.background(LOAD_RATE, |_| {}).wait_started().await?;
                ("under load".to_owned(), load.stop_after(*n).await?)
            }
            Self::Rollout(deployment) => {
                let sample = restart(namespace, deployment, &sampler).await?;
                (format!("while {deployment} was restarted"), sample)
            }
        };
        let verdict = verdicts::none_failed(&sample);
        Ok((verdict.outcome != Outcome::Holds).then(|| format!("{what}: {}", verdict.evidence)))
    }
}

/// Restarts a Deployment, as `kubectl rollout restart` does, and returns the requests sent meanwhile.
async fn restart(
    namespace: &NamespaceClient,
    deployment: &str,
    sampler: &Sampler,
) -> anyhow::Result<Sample> {
    let load = sampler.background(ROLLOUT_RATE, |_| {}).wait_started().await?;
    let at = jiff::Timestamp::now().to_string();
    let annotations = serde_json::json!({"kubectl.kubernetes.io/restartedAt": at});
    let template = serde_json::json!({"metadata": {"annotations": annotations}});
    namespace.patch_template(deployment, template).await?;
    // A rollout that is stuck shows in the requests, or not at all.
    _ = split_infra_errors(namespace.wait_rolled_out(deployment).await)?;
    load.stop_after(UNDER_ROLLOUT).await
}
