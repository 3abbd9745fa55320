//! A mirrored canary: it gets a copy of each request, and its responses are thrown away.

use super::{Phase6, REQUESTS, steps};
use crate::claim::Verdict;
use crate::kubernetes::{pods, wait::split_infra_errors};
use crate::phases::gateway::{CANARY_PODS, Routed};
use crate::verdicts;
use anyhow::Context as _;

impl Phase6<'_> {
    /// Mirrors requests, and compares what clients and canary saw.
    pub(super) async fn mirror(&self) -> anyhow::Result<()> {
        let Routed { context, namespace, .. } = &self.0;
        if context.omits(&["mirror-is-silent"]) {
            return Ok(());
        }
        let _step = context.step(&steps::MIRROR).await;
        context.checking("mirror-is-silent");
        let pod = pods::names(&namespace.pods(CANARY_PODS).await?).pop_first();
        let pod = pod.context("the canary has no pod")?;
        let before = namespace.served(&pod).await?;
        if let Err(unrouted) = self.0.route("mirror").await? {
            context.judge("mirror-is-silent", unrouted.verdict()).await?;
            return Ok(());
        }
        let sample =
            context.sample("the mirrored traffic", &self.0.sampler(), REQUESTS, None).await?;
        let clients = verdicts::all_are(&sample, &context.stable()?.version);
        // Copies are sent without waiting for them, so the last ones may be on their way.
        let seen = split_infra_errors(namespace.wait_served(&pod, before + REQUESTS).await)?;
        let canary = match seen {
            Ok(now) => Verdict::holds(format!(
                "{} requests, {REQUESTS} of them in the sample",
                now.saturating_sub(before)
            )),
            Err(why) => Verdict::fails(why),
        };
        let verdict = Verdict::all([("clients", clients), ("the canary saw", canary)]);
        context.judge("mirror-is-silent", verdict).await?;
        Ok(())
    }
}
