//! Phase 3: stable behind a load balancer.

use crate::claim::{Claim, Outcome, Verdict};
use crate::context::{Context, Step};
use crate::expectation::{ExpectedDeployment, ExpectedService};
use crate::kubernetes::{
    apply,
    external::ExternalAddress,
    mutate,
    namespace_client::NamespaceClient,
    pods,
    wait::{split_infra_errors, with_note},
};
use crate::lab::Lab;
use crate::sampler::Sampler;
use crate::verdicts;
use anyhow::Context as _;
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Pod, Service},
};
use kube::ResourceExt;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// The entry of this phase in the list of labs.
pub const LAB: Lab = Lab {
    name: "phase3",
    title: "Stable behind a load balancer",
    summary: "Deploys 1.0 with three replicas in `production`, publishes it with a load balancer and tries what the article says of both.",
    article: "“Deploying to production”: `extensions/v1beta1` without a selector; today `apps/v1`, whose selector must include `env`.",
    claims: &[
        Claim::new("namespace-holds", "What the phase creates lives in `production`, and `default` does not list it."),
        Claim::new("deployment-owns-replicaset", "The Deployment makes one ReplicaSet, which makes exactly 3 pods.").needs(&["rollout-completes"]),
        Claim::new("template-is-a-cutter", "Pods carry the template's labels; changing the template later does not change existing pods.").needs(&["rollout-completes"]),
        Claim::new("readiness-gates", "A pod gets traffic only once `/health` returns 200.").needs(&["lb-gets-address", "lb-finds-pods"]),
        Claim::new("rollout-completes", "`rollout status` ends with every replica updated and available."),
        Claim::new("pods-spread", "The scheduler spreads the pods over the nodes.").needs(&["rollout-completes"]),
        Claim::new("events-tell", "Events record the start: scaled, scheduled, pulled, created, started.").needs(&["rollout-completes"]),
        Claim::new("self-heals", "Delete a pod and another takes its place.").needs(&["rollout-completes"]),
        Claim::new("scales", "`replicas: 5` gives five, and back to three gives three.").needs(&["rollout-completes"]),
        Claim::new("lb-gets-address", "A `LoadBalancer` Service gets an external address, asynchronously, and port 80 leads to 8080 of the pods.").needs(&["lb-finds-pods"]),
        Claim::new("lb-finds-pods", "The selector `app: kubeapp` alone finds the pods."),
        Claim::new("service-outlives-pods", "Replace every pod: the Service keeps its address and still responds.").needs(&["lb-gets-address", "lb-finds-pods", "template-is-a-cutter"]),
        Claim::new("stable-serves-all", "Every request gets 1.0.").needs(&["lb-gets-address", "lb-finds-pods"]),
        Claim::new("load-spreads", "The load balancer uses every pod, evenly.").needs(&["lb-gets-address", "lb-finds-pods", "stable-serves-all"]),
    ],
    uses_namespace: true,
    run: |context| Box::pin(run(context)),
};

/// Names and numbers of the article.
const PRODUCTION: &str = "kubeapp-production";
const BALANCER: &str = "app-lb";
const PORT: u16 = 80;
const REPLICAS: usize = 3;
/// Labels of the pods of the stable Deployment, and of all pods of the app.
const STABLE: &str = "app=kubeapp,env=production";
const APP: &str = "app=kubeapp";
/// Bounds an unobserved share to 0.3%, and reveals a pod that is used half as much as others.
const REQUESTS: u64 = 1000;
/// Reveals a pod that takes a quarter of the requests with near certainty.
const FEW_REQUESTS: u64 = 300;

async fn run(context: &Context) -> anyhow::Result<()> {
    context.ensure_namespace().await?;
    let namespace = context.namespace_client();
    let version = context.stable()?.version.clone();
    deploy(context, &namespace).await?;
    let external = publish(context, &namespace).await?;
    let sampler = balance(context, &namespace, external.as_ref(), &version).await?;
    readiness(context, &namespace, sampler.as_ref()).await?;
    heal_and_scale(context, &namespace).await?;
    replace(context, &namespace, external.as_ref(), sampler.as_ref()).await?;
    let _step = context.step("list what is in `production` and in `default`");
    context.judge("namespace-holds", namespace_holds(&namespace).await?).await?;
    Ok(())
}

