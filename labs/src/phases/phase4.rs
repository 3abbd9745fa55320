//! Phase 4: the canary.

use crate::claim::{Claim, Verdict};
use crate::context::Context;
use crate::expectation::{ExpectedDeployment, ExpectedService};
use crate::kubernetes::{
    mutate,
    namespace_client::NamespaceClient,
    pods,
    wait::{split_infra_errors, with_note},
};
use crate::lab::Lab;
use crate::sampler::Sampler;
use crate::statistics::Ratio;
use crate::step::Step;
use crate::verdicts;
use anyhow::Context as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::ResourceExt;
use std::collections::BTreeSet;

mod steps;

/// The entry of this phase in the list of labs.
pub const LAB: Lab = Lab {
    name: "phase4",
    title: "The canary",
    summary: "Adds one pod of 2.0 behind the same load balancer, measures the split, ditches the canary and promotes it.",
    article: "“Canary deployment”: the same three manifests; `kubectl set image` still promotes.",
    claims: &[
        Claim::new(
            "canary-differs-by-env",
            "The canary shares `app: kubeapp` and differs in `env` and image.",
        ),
        Claim::new(
            "canary-joins-untouched",
            "The canary's pod joins the load balancer and the Service is not edited.",
        )
        .needs(&["canary-differs-by-env"]),
        Claim::new("quarter-to-canary", "3 stable to 1 canary sends 25% of requests to 2.0.")
            .needs(&["canary-joins-untouched", "sessions-flip"]),
        Claim::new(
            "ratio-follows-replicas",
            "Replica counts set the share: 9:1 gives 10%, 1:1 gives 50%.",
        )
        .needs(&["quarter-to-canary"]),
        Claim::new(
            "sessions-flip",
            "One client, connection after connection, meets both versions (why phase 5 exists).",
        )
        .needs(&["canary-differs-by-env", "canary-joins-untouched"]),
        Claim::new(
            "bad-canary-contained",
            "A canary that never becomes ready receives nothing, and stable serves on.",
        )
        .needs(&["canary-joins-untouched"]),
        Claim::new(
            "canary-can-be-ditched",
            "Delete the canary: everything is 1.0 again, and no request fails meanwhile.",
        ),
        Claim::new(
            "promotion-by-image",
            "`set image` moves production to 2.0 by starting new pods and ending old ones.",
        ),
        Claim::new("promotion-drops-nothing", "No request fails while it rolls.")
            .needs(&["promotion-by-image"]),
        Claim::new(
            "canary-retires",
            "With production on 2.0 the canary Deployment can go; everything is 2.0.",
        )
        .needs(&["promotion-by-image", "sessions-flip"]),
    ],
    steps: steps::ALL,
    uses_namespace: true,
    run: |context| Box::pin(run(context)),
};

/// Names and numbers of the article.
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
/// The other ratios, each with the alternative hypothesis where requests are cheap. For 9:1 that is one
/// canary more, not one stable pod: telling 10% from the 9.1% of 10:1 takes 67,000 requests and adds
/// nothing to the claim.
const OTHERS: [(Ratio, Ratio, &Step); 2] = [
    (Ratio::new(1, 1), Ratio::new(2, 1), &steps::EVEN),
    (Ratio::new(9, 1), Ratio::new(9, 2), &steps::TENTH),
];
/// Bounds an unobserved share to 0.6%, and reveals a pod that takes a quarter.
const REQUESTS: u64 = 500;
/// The connections of one client. At 3:1 all of them miss the canary once in 3e12 runs.
const CONNECTIONS: u64 = 100;
/// The rate limit of background traffic, in requests per second: it leaves the pods CPU time to change.
const RATE: u32 = 4000;
/// The minimum number of background requests, during a change and right after it: bounds the share of
/// lost requests to 0.3%.
const UNDER_LOAD: usize = 1000;

async fn run(context: &Context) -> anyhow::Result<()> {
    context.ensure_namespace().await?;
    let namespace = context.namespace_client();
    let sampler = prepare(context, &namespace).await?;
    let phase = Phase4 { context, namespace, sampler };
    phase.join().await?;
    phase.quarter().await?;
    phase.ratios().await?;
    phase.ditch().await?;
    phase.bad_canary().await?;
    phase.promote().await?;
    phase.retire().await
}

