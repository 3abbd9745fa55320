//! The state that a participant's objects should have, as far as a phase asks for the same at each of its steps:
//! the numbers of replicas, and the image of production, are the participant's.

use super::observed::Observed;
use crate::expectation::{Expectations, ExpectedDeployment, ExpectedRoute, ExpectedService};
use crate::lab::Lab;
use k8s_openapi::api::networking::v1::Ingress;

const PRODUCTION: &str = "kubeapp-production";
const CANARY: &str = "kubeapp-canary";
const STABLE_PODS: &str = "app=kubeapp,env=production";
const CANARY_PODS: &str = "app=kubeapp,env=canary";
const STABLE_SERVICE: &str = "kubeapp-production-service";
const CANARY_SERVICE: &str = "kubeapp-canary-service";

pub(super) fn of(lab: &Lab, observed: &Observed<'_>) -> Expectations {
    let mut expected = Expectations::default();
    let [old, new] = &*observed.environment.images else { return expected };
    let current = observed.image(PRODUCTION);
    let stable = if current == Some(&new.name) { new } else { old };
    for (name, image, labels) in [(PRODUCTION, stable, STABLE_PODS), (CANARY, new, CANARY_PODS)] {
        let Some(found) = observed.deployments.get(name) else { continue };
        let replicas = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let image = image.name.clone();
        let deployment = ExpectedDeployment { replicas, image, labels, ready: true };
        expected.deployments.insert(name, deployment);
    }
    let service = |selects, type_| ExpectedService { selects, port: 80, type_ };
    if lab.name == "phase5" {
        expected.services.insert(STABLE_SERVICE, service(STABLE_PODS, "NodePort"));
        expected.services.insert(CANARY_SERVICE, service(CANARY_PODS, "NodePort"));
        expected.routes = observed.ingresses.get("app-ingress").map(routes).unwrap_or_default();
    } else {
        expected.services.insert("app-lb", service("app=kubeapp", "LoadBalancer"));
    }
    expected
}

/// Where the Ingress should route to, depending on the rules that it has.
fn routes(ingress: &Ingress) -> Vec<ExpectedRoute> {
    let route = |host, path, service| ExpectedRoute { host, path, service };
    let unknown = route("unknown.example", "/version", STABLE_SERVICE);
    match Rules::of(ingress) {
        Rules::None => vec![unknown],
        Rules::Hosts => vec![
            route("canary.foo.bar", "/version", CANARY_SERVICE),
            route("foo.bar", "/version", STABLE_SERVICE),
            unknown,
        ],
        Rules::Paths => vec![
            route("foo.bar", "/canary/version", CANARY_SERVICE),
            route("foo.bar", "/stable/version", STABLE_SERVICE),
        ],
    }
}

/// The kinds of rules that the phase has, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Only a default backend.
    None,
    /// A host for each version.
    Hosts,
    /// A path for each version.
    Paths,
}

impl Rules {
    /// Reads the kind from an Ingress.
    pub(crate) fn of(ingress: &Ingress) -> Self {
        let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
        let rules: Vec<_> = rules.collect();
        let paths = rules.iter().filter_map(|rule| rule.http.as_ref()).flat_map(|http| &http.paths);
        let long = paths.filter(|path| path.path.as_deref().is_some_and(|p| p.len() > 1)).count();
        match (rules.len(), long) {
            (0, _) => Self::None,
            (_, 0 | 1) => Self::Hosts,
            _ => Self::Paths,
        }
    }
}
