//! Phase 7: stages. A release goes from 1% to everyone, with an analysis between, and a bad one is rolled
//! back by what its users meet.

use super::gateway::{self, CANARY, CANARY_PODS, CONTAINER, PRODUCTION, Routed};
use crate::claim::{Claim, Verdict};
use crate::context::Context;
use crate::kubernetes::{
    pods,
    wait::{split_infra_errors, with_note},
};
use crate::lab::Lab;
use crate::sampler::BackgroundTraffic;
use crate::step::Step;
use crate::verdicts;
use release::{Outcome, Release, promoted_share};
use stages::{AFTER, Stages};

mod release;
mod stages;
mod steps;

/// The entry of this phase in the list of labs.
pub const LAB: Lab = Lab {
    name: "phase7",
    title: "Stages",
    summary: "Releases 2.0 in stages of 1%, 5%, 25% and 50% with an analysis between, five times: four bad releases are rolled back, the good one is promoted.",
    article: "Beyond the article, which ends with “multi-stage Canary deployments”.",
    claims: &[
        Claim::new(
            "doubled-errors-roll-back",
            "A release that fails twice as often as stable is rolled back.",
        ),
        Claim::new(
            "slow-tail-rolls-back",
            "A release that is slow for a fifth of its users is rolled back.",
        ),
        Claim::new("crash-rolls-back", "A release that crashes after a while is rolled back."),
        Claim::new(
            "wrong-answer-rolls-back",
            "A release with a wrong response on one path is rolled back.",
        ),
        Claim::new(
            "few-users-meet-it",
            "Of each bad release, no more users meet the fault than were accepted before.",
        ),
        Claim::new(
            "good-release-promoted",
            "A release as good as stable passes every stage and becomes production.",
        ),
        Claim::new("stages-set-share", "In each stage, the canary gets the share of the stage.")
            .needs(&["good-release-promoted"]),
        Claim::new("stages-lose-nothing", "No request is lost in any stage, nor between them.")
            .needs(&["good-release-promoted"]),
    ],
    steps: steps::ALL,
    uses_namespace: true,
    run: |context| Box::pin(run(context)),
};

/// A bad release.
struct Bad {
    claim: &'static str,
    step: &'static Step,
    /// What makes the canary bad, as variables of the app.
    canary: &'static [(&'static str, Option<&'static str>)],
    /// What stable does as well, as a base for the comparison.
    stable: &'static [(&'static str, Option<&'static str>)],
    /// The accepted number of users who meet the fault. The tests of [`release`] simulate it.
    accepted: u64,
    /// Whether requests are lost on purpose, since its pods end.
    crashes: bool,
}

const ERROR: &str = "FAIL_PERCENT";
const SLOW: &str = "DELAY_PERCENT";
const SLOW_BY: &str = "RESPONSE_DELAY";
const CRASH: &str = "CRASH_AFTER";
const WRONG: &str = "WRONG_PAGE";

const BAD: [Bad; 4] = [
    Bad {
        claim: "doubled-errors-roll-back",
        step: &steps::ERRORS,
        canary: &[(ERROR, Some("10"))],
        stable: &[(ERROR, Some("5"))],
        accepted: 450,
        crashes: false,
    },
    Bad {
        claim: "slow-tail-rolls-back",
        step: &steps::SLOW,
        canary: &[(ERROR, None), (SLOW, Some("20")), (SLOW_BY, Some("250"))],
        stable: &[(ERROR, None)],
        accepted: 300,
        crashes: false,
    },
    Bad {
        claim: "crash-rolls-back",
        step: &steps::CRASH,
        canary: &[(SLOW, None), (SLOW_BY, None), (CRASH, Some("1"))],
        stable: &[],
        accepted: 150,
        crashes: true,
    },
    Bad {
        claim: "wrong-answer-rolls-back",
        step: &steps::WRONG,
        canary: &[(CRASH, None), (WRONG, Some("/"))],
        stable: &[],
        accepted: 75,
        crashes: false,
    },
];
/// The rate limit of background traffic, in requests per second.
const RATE: u32 = 500;
/// The minimum number of background requests: bounds the share of lost requests to 0.3%.
const UNDER_LOAD: usize = 1000;
/// Bounds an unobserved share to 0.6%.
const REQUESTS: u64 = 500;

async fn run(context: &Context) -> anyhow::Result<()> {
    let Some(environment) = gateway::environment(context).await? else { return Ok(()) };
    context.ensure_namespace().await?;
    context.empty_namespace(&steps::EMPTY).await?;
    let routed = {
        let _step = context.step(&steps::STABLE).await;
        Routed::set_up(context, environment).await?
    };
    let mut phase =
        Phase7 { stages: Stages::new(routed)?, met: Vec::new(), requests: Tally::default() };
    for bad in &BAD {
        phase.bad(bad).await?;
    }
    context.judge("few-users-meet-it", few(&phase.met)).await?;
    phase.good().await
}

struct Phase7<'a> {
    stages: Stages<'a>,
    /// The users who met the fault of each bad release, with the accepted number.
    met: Vec<(&'static str, u64, u64)>,
    requests: Tally,
}

/// The requests of all releases that lose none on purpose.
#[derive(Default)]
struct Tally {
    sent: u64,
    lost: Vec<String>,
}

impl Tally {
    fn count(&mut self, what: &str, parts: &[&Release]) {
        for part in parts {
            self.sent += part.sent();
            self.lost.extend(part.losses().map(|losses| format!("{what}: {losses}")));
        }
    }