/// Applies the Deployment and judges the result.
async fn deploy(context: &Context, namespace: &NamespaceClient) -> anyhow::Result<()> {
    let step = context.step("apply app-production.yml");
    context.checking("rollout-completes");
    let image = context.stable()?.name.clone();
    context.expect(|expected| {
        let replicas = REPLICAS as i32;
        let deployment = ExpectedDeployment { replicas, image, labels: STABLE, ready: true };
        expected.deployments.insert(PRODUCTION, deployment);
        let service = ExpectedService { selects: APP, port: PORT, type_: "LoadBalancer" };
        expected.services.insert(BALANCER, service);
    });
    namespace.apply_file(context.environment(), "lb/app-production.yml").await?;
    let rolled = split_infra_errors(namespace.wait_rolled_out(PRODUCTION).await)?;
    let verdict = match &rolled {
        Ok(deployment) => {
            let status = deployment.status.clone().unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let conditions: Vec<String> = conditions
                .iter()
                .map(|c| {
                    format!("{}={} ({})", c.type_, c.status, c.reason.as_deref().unwrap_or("-"))
                })
                .collect();
            let (updated, available) = (status.updated_replicas, status.available_replicas);
            let all = [updated, available].map(|n| n.unwrap_or(0));
            Verdict::of(
                all == [REPLICAS as i32; 2],
                format!(
                    "{} of {REPLICAS} updated, {} available after {:.2} s; {}",
                    all[0],
                    all[1],
                    step.seconds(),
                    conditions.join(", ")
                ),
            )
        }
        Err(why) => Verdict::fails(why.clone()),
    };
    if rolled.is_err() {
        // Nothing that follows could be judged without its pods.
        return context.require("rollout-completes", verdict).await;
    }
    context.judge("rollout-completes", verdict).await?;
    let (sets, pods) = (namespace.replica_sets(PRODUCTION).await?, namespace.pods(STABLE).await?);
    context.judge("deployment-owns-replicaset", ownership(&sets, &pods)).await?;
    context.judge("pods-spread", spread(&pods, &namespace.nodes_for_pods().await?)).await?;
    context.judge("events-tell", events_tell(namespace).await?).await?;
    Ok(())
}

/// Applies the Service and waits for its endpoints and its address. `None` if nothing responds there.
async fn publish(
    context: &Context,
    namespace: &NamespaceClient,
) -> anyhow::Result<Option<ExternalAddress>> {
    let step = context.step("apply app-lb.yml and wait for its address");
    context.checking("lb-finds-pods");
    let mut at_once = false;
    for manifest in apply::manifests(context.environment(), "lb/app-lb.yml")? {
        let applied = namespace.apply(&manifest).await?;
        at_once |= applied.data.pointer("/status/loadBalancer/ingress").is_some();
    }
    finds_pods(context, namespace).await?;
    if context.skip(&["lb-gets-address"])? {
        return Ok(None);
    }
    let pods = pods::names(&namespace.pods(APP).await?);
    let leads = split_infra_errors(namespace.check_service(BALANCER, Some(PORT), &pods).await)?;
    let external = match leads {
        Err(why) => Err(why),
        Ok(()) => {
            split_infra_errors(namespace.wait_external_address::<Service>(BALANCER, PORT).await)?
        }
    };
    let had_address = step.seconds();
    let responds = match &external {
        Err(why) => Err(why.clone()),
        Ok(external) => split_infra_errors(namespace.wait_sampler(external).await)?.map(drop),
    };
    let verdict = match (&external, responds) {
        (Err(why), _) => Verdict::fails(why),
        (_, Err(why)) => Verdict::fails(why),
        (Ok(external), Ok(())) => {
            let when = if at_once {
                "in the response to apply".into()
            } else {
                format!("{had_address:.2} s after apply")
            };
            let mut evidence = format!(
                "{} {when}, responds after {:.2} s; port {PORT} leads to 8080 of the pods",
                external.host,
                step.seconds()
            );
            if external.port != PORT {
                evidence = format!(
                    "{evidence} (published as {}: the cluster may not bind {PORT})",
                    external.port
                );
            }
            Verdict::holds(evidence)
        }
    };
    let responds = context.judge("lb-gets-address", verdict).await? != Outcome::Fails;
    Ok(external.ok().filter(|_| responds))
}

