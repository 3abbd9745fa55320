//! From what is known of a cluster to the layer at fault: the first, from the image to the app, that
//! does not do its part. A later one cannot be blamed for what an earlier one withholds from it.

use k8s_openapi::api::core::v1::{Event, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use serde::Serialize;

use super::IngressFacts;
use crate::kubernetes::{
    pods::{self, Blame},
    service,
};

/// A link of the chain from an image to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// The API does not answer.
    Cluster,
    /// A node cannot get an image.
    Image,
    /// A pod finds no node, or its container does not stay up.
    Pod,
    /// A pod runs but is not ready.
    Readiness,
    /// A Service does not find the pods that are ready.
    Endpoints,
    /// A load balancer has no address, or connections through it fail.
    LoadBalancer,
    /// An Ingress leads astray.
    Ingress,
    /// The app gives wrong answers.
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

/// All that the judgement stands on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Why the API could not be asked.
    pub unreachable: Option<String>,
    /// The pods in the namespace.
    pub pods: Vec<PodFacts>,
    /// The Services in the namespace.
    pub services: Vec<ServiceFacts>,
    /// The Ingresses in the namespace.
    pub ingresses: Vec<IngressFacts>,
    /// The samples that the lab took, oldest first.
    pub samples: Vec<SampleFacts>,
    /// The first claim that fails, with its evidence.
    pub failing: Option<String>,
}

/// What matters of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Why its image cannot be had.
    pub image_trouble: Option<String>,
    /// Why its container does not stay up, or why it has no node.
    pub trouble: Option<String>,
    /// What its probe said last, where one failed.
    pub probe: Option<String>,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it is on its way out.
    pub leaving: bool,
}

/// What matters of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// Ready pods that its selector matches.
    pub matching: usize,
    /// Ready endpoints it has.
    pub endpoints: usize,
    /// Whether it waits for an external address.
    pub awaits_address: bool,
}

/// What matters of a sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SampleFacts {
    /// What was sampled.
    pub what: String,
    /// Requests sent.
    pub total: u64,
    /// Requests that were refused, broken off or left unanswered.
    pub lost: u64,
    /// Answers with another status than 200, or that were no good HTTP.
    pub wrong: u64,
    /// Those among them that say that no way leads on: 404, 502, 503, 504.
    pub refused: u64,
    /// Whether the requests went through an Ingress.
    pub by_ingress: bool,
    /// The first failure.
    pub example: Option<String>,
}

impl Facts {
    /// The layer at fault and what shows it; `None` if every layer does its part.
    pub fn fault(&self) -> Option<(Layer, String)> {
        if let Some(why) = &self.unreachable {
            return Some((Layer::Cluster, format!("the API does not answer: {why}")));
        }
        let staying = || self.pods.iter().filter(|pod| !pod.leaving);
        if let Some(why) = staying().find_map(|pod| pod.image_trouble.as_ref()) {
            return Some((Layer::Image, why.clone()));
        }
        if let Some(why) = staying().find_map(|pod| pod.trouble.as_ref()) {
            return Some((Layer::Pod, why.clone()));
        }
        if let Some(pod) = staying().find(|pod| !pod.ready) {
            let why = pod.probe.iter().map(|why| format!(": {why}")).collect::<String>();
            return Some((Layer::Readiness, format!("{} runs but is not ready{why}", pod.name)));
        }
        let ready = staying().filter(|pod| pod.ready).count();
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
        if let Some(service) = self.services.iter().find(|service| service.awaits_address) {
            return Some((Layer::LoadBalancer, format!("{} has no address", service.name)));
        }
        for IngressFacts { name, missing, awaits_address } in &self.ingresses {
            if let Some(missing) = missing.first() {
                let why = format!("{name} names what is not there: {missing}");
                return Some((Layer::Ingress, why));
            }
            if *awaits_address {
                return Some((Layer::Ingress, format!("{name} has no address")));
            }
        }
        let example = |sample: &SampleFacts| sample.example.clone().unwrap_or_default();
        if let Some(sample) = self.samples.iter().find(|sample| sample.lost > 0) {
            let SampleFacts { what, total, lost, by_ingress, .. } = sample;
            let why = format!("{what}: {lost} of {total} requests lost ({})", example(sample));
            let layer = if *by_ingress { Layer::Ingress } else { Layer::LoadBalancer };
            return Some((layer, why));
        }
        // Of these the app itself knows only 404, for a page that no lab asks for.
        let refused = |sample: &&SampleFacts| sample.by_ingress && sample.refused > 0;
        if let Some(sample) = self.samples.iter().find(refused) {
            let SampleFacts { what, total, refused, .. } = sample;
            let why = format!("{what}: {refused} of {total} led nowhere ({})", example(sample));
            return Some((Layer::Ingress, why));
        }
        let sample = self.samples.iter().find(|sample| sample.wrong > 0)?;
        let SampleFacts { what, total, wrong, .. } = sample;
        Some((
            Layer::App,
            format!("{what}: {wrong} of {total} answers wrong ({})", example(sample)),
        ))
    }

    /// The same in one line.
    pub fn verdict(&self) -> String {
        match (self.fault(), &self.failing) {
            (Some((layer, why)), _) => format!("{}: {why}", layer.word()),
            (None, Some(claim)) => format!("no layer by itself; what fails is {claim}"),
            (None, None) => "no layer shows a fault".to_owned(),
        }
    }
}

