//! Runs both images as bare pods, one on each node, reached through a load balancer. They are deleted at
//! the end, since later phases count the objects in the namespace.

use super::response::VersionResponse;
use super::steps;
use crate::claim::Verdict;
use crate::context::Context;
use crate::kubernetes::namespace_client::NamespaceClient;
use crate::kubernetes::wait::{self, Objects, Progress, WaitError, split_infra_errors, until};
use crate::kubernetes::{adapt, pods, pull_secret};
use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, PostParams};
use lab_environment::{Environment, Image};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::BTreeMap;

/// The result.
pub(super) struct OnNodes {
    /// The response of each image.
    pub(super) responses: Vec<VersionResponse>,
    /// For each node, the problem that kept it from starting an image, if any.
    nodes: BTreeMap<String, Option<String>>,
    /// The number of nodes whose status lists both images.
    listed: usize,
    /// Whether the pods had a pull secret.
    with_secret: bool,
}

/// The label of this phase's objects; its value is the version.
const LABEL: &str = "image-of-version";

const AWAITED: &str = "pod of each image on each node";

/// Starts each image on each node that takes pods.
pub(super) async fn run(context: &Context, images: &[&Image; 2]) -> anyhow::Result<OnNodes> {
    context.ensure_namespace().await?;
    let namespace = context.namespace_client();
    let nodes = namespace.schedulable_nodes().await?;
    let step = context
        .step_as(&steps::START, format!("starting both images on {} nodes", nodes.len()))
        .await;
    for image in images {
        create(&namespace, service(&image.version)?).await?;
        for (index, node) in nodes.iter().enumerate() {
            let pod = pod(image, index, &node.name_any(), context.environment())?;
            create(&namespace, pod).await?;
        }
    }
    let started = started(&namespace, nodes.len() * images.len(), context).await?;
    drop(step);
    let mut responses = Vec::new();
    for image in images {
        let _step =
            context.step_as(&steps::ASK, format!("asking {} for its version", image.name)).await;
        responses.push(match &started {
            Ok(_) => fetch_version(&namespace, &image.version).await?,
            Err(why) => Err(why.clone()),
        });
    }
    // The kubelet lists an image in the node's status only some time after it has started it.
    let nodes = namespace.schedulable_nodes().await?;
    let listed = nodes.iter().filter(|node| images.iter().all(|i| lists(node, &i.name))).count();
    let problems = match started {
        Ok(problems) => problems,
        Err(why) => nodes.iter().map(|node| (node.name_any(), Some(why.clone()))).collect(),
    };
    delete_all(&namespace, context).await?;
    let with_secret = context.environment().pull_secret.is_some();
    Ok(OnNodes { responses, nodes: problems, listed, with_secret })
}

