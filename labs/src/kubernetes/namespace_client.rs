//! A client of one namespace with the timeouts of its cluster. The other files of this module add to it
//! what the phases need.

use super::deadline::Deadline;
use crate::event::{Event, Events};
use k8s_openapi::{NamespaceResourceScope, Resource};
use kube::{Api, Client};
use lab_environment::Timeouts;
use std::time::Duration;

/// A client of one namespace. Cheap to clone.
#[derive(Clone)]
pub struct NamespaceClient {
    pub(super) client: Client,
    namespace: String,
    rollout: Duration,
    address: Duration,
    /// The timeout of one HTTP request.
    pub(super) request: Duration,
    /// The time until all proxies have learned of an endpoint change.
    pub(super) propagation: Duration,
    deadline: Deadline,
    /// The images that the environment provides.
    images: Vec<String>,
    pub(super) events: Option<Events>,
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
            deadline: Deadline::default(),
            images: Vec::new(),
            events: None,
        }
    }

    /// Limits every wait by a deadline that others share.
    #[must_use]
    pub(crate) fn with_deadline(self, deadline: Deadline) -> Self {
        Self { deadline, ..self }
    }

    /// Names the images that the environment provides: that one of them cannot be pulled is no mistake
    /// in a manifest.
    #[must_use]
    pub(crate) fn with_images(self, images: Vec<String>) -> Self {
        Self { images, ..self }
    }

    /// Reports each change of the cluster.
    #[must_use]
    pub(crate) fn with_events(self, events: Events) -> Self {
        Self { events: Some(events), ..self }
    }

    /// Reports a change of the cluster, by the arguments with which kubectl does the same.
    pub(crate) fn performs(&self, command: impl Into<String>) {
        if let Some(events) = &self.events {
            events.send(Event::Command { command: command.into() });
        }
    }

    /// Returns true if the environment provides the image.
    pub(super) fn provides(&self, image: &str) -> bool {
        self.images.iter().any(|name| name == image)
    }

    /// The timeout of a rollout, a scaling or a pod's recreation.
    pub(crate) fn rollout(&self) -> Duration {
        self.deadline.timeout(self.rollout)
    }

    /// The timeout of an external address.
    pub(super) fn address(&self) -> Duration {
        self.deadline.timeout(self.address)
    }

    /// The time after which a pod without progress is stuck: short where rollouts are quick.
    pub(super) fn stall(&self) -> Duration {
        (self.rollout / 10).clamp(Duration::from_secs(5), Duration::from_secs(60))
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
