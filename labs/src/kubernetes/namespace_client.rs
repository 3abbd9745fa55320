//! A client of one namespace with the timeouts of its cluster. The other files of this module add to it
//! what the phases need.

use k8s_openapi::{NamespaceResourceScope, Resource};
use kube::{Api, Client};
use lab_environment::Timeouts;
use std::time::Duration;

/// A client of one namespace. Cheap to clone.
#[derive(Clone)]
pub struct NamespaceClient {
    pub(super) client: Client,
    namespace: String,
    /// The timeout of a rollout, a scaling or a pod's recreation.
    pub(super) rollout: Duration,
    /// The timeout of an external address.
    pub(super) address: Duration,
    /// The timeout of one HTTP request.
    pub(super) request: Duration,
    /// The time until all proxies have learned of an endpoint change.
    pub(super) propagation: Duration,
}

impl NamespaceClient {
    /// Creates a client of the namespace.
    pub fn new(client: Client, namespace: &str, timeouts: &Timeouts) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            rollout: Duration::from_secs(timeouts.rollout),
            address: Duration::from_secs(timeouts.address),
            request: Duration::from_secs(timeouts.request),
            propagation: Duration::from_secs(timeouts.propagation),
        }
    }

    /// Returns a client of another namespace with the same timeouts.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// The name of the namespace.
    pub fn name(&self) -> &str {
        &self.namespace
    }

    /// Typed access to one resource in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Resource,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}
