//! Phase 3 by hand.

use super::events;
use super::judgment::{Judgments, State};
use super::observed::Observed;
use crate::kubernetes::pods;
use crate::verdicts;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt as _;
use std::collections::BTreeSet;

const PRODUCTION: &str = "kubeapp-production";
const BALANCER: &str = "app-lb";
const STABLE: &str = "app=kubeapp,env=production";
const REQUESTS: u64 = 1000;

pub(super) async fn check(observed: &Observed<'_>) -> anyhow::Result<Judgments> {
    let mut found = Judgments::default();
    deployment(observed, &mut found);
    let service = observed.services.get(BALANCER);
    let show = observed.kubectl("get services,endpointslices -o wide");
    let Some(service) = service else {
        let claims = [
            "lb-finds-pods",
            "lb-gets-address",
            "stable-serves-all",
            "load-spreads",
            "service-outlives-pods",
        ];
        found.not_yet(&claims, &format!("there is no Service {BALANCER}"), "");
        return Ok(found);
    };
    let (ready, endpoints) = (observed.ready("app=kubeapp"), observed.endpoints(BALANCER));
    let state = match (ready.is_empty(), ready == endpoints) {
        (true, _) => State::NotYet,
        (_, true) => State::Holds,
        _ => State::Fails,
    };
    let why = format!("{} ready pods, {} endpoints", ready.len(), endpoints.len());
    found.push("lb-finds-pods", state, why, &show);
    let Some(external) = observed.external(Some(service), 80).await? else {
        let claims = ["lb-gets-address", "stable-serves-all", "load-spreads"];
        found.not_yet(&claims, &format!("{BALANCER} has no external address"), &show);
        return Ok(found);
    };
    found.push("lb-gets-address", State::Holds, external.to_string(), &show);
    outlives(observed, service, &external.to_string(), &mut found);
    let curl = format!("curl http://{external}/version");
    if ready.is_empty() {
        found.not_yet(&["stable-serves-all", "load-spreads"], "no pod is ready", &show);
        return Ok(found);
    }
    let sampler = observed.namespace.sampler(&external);
    let sample = observed.sample(&sampler, REQUESTS).await?;
    let version = observed.environment.images.first().map_or("1.0", |image| &image.version);
    found.verdict("stable-serves-all", verdicts::all_are(&sample, version), &curl);
    found.verdict("load-spreads", verdicts::even(&sample, &ready), &curl);
    let unready: BTreeSet<String> = pods::names(
        observed.pods.iter().filter(|pod| pods::is_running(pod) && !pods::is_ready(pod)),
    );
    if unready.is_empty() {
        found.not_yet(&["readiness-gates"], "every pod is ready", "");
    } else {
        found.verdict("readiness-gates", verdicts::none_from(&sample, &unready), &curl);
    }
    Ok(found)
}