/// Judges that the Service's selector alone finds the pods.
async fn finds_pods(context: &Context, namespace: &NamespaceClient) -> anyhow::Result<()> {
    let pods = pods::names(&namespace.pods(APP).await?);
    let found = split_infra_errors(namespace.wait_endpoints(BALANCER, &pods).await)?;
    let selector =
        namespace.api::<Service>().get(BALANCER).await.context("failed to get the Service")?;
    let selector = selector.spec.and_then(|spec| spec.selector).unwrap_or_default();
    let selector: Vec<String> =
        selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let selector = selector.join(",");
    context
        .judge(
            "lb-finds-pods",
            match found {
                Ok(()) => Verdict::of(
                    selector == APP,
                    format!("selector {selector} finds {} endpoints: {}", pods.len(), list(&pods)),
                ),
                Err(why) => Verdict::fails(why),
            },
        )
        .await?;
    Ok(())
}

/// Samples the load balancer. Returns the sampler if it responds.
async fn balance(
    context: &Context,
    namespace: &NamespaceClient,
    external: Option<&ExternalAddress>,
    version: &str,
) -> anyhow::Result<Option<Sampler>> {
    if context.skip(&["stable-serves-all", "load-spreads"])? {
        return Ok(external.map(|external| namespace.sampler(external)));
    }
    let _step = context.step(format!("send {REQUESTS} requests to the load balancer"));
    let pods = pods::names(&namespace.pods(STABLE).await?);
    let sampler = match external {
        Some(external) => split_infra_errors(namespace.wait_sampler(external).await)?,
        None => Err("nothing responds there".to_owned()),
    };
    let sampler = match sampler {
        Ok(sampler) => sampler,
        Err(why) => {
            context.judge("stable-serves-all", Verdict::fails(&why)).await?;
            context.judge("load-spreads", Verdict::fails(why)).await?;
            return Ok(None);
        }
    };
    // Sampled even without convergence: the verdicts show what is wrong.
    let converged = split_infra_errors(namespace.wait_balanced(BALANCER, &sampler, &pods).await)?;
    let sample = context.sample("the load balancer", &sampler, REQUESTS, None).await?;
    context.judge("stable-serves-all", verdicts::all_are(&sample, version)).await?;
    context.judge("load-spreads", with_note(verdicts::even(&sample, &pods), converged)).await?;
    Ok(Some(sampler))
}

