//! Stable, its NodePort Service and the Ingress without rules: readiness held back at first, to see
//! that the Ingress waits for it.

use super::{FEW_REQUESTS, HTTP, INGRESS, PRODUCTION, STABLE, STABLE_HOST, named};
use crate::claim::{Outcome, Verdict};
use crate::context::{Context, NODE_PORT};
use crate::kubernetes::{
    Scope,
    external::{External, PENDING},
    pods, variant,
    wait::{evidence, noting},
};
use crate::sample::Sampler;
use crate::traffic;
use anyhow::{Context as _, bail};
use k8s_openapi::api::{core::v1::Service, networking::v1::Ingress};
use std::ops::RangeInclusive;

const MANIFEST: &str = "ingress/app-production.yml";
/// Kubernetes' default for `--service-node-port-range`.
const NODE_PORTS: RangeInclusive<i32> = 30000..=32767;
/// Hosts and paths that no rule names.
const HOSTS: [&str; 3] = [STABLE_HOST, super::CANARY_HOST, "nobody.example"];
const PATHS: [&str; 3] = ["/version", "/stable/version", "/canary/version"];

/// Hands over where the Ingress answers.
pub(super) async fn run(context: &Context, scope: &Scope) -> anyhow::Result<External> {
    let held = hold(context, scope).await?;
    let (healthy, answers) = release(context, scope, &held).await?;
    node_port(context, scope).await?;
    if !answers {
        context.require("backends-healthy-first", healthy)?;
        bail!("the Ingress does not answer, and what follows stands on it")
    }
    context.judge("backends-healthy-first", healthy)?;
    default_backend(context, scope, &held.external).await?;
    Ok(held.external)
}

/// The Ingress while its backends run but are not ready.
struct Held {
    external: External,
    sampler: Sampler,
    verdict: Verdict,
}

/// Applies production with a readiness probe that never gets its 200, and the Ingress before it.
async fn hold(context: &Context, scope: &Scope) -> anyhow::Result<Held> {
    let environment = context.environment();
    scope.knows_class(&environment.ingress_class).await?;
    let _step = context.step("apply production, its readiness held back, and app-ingress");
    for mut manifest in Scope::manifests(environment, MANIFEST)? {
        variant::never_ready(&mut manifest.object);
        scope.apply(&manifest).await?;
    }
    scope.apply_file(environment, "ingress/app-ingress-production.yml").await?;
    // Pods that cannot run end the lab here, since nothing else could be said of them.
    tokio::select! {
        running = scope.running_pod(STABLE.pods) => running.map(drop)?,
        rolled = scope.rolled_out(PRODUCTION) => rolled.map(drop)?,
    }
    let external = match scope.external::<Ingress>(INGRESS, HTTP).await {
        // Whoever has given an address serves the class, whatever else is wrong with it.
        Err(pending) if pending.last_saw(PENDING) => {
            bail!("{pending}; {}", scope.unserved(INGRESS, &environment.ingress_class).await)
        }
        found => found.context("the Ingress cannot be reached")?,
    };
    let sampler = scope.sampler(&external).host(&named(STABLE_HOST, external.port, HTTP));
    let held = pods::names(&scope.pods(STABLE.pods).await?);
    let known = evidence(scope.endpoints_include(STABLE.service, &held).await)?;
    // An Ingress that has not been set up yet would pass for one that waits. Some never say a word
    // without a healthy backend, which is as good.
    let at = external.to_string();
    let answered = evidence(scope.first_of_any_status(&sampler, &at).await)?;
    // Not kept for the failure folder: these failures are as they should be.
    let sample = sampler.take(FEW_REQUESTS, |_| {}).await?;
    let good = sample.total() - sample.failures().count() as u64;
    let failures = traffic::failure_kinds(&sample);
    let others = if failures.is_empty() { failures } else { format!(" ({failures})") };
    let (unready, total) = (held.len(), sample.total());
    let said =
        format!("{unready} unready pods: {good} of {total} requests had a good answer{others}");
    let verdict = noting(Verdict::of(good == 0, said), known.and(answered));
    Ok(Held { external, sampler, verdict })
}

