//! Both images as bare pods, one on each node, reached through a load balancer. Deleted again at the
//! end, since the phases that follow count what is in the namespace.

use super::Answered;
use crate::claim::Verdict;
use crate::context::Context;
use crate::kubernetes::wait::{self, Seen, evidence, until};
use crate::kubernetes::{Scope, fit, pods, pull_secret};
use crate::phases::phase0;
use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, PostParams};
use lab_environment::{Environment, Image};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::BTreeMap;

/// What came of it.
pub(super) struct OnNodes {
    /// For each image, what it answers.
    pub(super) answered: Vec<Answered>,
    /// For each node, what kept it from starting an image, if anything did.
    nodes: BTreeMap<String, Option<String>>,
    /// How many nodes list both images among theirs.
    listed: usize,
    /// Whether the nodes were given what it takes to pull them.
    with_secret: bool,
}

/// Marks the pods of this phase; its value is the version.
const LABEL: &str = "image-of-version";

/// Starts each image on each node that takes pods.
pub(super) async fn run(context: &Context, images: &[&Image; 2]) -> anyhow::Result<OnNodes> {
    context.own_namespace().await?;
    let scope = Scope::new(context);
    let nodes = phase0::nodes_for_pods(context).await?;
    let step = context.step(format!("starting both images on {} nodes", nodes.len()));
    for image in images {
        create(&scope, service(&image.version)?).await?;
        for (index, node) in nodes.iter().enumerate() {
            let pod = pod(image, index, &node.name_any(), context.environment())?;
            create(&scope, pod).await?;
        }
    }
    let started = started(&scope, nodes.len() * images.len(), context).await?;
    drop(step);
    let mut answered = Vec::new();
    for image in images {
        let _step = context.step(format!("asking {} for its version", image.name));
        answered.push(match &started {
            Ok(_) => ask(&scope, &image.version).await?,
            Err(why) => Err(why.clone()),
        });
    }
    // Only now do nodes surely know what they have started.
    let nodes = phase0::nodes_for_pods(context).await?;
    let listed = nodes.iter().filter(|node| images.iter().all(|i| lists(node, &i.name))).count();
    let troubles = match started {
        Ok(troubles) => troubles,
        Err(why) => nodes.iter().map(|node| (node.name_any(), Some(why.clone()))).collect(),
    };
    clear(&scope, context).await?;
    let with_secret = context.environment().pull_secret.is_some();
    Ok(OnNodes { answered, nodes: troubles, listed, with_secret })
}

impl OnNodes {
    /// Whether every node has started both images.
    pub(super) fn reachable(&self) -> Verdict {
        let names: Vec<_> = self.nodes.keys().map(String::as_str).collect();
        let faults = self.nodes.iter().filter_map(|(node, fault)| Some((node, fault.as_ref()?)));
        let faults: Vec<_> = faults.map(|(node, why)| format!("{node}: {why}")).collect();
        let started = format!(
            "both started on {}; {} of {} nodes list both among their images",
            names.join(", "),
            self.listed,
            names.len()
        );
        let verdict = match faults.as_slice() {
            [] if names.is_empty() => Verdict::fails("no node takes pods"),
            // What they can do without, nobody has tried.
            [] if self.with_secret => Verdict::skipped(format!(
                "the nodes were given credentials, the pull secret {}; with it, {started}",
                pull_secret::NAME
            )),
            [] => Verdict::holds(format!("without pull secrets, {started}")),
            faults => Verdict::fails(faults.join("; ")),
        };
        verdict.with(json!({ "nodes": names, "listed": self.listed, "faults": faults }))
    }
}

/// Waits until every pod runs or cannot: for each node, what ails its pods. The inner error is a
/// wait that came to nothing.
async fn started(
    scope: &Scope,
    expected: usize,
    context: &Context,
) -> anyhow::Result<Result<BTreeMap<String, Option<String>>, String>> {
    let all = until(
        scope.api::<Pod>(),
        wait::Config::default().labels(LABEL),
        "pod of each image on each node",
        context.rollout_patience(),
        |found: &BTreeMap<String, Pod>| {
            let mut nodes: BTreeMap<String, Option<String>> = BTreeMap::new();
            let mut settled = 0;
            for pod in found.values() {
                let trouble =
                    pods::trouble(pod).filter(|trouble| trouble.blame != pods::Blame::Unclear);
                settled += usize::from(pods::is_ready(pod) || trouble.is_some());
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                let of_node = nodes.entry(node.unwrap_or_default()).or_default();
                if let Some(trouble) = trouble {
                    *of_node = Some(trouble.to_string());
                }
            }
            if settled == expected {
                Seen::Done(nodes)
            } else {
                Seen::Waiting(format!("{settled} of {expected}"))
            }
        },
    );
    evidence(all.await)
}

async fn ask(scope: &Scope, version: &str) -> anyhow::Result<Answered> {
    let name = name_of(version);
    let external = match evidence(scope.external::<Service>(&name, 80).await)? {
        Ok(external) => external,
        Err(why) => return Ok(Err(why)),
    };
    let sampler = match evidence(scope.answering(&external).await)? {
        Ok(sampler) => sampler,
        Err(why) => return Ok(Err(why)),
    };
    Ok(match sampler.fetch().await {
        Ok(response) if response.status == 200 => {
            Ok(String::from_utf8_lossy(&response.body).into_owned())
        }
        Ok(response) => Err(format!("/version answers with status {}", response.status)),
        Err(failure) => Err(failure.to_string()),
    })
}

