//! Publishes stable by a NodePort Service and an Ingress without rules. Its pods are unready at first, to
//! show that the Ingress waits for them.

use super::common::{
    CANARY_HOST, FEW_REQUESTS, HTTP, INGRESS, PRODUCTION, STABLE, STABLE_HOST, host_with_port,
};
use super::steps;
use crate::claim::{Outcome, Verdict};
use crate::context::{Context, NODE_PORT};
use crate::expectation::{ExpectedDeployment, ExpectedRoute};
use crate::kubernetes::{
    external::{ExternalAddress, PENDING},
    mutate,
    namespace_client::NamespaceClient,
    pods,
    wait::{split_infra_errors, with_note},
};
use crate::sampler::Sampler;
use crate::verdicts;
use anyhow::{Context as _, bail};
use k8s_openapi::api::{core::v1::Service, networking::v1::Ingress};
use std::ops::RangeInclusive;

/// The article's number of replicas.
const REPLICAS: i32 = 3;
const MANIFEST: &str = "ingress/app-production.yml";
/// Kubernetes' default for `--service-node-port-range`.
const NODE_PORTS: RangeInclusive<i32> = 30000..=32767;
/// Hosts and paths without a rule.
const HOSTS: [&str; 3] = [STABLE_HOST, CANARY_HOST, "unknown.example"];
const PATHS: [&str; 3] = ["/version", "/stable/version", "/canary/version"];

/// Returns the address of the Ingress.
pub(super) async fn run(
    context: &Context,
    namespace: &NamespaceClient,
) -> anyhow::Result<ExternalAddress> {
    let unready = apply_unready(context, namespace).await?;
    let (healthy, responds) = make_ready(context, namespace, &unready).await?;
    node_port(context, namespace).await?;
    if !responds {
        context.require("backends-healthy-first", healthy).await?;
        bail!("the Ingress does not respond; the remaining claims depend on it")
    }
    context.judge("backends-healthy-first", healthy).await?;
    default_backend(context, namespace, &unready.external).await?;
    Ok(unready.external)
}

/// The Ingress while its backends run but are not ready.
struct Unready {
    external: ExternalAddress,
    sampler: Sampler,
    verdict: Verdict,
}

/// Applies production with a readiness probe that never succeeds, and the Ingress in front of it.
async fn apply_unready(context: &Context, namespace: &NamespaceClient) -> anyhow::Result<Unready> {
    let environment = context.environment();
    namespace.check_ingress_class(&environment.ingress_class).await?;
    let _step = context.step(&steps::UNREADY).await;
    context.checking("backends-healthy-first");
    let image = context.stable()?.name.clone();
    context.expect(|expected| {
        let labels = STABLE.pods;
        let deployment = ExpectedDeployment { replicas: REPLICAS, image, labels, ready: false };
        expected.deployments.insert(PRODUCTION, deployment);
        expected.services.insert(STABLE.service, STABLE.expected());
        let pages = HOSTS.iter().flat_map(|host| PATHS.iter().map(move |path| (*host, *path)));
        let service = STABLE.service;
        let routes = pages.map(|(host, path)| ExpectedRoute { host, path, service });
        expected.routes = routes.collect();
    });
    namespace.apply_edited(environment, MANIFEST, mutate::never_ready).await?;
    namespace.apply_file(environment, "ingress/app-ingress-production.yml").await?;
    // Pods that cannot run end the lab here: no later claim could be judged.
    tokio::select! {
        running = namespace.wait_running_pod(STABLE.pods) => running.map(drop)?,
        rolled = namespace.wait_rolled_out(PRODUCTION) => rolled.map(drop)?,
    }
    let pods = pods::names(&namespace.pods(STABLE.pods).await?);
    namespace.check_service(STABLE.service, Some(HTTP), &pods).await?;
    namespace.check_class_exists(INGRESS).await?;
    let external = match namespace.wait_external_address::<Ingress>(INGRESS, HTTP).await {
        // Only without an address may the class be unserved.
        Err(pending) if pending.last_seen_is(PENDING) => {
            bail!(
                "{pending}; {}",
                namespace.explain_pending_ingress(INGRESS, &environment.ingress_class).await
            )
        }
        found => found.context("failed to reach the Ingress")?,
    };
    let sampler =
        namespace.sampler(&external).host(&host_with_port(STABLE_HOST, external.port, HTTP));
    let known = split_infra_errors(namespace.wait_endpoints_include(STABLE.service, &pods).await)?;
    // An Ingress that is not set up yet would look like one that waits, so a response of any status is
    // awaited. Some controllers never respond without a healthy backend, which is as good.
    let at = external.to_string();
    let responded = split_infra_errors(namespace.wait_any_response(&sampler, &at).await)?;
    // Not kept for diagnostics: these failures are expected.
    let sample = sampler.take(FEW_REQUESTS, |_| {}).await?;
    let good = sample.total() - sample.failures().count() as u64;
    let failures = verdicts::failure_kinds(&sample);
    let details = if failures.is_empty() { failures } else { format!(" ({failures})") };
    let (unready, total) = (pods.len(), sample.total());
    let evidence =
        format!("{unready} unready pods: {good} of {total} requests had a good response{details}");
    let verdict = with_note(Verdict::of(good == 0, evidence), known.and(responded));
    Ok(Unready { external, sampler, verdict })
}

