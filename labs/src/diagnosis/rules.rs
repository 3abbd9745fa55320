//! Derives the layer at fault from facts about a cluster: the first, from the cluster to the app, that
//! does not work. Later layers are not blamed, because they depend on the earlier ones.

use serde::Serialize;

use super::deployments::DeploymentFacts;
use super::facts::{PodFacts, SampleFacts};
use super::ingress::IngressFacts;
use super::probes::{ProbeFacts, Probed};
use super::services::ServiceFacts;
use crate::fault::{Fault, Layer, kubectl};

/// The facts that the diagnosis is based on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    /// Why the API server could not be reached.
    pub unreachable: Option<String>,
    /// The nodes that are not ready although pods are on them.
    pub lost_nodes: Vec<String>,
    /// The Deployments in the namespace.
    pub deployments: Vec<DeploymentFacts>,
    /// The pods in the namespace.
    pub pods: Vec<PodFacts>,
    /// The Services in the namespace.
    pub services: Vec<ServiceFacts>,
    /// The Ingresses in the namespace.
    pub ingresses: Vec<IngressFacts>,
    /// Requests to published addresses, sent for the diagnosis.
    pub probes: Vec<ProbeFacts>,
    /// The samples that the lab took, oldest first.
    pub samples: Vec<SampleFacts>,
    /// Pods that respond with another version than their image's.
    pub impostors: Vec<String>,
    /// The first failing claim, with its evidence.
    pub failing: Option<String>,
}

type Rule = fn(&Facts) -> Option<Fault>;

/// The rules, from the first layer to the last. Those at the end concern what is unusual but right by
/// itself: it is blamed only for a claim that fails without another reason.
const RULES: &[Rule] = &[
    Facts::cluster,
    Facts::node,
    Facts::image,
    Facts::schedule,
    Facts::pod,
    Facts::readiness,
    Facts::replicas,
    Facts::selector,
    Facts::port,
    Facts::endpoints,
    Facts::node_proxy,
    Facts::strategy,
    Facts::load_balancer,
    Facts::route,
    Facts::restarted,
    Facts::lost_requests,
    Facts::app,
    Facts::away,
    Facts::pinned,
];

impl Facts {
    /// Returns the fault of the first layer that has one; `None` if every layer works.
    pub(super) fn fault(&self) -> Option<Fault> {
        RULES.iter().find_map(|rule| rule(self))
    }

    /// Returns true if requests to published addresses could tell more.
    pub(super) fn needs_probes(&self) -> bool {
        // A restart explains lost requests only if everything else works.
        let restarted = self.restarted();
        self.fault().is_none_or(|fault| fault.layer >= Layer::Strategy || Some(fault) == restarted)
    }

    fn cluster(&self) -> Option<Fault> {
        let why = self.unreachable.as_ref()?;
        let why = format!("the API does not respond: {why}");
        Some(Fault::new(Layer::Cluster, why, "kubectl get --raw /readyz"))
    }

    fn node(&self) -> Option<Fault> {
        let Some(node) = self.lost_nodes.first() else {
            return self.pods.iter().find_map(|pod| pod.sandbox_failure.clone());
        };
        let why = format!("node {node} is not ready, and pods of the lab are on it");
        Some(Fault::new(Layer::Node, why, format!("kubectl describe node {node}")))
    }

    fn current(&self) -> impl Iterator<Item = &PodFacts> {
        self.pods.iter().filter(|pod| !pod.terminating)
    }

    fn image(&self) -> Option<Fault> {
        let pod = self.current().find_map(|pod| Some((pod, pod.image_problem.as_ref()?)));
        if let Some((pod, why)) = pod {
            return Some(of_pod(Layer::Image, pod, why.clone()));
        }
        self.deployments.iter().find_map(|d| {
            let expected = d.expected_image.as_ref().filter(|expected| **expected != d.image)?;
            let why = format!("{} runs {}, where the article runs {expected}", d.name, d.image);
            Some(of_deployment(Layer::Image, d, why))
        })
    }

    fn schedule(&self) -> Option<Fault> {
        let (pod, why) = self.current().find_map(|pod| Some((pod, pod.unscheduled.as_ref()?)))?;
        Some(of_pod(Layer::Schedule, pod, format!("pod {} has no node: {why}", pod.name)))
    }

