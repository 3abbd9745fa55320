//! Diagnostics of a lab that failed, or of what was made by hand: one line that names the layer at fault, and
//! for a lab a folder with objects, events, logs and samples. Gathering is separate from judging, which is
//! tested without a cluster.

use crate::context::{Context, NODE_PORT};
use crate::event::Event;
use crate::expectation::Expectations;
use crate::fault::Fault;
use crate::kubernetes::{gateway, nodes, pods, service};
use crate::names::NAMESPACE;
use crate::sampler::Sample;
use anyhow::Context as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event as ClusterEvent, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::{Api, ResourceExt};
use lab_environment::Environment;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use deployments::DeploymentFacts;
use facts::{PodFacts, SampleFacts};
use ingress::IngressFacts;
use probes::ProbeFacts;
use rules::Facts;
use services::ServiceFacts;

mod deployments;
mod facts;
mod ingress;
mod probes;
mod rules;
mod services;

/// The result of a diagnosis.
pub(crate) struct Diagnosis {
    /// The layer at fault, if one was found.
    pub fault: Option<Fault>,
    /// The report of it.
    pub event: Event,
}

/// What is diagnosed, and the state that it should have.
pub(crate) struct Subject<'a> {
    /// The client of the cluster.
    pub client: kube::Client,
    /// The namespace.
    pub namespace: &'a str,
    /// The properties in which clusters differ.
    pub environment: &'a Environment,
    /// The state in which objects should be.
    pub expected: Expectations,
    /// What was sampled.
    pub samples: Vec<(String, Sample)>,
    /// A claim that does not hold, with the evidence.
    pub failing: Option<String>,
    /// Whether the objects may have been applied just now, so that what is not there yet is no fault.
    pub in_progress: bool,
}

impl<'a> Subject<'a> {
    fn of(context: &'a Context) -> Self {
        let record = context.record();
        let failing = record.first_failure();
        Self {
            client: context.client(),
            namespace: NAMESPACE,
            environment: context.environment(),
            expected: context.expectations(),
            samples: record.samples().to_vec(),
            failing: failing.map(|(claim, verdict)| format!("{}: {}", claim.id, verdict.evidence)),
            in_progress: false,
        }
    }
}

/// Returns the first layer that does not work in what a person has made.
pub(crate) async fn fault(subject: &Subject<'_>) -> Option<Fault> {
    let snapshot = Snapshot::read(subject).await;
    let fault = snapshot.diagnose(subject).await.1;
    fault.map(|fault| fault.in_namespace(subject.namespace))
}

/// Gathers diagnostics, writes them below `folder` and names the layer at fault: the one that `error`
/// carries, or else the first that does not work. Whatever cannot be read is left out: something is
/// broken already when this runs.
pub(crate) async fn gather(
    context: &Context,
    error: Option<&anyhow::Error>,
    folder: Option<&Path>,
) -> Diagnosis {
    let subject = Subject::of(context);
    let mut snapshot = Snapshot::read(&subject).await;
    snapshot.read_logs(&subject).await;
    let (facts, fault) = match error.and_then(Fault::of).cloned() {
        Some(carried) => (snapshot.facts(&subject), Some(carried)),
        None => snapshot.diagnose(&subject).await,
    };
    let (layer, mut reason, command) = match &fault {
        Some(Fault { layer, why, command }) => (Some(*layer), why.clone(), Some(command.clone())),
        None => (None, "no faulty layer found".to_owned(), None),
    };
    let line = layer.map_or_else(|| reason.clone(), |l| format!("{}: {reason}", l.word()));
    let written = folder.map(|folder| {
        let folder = folder.join(format!("{}-{}", context.lab(), std::process::id()));
        (folder.clone(), snapshot.write(&folder, context, error, &line, &facts))
    });
    let folder = match written {
        Some((folder, Ok(()))) => Some(folder.display().to_string()),
        Some((_, Err(error))) => {
            reason += &format!(" (failed to write the diagnostics: {error:#})");
            None
        }
        None => None,
    };
    Diagnosis { fault, event: Event::Diagnosis { layer, reason, command, folder } }
}