/// Deletes what [`run`] made and waits until the pods are gone.
async fn clear(scope: &Scope, context: &Context) -> anyhow::Result<()> {
    let _step = context.step("deleting the pods again");
    let ours = ListParams::default().labels(LABEL);
    let delete = DeleteParams::default();
    for service in scope.api::<Service>().list(&ours).await.context("listing Services")? {
        let deleted = scope.api::<Service>().delete(&service.name_any(), &delete).await;
        deleted.context("deleting a Service of this phase")?;
    }
    for pod in scope.api::<Pod>().list(&ours).await.context("listing pods")? {
        let deleted = scope.api::<Pod>().delete(&pod.name_any(), &delete).await;
        deleted.context("deleting a pod of this phase")?;
    }
    until(
        scope.api::<Pod>(),
        wait::Config::default().labels(LABEL),
        "end of the pods of this phase",
        context.rollout_patience(),
        |found: &BTreeMap<String, Pod>| match found.len() {
            0 => Seen::Done(()),
            left => Seen::Waiting(format!("{left} pods left")),
        },
    )
    .await?;
    Ok(())
}

async fn create<K>(scope: &Scope, object: K) -> anyhow::Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + k8s_openapi::Resource
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + DeserializeOwned,
{
    let name = object.name_any();
    let made = scope.api::<K>().create(&PostParams::default(), &object).await;
    made.with_context(|| format!("creating {} {name}", <K as k8s_openapi::Resource>::KIND))?;
    Ok(())
}

fn name_of(version: &str) -> String {
    format!("image-{}", version.replace('.', "-"))
}

fn service(version: &str) -> anyhow::Result<Service> {
    let manifest = json!({
        "metadata": { "name": name_of(version), "labels": { LABEL: version } },
        "spec": {
            "type": "LoadBalancer",
            "selector": { LABEL: version },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
        },
    });
    serde_json::from_value(manifest).context("a bug in these labs: the Service of phase 2")
}

fn pod(image: &Image, index: usize, node: &str, environment: &Environment) -> anyhow::Result<Pod> {
    let mut manifest = json!({
        "metadata": {
            "name": format!("{}-{index}", name_of(&image.version)),
            "labels": { LABEL: image.version },
        },
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "app",
                "image": image.manifest_name,
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "readinessProbe": {
                    "httpGet": { "path": "/health", "port": 8080 }, "periodSeconds": 1,
                },
                "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } },
            }],
        },
    });
    fit::fit(&mut manifest, environment);
    serde_json::from_value(manifest).context("a bug in these labs: the pod of phase 2")
}

/// Whether the node's status lists the image, under any of the names that mean the same.
fn lists(node: &Node, image: &str) -> bool {
    let images = node.status.as_ref().and_then(|status| status.images.as_ref());
    let mut names = images.into_iter().flatten().flat_map(|image| image.names.iter().flatten());
    names.any(|name| name == image || name.strip_suffix(image).is_some_and(|p| p.ends_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Outcome;
    use crate::kubernetes::fit::tests::environment;

    #[test]
    fn one_node_without_the_image_fails_the_claim() {
        let on = |faults: &[Option<&str>], with_secret| {
            let nodes = faults.iter().enumerate();
            let nodes =
                nodes.map(|(i, fault)| (format!("n{i}"), fault.map(str::to_owned))).collect();
            OnNodes { answered: Vec::new(), nodes, listed: 2, with_secret }.reachable()
        };
        for (with_secret, outcome) in [(false, Outcome::Holds), (true, Outcome::Skipped)] {
            let verdict = on(&[None, None], with_secret);
            assert_eq!(verdict.outcome, outcome);
            assert!(verdict.evidence.contains("both started on n0, n1"), "{}", verdict.evidence);
            let verdict = on(&[None, Some("no such image")], with_secret);
            let said = (verdict.outcome, &*verdict.evidence);
            assert_eq!(said, (Outcome::Fails, "n1: no such image"));
            assert_eq!(on(&[], with_secret).outcome, Outcome::Fails);
        }
    }

    #[test]
    fn a_node_lists_an_image_under_its_full_name_too() {
        let node = |name: &str| -> Node {
            let status = json!({"images": [{"names": ["other", name]}]});
            serde_json::from_value(json!({"status": status})).unwrap()
        };
        assert!(lists(&node("docker.io/library/kubeapp:1.0"), "kubeapp:1.0"));
        assert!(lists(&node("kubeapp:1.0"), "kubeapp:1.0"));
        assert!(!lists(&node("docker.io/library/otherkubeapp:1.0"), "kubeapp:1.0"));
        assert!(!lists(&node("kubeapp:1.0.1"), "kubeapp:1.0"));
        assert!(!lists(&Node::default(), "kubeapp:1.0"));
    }

    #[test]
    fn manifests_are_what_kubernetes_knows() {
        let mut environment = environment();
        environment.images[0].name = "registry/kubeapp:1.0".into();
        let pod = pod(&environment.images[0], 2, "node-3", &environment).unwrap();
        assert_eq!(pod.name_any(), "image-1-0-2");
        assert_eq!(pods::image(&pod), "registry/kubeapp:1.0");
        assert_eq!(service("1.0").unwrap().name_any(), "image-1-0");
    }
}
