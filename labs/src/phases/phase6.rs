//! Phase 6: weights. The canary's share is a number in a route, independent of pods; requests can also be
//! routed by header or cookie, copied, and kept with one version.

use super::gateway::{self, Routed};
use crate::claim::{Claim, Verdict};
use crate::context::Context;
use crate::kubernetes::wait::with_note;
use crate::lab::Lab;
use crate::sampler::Sampler;
use crate::statistics::Ratio;
use crate::step::Step;
use crate::verdicts;

mod mirror;
mod sessions;
mod steps;

/// The entry of this phase in the list of labs.
pub const LAB: Lab = Lab {
    name: "phase6",
    title: "Weights",
    summary: "Puts a Gateway before one pod of each version and sets the canary's share by weight, header and cookie; mirrors traffic, and keeps users with one version.",
    article: "Beyond the article, which ends with “more refined control of traffic weight”: the Gateway API, which has followed Ingress.",
    claims: &[
        Claim::new(
            "gateway-gets-address",
            "A Gateway gets an address and serves its routes there.",
        ),
        Claim::new(
            "weight-zero-gets-nothing",
            "A canary with weight 0 is in the route and gets nothing.",
        ),
        Claim::new(
            "weights-set-share",
            "Weights set the share, with one pod of each version: 1%, 10%, 50%.",
        ),
        Claim::new("weight-change-loses-nothing", "A change of weights loses no request."),
        Claim::new(
            "header-selects-testers",
            "A header sends testers to the canary, and nobody else.",
        ),
        Claim::new(
            "cookie-selects-testers",
            "A cookie sends testers to the canary, and nobody else.",
        ),
        Claim::new(
            "mirror-is-silent",
            "A mirrored canary sees every request, and no client sees the canary.",
        ),
        Claim::new(
            "pages-mix-versions",
            "At 25%, a page of three requests is of one version in only 43.75% of loads.",
        ),
        Claim::new(
            "one-way-sessions-drift",
            "If only the canary's users stay, 10% become 87.8% after 20 requests of each user.",
        ),
        Claim::new(
            "sessions-stick",
            "With a cookie of either version, a user never changes version, within a page or between pages.",
        ),
    ],
    steps: steps::ALL,
    uses_namespace: true,
    run: |context| Box::pin(run(context)),
};

/// The weights to measure, stable to canary, each with the alternative hypothesis where requests are
/// cheap.
const WEIGHTS: [(&str, Ratio, Ratio, &Step); 3] = [
    ("1", Ratio::new(99, 1), Ratio::new(96, 4), &steps::HUNDREDTH),
    ("10", Ratio::new(90, 10), Ratio::new(80, 20), &steps::TENTH),
    ("50", Ratio::new(50, 50), Ratio::new(2, 1), &steps::HALF),
];
/// The weights of the changes under load.
const CHANGES: [&str; 4] = ["1", "50", "10", "0"];
/// Bounds an unobserved share to 0.6%.
const REQUESTS: u64 = 500;
/// The sample size where several kinds of requests are tried.
const FEW_REQUESTS: u64 = 100;
/// The rate limit of background traffic, in requests per second.
const RATE: u32 = 2000;
/// The minimum number of background requests: bounds the share of lost requests to 0.3%.
const UNDER_LOAD: usize = 1000;

async fn run(context: &Context) -> anyhow::Result<()> {
    let Some(environment) = gateway::environment(context).await? else { return Ok(()) };
    context.ensure_namespace().await?;
    context.empty_namespace(&steps::EMPTY).await?;
    let phase = Phase6(set_up(context, environment).await?);
    phase.zero().await?;
    phase.weights().await?;
    phase.changes().await?;
    phase.testers("header", &steps::HEADER, "header-selects-testers", &HEADER).await?;
    phase.testers("cookie", &steps::COOKIE, "cookie-selects-testers", &COOKIE).await?;
    phase.mirror().await?;
    phase.pages().await?;
    phase.one_way().await?;
    phase.sticky().await
}

async fn set_up<'a>(
    context: &'a Context,
    environment: lab_environment::Environment,
) -> anyhow::Result<Routed<'a>> {
    let step = context.step(&steps::GATEWAY).await;
    context.checking("gateway-gets-address");
    let class = environment.gateway_class.clone().unwrap_or_default();
    let routed = Routed::set_up(context, environment).await?;
    let seconds = step.seconds();
    let evidence = format!("{} of class {class}, serving after {seconds:.2} s", routed.address());
    context.judge("gateway-gets-address", Verdict::holds(evidence)).await?;
    Ok(routed)
}