    fn pod(&self) -> Option<Fault> {
        let pod = self.current().find_map(|pod| Some((pod, pod.problem.as_ref()?)));
        if let Some((pod, why)) = pod {
            return Some(of_pod(Layer::Pod, pod, why.clone()));
        }
        self.deployments
            .iter()
            .find_map(|d| Some(of_deployment(Layer::Pod, d, d.replica_failure.clone()?)))
    }

    fn readiness(&self) -> Option<Fault> {
        let pod = self.current().find(|pod| !pod.ready && !pod.kept_unready)?;
        let why = pod.probe.iter().map(|why| format!(": {why}")).collect::<String>();
        Some(of_pod(Layer::Readiness, pod, format!("pod {} runs but is not ready{why}", pod.name)))
    }

    fn replicas(&self) -> Option<Fault> {
        self.deployments.iter().find_map(|d| {
            let expected = d.expected_replicas.filter(|expected| *expected != d.replicas)?;
            let why = format!(
                "{} has `replicas: {}`, where the lab needs {expected}",
                d.name, d.replicas
            );
            Some(Fault::new(Layer::Replicas, why, kubectl(&format!("get deployment {}", d.name))))
        })
    }

    fn selector(&self) -> Option<Fault> {
        let labels = self
            .deployments
            .iter()
            .find_map(|d| Some(of_deployment(Layer::Selector, d, d.other_labels.clone()?)));
        labels.or_else(|| {
            let service = self.services.iter().find_map(|s| s.selector_problem.clone())?;
            Some(Fault::new(Layer::Selector, service, kubectl("get pods --show-labels")))
        })
    }

    fn port(&self) -> Option<Fault> {
        self.of_service(Layer::Port, |service| service.port_problem.clone())
    }

    fn endpoints(&self) -> Option<Fault> {
        let (service, why) = self.services.iter().find_map(|service| {
            let ServiceFacts { name, matching, endpoints, .. } = service;
            let why = if service.publishes_unready {
                format!("{name} has `publishNotReadyAddresses`: it sends traffic to pods that are not ready")
            } else if matching != endpoints {
                format!("{name} has {endpoints} ready endpoints for {matching} ready pods")
            } else {
                return None;
            };
            Some((name, why))
        })?;
        let command = format!("get endpointslices -l kubernetes.io/service-name={service}");
        Some(Fault::new(Layer::Endpoints, why, kubectl(&command)))
    }

    fn node_proxy(&self) -> Option<Fault> {
        let failed = self.probes.iter().filter(|probe| probe.kind == Probed::NodePort);
        let (probe, failure) = failed.into_iter().find_map(|p| Some((p, p.failure.as_ref()?)))?;
        let ProbeFacts { object, at, node, .. } = probe;
        let node = node.as_deref().unwrap_or("a node");
        let why = format!("node {node} does not forward its port of {object} ({at}): {failure}");
        Some(Fault::new(Layer::NodeProxy, why, format!("curl http://{at}/version")))
    }

    fn strategy(&self) -> Option<Fault> {
        let rolled = self.deployments.iter().filter(|d| d.revision > 1 && self.failing.is_some());
        let (deployment, why) =
            rolled.into_iter().find_map(|d| Some((d, d.takes_all.as_ref()?)))?;
        let why =
            format!("{}: {why}, so that a rollout may leave no pod to serve", deployment.name);
        Some(of_deployment(Layer::Strategy, deployment, why))
    }

    fn load_balancer(&self) -> Option<Fault> {
        let found = self.of_service(Layer::LoadBalancer, |service| {
            let ServiceFacts { name, .. } = service;
            if let Some(other) = &service.other_type {
                Some(format!(
                    "{name} is of type {other}, where the article's is a {}",
                    service.expected_type
                ))
            } else if service.awaits_address {
                Some(format!("{name} has no address"))
            } else if service.pins_clients {
                Some(format!(
                    "{name} has `sessionAffinity: ClientIP`, so that a client keeps its pod"
                ))
            } else {
                None
            }
        });
        found.or_else(|| self.silent(Probed::LoadBalancer, Layer::LoadBalancer))
    }

    fn route(&self) -> Option<Fault> {
        let found = self.ingresses.iter().find_map(|ingress| {
            let IngressFacts { name, missing, class_problem, misroute, awaits_address } = ingress;
            let why = if let Some(why) = class_problem {
                return Some(Fault::new(Layer::Route, why.clone(), "kubectl get ingressclass"));
            } else if let Some(missing) = missing.first() {
                format!("{name} refers to a missing object: {missing}")
            } else if let Some(why) = misroute {
                why.clone()
            } else if *awaits_address {
                format!("{name} has no address")
            } else {
                return None;
            };
            Some(Fault::new(Layer::Route, why, kubectl(&format!("describe ingress {name}"))))
        });
        found.or_else(|| self.silent(Probed::Ingress, Layer::Route))
    }