/// Adds a pod behind the load balancer whose readiness probe never succeeds.
async fn readiness(
    context: &Context,
    namespace: &NamespaceClient,
    sampler: Option<&Sampler>,
) -> anyhow::Result<()> {
    if context.skip(&["readiness-gates"])? {
        return Ok(());
    }
    let _step = context.step("add a pod that never becomes ready");
    context.checking("readiness-gates");
    let Some(sampler) = sampler else {
        let why = "nothing responds behind the load balancer, so readiness cannot be judged";
        context.judge("readiness-gates", Verdict::fails(why)).await?;
        return Ok(());
    };
    let name = "kubeapp-unready";
    let image = context.stable()?.name.clone();
    context.expect(|expected| {
        let labels = "app=kubeapp,env=unready";
        let deployment = ExpectedDeployment { replicas: 1, image, labels, ready: false };
        expected.deployments.insert(name, deployment);
    });
    for mut manifest in apply::manifests(context.environment(), "lb/app-production.yml")? {
        mutate::sibling(&mut manifest.object, name, "unready");
        mutate::never_ready(&mut manifest.object);
        namespace.apply(&manifest).await?;
    }
    let verdict = match split_infra_errors(
        namespace.wait_running_pod(&format!("{APP},env=unready")).await,
    )? {
        Err(why) => Verdict::fails(why),
        Ok(pod) => {
            let endpoint =
                split_infra_errors(namespace.wait_endpoint_readiness(BALANCER, &pod, false).await)?;
            let sample = context.sample("with an unready pod", sampler, FEW_REQUESTS, None).await?;
            let verdict = verdicts::none_from(&sample, &[pod.clone()].into());
            let evidence = format!("{pod} runs but is not ready; it got {}", verdict.evidence);
            match endpoint {
                Ok(()) => Verdict { evidence, ..verdict },
                Err(why) => Verdict {
                    outcome: Outcome::Fails,
                    evidence: format!("{evidence}; {why}"),
                    ..verdict
                },
            }
        }
    };
    context.judge("readiness-gates", verdict).await?;
    split_infra_errors(namespace.delete_deployment(name).await?)?.map_err(anyhow::Error::msg)
}

/// Deletes a pod, then scales to five and back to three.
async fn heal_and_scale(context: &Context, namespace: &NamespaceClient) -> anyhow::Result<()> {
    if !context.skip(&["self-heals"])? {
        let step = context.step("delete a pod");
        let before = pods::names(&namespace.pods(STABLE).await?);
        let verdict = match before.first() {
            None => Verdict::fails("there is no pod to delete"),
            Some(victim) => {
                namespace.delete_pod(victim).await?;
                match split_infra_errors(
                    namespace.wait_ready_pods(STABLE, REPLICAS, &[victim.clone()].into()).await,
                )? {
                    Err(why) => Verdict::fails(format!("{victim} was deleted; {why}")),
                    Ok(after) => Verdict::holds(format!(
                        "{victim} was deleted, {} took its place; {REPLICAS} ready after {:.2} s",
                        list(after.difference(&before)),
                        step.seconds()
                    )),
                }
            }
        };
        context.judge("self-heals", verdict).await?;
    }
    if context.skip(&["scales"])? {
        return Ok(());
    }
    let step = context.step("scale to five and back to three");
    context.checking("scales");
    let mut counts = vec![format!("{REPLICAS}")];
    let mut failed = None;
    for replicas in [5, REPLICAS] {
        let count = i32::try_from(replicas)?;
        context.expect(|expected| expected.scale(PRODUCTION, count));
        namespace.scale(PRODUCTION, count).await?;
        match split_infra_errors(
            namespace.wait_ready_pods(STABLE, replicas, &BTreeSet::new()).await,
        )? {
            Ok(pods) => counts.push(pods.len().to_string()),
            Err(why) => failed = failed.or(Some(format!("replicas: {replicas}: {why}"))),
        }
    }
    context
        .judge(
            "scales",
            match failed {
                None => Verdict::holds(format!(
                    "{} ready pods, in {:.2} s",
                    counts.join(" → "),
                    step.seconds()
                )),
                Some(why) => Verdict::fails(why),
            },
        )
        .await?;
    Ok(())
}

