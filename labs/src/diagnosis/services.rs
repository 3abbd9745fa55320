//! The facts about Services, compared with their pods and with those of the article.

use crate::expectation::ExpectedService;
use crate::kubernetes::{checks, external::Exposed as _, pods, service};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use serde::Serialize;

/// The state of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// The number of ready pods that its selector matches.
    pub matching: usize,
    /// The number of its ready endpoints.
    pub endpoints: usize,
    /// Why it does not select the pods it should.
    pub selector_problem: Option<String>,
    /// What is wrong with its port.
    pub port_problem: Option<String>,
    /// Whether it lists pods that are not ready.
    pub publishes_unready: bool,
    /// Its type, if it is not the article's.
    pub other_type: Option<String>,
    /// The article's type.
    pub expected_type: String,
    /// Whether a client keeps its pod.
    pub pins_clients: bool,
    /// Whether its external address is pending.
    pub awaits_address: bool,
}

impl ServiceFacts {
    /// Reads the state of a Service, its pods and its endpoints.
    pub(super) fn of(
        service: &Service,
        all: &[Pod],
        slices: &[EndpointSlice],
        expected: Option<&ExpectedService>,
    ) -> Self {
        let name = service.name_any();
        let spec = service.spec.clone().unwrap_or_default();
        let current: Vec<&Pod> = checks::current(all).collect();
        let of_service = |slice: &&EndpointSlice| {
            slice.labels().get("kubernetes.io/service-name") == Some(&name)
        };
        let endpoints = service::endpoints(slices.iter().filter(of_service));
        let type_ = spec.type_.clone().unwrap_or_else(|| "ClusterIP".to_owned());
        let selected = current.iter().copied().filter(|pod| checks::selects(service, pod));
        let port = expected.and_then(|e| checks::port_fault(service, e.port, selected.clone()));
        Self {
            matching: selected.filter(|pod| pods::is_ready(pod)).count(),
            endpoints: endpoints.values().filter(|ready| **ready).count(),
            selector_problem: expected.and_then(|e| selector_problem(service, &current, e)),
            port_problem: port.map(|fault| fault.why),
            publishes_unready: spec.publish_not_ready_addresses == Some(true),
            other_type: expected.filter(|e| e.type_ != type_).map(|_| type_.clone()),
            expected_type: expected.map(|e| e.type_.to_owned()).unwrap_or_default(),
            pins_clients: spec.session_affinity.as_deref() == Some("ClientIP"),
            awaits_address: type_ == "LoadBalancer" && service.address().is_none(),
            name,
        }
    }
}

/// Returns why a Service does not select exactly the pods that the article's does.
fn selector_problem(
    service: &Service,
    pods: &[&Pod],
    expected: &ExpectedService,
) -> Option<String> {
    let wanted = |pod: &&&Pod| pods::has_labels(pod, expected.selects);
    let missed = checks::selector_fault(service, pods.iter().filter(wanted).copied());
    if let Some(fault) = missed {
        return Some(fault.why);
    }
    let mut others = pods.iter().filter(|pod| !wanted(pod) && checks::selects(service, pod));
    let other = others.next()?;
    Some(format!(
        "{} selects {} besides the pods with `{}`",
        service.name_any(),
        other.name_any(),
        expected.selects
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, labels: Value, ready: &str) -> Pod {
        let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
        let pod = json!({"metadata": {"name": name, "labels": labels}, "status": status,
            "spec": {"containers": []}});
        serde_json::from_value(pod).unwrap()
    }

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "app-lb"}, "spec": spec})).unwrap()
    }

    #[test]
    fn service_is_compared_with_its_ready_matching_pods() {
        let all = [
            pod("a", json!({"app": "kubeapp"}), "True"),
            pod("b", json!({"app": "kubeapp"}), "False"),
            pod("c", json!({"app": "other"}), "True"),
        ];
        let service = service(json!({"type": "LoadBalancer", "selector": {"app": "kubeapp"}}));
        let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "app-lb"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": {"name": "a"}, "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "targetRef": {"name": "b"}, "conditions": {"ready": false}}
        ]}))
        .unwrap();
        let facts = ServiceFacts::of(&service, &all, &[slice], None);
        assert_eq!((facts.matching, facts.endpoints, facts.awaits_address), (1, 1, true));
        assert_eq!((facts.selector_problem, facts.other_type), (None, None), "nothing is expected");
    }

    #[test]
    fn service_is_compared_with_the_articles() {
        let stable = pod("stable", json!({"app": "kubeapp", "env": "production"}), "True");
        let canary = pod("canary", json!({"app": "kubeapp", "env": "canary"}), "True");
        let all = [stable, canary];
        let port = json!([{"port": 80}]);
        let facts = |selector: Value, selects| {
            let expected = ExpectedService { selects, port: 80, type_: "NodePort" };
            let service = service(json!({"selector": selector, "ports": port}));
            ServiceFacts::of(&service, &all, &[], Some(&expected))
        };
        let both = json!({"app": "kubeapp"});
        let found = facts(both.clone(), "app=kubeapp");
        assert_eq!((found.selector_problem, found.port_problem), (None, None));
        assert_eq!(found.other_type.as_deref(), Some("ClusterIP"));
        let found = facts(both, "app=kubeapp,env=production").selector_problem.unwrap();
        assert_eq!(
            found,
            "app-lb selects canary besides the pods with `app=kubeapp,env=production`"
        );
        let found = facts(json!({"app": "x"}), "app=kubeapp").selector_problem.unwrap();
        assert!(found.starts_with("app-lb selects 0 of 2 pods"), "{found}");
    }
}
