//! Phase 4: the canary.

use crate::claim::{Claim, Verdict};
use crate::context::Context;
use crate::kubernetes::{
    Scope, pods, variant,
    wait::{evidence, noting},
};
use crate::lab::Lab;
use crate::sample::Sampler;
use crate::statistics::{Ratio, Split};
use crate::traffic;
use anyhow::Context as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::ResourceExt;
use lab_environment::NearestWrong;
use std::collections::BTreeSet;

/// This phase, as the list of labs shows it.
pub const LAB: Lab = Lab {
    name: "phase4",
    title: "The canary",
    summary: "Adds one pod of 2.0 behind the same load balancer, measures the split, ditches the canary and promotes it.",
    article: "“Canary deployment”: the same three manifests; `kubectl set image` still promotes.",
    claims: &[
        Claim {
            id: "canary-differs-by-env",
            sentence: "The canary shares `app: kubeapp` and differs in `env` and image.",
        },
        Claim {
            id: "canary-joins-untouched",
            sentence: "The canary's pod joins the load balancer and the Service is not edited.",
        },
        Claim {
            id: "quarter-to-canary",
            sentence: "3 stable to 1 canary sends 25% of requests to 2.0.",
        },
        Claim {
            id: "ratio-follows-replicas",
            sentence: "Replica counts set the share: 9:1 gives 10%, 1:1 gives 50%.",
        },
        Claim {
            id: "sessions-flip",
            sentence: "One client, connection after connection, meets both versions (why phase 5 exists).",
        },
        Claim {
            id: "bad-canary-contained",
            sentence: "A canary that never becomes ready receives nothing, and stable serves on.",
        },
        Claim {
            id: "canary-can-be-ditched",
            sentence: "Delete the canary: everything is 1.0 again, and no request fails meanwhile.",
        },
        Claim {
            id: "promotion-by-image",
            sentence: "`set image` moves production to 2.0 by starting new pods and ending old ones.",
        },
        Claim { id: "promotion-drops-nothing", sentence: "No request fails while it rolls." },
        Claim {
            id: "canary-retires",
            sentence: "With production on 2.0 the canary Deployment can go; everything is 2.0.",
        },
    ],
    run: |context| Box::pin(run(context)),
};

/// Objects and numbers of the article.
const PRODUCTION: &str = "kubeapp-production";
const CANARY: &str = "kubeapp-canary";
const CONTAINER: &str = "kubeapp";
const BALANCER: &str = "app-lb";
const PORT: u16 = 80;
const APP: &str = "app=kubeapp";
const STABLE_PODS: &str = "app=kubeapp,env=production";
const CANARY_PODS: &str = "app=kubeapp,env=canary";
/// 3 stable to 1 canary.
const ARTICLE: Ratio = Ratio::new(3, 1);
/// The other ratios that are tried, each with the wrong one that its sample tells from it where
/// requests are cheap. For 9:1 that is a canary too many, not a stable pod: telling 10% from the
/// 9.1% of 10:1 takes 67,000 requests, and shows nothing more of what the claim is about.
const OTHERS: [(Ratio, Ratio); 2] =
    [(Ratio::new(1, 1), Ratio::new(2, 1)), (Ratio::new(9, 1), Ratio::new(9, 2))];
/// So many requests bound what was missed to 0.6%, and would meet a pod that takes a quarter.
const REQUESTS: u64 = 500;
/// One client's connections. At 3:1 it misses the canary on all of them once in 3e12 runs.
const CONNECTIONS: u64 = 100;
/// Requests a second at most while something changes, which leaves the pods time to change.
const RATE: u32 = 4000;
/// Requests at least that such a change meets, while it goes on and right after: they bound what is
/// lost to 0.3%.
const UNDER_LOAD: usize = 1000;

async fn run(context: &Context) -> anyhow::Result<()> {
    context.own_namespace().await?;
    let scope = Scope::new(context);
    let sampler = prepare(context, &scope).await?;
    let play = Play { context, scope, sampler };
    play.join().await?;
    play.quarter().await?;
    play.ratios().await?;
    play.ditch().await?;
    play.bad_canary().await?;
    play.promote().await?;
    play.retire().await
}