/// The claim that a cluster does not support if its node ports cannot be reached from here.
const NODE_PORT_CLAIM: &str = "nodeport-in-range";

/// The objects in the labs' namespace.
#[derive(Default)]
struct Snapshot {
    unreachable: Option<String>,
    nodes: Vec<Node>,
    deployments: Vec<Deployment>,
    pods: Vec<Pod>,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
    ingresses: Vec<Ingress>,
    /// Names of Ingress classes.
    classes: Vec<String>,
    /// Names only: their content is confidential.
    secrets: BTreeSet<String>,
    events: Vec<ClusterEvent>,
    /// Other objects as YAML, by the name of a file.
    others: Vec<(String, String)>,
    /// Logs by pod.
    logs: Vec<(String, String)>,
}

impl Snapshot {
    async fn read(subject: &Subject<'_>) -> Self {
        let (client, namespace) = (subject.client.clone(), subject.namespace);
        let mut snapshot = Self::default();
        match list(Api::namespaced(client.clone(), namespace)).await {
            Ok(pods) => snapshot.pods = pods,
            Err(error) => {
                snapshot.unreachable = Some(format!("{error:#}"));
                return snapshot;
            }
        }
        snapshot.services =
            list(Api::namespaced(client.clone(), namespace)).await.unwrap_or_default();
        snapshot.slices =
            list(Api::namespaced(client.clone(), namespace)).await.unwrap_or_default();
        snapshot.events =
            list(Api::namespaced(client.clone(), namespace)).await.unwrap_or_default();
        snapshot.ingresses =
            list(Api::namespaced(client.clone(), namespace)).await.unwrap_or_default();
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        if let Ok(secrets) = secrets.list_metadata(&ListParams::default()).await {
            snapshot.secrets = secrets.iter().map(ResourceExt::name_any).collect();
        }
        let classes = list::<IngressClass>(Api::all(client.clone())).await.unwrap_or_default();
        snapshot.classes = classes.iter().map(ResourceExt::name_any).collect();
        snapshot.deployments =
            list(Api::namespaced(client.clone(), namespace)).await.unwrap_or_default();
        snapshot.nodes = list(Api::all(client.clone())).await.unwrap_or_default();
        let sets = list::<ReplicaSet>(Api::namespaced(client.clone(), namespace)).await;
        snapshot.others = vec![
            ("deployments".to_owned(), yaml(&snapshot.deployments)),
            ("replicasets".to_owned(), yaml(&sets.unwrap_or_default())),
            ("nodes".to_owned(), yaml(&snapshot.nodes)),
        ];
        for resource in gateway::kinds() {
            let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
            if let Ok(objects) = list(api).await {
                snapshot.others.push((resource.plural, yaml(&objects)));
            }
        }
        snapshot
    }

    async fn read_logs(&mut self, subject: &Subject<'_>) {
        let pods: Api<Pod> = Api::namespaced(subject.client.clone(), subject.namespace);
        for pod in &self.pods {
            let name = pod.name_any();
            let limits = LogParams { limit_bytes: Some(1 << 20), ..LogParams::default() };
            if let Ok(log) = pods.logs(&name, &limits).await {
                self.logs.push((name.clone(), log));
            }
            let before = LogParams { previous: true, ..limits };
            if let Ok(log) = pods.logs(&name, &before).await {
                self.logs.push((format!("{name}-previous"), log));
            }
        }
    }

    /// Returns the facts, and the fault of the first layer that does not work.
    async fn diagnose(&self, subject: &Subject<'_>) -> (Facts, Option<Fault>) {
        let mut facts = self.facts(subject);
        // Requests to what is being applied would fail for no reason.
        let settled = !subject.in_progress || subject.failing.is_some();
        if settled && facts.needs_probes() {
            facts.probes = self.probe(subject).await;
        }
        let fault = facts.fault();
        (facts, fault)
    }