impl OnNodes {
    /// Judges that every node has started both images.
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
            // Whether they could do without has not been tried.
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

/// Waits until every pod runs or cannot; returns for each node the problem of its pods. The inner error is
/// that of a wait without success.
async fn started(
    namespace: &NamespaceClient,
    expected: usize,
    context: &Context,
) -> anyhow::Result<Result<BTreeMap<String, Option<String>>, String>> {
    let all = until(
        namespace.api::<Pod>(),
        wait::Config::default().labels(LABEL),
        AWAITED,
        context.rollout_timeout(),
        |found: &Objects<Pod>| {
            let mut nodes: BTreeMap<String, Option<String>> = BTreeMap::new();
            let mut decided = 0;
            for pod in found.values() {
                let problem = pods::waiting_problem(pod)
                    .filter(|problem| problem.cause != pods::Cause::Transient);
                decided += usize::from(pods::is_ready(pod) || problem.is_some());
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                let of_node = nodes.entry(node.unwrap_or_default()).or_default();
                if let Some(problem) = problem {
                    *of_node = Some(problem.to_string());
                }
            }
            if decided == expected {
                Progress::Done(nodes)
            } else {
                Progress::Pending(format!("{decided} of {expected}"))
            }
        },
    );
    // Each node is judged by its own pods; one whose pod makes no progress ends the wait.
    let undecided = |pod: &Pod| {
        let problem = pods::waiting_problem(pod);
        pod.labels().contains_key(LABEL)
            && problem.is_none_or(|problem| problem.cause == pods::Cause::Transient)
    };
    let result = tokio::select! {
        biased;
        all = all => all,
        why = namespace.stalled_pod(true, undecided) => {
            Err(WaitError::Failed { awaited: AWAITED.to_owned(), why })
        }
    };
    split_infra_errors(result)
}

async fn fetch_version(
    namespace: &NamespaceClient,
    version: &str,
) -> anyhow::Result<VersionResponse> {
    let name = name_of(version);
    let external =
        match split_infra_errors(namespace.wait_external_address::<Service>(&name, 80).await)? {
            Ok(external) => external,
            Err(why) => return Ok(Err(why)),
        };
    let sampler = match split_infra_errors(namespace.wait_sampler(&external).await)? {
        Ok(sampler) => sampler,
        Err(why) => return Ok(Err(why)),
    };
    Ok(match sampler.fetch().await {
        Ok(response) if response.status == 200 => {
            Ok(String::from_utf8_lossy(&response.body).into_owned())
        }
        Ok(response) => Err(format!("/version returns status {}", response.status)),
        Err(failure) => Err(failure.to_string()),
    })
}

/// Deletes the objects that [`run`] created and waits until the pods are removed.
async fn delete_all(namespace: &NamespaceClient, context: &Context) -> anyhow::Result<()> {
    let _step = context.step(&steps::CLEAN).await;
    let ours = ListParams::default().labels(LABEL);
    let delete = DeleteParams::default();
    for service in
        namespace.api::<Service>().list(&ours).await.context("failed to list Services")?
    {
        let deleted = namespace.api::<Service>().delete(&service.name_any(), &delete).await;
        deleted.context("failed to delete a Service of this phase")?;
    }
    for pod in namespace.api::<Pod>().list(&ours).await.context("failed to list pods")? {
        let deleted = namespace.api::<Pod>().delete(&pod.name_any(), &delete).await;
        deleted.context("failed to delete a pod of this phase")?;
    }
    until(
        namespace.api::<Pod>(),
        wait::Config::default().labels(LABEL),
        "end of the pods of this phase",
        context.rollout_timeout(),
        |found: &Objects<Pod>| match found.len() {
            0 => Progress::Done(()),
            left => Progress::Pending(format!("{left} pods left")),
        },
    )
    .await?;
    Ok(())
}

async fn create<K>(namespace: &NamespaceClient, object: K) -> anyhow::Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + k8s_openapi::Resource
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + DeserializeOwned,
{
    let name = object.name_any();
    let created = namespace.api::<K>().create(&PostParams::default(), &object).await;
    created.with_context(|| {
        format!("failed to create {} {name}", <K as k8s_openapi::Resource>::KIND)
    })?;
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
    adapt::adapt(&mut manifest, environment);
    serde_json::from_value(manifest).context("a bug in these labs: the pod of phase 2")
}

/// Returns true if the node's status lists the image, under its short or a full name.
fn lists(node: &Node, image: &str) -> bool {
    let images = node.status.as_ref().and_then(|status| status.images.as_ref());
    let mut names = images.into_iter().flatten().flat_map(|image| image.names.iter().flatten());
    names.any(|name| name == image || name.strip_suffix(image).is_some_and(|p| p.ends_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Outcome;
    use crate::fixture::environment;

    #[test]
    fn claim_fails_if_one_node_lacks_the_image() {
        let on = |faults: &[Option<&str>], with_secret| {
            let nodes = faults.iter().enumerate();
            let nodes =
                nodes.map(|(i, fault)| (format!("n{i}"), fault.map(str::to_owned))).collect();
            OnNodes { responses: Vec::new(), nodes, listed: 2, with_secret }.reachable()
        };
        for (with_secret, outcome) in [(false, Outcome::Holds), (true, Outcome::Skipped)] {
            let verdict = on(&[None, None], with_secret);
            assert_eq!(verdict.outcome, outcome);
            assert!(verdict.evidence.contains("both started on n0, n1"), "{}", verdict.evidence);
            let verdict = on(&[None, Some("no such image")], with_secret);
            let found = (verdict.outcome, &*verdict.evidence);
            assert_eq!(found, (Outcome::Fails, "n1: no such image"));
            assert_eq!(on(&[], with_secret).outcome, Outcome::Fails);
        }
    }

    #[test]
    fn image_is_found_under_its_full_name() {
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
    fn objects_are_valid() {
        let mut environment = environment();
        environment.images[0].name = "registry/kubeapp:1.0".into();
        let pod = pod(&environment.images[0], 2, "node-3", &environment).unwrap();
        assert_eq!(pod.name_any(), "image-1-0-2");
        assert_eq!(pods::image(&pod), "registry/kubeapp:1.0");
        assert_eq!(service("1.0").unwrap().name_any(), "image-1-0");
    }
}