/// Changes the template while the rollout is paused, compares the pods, and resumes the rollout.
async fn replace(
    context: &Context,
    namespace: &NamespaceClient,
    external: Option<&ExternalAddress>,
    sampler: Option<&Sampler>,
) -> anyhow::Result<()> {
    if context.skip(&["template-is-a-cutter"])? {
        return context.skip(&["service-outlives-pods"]).map(drop);
    }
    let step = context.step("change the template, and replace every pod");
    context.checking("template-is-a-cutter");
    let before = namespace.pods(STABLE).await?;
    let service =
        namespace.api::<Service>().get(BALANCER).await.context("failed to get the Service")?;
    namespace.pause(PRODUCTION, true).await?;
    let mark = json!({"metadata": {"annotations": {"canary-labs.dev/cut": "second"}}});
    namespace.patch_template(PRODUCTION, mark).await?;
    let observed = split_infra_errors(namespace.wait_observed(PRODUCTION).await)?;
    let meanwhile = namespace.pods(STABLE).await?;
    namespace.pause(PRODUCTION, false).await?;
    let rolled = split_infra_errors(namespace.wait_rolled_out(PRODUCTION).await)?.map(drop);
    let after = namespace.pods(STABLE).await?;
    let verdict = match observed.and(rolled.clone()) {
        Ok(()) => template_is_a_cutter(&before, &meanwhile, &after),
        Err(why) => Verdict::fails(why),
    };
    context.judge("template-is-a-cutter", verdict).await?;

    if context.skip(&["service-outlives-pods"])? {
        return Ok(());
    }
    let (Some(external), Some(sampler)) = (external, sampler) else {
        let why = "nothing responded behind the Service before its pods were replaced";
        context.judge("service-outlives-pods", Verdict::fails(why)).await?;
        return Ok(());
    };
    let verdict = match rolled {
        Err(why) => Verdict::fails(why),
        Ok(()) => {
            let pods = [pods::names(&before), pods::names(&after)];
            outlives_pods(context, namespace, external, sampler, &service, pods, &step).await?
        }
    };
    context.judge("service-outlives-pods", verdict).await?;
    Ok(())
}

/// Judges that the Service kept its addresses and responds after its pods were replaced.
async fn outlives_pods(
    context: &Context,
    namespace: &NamespaceClient,
    external: &ExternalAddress,
    sampler: &Sampler,
    service: &Service,
    [old, new]: [BTreeSet<String>; 2],
    step: &Step,
) -> anyhow::Result<Verdict> {
    let kept = old.intersection(&new).count();
    // A Service that does not find the new pods may still lead to old ones that are terminating.
    if let Err(why) = split_infra_errors(namespace.wait_endpoints(BALANCER, &new).await)? {
        return Ok(Verdict::fails(why));
    }
    let converged = split_infra_errors(namespace.wait_balanced(BALANCER, sampler, &new).await)?;
    let now = namespace.api::<Service>().get(BALANCER).await;
    let now = now.context("failed to get the Service")?;
    let address =
        split_infra_errors(namespace.wait_external_address::<Service>(BALANCER, PORT).await)?;
    let sample =
        context.sample("after all pods were replaced", sampler, FEW_REQUESTS, None).await?;
    let responded = verdicts::none_failed(&sample);
    let same = cluster_ip(&now) == cluster_ip(service) && address.as_ref() == Ok(external);
    let holds = responded.outcome == Outcome::Holds && kept == 0 && same && !new.is_empty();
    let verdict = Verdict::of(
        holds,
        format!(
            "{} pods replaced in {:.2} s, {kept} kept; address {external} and {} {}; {}",
            old.len() - kept,
            step.seconds(),
            cluster_ip(service),
            if same { "unchanged" } else { "changed" },
            responded.evidence,
        ),
    );
    Ok(with_note(verdict, converged))
}

/// Judges that the phase's objects are in its namespace and that no such names are in `default`.
async fn namespace_holds(namespace: &NamespaceClient) -> anyhow::Result<Verdict> {
    let here = namespace.object_names().await?;
    let there = namespace.in_namespace("default").object_names().await?;
    let leaked: Vec<&String> =
        there.iter().filter(|name| name.contains("kubeapp") || name.contains(BALANCER)).collect();
    let all = [format!("deployment/{PRODUCTION}"), format!("service/{BALANCER}")];
    let holds = leaked.is_empty() && all.iter().all(|name| here.contains(name));
    let there = if there.is_empty() { "nothing".to_owned() } else { list(&there) };
    Ok(Verdict::of(holds, format!("{}: {}; default: {there}", namespace.name(), list(&here))))
}