/// Sets up what this phase builds on: three pods of 1.0 behind the load balancer.
async fn prepare(context: &Context, namespace: &NamespaceClient) -> anyhow::Result<Sampler> {
    let _step = context.step(&steps::STABLE).await;
    context.checking("canary-joins-untouched");
    let image = context.stable()?.name.clone();
    let replicas = i32::try_from(ARTICLE.stable)?;
    context.expect(|expected| {
        let deployment = ExpectedDeployment { replicas, image, labels: STABLE_PODS, ready: true };
        expected.deployments.insert(PRODUCTION, deployment);
        let service = ExpectedService { selects: APP, port: PORT, type_: "LoadBalancer" };
        expected.services.insert(BALANCER, service);
    });
    namespace.apply_file(context.environment(), "lb/app-lb.yml").await?;
    namespace.apply_file(context.environment(), "lb/app-production.yml").await?;
    let serves = async {
        namespace.wait_rolled_out(PRODUCTION).await?;
        let pods = pods::names(&namespace.pods(STABLE_PODS).await?);
        namespace.check_service(BALANCER, Some(PORT), &pods).await?;
        anyhow::Ok(())
    };
    let address = async { Ok(namespace.wait_external_address::<Service>(BALANCER, PORT).await?) };
    let ((), external) = tokio::try_join!(serves, address)?;
    Ok(namespace.wait_sampler(&external).await?)
}

struct Phase4<'a> {
    context: &'a Context,
    namespace: NamespaceClient,
    sampler: Sampler,
}

