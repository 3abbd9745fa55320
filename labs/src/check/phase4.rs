//! Phase 4 by hand.

use super::judgment::{Judgments, State};
use super::observed::Observed;
use crate::claim::Verdict;
use crate::kubernetes::pods;
use crate::phases::phase4::differences;
use crate::sampler::Sampler;
use crate::statistics::{Ratio, Split};
use crate::verdicts;
use anyhow::Context as _;
use kube::ResourceExt as _;
use lab_environment::Image;

const PRODUCTION: &str = "kubeapp-production";
const CANARY: &str = "kubeapp-canary";
const BALANCER: &str = "app-lb";
const STABLE_PODS: &str = "app=kubeapp,env=production";
const CANARY_PODS: &str = "app=kubeapp,env=canary";
const REQUESTS: u64 = 500;
const CONNECTIONS: u64 = 100;

pub(super) async fn check(observed: &Observed<'_>) -> anyhow::Result<Judgments> {
    let mut found = Judgments::default();
    let [old, new] = &*observed.environment.images else {
        anyhow::bail!("the environment lists other than two images");
    };
    joining(observed, &mut found);
    promotion(observed, &new.name, &mut found);
    let service = observed.services.get(BALANCER);
    let show = observed.kubectl(&format!("get service/{BALANCER}"));
    let Some(external) = observed.external(service, 80).await? else {
        let why = match service {
            None => format!("there is no Service {BALANCER}"),
            Some(_) => format!("{BALANCER} has no external address"),
        };
        let claims = [
            "sessions-flip",
            "quarter-to-canary",
            "ratio-follows-replicas",
            "bad-canary-contained",
            "canary-can-be-ditched",
            "canary-retires",
        ];
        found.not_yet(&claims, &why, &show);
        return Ok(found);
    };
    let by_hand = ByHand {
        observed,
        sampler: observed.namespace.sampler(&external),
        curl: format!("curl http://{external}/version"),
        stable: observed.ready(STABLE_PODS).len(),
        canary: observed.ready(CANARY_PODS).len(),
        promoted: observed.image(PRODUCTION) == Some(&new.name),
        old,
        new,
    };
    by_hand.split(&mut found).await?;
    by_hand.containment(&mut found).await?;
    by_hand.end_of_canary(&mut found).await?;
    Ok(found)
}

/// What there is behind the load balancer.
struct ByHand<'a> {
    observed: &'a Observed<'a>,
    sampler: Sampler,
    /// A command that shows what responds.
    curl: String,
    /// The numbers of ready pods.
    stable: usize,
    canary: usize,
    /// Whether production runs the new image.
    promoted: bool,
    old: &'a Image,
    new: &'a Image,
}

impl ByHand<'_> {
    /// Judges how requests are split between stable and canary.
    async fn split(&self, found: &mut Judgments) -> anyhow::Result<()> {
        let Self { observed, sampler, curl, stable, canary, promoted, old, new } = self;
        if *stable == 0 || *canary == 0 || *promoted {
            let why = format!("{stable} pods of production and {canary} of the canary are ready");
            let show = observed.kubectl("get pods -L env");
            let claims = ["sessions-flip", "quarter-to-canary", "ratio-follows-replicas"];
            found.not_yet(&claims, &why, &show);
            return Ok(());
        }
        let one = observed.sample(&sampler.clone().in_flight(1), CONNECTIONS).await?;
        let flips = verdicts::flips(&one, [&old.version, &new.version]);
        found.verdict("sessions-flip", flips, curl);
        let ratio = Ratio::new(u32::try_from(*stable)?, u32::try_from(*canary)?);
        let alternative = match stable {
            ..=3 => ratio.alternative(observed.environment.alternative),
            _ => Ratio::new(ratio.stable, ratio.canary + 1),
        };
        let split = Split::against(ratio, alternative)
            .with_context(|| format!("no sample can tell {ratio} from {alternative}"))?;
        let sample = observed.sample(sampler, split.plan.n).await?;
        let share = verdicts::share(&sample, &split, &new.version);
        let (claim, other, wanted) = match (stable, canary) {
            (3, 1) => ("quarter-to-canary", "ratio-follows-replicas", "another ratio than 3:1"),
            _ => ("ratio-follows-replicas", "quarter-to-canary", "3:1"),
        };
        let evidence = format!("at {ratio}: {}", share.evidence);
        found.verdict(claim, Verdict { evidence, ..share }, curl);
        found.not_yet(&[other], &format!("it is {ratio} now; scale to {wanted}"), "");
        Ok(())
    }

    /// Judges that a canary which is not ready gets no requests.
    async fn containment(&self, found: &mut Judgments) -> anyhow::Result<()> {
        const CLAIM: &str = "bad-canary-contained";
        let Self { observed, sampler, curl, canary, promoted, old, .. } = self;
        let runs = |pod| pods::has_labels(pod, CANARY_PODS) && pods::is_running(pod);
        let runs_unready = observed.deployments.contains_key(CANARY)
            && *canary == 0
            && observed.pods.iter().any(runs);
        if !runs_unready || *promoted {
            found.not_yet(&[CLAIM], "no pod of the canary runs unready", "");
            return Ok(());
        }
        let verdict = observed.all_are(sampler, REQUESTS, &old.version).await?;
        let evidence = format!("the canary's pod runs and is not ready; {}", verdict.evidence);
        found.verdict(CLAIM, Verdict { evidence, ..verdict }, curl);
        Ok(())
    }

    /// Judges what responds once the canary was deleted.
    async fn end_of_canary(&self, found: &mut Judgments) -> anyhow::Result<()> {
        let Self { observed, sampler, curl, stable, promoted, old, new, .. } = self;
        let has_canary = observed.deployments.contains_key(CANARY);
        let gone = !has_canary && observed.existed(CANARY) && *stable > 0;
        for (claim, image, is_now) in
            [("canary-can-be-ditched", old, !promoted), ("canary-retires", new, *promoted)]
        {
            if gone && is_now {
                let verdict = observed.all_are(sampler, REQUESTS, &image.version).await?;
                found.verdict(claim, verdict, curl);
                continue;
            }
            let why = match (gone, has_canary) {
                (true, _) => "production runs the other version",
                (false, true) => "the canary is there",
                (false, false) => "no canary was deleted yet",
            };
            found.not_yet(&[claim], why, &observed.kubectl("get deployments -o wide"));
        }
        Ok(())
    }
}