/// What this phase builds on: stable, with three pods of 1.0 behind the load balancer.
async fn prepare(context: &Context, scope: &Scope) -> anyhow::Result<Sampler> {
    let _step = context.step("stable behind its load balancer, as phase 3 left it");
    scope.apply_file(context.environment(), "lb/app-lb.yml").await?;
    scope.apply_file(context.environment(), "lb/app-production.yml").await?;
    let (rolled, external) =
        tokio::join!(scope.rolled_out(PRODUCTION), scope.external::<Service>(BALANCER, PORT));
    rolled?;
    let sampler = scope.answering(&external?).await?;
    Ok(sampler)
}

struct Play<'a> {
    context: &'a Context,
    scope: Scope,
    sampler: Sampler,
}

impl Play<'_> {
    /// Applies the canary and looks at how it gets its place.
    async fn join(&self) -> anyhow::Result<()> {
        let Self { context, scope, .. } = self;
        let _step = context.step("apply app-canary.yml");
        let before = self.service().await?;
        let stable = pods::names(&scope.pods(APP).await?);
        // Also where earlier pods may still be on their way out.
        let ready_before = evidence(scope.endpoints_are(BALANCER, &stable).await)?;
        scope.apply_file(context.environment(), "lb/app-canary.yml").await?;
        let rolled = evidence(scope.rolled_out(CANARY).await)?;
        let deployments = scope.api::<Deployment>();
        let production = deployments.get(PRODUCTION).await.context("failed to get production")?;
        let canary = deployments.get(CANARY).await.context("failed to get the canary")?;
        context.judge("canary-differs-by-env", differences(&production, &canary))?;

        if let Err(why) = rolled {
            // Nothing can be sent to a canary that is not there.
            return context.require("canary-joins-untouched", Verdict::fails(why));
        }
        let joined = match ready_before {
            Err(why) => Err(why),
            Ok(()) => {
                let mut all = stable.clone();
                all.extend(pods::names(&scope.pods(CANARY_PODS).await?));
                evidence(scope.endpoints_are(BALANCER, &all).await)?.map(|()| all)
            }
        };
        let after = self.service().await?;
        context.judge(
            "canary-joins-untouched",
            match joined {
                Err(why) => Verdict::fails(why),
                Ok(all) => Verdict::of(
                    before.spec == after.spec && all.len() > stable.len(),
                    format!(
                        "endpoints {} → {}; the Service's spec is {}, resourceVersion {} → {}",
                        stable.len(),
                        all.len(),
                        if before.spec == after.spec { "unchanged" } else { "changed" },
                        before.resource_version().unwrap_or_default(),
                        after.resource_version().unwrap_or_default(),
                    ),
                ),
            },
        )?;
        Ok(())
    }

    /// The article's split, and what one client meets of it.
    async fn quarter(&self) -> anyhow::Result<()> {
        let Self { context, sampler, .. } = self;
        let version = &context.canary()?.version;
        let split = self.plan(ARTICLE, None)?;
        let _step = context.step(format!("send {} requests at {ARTICLE}", split.plan.n));
        let settled = self.settle().await?;
        let band = Some(split.band(version));
        let sample = context.sample("the load balancer", sampler, split.plan.n, band).await?;
        context.judge(
            "quarter-to-canary",
            noting(traffic::share(&sample, &split, version), settled),
        )?;
        let one = sampler.clone().in_flight(1);
        let sample = context.sample("one client", &one, CONNECTIONS, None).await?;
        let stable = &context.stable()?.version;
        context.judge("sessions-flip", traffic::flips(&sample, [stable, version]))?;
        Ok(())
    }

    /// Other replica counts, other shares; then back to three.
    async fn ratios(&self) -> anyhow::Result<()> {
        let Self { context, scope, sampler } = self;
        let version = &context.canary()?.version;
        let mut verdicts = Vec::new();
        for (ratio, wrong) in OTHERS {
            let split = self.plan(ratio, Some(wrong))?;
            let _step = context.step(format!("scale to {ratio}, send {} requests", split.plan.n));
            scope.scale(PRODUCTION, i32::try_from(ratio.stable)?).await?;
            scope.scale(CANARY, i32::try_from(ratio.canary)?).await?;
            let ready = self.ready(STABLE_PODS, ratio.stable).await?;
            let ready = ready.and(self.ready(CANARY_PODS, ratio.canary).await?);
            let settled = self.settle().await?;
            let band = Some(split.band(version));
            let what = format!("the load balancer at {ratio}");
            let sample = context.sample(&what, sampler, split.plan.n, band).await?;
            let verdict = noting(traffic::share(&sample, &split, version), ready.and(settled));
            verdicts.push((ratio.to_string(), verdict));
        }
        context.judge("ratio-follows-replicas", Verdict::all(verdicts))?;
        let _step = context.step("scale back to three");
        scope.scale(PRODUCTION, i32::try_from(ARTICLE.stable)?).await?;
        self.ready(STABLE_PODS, ARTICLE.stable).await?.map_err(anyhow::Error::msg)
    }

    /// Deletes the canary under load.
    async fn ditch(&self) -> anyhow::Result<()> {
        let Self { context, scope, sampler } = self;
        let _step = context.step("delete the canary under load");
        let settled = self.settle().await?;
        let load = context.background("while the canary is ditched", sampler, RATE).await?;
        let gone = evidence(scope.delete_deployment(CANARY).await?)?;
        let after = self.settle().await?;
        let during = load.stop_after(UNDER_LOAD).await?;
        context.keep_sample("while the canary is ditched", &during);
        let sample = context.sample("after the canary", sampler, REQUESTS, None).await?;
        let verdict = Verdict::all([
            ("meanwhile", traffic::none_failed(&during)),
            ("after", traffic::all_are(&sample, &context.stable()?.version)),
        ]);
        context.judge("canary-can-be-ditched", noting(verdict, settled.and(gone).and(after)))?;
        Ok(())
    }

    /// Applies a canary that never gets ready.
    async fn bad_canary(&self) -> anyhow::Result<()> {
        let Self { context, scope, sampler } = self;
        let _step = context.step("apply a canary that never becomes ready");
        for mut manifest in Scope::manifests(context.environment(), "lb/app-canary.yml")? {
            variant::never_ready(&mut manifest.object);
            scope.apply(&manifest).await?;
        }
        let verdict = match evidence(scope.running_pod(CANARY_PODS).await)? {
            Err(why) => Verdict::fails(why),
            Ok(pod) => {
                let endpoint = evidence(scope.endpoint_is(BALANCER, &pod, false).await)?;
                let sample = context.sample("beside a bad canary", sampler, REQUESTS, None).await?;
                let canary = scope.api::<Deployment>().get(CANARY).await;
                let condition = available(&canary.context("failed to get the canary")?);
                let verdict = traffic::all_are(&sample, &context.stable()?.version);
                let endpoint = match endpoint {
                    Ok(()) => Verdict::holds("no ready endpoint"),
                    Err(why) => Verdict::fails(why),
                };
                let pod = format!("{pod} runs, {condition}");
                Verdict::all([(pod.as_str(), endpoint), ("requests", verdict)])
            }
        };
        context.judge("bad-canary-contained", verdict)?;
        Ok(())
    }

    /// Mends the canary, then moves production to its image under load.
    async fn promote(&self) -> anyhow::Result<()> {
        let Self { context, scope, sampler } = self;
        {
            let _step = context.step("apply app-canary.yml again, as it should be");
            scope.apply_file(context.environment(), "lb/app-canary.yml").await?;
            if let Err(why) = evidence(scope.rolled_out(CANARY).await)? {
                context.progress(why);
            }
        }
        let _step = context.step("set production's image to the canary's, under load");
        let settled = self.settle().await?;
        let load = context.background("while production is promoted", sampler, RATE).await?;
        let image = &context.canary()?.name;
        let promotion = scope.promote(PRODUCTION, STABLE_PODS, CONTAINER, image).await?;
        let after = self.settle().await?;
        let during = load.stop_after(UNDER_LOAD).await?;
        context.keep_sample("while production is promoted", &during);
        context.judge("promotion-by-image", promotion.verdict())?;
        let verdict = traffic::none_failed(&during);
        context.judge("promotion-drops-nothing", noting(verdict, settled.and(after)))?;
        Ok(())
    }

    /// Deletes the canary for good.
    async fn retire(&self) -> anyhow::Result<()> {
        let Self { context, scope, sampler } = self;
        let _step = context.step("delete the canary for good");
        let gone = evidence(scope.delete_deployment(CANARY).await?)?;
        let settled = self.settle().await?;
        let sample = context.sample("production alone", sampler, REQUESTS, None).await?;
        let left = scope.object_names().await?;
        let left = left.contains(&format!("deployment/{CANARY}"));
        let verdict = traffic::all_are(&sample, &context.canary()?.version);
        let canary = if left { Verdict::fails("still there") } else { Verdict::holds("gone") };
        let verdict = Verdict::all([(CANARY, canary), ("requests", verdict)]);
        context.judge("canary-retires", noting(verdict, gone.and(settled)))?;
        Ok(())
    }

    /// Waits until all pods of the app there are answer through the load balancer, and no others.
    async fn settle(&self) -> anyhow::Result<Result<(), String>> {
        let pods = pods::names(&self.scope.pods(APP).await?);
        match evidence(self.scope.endpoints_are(BALANCER, &pods).await)? {
            Ok(()) => evidence(self.scope.settled(&self.sampler, &pods).await),
            Err(why) => Ok(Err(why)),
        }
    }

    async fn ready(&self, labels: &str, count: u32) -> anyhow::Result<Result<(), String>> {
        let none = BTreeSet::new();
        let count = usize::try_from(count)?;
        Ok(evidence(self.scope.ready_pods(labels, count, &none).await)?.map(drop))
    }

    /// The sample for a ratio; `wrong` is for where requests are cheap, instead of the nearest.
    fn plan(&self, ratio: Ratio, wrong: Option<Ratio>) -> anyhow::Result<Split> {
        let nearest = self.context.environment().nearest_wrong;
        let wrong = wrong.filter(|_| nearest == NearestWrong::NearestReplica);
        let wrong = wrong.unwrap_or_else(|| ratio.nearest_wrong(nearest));
        Split::against(ratio, wrong)
            .with_context(|| format!("no sample can tell a split of {ratio} from {wrong}"))
    }

    async fn service(&self) -> anyhow::Result<Service> {
        self.scope.api().get(BALANCER).await.context("failed to get the Service")
    }
}

