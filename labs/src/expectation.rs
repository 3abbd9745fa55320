//! The state in which the article's objects should be at the current step: what a diagnosis compares the
//! cluster with. Phases record it as they apply and scale.

use std::collections::BTreeMap;

/// The expected objects, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expectations {
    /// Deployments.
    pub deployments: BTreeMap<&'static str, ExpectedDeployment>,
    /// Services.
    pub services: BTreeMap<&'static str, ExpectedService>,
    /// Requests to the Ingress.
    pub routes: Vec<ExpectedRoute>,
}

/// A Deployment of the article.
#[derive(Clone, Debug)]
pub(crate) struct ExpectedDeployment {
    /// The number of replicas.
    pub replicas: i32,
    /// The image, under the name that it has on this cluster.
    pub image: String,
    /// The labels of its pods.
    pub labels: &'static str,
    /// Whether its pods become ready; false while a phase keeps them from it on purpose.
    pub ready: bool,
}

/// A Service of the article.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpectedService {
    /// The labels of the pods it selects.
    pub selects: &'static str,
    /// The port that clients use.
    pub port: u16,
    /// Its type.
    pub type_: &'static str,
}

/// A request to the Ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExpectedRoute {
    /// The host name; empty for a request without one.
    pub host: &'static str,
    /// The path.
    pub path: &'static str,
    /// The Service that gets it.
    pub service: &'static str,
}

impl Expectations {
    /// Sets the number of replicas of a Deployment that is expected already.
    pub(crate) fn scale(&mut self, name: &str, replicas: i32) {
        if let Some(deployment) = self.deployments.get_mut(name) {
            deployment.replicas = replicas;
        }
    }

    /// Sets whether the pods of a Deployment become ready.
    pub(crate) fn set_ready(&mut self, name: &str, ready: bool) {
        if let Some(deployment) = self.deployments.get_mut(name) {
            deployment.ready = ready;
        }
    }

    /// Sets the image of a Deployment.
    pub(crate) fn set_image(&mut self, name: &str, image: &str) {
        if let Some(deployment) = self.deployments.get_mut(name) {
            deployment.image = image.to_owned();
        }
    }
}

/// Parses labels of the form `app=kubeapp,env=canary`.
pub(crate) fn labels(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(',').filter_map(|pair| pair.split_once('='))
}