    /// The fault of an address that does not respond.
    fn silent(&self, kind: Probed, layer: Layer) -> Option<Fault> {
        let probes = self.probes.iter().filter(|probe| probe.kind == kind);
        let (probe, failure) = probes.into_iter().find_map(|p| Some((p, p.failure.as_ref()?)))?;
        let ProbeFacts { object, at, .. } = probe;
        let why = format!("{object} does not respond at {at}: {failure}");
        Some(Fault::new(layer, why, format!("curl http://{at}/version")))
    }

    /// The requests that a program was serving when it ended are lost, whether it crashed or was killed.
    fn restarted(&self) -> Option<Fault> {
        let (pod, why) = self.pods.iter().find_map(|pod| Some((pod, pod.restarted.as_ref()?)))?;
        let sample = self.samples.iter().find(|sample| sample.lost > 0)?;
        let SampleFacts { what, total, lost, example, .. } = sample;
        let (name, example) = (&pod.name, example.as_deref().unwrap_or_default());
        let lost = format!("{lost} of {total} requests lost ({example})");
        Some(of_pod(Layer::Pod, pod, format!("pod {name} was restarted, {why}; {what}: {lost}")))
    }

    fn lost_requests(&self) -> Option<Fault> {
        let describe = |sample: &SampleFacts, n: u64, what: &str| {
            let example = sample.example.clone().unwrap_or_default();
            format!("{}: {n} of {} requests {what} ({example})", sample.what, sample.total)
        };
        if let Some(sample) = self.samples.iter().find(|sample| sample.lost > 0) {
            let why = describe(sample, sample.lost, "lost");
            return Some(if sample.by_ingress {
                Fault::new(Layer::Route, why, kubectl("describe ingress"))
            } else {
                Fault::new(Layer::LoadBalancer, why, kubectl("describe service"))
            });
        }
        // Of these statuses the app itself sends only 404, for paths that no lab requests.
        let refused = self.samples.iter().find(|sample| sample.by_ingress && sample.refused > 0)?;
        let why = describe(refused, refused.refused, "had no route");
        Some(Fault::new(Layer::Route, why, kubectl("describe ingress")))
    }

    fn app(&self) -> Option<Fault> {
        if let Some(why) = self.impostors.first() {
            return Some(Fault::new(Layer::App, why.clone(), kubectl("get pods --output wide")));
        }
        let sample = self.samples.iter().find(|sample| sample.wrong > 0)?;
        let SampleFacts { what, total, wrong, example, .. } = sample;
        let example = example.as_deref().unwrap_or_default();
        let why = format!("{what}: {wrong} of {total} responses wrong ({example})");
        Some(Fault::new(Layer::App, why, kubectl("logs --selector app=kubeapp")))
    }

    /// A pod that was restarted gets no requests until it is ready again, which changes every share.
    fn away(&self) -> Option<Fault> {
        self.failing.as_ref()?;
        let (pod, why) = self.pods.iter().find_map(|pod| Some((pod, pod.restarted.as_ref()?)))?;
        let why = format!("pod {} was restarted, {why}: it served nothing meanwhile", pod.name);
        Some(of_pod(Layer::Pod, pod, why))
    }

    fn pinned(&self) -> Option<Fault> {
        self.failing.as_ref()?;
        self.deployments.iter().find_map(|d| {
            let why = format!(
                "the pods of {} may run on certain nodes only: {}",
                d.name,
                d.pinned.as_ref()?
            );
            Some(of_deployment(Layer::Schedule, d, why))
        })
    }

    fn of_service(&self, layer: Layer, why: fn(&ServiceFacts) -> Option<String>) -> Option<Fault> {
        let (service, why) = self.services.iter().find_map(|s| Some((s, why(s)?)))?;
        Some(Fault::new(layer, why, kubectl(&format!("describe service {}", service.name))))
    }
}

fn of_pod(layer: Layer, pod: &PodFacts, why: String) -> Fault {
    Fault::new(layer, why, kubectl(&format!("describe pod {}", pod.name)))
}

fn of_deployment(layer: Layer, deployment: &DeploymentFacts, why: String) -> Fault {
    Fault::new(layer, why, kubectl(&format!("describe deployment {}", deployment.name)))
}

#[cfg(test)]
mod tests;
