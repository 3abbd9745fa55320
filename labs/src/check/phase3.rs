//! Phase 3 by hand.

use super::judgment::{Judgments, State};
use super::observed::Observed;
use crate::kubernetes::pods;
use crate::verdicts;
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
        let claims = ["lb-finds-pods", "lb-gets-address", "stable-serves-all", "load-spreads"];
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
    let killed =
        |event: &&k8s_openapi::api::core::v1::Event| event.reason.as_deref() == Some("Killing");
    let state = match observed.events.iter().any(|event| killed(&event)) && all {
        true => State::Holds,
        false => State::NotYet,
    };
    found.push(
        "self-heals",
        state,
        format!("{why}; a pod was ended: {}", state == State::Holds),
        "",
    );
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