/// Judges that the Deployment owns a single replica set, which owns every pod.
fn ownership(sets: &[ReplicaSet], pods: &[Pod]) -> Verdict {
    let names: Vec<String> = sets.iter().map(ResourceExt::name_any).collect();
    let owned = |pod: &&Pod| {
        pods::owner(&pod.metadata)
            .is_some_and(|owner| sets.iter().any(|set| set.uid().as_deref() == Some(&owner.uid)))
    };
    let count = pods.iter().filter(owned).count();
    let holds = sets.len() == 1 && count == REPLICAS && pods.len() == REPLICAS;
    Verdict::of(
        holds,
        format!(
            "{PRODUCTION} owns {} replica set{} ({}), which own{} {count} of {} pods: {}",
            sets.len(),
            if sets.len() == 1 { "" } else { "s" },
            names.join(", "),
            if sets.len() == 1 { "s" } else { "" },
            pods.len(),
            list(&pods::names(pods)),
        ),
    )
}

/// Judges that the pods are on more than one node: spreading is only a preference of the scheduler.
fn spread(pods: &[Pod], nodes: &[String]) -> Verdict {
    let mut per_node: BTreeMap<&str, usize> = nodes.iter().map(|node| (node.as_str(), 0)).collect();
    for node in pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref()) {
        *per_node.entry(node).or_default() += 1;
    }
    let used = per_node.values().filter(|n| **n > 0).count();
    let listed: Vec<String> = per_node.iter().map(|(node, n)| format!("{node} {n}")).collect();
    let evidence = format!("pods per node: {}", listed.join(", "));
    match nodes.len() {
        0 | 1 => Verdict::skipped(format!("only {} node takes pods; {evidence}", nodes.len())),
        _ => Verdict::of(used > 1, evidence),
    }
}

/// Waits for the events of a Deployment's start, which may be recorded later than they happen.
async fn events_tell(namespace: &NamespaceClient) -> anyhow::Result<Verdict> {
    let expected: [(&str, &[&str]); 3] = [
        ("Deployment", &["ScalingReplicaSet"]),
        ("ReplicaSet", &["SuccessfulCreate"]),
        ("Pod", &["Scheduled", "Pulled", "Created", "Started"]),
    ];
    Ok(match split_infra_errors(namespace.wait_events(&expected).await)? {
        Ok(reasons) => {
            let parts = reasons.iter().map(|(kind, reasons)| format!("{kind}: {}", list(reasons)));
            Verdict::holds(parts.collect::<Vec<_>>().join("; "))
        }
        Err(why) => Verdict::fails(why),
    })
}

/// Judges that pods carry the template's labels at their creation and that a later change of the template
/// does not affect existing pods.
fn template_is_a_cutter(before: &[Pod], meanwhile: &[Pod], after: &[Pod]) -> Verdict {
    let hash = |pod: &Pod| pod.labels().get("pod-template-hash").cloned().unwrap_or_default();
    let hashes = |pods: &[Pod]| pods.iter().map(hash).collect::<BTreeSet<_>>();
    let identity = |pod: &Pod| (pod.uid(), pod.labels().clone(), pod.annotations().clone());
    let identities = |pods: &[Pod]| pods.iter().map(identity).collect::<BTreeSet<_>>();
    let labeled = before.iter().chain(after).all(|pod| {
        let label = |key: &str| pod.labels().get(key).map(String::as_str);
        label("app") == Some("kubeapp") && label("env") == Some("production")
    });
    let unchanged = identities(before) == identities(meanwhile);
    let marked = after.iter().all(|pod| pod.annotations().contains_key("canary-labs.dev/cut"));
    let new_hash = hashes(before).is_disjoint(&hashes(after));
    let holds = !before.is_empty() && labeled && unchanged && marked && new_hash;
    Verdict::of(
        holds,
        format!(
            "{} pods of template {} {} when it changed; the pods created since are of {}{}",
            before.len(),
            list(&hashes(before)),
            if unchanged { "stayed as they were" } else { "did not stay as they were" },
            list(&hashes(after)),
            if labeled {
                ", all labeled app=kubeapp,env=production"
            } else {
                "; labels are missing"
            },
        ),
    )
}

fn cluster_ip(service: &Service) -> &str {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or("no address")
}

fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