    fn facts(&self, subject: &Subject<'_>) -> Facts {
        let expected = &subject.expected;
        let on_node = |node: &Node| {
            let name = node.name_any();
            let mut nodes =
                self.pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_ref());
            nodes.any(|of_pod| *of_pod == name)
        };
        let lost = self.nodes.iter().filter(|node| !nodes::is_ready(node) && on_node(node));
        let services = self.services.iter().map(|service| {
            let expected = expected.services.get(&*service.name_any());
            let facts = ServiceFacts::of(service, &self.pods, &self.slices, expected);
            ServiceFacts { awaits_address: facts.awaits_address && !subject.in_progress, ..facts }
        });
        let deployments = self.deployments.iter().map(|deployment| {
            DeploymentFacts::of(deployment, expected.deployments.get(&*deployment.name_any()))
        });
        let ingresses = self.ingresses.iter().map(|ingress| {
            let (services, secrets) = (&self.services, &self.secrets);
            let facts =
                IngressFacts::of(ingress, services, secrets, &self.classes, &expected.routes);
            IngressFacts { awaits_address: facts.awaits_address && !subject.in_progress, ..facts }
        });
        let samples = subject.samples.iter().map(|(what, sample)| {
            let by_ingress = !self.ingresses.is_empty() && !what.starts_with(NODE_PORT);
            SampleFacts { by_ingress, ..SampleFacts::of(what, sample) }
        });
        Facts {
            unreachable: self.unreachable.clone(),
            lost_nodes: lost.map(ResourceExt::name_any).collect(),
            deployments: deployments.collect(),
            pods: self.pods.iter().map(|pod| self.pod(pod, subject)).collect(),
            services: services.collect(),
            ingresses: ingresses.collect(),
            probes: Vec::new(),
            samples: samples.collect(),
            impostors: self.impostors(subject.environment, &subject.samples),
            failing: subject.failing.clone(),
        }
    }

    fn pod(&self, pod: &Pod, subject: &Subject<'_>) -> PodFacts {
        let name = pod.name_any();
        let mut unready =
            subject.expected.deployments.iter().filter(|(_, deployment)| !deployment.ready);
        let kept_unready =
            unready.any(|(of, _)| name.strip_prefix(*of).is_some_and(|rest| rest.starts_with('-')));
        let facts = PodFacts::of(pod, &self.events, &self.nodes);
        let starting = subject.in_progress && facts.probe.is_none();
        PodFacts { kept_unready: kept_unready || starting, ..facts }
    }

    /// Describes the pods whose responses are not of their image's version.
    fn impostors(&self, environment: &Environment, samples: &[(String, Sample)]) -> Vec<String> {
        let mut found = BTreeMap::new();
        for reply in samples.iter().flat_map(|(_, sample)| sample.replies()) {
            let (Some(name), Some(version)) = (&reply.pod, &reply.version) else { continue };
            let Some(pod) = self.pods.iter().find(|pod| pod.name_any() == *name) else { continue };
            let image = pods::image(pod);
            let known = environment.images.iter().find(|known| known.name == image);
            if let Some(known) = known.filter(|known| known.version != *version) {
                let what = format!("pod {name} runs {} but responds as {version}", known.name);
                found.insert(name.clone(), what);
            }
        }
        found.into_values().collect()
    }

    /// Sends requests to the addresses of Services with ready endpoints, and of Ingresses.
    async fn probe(&self, subject: &Subject<'_>) -> Vec<ProbeFacts> {
        let has_endpoints = |service: &&Service| {
            let name = service.name_any();
            let of = |slice: &&EndpointSlice| {
                slice.labels().get("kubernetes.io/service-name") == Some(&name)
            };
            service::endpoints(self.slices.iter().filter(of)).into_values().any(|ready| ready)
        };
        let services: Vec<&Service> = self.services.iter().filter(has_endpoints).collect();
        // Where node ports cannot be reached from here, that they do not respond means nothing.
        let unsupported = &subject.environment.unsupported;
        let reachable = !unsupported.iter().any(|claim| claim.claim == NODE_PORT_CLAIM);
        let nodes = if reachable { self.nodes.as_slice() } else { &[] };
        probes::probe(&services, &self.ingresses, nodes).await
    }

    fn write(
        &self,
        folder: &Path,
        context: &Context,
        error: Option<&anyhow::Error>,
        verdict: &str,
        facts: &Facts,
    ) -> anyhow::Result<()> {
        let put = |name: &str, text: &str| {
            let path: PathBuf = folder.join(name);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&path, text))
                .with_context(|| format!("failed to write {}", path.display()))
        };
        let mut summary = format!("at fault: {verdict}\n");
        if let Some(error) = error {
            summary += &format!("stopped: {error:#}\n");
        }
        let record = context.record();
        for (claim, verdict) in record.verdicts() {
            let word = verdict.outcome.word();
            _ = writeln!(summary, "{word:<7}  {:<23}  {}", claim.id, verdict.evidence);
        }
        put("verdict.txt", &summary)?;
        put("facts.json", &serde_json::to_string_pretty(facts)?)?;
        put("objects/pods.yaml", &yaml(&self.pods))?;
        put("objects/services.yaml", &yaml(&self.services))?;
        put("objects/endpointslices.yaml", &yaml(&self.slices))?;
        put("objects/ingresses.yaml", &yaml(&self.ingresses))?;
        put("events.yaml", &yaml(&self.events))?;
        for (kind, text) in &self.others {
            put(&format!("objects/{kind}.yaml"), text)?;
        }
        for (pod, log) in &self.logs {
            put(&format!("logs/{pod}.log"), log)?;
        }
        for (index, (what, sample)) in record.samples().iter().enumerate() {
            let name: String =
                what.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
            put(&format!("samples/{:02}-{name}.csv", index + 1), &csv(sample))?;
        }
        Ok(())
    }
}

