//! Derives the layer at fault from facts about a cluster: the first, from image to app, that does not
//! work. Later layers are not blamed, because they depend on the earlier ones.

use serde::Serialize;

use super::facts::{PodFacts, SampleFacts, ServiceFacts};
use super::ingress::IngressFacts;

/// A link of the chain from an image to a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Layer {
    /// The API server does not respond.
    Cluster,
    /// A node cannot pull an image.
    Image,
    /// A pod is not scheduled, or its container does not stay up.
    Pod,
    /// A pod runs but is not ready.
    Readiness,
    /// A Service does not select the ready pods.
    Endpoints,
    /// A load balancer has no address, or connections through it fail.
    LoadBalancer,
    /// An Ingress refers to missing objects, has no address, or loses requests.
    Ingress,
    /// The app sends wrong responses.
    App,
}

impl Layer {
    fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Image => "image",
            Self::Pod => "pod",
            Self::Readiness => "readiness",
            Self::Endpoints => "endpoints",
            Self::LoadBalancer => "load balancer",
            Self::Ingress => "ingress",
            Self::App => "app",
        }
    }
}

/// The facts that the diagnosis is based on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    /// Why the API server could not be reached.
    pub unreachable: Option<String>,
    /// The pods in the namespace.
    pub pods: Vec<PodFacts>,
    /// The Services in the namespace.
    pub services: Vec<ServiceFacts>,
    /// The Ingresses in the namespace.
    pub ingresses: Vec<IngressFacts>,
    /// The samples that the lab took, oldest first.
    pub samples: Vec<SampleFacts>,
    /// The first failing claim, with its evidence.
    pub failing: Option<String>,
}

impl Facts {
    /// Returns the layer at fault and the evidence; `None` if every layer works.
    pub(super) fn fault(&self) -> Option<(Layer, String)> {
        if let Some(why) = &self.unreachable {
            return Some((Layer::Cluster, format!("the API does not answer: {why}")));
        }
        self.pod_fault().or_else(|| self.address_fault()).or_else(|| self.sample_fault())
    }

    fn pod_fault(&self) -> Option<(Layer, String)> {
        let running = || self.pods.iter().filter(|pod| !pod.terminating);
        if let Some(why) = running().find_map(|pod| pod.image_problem.as_ref()) {
            return Some((Layer::Image, why.clone()));
        }
        if let Some(why) = running().find_map(|pod| pod.problem.as_ref()) {
            return Some((Layer::Pod, why.clone()));
        }
        if let Some(pod) = running().find(|pod| !pod.ready) {
            let why = pod.probe.iter().map(|why| format!(": {why}")).collect::<String>();
            return Some((Layer::Readiness, format!("{} runs but is not ready{why}", pod.name)));
        }
        let ready = running().filter(|pod| pod.ready).count();
        for ServiceFacts { name, matching, endpoints, .. } in &self.services {
            if *matching == 0 && ready > 0 {
                let why = format!("the selector of {name} matches none of {ready} ready pods");
                return Some((Layer::Endpoints, why));
            }
            if matching != endpoints {
                let why =
                    format!("{name} has {endpoints} ready endpoints for {matching} ready pods");
                return Some((Layer::Endpoints, why));
            }
        }
        None
    }

    fn address_fault(&self) -> Option<(Layer, String)> {
        if let Some(service) = self.services.iter().find(|service| service.awaits_address) {
            return Some((Layer::LoadBalancer, format!("{} has no address", service.name)));
        }
        for IngressFacts { name, missing, awaits_address } in &self.ingresses {
            if let Some(missing) = missing.first() {
                let why = format!("{name} refers to a missing object: {missing}");
                return Some((Layer::Ingress, why));
            }
            if *awaits_address {
                return Some((Layer::Ingress, format!("{name} has no address")));
            }
        }
        None
    }

    fn sample_fault(&self) -> Option<(Layer, String)> {
        let example = |sample: &SampleFacts| sample.example.clone().unwrap_or_default();
        if let Some(sample) = self.samples.iter().find(|sample| sample.lost > 0) {
            let SampleFacts { what, total, lost, by_ingress, .. } = sample;
            let why = format!("{what}: {lost} of {total} requests lost ({})", example(sample));
            let layer = if *by_ingress { Layer::Ingress } else { Layer::LoadBalancer };
            return Some((layer, why));
        }
        // Of these statuses the app itself sends only 404, for paths that no lab requests.
        let refused = |sample: &&SampleFacts| sample.by_ingress && sample.refused > 0;
        if let Some(sample) = self.samples.iter().find(refused) {
            let SampleFacts { what, total, refused, .. } = sample;
            let why =
                format!("{what}: {refused} of {total} requests had no route ({})", example(sample));
            return Some((Layer::Ingress, why));
        }
        let sample = self.samples.iter().find(|sample| sample.wrong > 0)?;
        let SampleFacts { what, total, wrong, .. } = sample;
        Some((
            Layer::App,
            format!("{what}: {wrong} of {total} responses wrong ({})", example(sample)),
        ))
    }