impl PodFacts {
    /// What the API shows of a pod.
    pub fn of(pod: &Pod, events: &[Event]) -> Self {
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let unscheduled =
            conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
        let name = pod.name_any();
        let unscheduled = unscheduled
            .map(|c| format!("pod {name} has no node: {}", c.message.as_deref().unwrap_or("?")));
        let (image, other) = match pods::trouble(pod) {
            // A first try that failed is about the image too, even if it may yet pass.
            Some(trouble) if trouble.blame == Blame::Image || trouble.reason == "ErrImagePull" => {
                (Some(trouble.to_string()), None)
            }
            Some(trouble) => (None, Some(trouble.to_string())),
            None => (None, None),
        };
        let failed = status.and_then(|status| status.phase.as_deref()) == Some("Failed");
        let failed = failed.then(|| format!("pod {name} has failed"));
        Self {
            probe: pods::unhealthy(&name, events),
            name,
            image_trouble: image,
            trouble: other.or(unscheduled).or(failed),
            ready: pods::is_ready(pod),
            leaving: !pods::is_wanted(pod),
        }
    }
}

impl ServiceFacts {
    /// What the API shows of a Service, its pods and its endpoints.
    pub fn of(service: &Service, all: &[Pod], slices: &[EndpointSlice]) -> Self {
        let name = service.name_any();
        let spec = service.spec.as_ref();
        let selector = spec.and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let matches = |pod: &&Pod| {
            let labels = pod.labels();
            pods::is_wanted(pod)
                && pods::is_ready(pod)
                && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let of_service = |slice: &&EndpointSlice| {
            slice.labels().get("kubernetes.io/service-name") == Some(&name)
        };
        let endpoints = service::endpoints(slices.iter().filter(of_service));
        let balances = spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let address = balancer.and_then(|b| b.ingress.as_ref()).is_some_and(|i| !i.is_empty());
        Self {
            name,
            matching: all.iter().filter(matches).count(),
            endpoints: endpoints.values().filter(|ready| **ready).count(),
            awaits_address: balances && !address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str) -> PodFacts {
        PodFacts { name: name.to_owned(), ready: true, ..PodFacts::default() }
    }

    fn well() -> Facts {
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
    fn the_first_layer_that_fails_is_at_fault() {
        type Spoil = fn(&mut Facts);
        // From the last layer to the first: each hides those before it in this table.
        let table: [(Spoil, Layer, &str); 13] = [
            (|f| f.samples[0].wrong = 1, Layer::App, "app: lb: 1 of 9 answers wrong ()"),
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
                "ingress: lb: 1 of 9 led nowhere ()",
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
                "ingress: app-ingress names what is not there: canary:80 for foo.bar/",
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
            (|f| f.pods[1].trouble = Some("b crashes".into()), Layer::Pod, "pod: b crashes"),
            (
                |f| f.pods[0].image_trouble = Some("no such image".into()),
                Layer::Image,
                "image: no such image",
            ),
            (
                |f| f.unreachable = Some("refused".into()),
                Layer::Cluster,
                "cluster: the API does not answer: refused",
            ),
        ];
        let mut all = well();
        for (spoil, layer, line) in table {
            let mut alone = well();
            spoil(&mut alone);
            assert_eq!(alone.fault().map(|(layer, _)| layer), Some(layer));
            assert_eq!(alone.verdict(), line);
            spoil(&mut all);
            assert_eq!(all.fault().map(|(layer, _)| layer), Some(layer), "with all before it");
        }
    }

    #[test]
    fn nothing_is_blamed_without_a_fault() {
        assert_eq!(well().verdict(), "no layer shows a fault");
        let claim = Some("quarter-to-canary: 1500 of 4460".to_owned());
        let facts = Facts { failing: claim, ..well() };
        assert_eq!(
            facts.verdict(),
            "no layer by itself; what fails is quarter-to-canary: 1500 of 4460"
        );
        let mut leaving = well();
        leaving.pods.push(PodFacts { ready: false, leaving: true, ..pod("old") });
        assert_eq!(leaving.fault(), None, "a pod on its way out need not be ready");
    }

    #[test]
    fn a_service_is_compared_with_the_pods_it_selects() {
        let pod = |labels: serde_json::Value, ready: &str| -> Pod {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            let status = json!({"conditions": conditions});
            serde_json::from_value(json!({"metadata": {"labels": labels}, "status": status}))
                .unwrap()
        };
        let all = [
            pod(json!({"app": "kubeapp"}), "True"),
            pod(json!({"app": "kubeapp"}), "False"),
            pod(json!({"app": "other"}), "True"),
        ];
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "app-lb"},
            "spec": {"type": "LoadBalancer", "selector": {"app": "kubeapp"}}}))
        .unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "app-lb"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": {"name": "a"}, "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "targetRef": {"name": "b"}, "conditions": {"ready": false}}
        ]}))
        .unwrap();
        let facts = ServiceFacts::of(&service, &all, &[slice]);
        assert_eq!((facts.matching, facts.endpoints, facts.awaits_address), (1, 1, true));
    }

    #[test]
    fn a_pod_without_a_node_or_image_is_seen() {
        let facts = |status: serde_json::Value| {
            let pod = json!({"metadata": {"name": "p"}, "status": status});
            PodFacts::of(&serde_json::from_value(pod).unwrap(), &[])
        };
        let waiting = |reason: &str| {
            json!({"containerStatuses": [{"name": "c", "image": "kubeapp:1.0", "imageID": "",
                "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}}]})
        };
        assert!(facts(waiting("ErrImagePull")).image_trouble.is_some());
        assert!(facts(waiting("ErrImageNeverPull")).image_trouble.is_some());
        assert!(facts(waiting("CrashLoopBackOff")).trouble.is_some());
        let unscheduled = json!({"conditions": [{"type": "PodScheduled", "status": "False",
            "message": "no node takes it"}]});
        let said = facts(unscheduled).trouble;
        assert_eq!(said.as_deref(), Some("pod p has no node: no node takes it"));
        assert!(facts(json!({"phase": "Failed"})).trouble.is_some());
    }
}