/// Applies the original readiness probe and waits for a good response; returns whether there was one.
async fn make_ready(
    context: &Context,
    namespace: &NamespaceClient,
    unready: &Unready,
) -> anyhow::Result<(Verdict, bool)> {
    let step = context.step(&steps::READY).await;
    context.expect(|expected| expected.set_ready(PRODUCTION, true));
    namespace.apply_file(context.environment(), MANIFEST).await?;
    let Unready { external, sampler, verdict } = unready;
    let first = async {
        let at = external.to_string();
        let reply = match split_infra_errors(namespace.wait_good_response(sampler, &at).await)? {
            Ok(reply) => reply,
            Err(why) => return anyhow::Ok((Verdict::fails(why), false)),
        };
        let seconds = step.seconds();
        // This half is the weaker proof: the pods are listed after the response, so one that became
        // ready in between would pass. The first half shows that the Ingress waits.
        let pods = namespace.pods(STABLE.pods).await?;
        let ready = pods::names(pods.iter().filter(|pod| pods::is_ready(pod)));
        let pod = reply.pod.unwrap_or_default();
        let is_ready = ready.contains(&pod);
        let word = if is_ready { "ready" } else { "not ready" };
        let evidence =
            format!("{seconds:.2} s after the probe was fixed, from {pod}, {word} right after");
        Ok((Verdict::of(is_ready, evidence), true))
    };
    let rolled = async { Ok(namespace.wait_rolled_out(PRODUCTION).await?) };
    // Pods that do not become ready end the wait for a response.
    let (_, (first, responds)) = tokio::try_join!(rolled, first)?;
    let parts = [("before", verdict.clone()), ("first good response", first)];
    Ok((Verdict::all(parts), responds))
}

/// Samples the Service's node port on every node.
async fn node_port(context: &Context, namespace: &NamespaceClient) -> anyhow::Result<()> {
    const CLAIM: &str = "nodeport-in-range";
    if context.omits(&[CLAIM]) {
        return Ok(());
    }
    if let Some(reason) = context.unsupported(CLAIM) {
        context.judge(CLAIM, Verdict::skipped(reason)).await?;
        return Ok(());
    }
    let _step = context.step(&steps::NODE_PORT).await;
    let service = namespace.api::<Service>().get(STABLE.service).await;
    let service = service.context("failed to get the Service")?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let Some(port) = ports.first().and_then(|port| port.node_port) else {
        context.judge(CLAIM, Verdict::fails("the Service has no node port")).await?;
        return Ok(());
    };
    let range = format!("{}-{}", NODE_PORTS.start(), NODE_PORTS.end());
    let in_range = NODE_PORTS.contains(&port);
    let word = if in_range { "in" } else { "outside" };
    let mut parts =
        vec![(format!("port {port}"), Verdict::of(in_range, format!("{word} {range}")))];
    let pods = pods::names(&namespace.pods(STABLE.pods).await?);
    let found = split_infra_errors(namespace.wait_endpoints(STABLE.service, &pods).await)?;
    for (node, address) in namespace.node_addresses().await? {
        let Some(address) = address else {
            parts.push((node, Verdict::fails("has no address")));
            continue;
        };
        let at = ExternalAddress {
            host: address.to_string(),
            port: u16::try_from(port)?,
            socket: (address, u16::try_from(port)?).into(),
        };
        let sampler = namespace.sampler(&at);
        let converged = match &found {
            Ok(()) => split_infra_errors(namespace.wait_converged(&sampler, &pods).await)?,
            Err(why) => Err(why.clone()),
        };
        let what = format!("{NODE_PORT} {node}");
        let sample = context.sample(&what, &sampler, FEW_REQUESTS, None).await?;
        let verdict = verdicts::all_are(&sample, &context.stable()?.version);
        parts.push((format!("{node} {address}"), with_note(verdict, converged)));
    }
    let has_nodes = parts.len() > 1;
    let verdict = Verdict::all(parts);
    let outcome = if has_nodes { verdict.outcome } else { Outcome::Fails };
    context.judge(CLAIM, Verdict { outcome, ..verdict }).await?;
    Ok(())
}

/// Samples the Ingress on hosts and paths without a rule.
async fn default_backend(
    context: &Context,
    namespace: &NamespaceClient,
    external: &ExternalAddress,
) -> anyhow::Result<()> {
    if context.skip(&["default-backend-takes-all"])? {
        return Ok(());
    }
    let routes = HOSTS.len() * PATHS.len();
    let _step = context
        .step_as(&steps::DEFAULT, format!("send {FEW_REQUESTS} requests to each of {routes} pages"))
        .await;
    let pods = pods::names(&namespace.pods(STABLE.pods).await?);
    let sampler =
        |host: &str| namespace.sampler(external).host(&host_with_port(host, external.port, HTTP));
    let converged = match split_infra_errors(namespace.wait_endpoints(STABLE.service, &pods).await)?
    {
        Ok(()) => match namespace.misroute(INGRESS, &context.expectations().routes).await? {
            Some(why) => Err(why),
            None => split_infra_errors(
                namespace.wait_ingress_converged(&sampler(STABLE_HOST), &pods).await,
            )?,
        },
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
    let verdict = verdicts::each_is(&parts, &context.stable()?.version);
    context.judge("default-backend-takes-all", with_note(verdict, converged)).await?;
    Ok(())
}