/// Requests of testers, and of others that may be taken for them: header names and values.
type Requests = ((&'static str, &'static str), [Option<(&'static str, &'static str)>; 2]);

const HEADER: Requests = (("x-canary", "always"), [None, Some(("x-canary", "never"))]);
const COOKIE: Requests = (
    ("cookie", "theme=dark; canary=always"),
    [Some(("cookie", "canary=no")), Some(("cookie", "xcanary=always"))],
);

struct Phase6<'a>(Routed<'a>);

impl Phase6<'_> {
    async fn zero(&self) -> anyhow::Result<()> {
        let Routed { context, .. } = &self.0;
        if context.omits(&["weight-zero-gets-nothing"]) {
            return Ok(());
        }
        let _step = context.step(&steps::ZERO).await;
        let sample = context.sample("weight 0", &self.0.sampler(), REQUESTS, None).await?;
        let verdict = verdicts::all_are(&sample, &context.stable()?.version);
        context.judge("weight-zero-gets-nothing", verdict).await?;
        Ok(())
    }

    /// Measures the canary's share at each weight.
    async fn weights(&self) -> anyhow::Result<()> {
        let Routed { context, .. } = &self.0;
        if context.omits(&["weights-set-share"]) {
            return Ok(());
        }
        let version = &context.canary()?.version;
        let mut verdicts = Vec::new();
        for (name, ratio, alternative, step) in WEIGHTS {
            let split = context.plan_split(ratio, Some(alternative))?;
            let title = format!("set the weights {ratio}, send {} requests", split.plan.n);
            let _step = context.step_as(step, title).await;
            context.checking("weights-set-share");
            let live = self.0.route(name).await?.map_err(|unrouted| unrouted.why());
            let band = Some(split.band(version));
            let what = format!("the weights {ratio}");
            let sample = context.sample(&what, &self.0.sampler(), split.plan.n, band).await?;
            let verdict = with_note(verdicts::share(&sample, &split, version), live);
            verdicts.push((ratio.to_string(), verdict));
        }
        context.judge("weights-set-share", Verdict::all(verdicts)).await?;
        Ok(())
    }

    /// Changes the weights while requests are sent.
    async fn changes(&self) -> anyhow::Result<()> {
        let Routed { context, .. } = &self.0;
        if context.omits(&["weight-change-loses-nothing"]) {
            return Ok(());
        }
        let _step = context.step(&steps::CHANGES).await;
        context.checking("weight-change-loses-nothing");
        let what = "while the weights change";
        let load = context.background(what, &self.0.sampler(), RATE).await?;
        let mut live = Ok(());
        for name in CHANGES {
            live = live.and(self.0.route(name).await?.map_err(|unrouted| unrouted.why()));
        }
        let during = load.stop_after(UNDER_LOAD).await?;
        context.keep_sample(what, &during);
        let verdict = with_note(verdicts::none_failed(&during), live);
        context.judge("weight-change-loses-nothing", verdict).await?;
        Ok(())
    }

    /// Routes testers by what their requests have, and everyone else to stable.
    async fn testers(
        &self,
        route: &str,
        step: &Step,
        claim: &'static str,
        (tester, others): &Requests,
    ) -> anyhow::Result<()> {
        let Routed { context, .. } = &self.0;
        if context.omits(&[claim]) {
            return Ok(());
        }
        let _step = context.step(step).await;
        context.checking(claim);
        if let Err(unrouted) = self.0.route(route).await? {
            context.judge(claim, unrouted.verdict()).await?;
            return Ok(());
        }
        let (new, old) = (&context.canary()?.version, &context.stable()?.version);
        let mut parts = Vec::new();
        for (header, version) in
            [(Some(*tester), new)].into_iter().chain(others.iter().map(|header| (*header, old)))
        {
            let (what, sampler) = with_header(self.0.sampler(), header);
            let sample = context.sample(&what, &sampler, FEW_REQUESTS, None).await?;
            parts.push((what, verdicts::all_are(&sample, version)));
        }
        context.judge(claim, Verdict::all(parts)).await?;
        Ok(())
    }
}

fn with_header(sampler: Sampler, header: Option<(&str, &str)>) -> (String, Sampler) {
    match header {
        Some((name, value)) => (format!("`{name}: {value}`"), sampler.header(name, value)),
        None => ("no header".to_owned(), sampler),
    }
}