impl Phase4<'_> {
    /// Applies the canary and judges how it joins.
    async fn join(&self) -> anyhow::Result<()> {
        let Self { context, namespace, .. } = self;
        let _step = context.step(&steps::JOIN).await;
        context.checking("canary-differs-by-env");
        self.expect_canary(true)?;
        let before = self.service().await?;
        let stable = pods::names(&namespace.pods(APP).await?);
        // Pods of earlier labs may still be terminating.
        let ready_before = split_infra_errors(namespace.wait_endpoints(BALANCER, &stable).await)?;
        namespace.apply_file(context.environment(), "lb/app-canary.yml").await?;
        let rolled = split_infra_errors(namespace.wait_rolled_out(CANARY).await)?;
        let deployments = namespace.api::<Deployment>();
        let production = deployments.get(PRODUCTION).await.context("failed to get production")?;
        let canary = deployments.get(CANARY).await.context("failed to get the canary")?;
        context.judge("canary-differs-by-env", differences(&production, &canary)).await?;

        if let Err(why) = rolled {
            // The rest of the lab needs a running canary.
            return context.require("canary-joins-untouched", Verdict::fails(why)).await;
        }
        let joined = match ready_before {
            Err(why) => Err(why),
            Ok(()) => {
                let mut all = stable.clone();
                all.extend(pods::names(&namespace.pods(CANARY_PODS).await?));
                split_infra_errors(namespace.wait_endpoints(BALANCER, &all).await)?.map(|()| all)
            }
        };
        let one_more = stable.len() + usize::try_from(ARTICLE.canary)?;
        let after = self.service().await?;
        context
            .judge(
                "canary-joins-untouched",
                match joined {
                    Err(why) => Verdict::fails(why),
                    Ok(all) => Verdict::of(
                        before.spec == after.spec && all.len() == one_more,
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
            )
            .await?;
        Ok(())
    }

    /// Samples one client's view of the load balancer, and the article's split.
    async fn quarter(&self) -> anyhow::Result<()> {
        let Self { context, sampler, .. } = self;
        if context.skip(&["sessions-flip", "quarter-to-canary"])? {
            return Ok(());
        }
        let version = &context.canary()?.version;
        let split = context.plan_split(ARTICLE, None)?;
        let _step = context
            .step_as(&steps::QUARTER, format!("send {} requests at {ARTICLE}", split.plan.n))
            .await;
        let converged = self.wait_converged().await?;
        let one = sampler.clone().in_flight(1);
        let sample = context.sample("one client", &one, CONNECTIONS, None).await?;
        let stable = &context.stable()?.version;
        context.judge("sessions-flip", verdicts::flips(&sample, [stable, version])).await?;
        if context.skip(&["quarter-to-canary"])? {
            return Ok(());
        }
        let band = Some(split.band(version));
        let sample = context.sample("the load balancer", sampler, split.plan.n, band).await?;
        context
            .judge(
                "quarter-to-canary",
                with_note(verdicts::share(&sample, &split, version), converged),
            )
            .await?;
        Ok(())
    }

    /// Samples other replica counts, then scales back to three.
    async fn ratios(&self) -> anyhow::Result<()> {
        let Self { context, sampler, .. } = self;
        if context.skip(&["ratio-follows-replicas"])? {
            return Ok(());
        }
        let version = &context.canary()?.version;
        let mut verdicts = Vec::new();
        for (ratio, alternative, step) in OTHERS {
            let split = context.plan_split(ratio, Some(alternative))?;
            let _step = context
                .step_as(step, format!("scale to {ratio}, send {} requests", split.plan.n))
                .await;
            self.scale(PRODUCTION, ratio.stable).await?;
            self.scale(CANARY, ratio.canary).await?;
            let ready = match self.ready(STABLE_PODS, ratio.stable).await? {
                Ok(()) => self.ready(CANARY_PODS, ratio.canary).await?,
                stuck => stuck,
            };
            let converged = match &ready {
                Ok(()) => self.wait_converged().await?,
                Err(_) => Ok(()),
            };
            let band = Some(split.band(version));
            let what = format!("the load balancer at {ratio}");
            let sample = context.sample(&what, sampler, split.plan.n, band).await?;
            let verdict =
                with_note(verdicts::share(&sample, &split, version), ready.and(converged));
            verdicts.push((ratio.to_string(), verdict));
        }
        context.judge("ratio-follows-replicas", Verdict::all(verdicts)).await?;
        let _step = context.step(&steps::BACK).await;
        context.checking("canary-can-be-ditched");
        self.scale(PRODUCTION, ARTICLE.stable).await?;
        self.ready(STABLE_PODS, ARTICLE.stable).await?.map_err(anyhow::Error::msg)
    }

    /// Deletes the canary under load.
    async fn ditch(&self) -> anyhow::Result<()> {
        let Self { context, namespace, sampler } = self;
        // A bad canary would be an update of the good one, whose pod would stay.
        if context.omits(&["canary-can-be-ditched", "bad-canary-contained"]) {
            return Ok(());
        }
        let _step = context.step(&steps::DITCH).await;
        let converged = self.wait_converged().await?;
        let load = context.background("while the canary is ditched", sampler, RATE).await?;
        let gone = split_infra_errors(namespace.delete_deployment(CANARY).await?)?;
        let after = self.wait_converged().await?;
        let during = load.stop_after(UNDER_LOAD).await?;
        context.keep_sample("while the canary is ditched", &during);
        let sample = context.sample("after the canary", sampler, REQUESTS, None).await?;
        let verdict = Verdict::all([
            ("meanwhile", verdicts::none_failed(&during)),
            ("after", verdicts::all_are(&sample, &context.stable()?.version)),
        ]);
        context
            .judge("canary-can-be-ditched", with_note(verdict, converged.and(gone).and(after)))
            .await?;
        Ok(())
    }

    /// Applies a canary that never becomes ready.
    async fn bad_canary(&self) -> anyhow::Result<()> {
        let Self { context, namespace, sampler } = self;
        if context.skip(&["bad-canary-contained"])? {
            return Ok(());
        }
        let _step = context.step(&steps::BAD).await;
        context.checking("bad-canary-contained");
        self.expect_canary(false)?;
        let environment = context.environment();
        namespace.apply_edited(environment, "lb/app-canary.yml", mutate::never_ready).await?;
        let verdict = match split_infra_errors(namespace.wait_running_pod(CANARY_PODS).await)? {
            Err(why) => Verdict::fails(why),
            Ok(pod) => {
                let endpoint = split_infra_errors(
                    namespace.wait_endpoint_readiness(BALANCER, &pod, false).await,
                )?;
                let sample =
                    context.sample("next to a bad canary", sampler, REQUESTS, None).await?;
                let canary = namespace.api::<Deployment>().get(CANARY).await;
                let condition = available(&canary.context("failed to get the canary")?);
                let verdict = verdicts::all_are(&sample, &context.stable()?.version);
                let endpoint = match endpoint {
                    Ok(()) => Verdict::holds("no ready endpoint"),
                    Err(why) => Verdict::fails(why),
                };
                let pod = format!("{pod} runs, {condition}");
                Verdict::all([(pod.as_str(), endpoint), ("requests", verdict)])
            }
        };
        context.judge("bad-canary-contained", verdict).await?;
        Ok(())
    }

    /// Fixes the canary, then promotes production to its image under load.
    async fn promote(&self) -> anyhow::Result<()> {
        let Self { context, namespace, sampler } = self;
        {
            let _step = context.step(&steps::FIX).await;
            context.checking("promotion-by-image");
            self.expect_canary(true)?;
            namespace.apply_file(context.environment(), "lb/app-canary.yml").await?;
            if let Err(why) = split_infra_errors(namespace.wait_rolled_out(CANARY).await)? {
                context.progress(why);
            }
        }
        let _step = context.step(&steps::PROMOTE).await;
        let converged = self.wait_converged().await?;
        let load = context.background("while production is promoted", sampler, RATE).await?;
        let image = &context.canary()?.name;
        context.expect(|expected| expected.set_image(PRODUCTION, image));
        let promotion = namespace.promote(PRODUCTION, STABLE_PODS, CONTAINER, image).await?;
        let after = self.wait_converged().await?;
        let during = load.stop_after(UNDER_LOAD).await?;
        context.keep_sample("while production is promoted", &during);
        context.judge("promotion-by-image", promotion.verdict()).await?;
        let verdict = verdicts::none_failed(&during);
        context.judge("promotion-drops-nothing", with_note(verdict, converged.and(after))).await?;
        Ok(())
    }

    /// Deletes the canary for good.
    async fn retire(&self) -> anyhow::Result<()> {
        let Self { context, namespace, sampler } = self;
        let _step = context.step(&steps::RETIRE).await;
        let gone = split_infra_errors(namespace.delete_deployment(CANARY).await?)?;
        let converged = self.wait_converged().await?;
        let sample = context.sample("production alone", sampler, REQUESTS, None).await?;
        let left = namespace.object_names().await?;
        let left = left.contains(&format!("deployment/{CANARY}"));
        let verdict = verdicts::all_are(&sample, &context.canary()?.version);
        let canary = if left { Verdict::fails("still there") } else { Verdict::holds("gone") };
        let verdict = Verdict::all([(CANARY, canary), ("requests", verdict)]);
        context.judge("canary-retires", with_note(verdict, gone.and(converged))).await?;
        Ok(())
    }

    /// Records how the canary should be.
    fn expect_canary(&self, ready: bool) -> anyhow::Result<()> {
        let image = self.context.canary()?.name.clone();
        let replicas = i32::try_from(ARTICLE.canary)?;
        self.context.expect(|expected| {
            let deployment = ExpectedDeployment { replicas, image, labels: CANARY_PODS, ready };
            expected.deployments.insert(CANARY, deployment);
        });
        Ok(())
    }

    async fn scale(&self, deployment: &str, replicas: u32) -> anyhow::Result<()> {
        let replicas = i32::try_from(replicas)?;
        self.context.expect(|expected| expected.scale(deployment, replicas));
        self.namespace.scale(deployment, replicas).await
    }

    /// Waits until exactly the existing pods of the app respond through the load balancer.
    async fn wait_converged(&self) -> anyhow::Result<Result<(), String>> {
        let pods = pods::names(&self.namespace.pods(APP).await?);
        split_infra_errors(self.namespace.wait_balanced(BALANCER, &self.sampler, &pods).await)
    }

    async fn ready(&self, labels: &str, count: u32) -> anyhow::Result<Result<(), String>> {
        let none = BTreeSet::new();
        let count = usize::try_from(count)?;
        Ok(split_infra_errors(self.namespace.wait_ready_pods(labels, count, &none).await)?
            .map(drop))
    }

    async fn service(&self) -> anyhow::Result<Service> {
        self.namespace.api().get(BALANCER).await.context("failed to get the Service")
    }
}

/// Judges the article's comparison of the two manifests, on the objects that the API server stores.
pub(crate) fn differences(production: &Deployment, canary: &Deployment) -> Verdict {
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

/// Formats a Deployment's condition `Available`.
fn available(deployment: &Deployment) -> String {
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    let available = conditions.and_then(|all| all.iter().find(|c| c.type_ == "Available"));
    available.map_or_else(
        || "Available=Unknown".to_owned(),
        |c| format!("Available={} ({})", c.status, c.reason.as_deref().unwrap_or("-")),
    )
}
