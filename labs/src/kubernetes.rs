//! What the phases need of Kubernetes, over any [`kube::Client`]: apply manifests, wait for what
//! they lead to, and look at what is there. Nothing here knows which cluster it is.

mod apply;
pub mod certificate;
pub mod external;
mod field_path;
pub(crate) mod fit;
mod ingress_class;
pub mod manifest;
pub mod nodes;
pub mod pods;
pub mod promotion;
pub mod pull_secret;
pub mod rollout;
pub mod service;
mod settle;
pub mod variant;
pub mod wait;

use crate::context::Context;
use k8s_openapi::{NamespaceResourceScope, Resource};
use kube::{Api, Client};
use std::time::Duration;

/// Who the API shows as the manager of the fields that the labs set.
pub const FIELD_MANAGER: &str = "canary-labs";

/// One namespace, and how long things may take there.
#[derive(Clone)]
pub struct Scope {
    client: Client,
    namespace: String,
    /// For a rollout, a scaling or a pod that comes back.
    rollout: Duration,
    /// For an external address.
    address: Duration,
    /// For one HTTP request.
    request: Duration,
    /// Until all proxies have learned which pods came or went.
    propagation: Duration,
}

impl Scope {
    /// The namespace that a lab works in.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client(),
            namespace: context.namespace().to_owned(),
            rollout: context.rollout_patience(),
            address: context.address_patience(),
            request: context.request_patience(),
            propagation: context.propagation(),
        }
    }

    /// The same deadlines in another namespace.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Typed access to one kind of object in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Resource,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}