/// Applies production as it should be and asks until there is a good answer; says whether there was.
async fn release(context: &Context, scope: &Scope, held: &Held) -> anyhow::Result<(Verdict, bool)> {
    let step = context.step("mend the readiness probe");
    for manifest in Scope::manifests(context.environment(), MANIFEST)? {
        if manifest.kind() == "Deployment" {
            scope.apply(&manifest).await?;
        }
    }
    let Held { external, sampler, verdict } = held;
    let first = async {
        let at = external.to_string();
        let reply = match evidence(scope.first_good(sampler, &at).await)? {
            Ok(reply) => reply,
            Err(why) => return anyhow::Ok((Verdict::fails(why), false)),
        };
        let seconds = step.seconds();
        // The proof that the Ingress waits is the half before: these pods are listed after the
        // answer, and one that got ready in between would pass.
        let pods = scope.pods(STABLE.pods).await?;
        let ready = pods::names(pods.iter().filter(|pod| pods::is_ready(pod)));
        let pod = reply.pod.unwrap_or_default();
        let is_ready = ready.contains(&pod);
        let word = if is_ready { "ready" } else { "not ready" };
        let said =
            format!("{seconds:.2} s after the probe was mended, from {pod}, {word} right after");
        Ok((Verdict::of(is_ready, said), true))
    };
    let (rolled, first) = tokio::join!(scope.rolled_out(PRODUCTION), first);
    rolled?;
    let (first, answers) = first?;
    let parts = [("before", verdict.clone()), ("first good answer", first)];
    Ok((Verdict::all(parts), answers))
}

/// Asks every node at the port that the Service got.
async fn node_port(context: &Context, scope: &Scope) -> anyhow::Result<()> {
    const CLAIM: &str = "nodeport-in-range";
    if let Some(reason) = context.absent(CLAIM) {
        context.judge(CLAIM, Verdict::skipped(reason))?;
        return Ok(());
    }
    let _step = context.step("ask every node at the Service's port");
    let service = scope.api::<Service>().get(STABLE.service).await;
    let service = service.context("failed to get the Service")?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let Some(port) = ports.first().and_then(|port| port.node_port) else {
        context.judge(CLAIM, Verdict::fails("the Service has no node port"))?;
        return Ok(());
    };
    let range = format!("{}-{}", NODE_PORTS.start(), NODE_PORTS.end());
    let in_range = NODE_PORTS.contains(&port);
    let word = if in_range { "in" } else { "outside" };
    let mut parts =
        vec![(format!("port {port}"), Verdict::of(in_range, format!("{word} {range}")))];
    let pods = pods::names(&scope.pods(STABLE.pods).await?);
    let found = evidence(scope.endpoints_are(STABLE.service, &pods).await)?;
    for (node, address) in scope.node_addresses().await? {
        let Some(address) = address else {
            parts.push((node, Verdict::fails("has no address")));
            continue;
        };
        let at = External {
            host: address.to_string(),
            port: u16::try_from(port)?,
            socket: (address, u16::try_from(port)?).into(),
        };
        let sampler = scope.sampler(&at);
        let settled = match &found {
            Ok(()) => evidence(scope.settled(&sampler, &pods).await)?,
            Err(why) => Err(why.clone()),
        };
        let what = format!("{NODE_PORT} {node}");
        let sample = context.sample(&what, &sampler, FEW_REQUESTS, None).await?;
        let verdict = traffic::all_are(&sample, &context.stable()?.version);
        parts.push((format!("{node} {address}"), noting(verdict, settled)));
    }
    let nodes = parts.len() > 1;
    let verdict = Verdict::all(parts);
    let outcome = if nodes { verdict.outcome } else { Outcome::Fails };
    context.judge(CLAIM, Verdict { outcome, ..verdict })?;
    Ok(())
}

/// Asks the Ingress for what no rule names.
async fn default_backend(
    context: &Context,
    scope: &Scope,
    external: &External,
) -> anyhow::Result<()> {
    let ways = HOSTS.len() * PATHS.len();
    let _step = context.step(format!("send {FEW_REQUESTS} requests to each of {ways} pages"));
    let pods = pods::names(&scope.pods(STABLE.pods).await?);
    let sampler = |host: &str| scope.sampler(external).host(&named(host, external.port, HTTP));
    let settled = match evidence(scope.endpoints_are(STABLE.service, &pods).await)? {
        Ok(()) => evidence(scope.takes_effect(&sampler(STABLE_HOST), &pods).await)?,
        Err(why) => Err(why),
    };
    let mut parts = Vec::new();
    for host in HOSTS {
        for path in PATHS {
            let page = format!("{host}{path}");
            let sampler = sampler(host).path(path);
            let sample = context.sample(&page, &sampler, FEW_REQUESTS, None).await?;
            parts.push((page, sample));
        }
    }
    let verdict = traffic::each_is(&parts, &context.stable()?.version);
    context.judge("default-backend-takes-all", noting(verdict, settled))?;
    Ok(())
}