/// Judges how the canary joins.
fn joining(observed: &Observed<'_>, found: &mut Judgments) {
    let show = observed.kubectl("get deployments -o wide --show-labels");
    let both = (observed.deployments.get(PRODUCTION), observed.deployments.get(CANARY));
    let (Some(production), Some(canary)) = both else {
        let missing = if both.0.is_none() { PRODUCTION } else { CANARY };
        let why = format!("there is no Deployment {missing}");
        found.not_yet(&["canary-differs-by-env", "canary-joins-untouched"], &why, "");
        return;
    };
    if observed.image(PRODUCTION) == observed.image(CANARY)
        && observed.existed(CANARY)
        && observed.sets.iter().filter(|set| set.name_any().starts_with(PRODUCTION)).count() > 1
    {
        found.not_yet(&["canary-differs-by-env"], "production was promoted already", &show);
    } else {
        found.verdict("canary-differs-by-env", differences(production, canary), &show);
    }
    let show = observed.kubectl(&format!(
        "get service/{BALANCER} endpointslices -l kubernetes.io/service-name={BALANCER} -o wide"
    ));
    let mut ready = observed.ready(STABLE_PODS);
    let canary = observed.ready(CANARY_PODS);
    if canary.is_empty() {
        let show = observed.kubectl("get pods -l env=canary");
        found.not_yet(&["canary-joins-untouched"], "no pod of the canary is ready", &show);
        return;
    }
    ready.extend(canary);
    let endpoints = observed.endpoints(BALANCER);
    let selector = observed.services.get(BALANCER).and_then(|s| s.spec.as_ref()?.selector.clone());
    let selector = selector.unwrap_or_default();
    let untouched = selector.len() == 1 && selector.get("app").is_some_and(|app| app == "kubeapp");
    let evidence = format!(
        "{} of {} ready pods are endpoints of {BALANCER}, which selects {selector:?}",
        endpoints.intersection(&ready).count(),
        ready.len()
    );
    let verdict = Verdict::of(untouched && endpoints == ready, evidence);
    found.verdict("canary-joins-untouched", verdict, &show);
}

/// Judges a promotion by the replica sets that it left.
fn promotion(observed: &Observed<'_>, image: &str, found: &mut Judgments) {
    let show = observed.kubectl("get replicasets -o wide");
    if observed.image(PRODUCTION) != Some(image) {
        let why = format!("production does not run {image}");
        found.not_yet(&["promotion-by-image"], &why, "");
        return;
    }
    let count = |set: &&k8s_openapi::api::apps::v1::ReplicaSet| {
        set.status.as_ref().map_or(0, |status| status.replicas)
    };
    let ours = |set: &&k8s_openapi::api::apps::v1::ReplicaSet| {
        set.owner_references().iter().any(|owner| owner.name == PRODUCTION)
    };
    let sets: Vec<_> = observed.sets.iter().filter(ours).collect();
    let with_pods = sets.iter().filter(|set| count(set) > 0).count();
    let ready = observed.ready(STABLE_PODS).len();
    let evidence =
        format!("{} replica sets, {with_pods} with pods; {ready} pods ready", sets.len());
    let state = match (sets.len(), with_pods) {
        (1, _) => State::Fails,
        (_, 1) if ready > 0 => State::Holds,
        _ => State::NotYet,
    };
    found.push("promotion-by-image", state, evidence, &show);
}