    fn verdict(&self) -> Verdict {
        let Self { sent, lost } = self;
        let evidence = match &**lost {
            [] => format!("all of {sent} requests got a response of the app"),
            lost => format!("of {sent} requests, {}", lost.join("; ")),
        };
        Verdict::of(lost.is_empty() && *sent > 0, evidence)
    }
}

impl Phase7<'_> {
    /// Releases a bad canary, which must be rolled back.
    async fn bad(&mut self, bad: &Bad) -> anyhow::Result<()> {
        let Routed { context, namespace, .. } = &self.stages.routed;
        if context.omits(&[bad.claim, "few-users-meet-it", "stages-lose-nothing"]) {
            // The next one expects the variables of this one.
            namespace.set_env(CANARY, CONTAINER, bad.canary).await?;
            return Ok(());
        }
        let _step = context.step(bad.step).await;
        context.checking(bad.claim);
        if !bad.stable.is_empty() {
            namespace.set_env(PRODUCTION, CONTAINER, bad.stable).await?;
        }
        namespace.set_env(CANARY, CONTAINER, bad.canary).await?;
        let rolled = split_infra_errors(namespace.wait_rolled_out(PRODUCTION).await)?;
        let mut ready = rolled.map(drop);
        if !bad.crashes {
            // One that crashes may do so before it is seen as ready.
            let canary = split_infra_errors(namespace.wait_rolled_out(CANARY).await)?;
            ready = ready.and(canary.map(drop)).and(self.stages.routed.wait_settled().await?);
        }
        let release = self.stages.release(bad.claim).await?;
        let (after, live) = self.stages.roll_back().await?;
        let met = release.met + after.met;
        let rolled_back = matches!(release.outcome, Some(Outcome::RolledBack(_)));
        let during = Verdict::of(rolled_back, release.text());
        let left = Verdict::of(
            live.is_ok() && after.canary() == 0 && after.losses().is_none(),
            format!(
                "{} of {AFTER} requests got the canary{}",
                after.canary(),
                live.err().map(|why| format!("; {why}")).unwrap_or_default()
            ),
        );
        let verdict = Verdict::all([("stages", during), ("after", left)]);
        if !bad.crashes {
            self.requests.count(bad.claim, &[&release, &after]);
        }
        self.met.push((bad.claim, met, bad.accepted));
        context.judge(bad.claim, with_note(verdict, ready)).await?;
        Ok(())
    }

    /// Releases a good canary, which must be promoted.
    async fn good(&mut self) -> anyhow::Result<()> {
        let Routed { context, namespace, .. } = &self.stages.routed;
        if context.omits(&["good-release-promoted", "stages-set-share", "stages-lose-nothing"]) {
            return Ok(());
        }
        let step = context.step(&steps::GOOD).await;
        context.checking("good-release-promoted");
        namespace.set_env(CANARY, CONTAINER, &[(WRONG, None)]).await?;
        let rolled = split_infra_errors(namespace.wait_rolled_out(CANARY).await)?.map(drop);
        let ready = rolled.and(self.stages.routed.wait_settled().await?);
        let what = "while the good release goes through its stages";
        let load = context.background(what, &self.stages.routed.sampler(), RATE).await?;
        let release = self.stages.release("the good release").await?;
        let promoted = release.outcome == Some(Outcome::Promoted);
        let stages = with_note(Verdict::of(promoted, release.text()), ready);
        self.requests.count("the good release", &[&release]);
        if !promoted {
            // Nothing is promoted, so there is nothing to judge of the rest.
            return context.require("good-release-promoted", stages).await;
        }
        context.judge("stages-set-share", promoted_share(&release)).await?;
        drop(step);
        self.promote(stages, load).await
    }

    /// Makes the canary's image production's, and judges the whole release.
    async fn promote(&self, stages: Verdict, load: BackgroundTraffic) -> anyhow::Result<()> {
        let Routed { context, namespace, .. } = &self.stages.routed;
        let _step = context.step(&steps::PROMOTE).await;
        let image = context.canary()?;
        context.expect(|expected| expected.set_image(PRODUCTION, &image.name));
        let moved = self.stages.promote(&image.name).await?;
        let during = load.stop_after(UNDER_LOAD).await?;
        context.keep_sample("while the good release goes to production", &during);
        let sampler = self.stages.routed.sampler();
        let sample = context.sample("after the promotion", &sampler, REQUESTS, None).await?;
        let canaries = pods::names(&namespace.pods(CANARY_PODS).await?);
        let parts = [
            ("stages", stages),
            ("after", verdicts::all_are(&sample, &image.version)),
            ("the canary", verdicts::none_from(&sample, &canaries)),
        ];
        let verdict = with_note(Verdict::all(parts), moved);
        context.judge("good-release-promoted", verdict).await?;
        let parts = [
            ("the good release and its promotion", verdicts::none_failed(&during)),
            ("all stages but of the release that crashes", self.requests.verdict()),
        ];
        context.judge("stages-lose-nothing", Verdict::all(parts)).await?;
        Ok(())
    }
}

/// Judges that no bad release met more users than accepted.
fn few(met: &[(&str, u64, u64)]) -> Verdict {
    let evidence = met.iter().map(|(claim, met, accepted)| {
        let name = claim.trim_end_matches("-rolls-back").trim_end_matches("-roll-back");
        format!("{name} {met} (at most {accepted})")
    });
    let evidence = evidence.collect::<Vec<_>>().join(", ");
    Verdict::of(
        met.len() == BAD.len() && met.iter().all(|(_, met, accepted)| met <= accepted),
        evidence,
    )
}