/// Judges the Deployment, its replica sets and its pods.
fn deployment(observed: &Observed<'_>, found: &mut Judgments) {
    let show = observed.kubectl("get deployments,replicasets,pods -o wide");
    let Some(deployment) = observed.deployments.get(PRODUCTION) else {
        let claims = [
            "rollout-completes",
            "deployment-owns-replicaset",
            "pods-spread",
            "namespace-holds",
            "self-heals",
            "scales",
            "template-is-a-cutter",
        ];
        found.not_yet(&claims, &format!("there is no Deployment {PRODUCTION}"), "");
        return;
    };
    let why = format!("{PRODUCTION} is in `{}`", observed.namespace.name());
    found.push("namespace-holds", State::Holds, why, &show);
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = observed.ready(STABLE);
    let all = usize::try_from(wanted).is_ok_and(|wanted| wanted == ready.len());
    let state = if all { State::Holds } else { State::NotYet };
    let why = format!("{} of {wanted} pods ready", ready.len());
    found.push("rollout-completes", state, &why, &show);
    let owned = observed.sets.iter().filter(|set| {
        let owners = set.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|owner| owner.name == PRODUCTION)
            && set.status.as_ref().is_some_and(|status| status.replicas > 0)
    });
    let sets = owned.count();
    let state = match sets {
        1 if all => State::Holds,
        _ => State::NotYet,
    };
    found.push("deployment-owns-replicaset", state, format!("{sets} with pods; {why}"), &show);
    let nodes: BTreeSet<_> =
        observed.pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    let state = match (nodes.len(), all) {
        (0, _) | (_, false) => State::NotYet,
        (1, _) => State::Fails,
        _ => State::Holds,
    };
    found.push("pods-spread", state, format!("on {} nodes", nodes.len()), &show);
    let replaced = events::replaced(&observed.events, PRODUCTION);
    let state = if replaced > 0 && all { State::Holds } else { State::NotYet };
    let why_healed = format!("{why}; {replaced} of them replaced one that ended");
    found.push("self-heals", state, why_healed, "");
    match events::scaled_up_and_back(&observed.events, PRODUCTION, wanted).filter(|_| all) {
        Some(most) => {
            let why = format!("scaled up to {most} and back; {why}");
            found.push("scales", State::Holds, why, &observed.kubectl("get events"));
        }
        None => found.not_yet(&["scales"], "it was not scaled up and back yet", ""),
    }
    cutter(observed, all, found);
    let reasons: BTreeSet<&str> =
        observed.events.iter().filter_map(|event| event.reason.as_deref()).collect();
    let expected =
        ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled", "Pulled", "Created", "Started"];
    let state = match expected.iter().all(|reason| reasons.contains(reason)) {
        true => State::Holds,
        false => State::NotYet,
    };
    let listed: Vec<&str> = reasons.into_iter().collect();
    found.push("events-tell", state, listed.join(", "), &observed.kubectl("get events"));
}

/// The pods of production, and the newest of its ReplicaSets if it has replaced another.
fn replaced_template<'a>(observed: &'a Observed<'_>) -> Option<(&'a ReplicaSet, Vec<&'a Pod>)> {
    let revision = |set: &&ReplicaSet| -> u64 {
        let revision = set.annotations().get("deployment.kubernetes.io/revision");
        revision.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let ours =
        |set: &&ReplicaSet| set.owner_references().iter().any(|owner| owner.name == PRODUCTION);
    let newest = observed.sets.iter().filter(ours).max_by_key(revision)?;
    let pods = observed.pods.iter().filter(|pod| pods::has_labels(pod, STABLE)).collect();
    (revision(&newest) > 1).then_some((newest, pods))
}

/// Judges a change of the template by the pods that are there after it.
fn cutter(observed: &Observed<'_>, all: bool, found: &mut Judgments) {
    let show = observed.kubectl("get replicasets,pods -o wide");
    let Some((set, pods)) = replaced_template(observed) else {
        found.not_yet(&["template-is-a-cutter"], "the template has not changed yet", "");
        return;
    };
    let owned = |pod: &&&Pod| pods::owner(&pod.metadata).is_some_and(|o| o.name == set.name_any());
    let since = |pod: &&&Pod| pod.creation_timestamp() >= set.creation_timestamp();
    let (new, late) = (pods.iter().filter(owned).count(), pods.iter().filter(since).count());
    let why = format!(
        "{new} of {} pods are of the newest template, {late} were created after it",
        pods.len()
    );
    let state = match new == pods.len() && all {
        false => State::NotYet,
        // A pod that took on a new template would be older than it.
        true if late == pods.len() => State::Holds,
        true => State::Fails,
    };
    found.push("template-is-a-cutter", state, why, &show);
}

/// Judges that the Service is older than every pod, since all of them were replaced.
fn outlives(observed: &Observed<'_>, service: &Service, address: &str, found: &mut Judgments) {
    let Some((_, pods)) = replaced_template(observed).filter(|(_, pods)| !pods.is_empty()) else {
        found.not_yet(&["service-outlives-pods"], "the pods were not replaced yet", "");
        return;
    };
    let older = pods.iter().filter(|pod| pod.creation_timestamp() >= service.creation_timestamp());
    let older = older.count();
    let why = format!("{BALANCER} is at {address} and older than {older} of {} pods", pods.len());
    let state = if older == pods.len() { State::Holds } else { State::NotYet };
    found.push("service-outlives-pods", state, why, "");
}