    /// Summarizes the diagnosis in one line.
    pub(super) fn verdict(&self) -> String {
        match (self.fault(), &self.failing) {
            (Some((layer, why)), _) => format!("{}: {why}", layer.word()),
            (None, Some(claim)) => format!("no faulty layer found; failing claim: {claim}"),
            (None, None) => "no faulty layer found".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodFacts {
        PodFacts { name: name.to_owned(), ready: true, ..PodFacts::default() }
    }

    fn healthy() -> Facts {
        let service = ServiceFacts {
            name: "app-lb".to_owned(),
            matching: 2,
            endpoints: 2,
            awaits_address: false,
        };
        let sample = SampleFacts { what: "lb".into(), total: 9, ..SampleFacts::default() };
        let ingress = IngressFacts { name: "app-ingress".into(), ..IngressFacts::default() };
        Facts {
            ingresses: vec![ingress],
            pods: vec![pod("a"), pod("b")],
            services: vec![service],
            samples: vec![sample],
            ..Facts::default()
        }
    }

    #[test]
    fn first_failing_layer_is_at_fault() {
        type Break = fn(&mut Facts);
        // From the last layer to the first: each hides those above it in this table.
        let table: [(Break, Layer, &str); 13] = [
            (|f| f.samples[0].wrong = 1, Layer::App, "app: lb: 1 of 9 responses wrong ()"),
            (
                |f| {
                    (f.samples[0].lost, f.samples[0].example) =
                        (2, Some("no answer in time".into()))
                },
                Layer::LoadBalancer,
                "load balancer: lb: 2 of 9 requests lost (no answer in time)",
            ),
            (
                |f| (f.samples[0].by_ingress, f.samples[0].refused) = (true, 1),
                Layer::Ingress,
                "ingress: lb: 1 of 9 requests had no route ()",
            ),
            (
                |f| (f.samples[0].by_ingress, f.samples[0].lost) = (true, 1),
                Layer::Ingress,
                "ingress: lb: 1 of 9 requests lost ()",
            ),
            (
                |f| f.ingresses[0].awaits_address = true,
                Layer::Ingress,
                "ingress: app-ingress has no address",
            ),
            (
                |f| f.ingresses[0].missing = vec!["canary:80 for foo.bar/".into()],
                Layer::Ingress,
                "ingress: app-ingress refers to a missing object: canary:80 for foo.bar/",
            ),
            (
                |f| f.services[0].awaits_address = true,
                Layer::LoadBalancer,
                "load balancer: app-lb has no address",
            ),
            (
                |f| f.services[0].endpoints = 1,
                Layer::Endpoints,
                "endpoints: app-lb has 1 ready endpoints for 2 ready pods",
            ),
            (
                |f| f.services[0].matching = 0,
                Layer::Endpoints,
                "endpoints: the selector of app-lb matches none of 2 ready pods",
            ),
            (
                |f| (f.pods[1].ready, f.pods[1].probe) = (false, Some("status 503".into())),
                Layer::Readiness,
                "readiness: b runs but is not ready: status 503",
            ),
            (|f| f.pods[1].problem = Some("b crashes".into()), Layer::Pod, "pod: b crashes"),
            (
                |f| f.pods[0].image_problem = Some("no such image".into()),
                Layer::Image,
                "image: no such image",
            ),
            (
                |f| f.unreachable = Some("refused".into()),
                Layer::Cluster,
                "cluster: the API does not answer: refused",
            ),
        ];
        let mut all = healthy();
        for (break_it, layer, line) in table {
            let mut alone = healthy();
            break_it(&mut alone);
            assert_eq!(alone.fault().map(|(layer, _)| layer), Some(layer));
            assert_eq!(alone.verdict(), line);
            break_it(&mut all);
            assert_eq!(all.fault().map(|(layer, _)| layer), Some(layer), "with all above it");
        }
    }

    #[test]
    fn no_layer_is_at_fault_without_a_finding() {
        assert_eq!(healthy().verdict(), "no faulty layer found");
        let claim = Some("quarter-to-canary: 1500 of 4460".to_owned());
        let facts = Facts { failing: claim, ..healthy() };
        assert_eq!(
            facts.verdict(),
            "no faulty layer found; failing claim: quarter-to-canary: 1500 of 4460"
        );
        let mut terminating = healthy();
        terminating.pods.push(PodFacts { ready: false, terminating: true, ..pod("old") });
        assert_eq!(terminating.fault(), None, "a terminating pod need not be ready");
    }
}