async fn list<K>(api: Api<K>) -> anyhow::Result<Vec<K>>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    Ok(api.list(&ListParams::default()).await?.items)
}

/// Formats each object as a YAML document.
fn yaml<T: Serialize>(objects: &[T]) -> String {
    let documents = objects.iter().map(|object| {
        serde_saphyr::to_string(object)
            .unwrap_or_else(|error| format!("# failed to serialize: {error}\n"))
    });
    documents.map(|document| format!("---\n{document}")).collect()
}

/// Formats a sample with a line per request: start and latency in seconds, version, pod, failure.
fn csv(sample: &Sample) -> String {
    let mut text = String::from("at,latency,version,pod,failure\n");
    for observation in &sample.observations {
        let (version, pod, failure) = match &observation.result {
            Ok(reply) => (
                reply.version.as_deref().unwrap_or_default(),
                reply.pod.as_deref().unwrap_or_default(),
                String::new(),
            ),
            Err(failure) => ("", "", failure.to_string()),
        };
        let (at, latency) = (observation.at, observation.latency);
        _ = writeln!(text, "{at:.6},{latency:.6},{version},{},{}", quoted(pod), quoted(&failure));
    }
    text
}

/// Quotes a field as RFC 4180 requires.
fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{Failure, Observation, Reply};

    fn sample() -> Sample {
        let reply = Reply { version: Some("1.0".into()), pod: Some("a,b".into()) };
        let results = [
            Ok(reply),
            Err(Failure::Status(503)),
            Err(Failure::Connect("refused, \"now\"".into())),
        ];
        let observations =
            results.map(|result| Observation { at: 0.5, latency: 0.001, result }).into();
        Sample { observations, seconds: 1.0 }
    }

    #[test]
    fn sample_is_written_as_csv() {
        assert_eq!(
            csv(&sample()),
            "at,latency,version,pod,failure\n\
             0.500000,0.001000,1.0,\"a,b\",\n\
             0.500000,0.001000,,,status 503\n\
             0.500000,0.001000,,,\"no connection: refused, \"\"now\"\"\"\n"
        );
    }

    #[test]
    fn sample_failures_are_classified() {
        let facts = SampleFacts::of("lb", &sample());
        assert_eq!((facts.total, facts.lost, facts.wrong, facts.refused), (3, 1, 1, 1));
        assert_eq!(facts.example.as_deref(), Some("status 503"));
    }

    #[test]
    fn objects_are_written_as_yaml_documents() {
        let text = yaml(&[serde_json::json!({"kind": "Pod"}), serde_json::json!({"kind": "Pod"})]);
        assert_eq!(text, "---\nkind: Pod\n---\nkind: Pod\n");
    }
}