/// The article's comparison of the two manifests, made on what the API has of them.
fn differences(production: &Deployment, canary: &Deployment) -> Verdict {
    let template = |deployment: &Deployment| deployment.spec.as_ref().map(|s| s.template.clone());
    let label = |deployment: &Deployment, key: &str| {
        let labels = template(deployment)?.metadata?.labels?;
        labels.get(key).cloned()
    };
    let image = |deployment: &Deployment| {
        let containers = template(deployment)?.spec?.containers;
        containers.first().and_then(|container| container.image.clone())
    };
    let values = |get: &dyn Fn(&Deployment) -> Option<String>| {
        let both = [production, canary].map(|d| get(d).unwrap_or_else(|| "none".into()));
        (both[0] == both[1], both.join(" / "))
    };
    let (same_app, app) = values(&|d| label(d, "app"));
    let (same_env, env) = values(&|d| label(d, "env"));
    let (same_image, image) = values(&image);
    let holds = same_app && !same_env && !same_image;
    Verdict::of(holds, format!("app {app}; env {env}; image {image}"))
}

/// How a Deployment's condition `Available` stands.
fn available(deployment: &Deployment) -> String {
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    let available = conditions.and_then(|all| all.iter().find(|c| c.type_ == "Available"));
    available.map_or_else(
        || "Available=Unknown".to_owned(),
        |c| format!("Available={} ({})", c.status, c.reason.as_deref().unwrap_or("-")),
    )
}
