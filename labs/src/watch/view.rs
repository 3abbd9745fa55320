//! The namespace as the API server reports its changes: what is shown of it within milliseconds, before anything is
//! measured.

use crate::kubernetes::{checks::selects_labels, external::published_address, pods, service};
use crate::lab::Lab;
use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};

/// A change of something that a check reads.
pub(super) enum Change {
    Deployment(watcher::Event<Deployment>),
    Pod(watcher::Event<Pod>),
    Service(watcher::Event<Service>),
    Slice(watcher::Event<EndpointSlice>),
    Ingress(watcher::Event<Ingress>),
    /// The namespace itself changed, or a watch failed.
    Other,
}

/// Where a participant's app is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) host: String,
    pub(super) port: u16,
    /// The host names to request; none for the address itself.
    pub(super) names: &'static [&'static str],
}

/// The objects of the namespace.
#[derive(Default)]
pub(super) struct View {
    deployments: Store<Deployment>,
    pods: Store<Pod>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    ingresses: Store<Ingress>,
}

/// The changes of everything that a check reads.
pub(super) fn changes(client: &Client, name: &str) -> SelectAll<BoxStream<'static, Change>> {
    let mut changes = SelectAll::new();
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = watcher(namespaces, only).default_backoff();
    changes.push(namespace.map(|_| Change::Other).boxed());
    macro_rules! of {
        ($($kind:ty: $change:path),*) => {$(
            let api: Api<$kind> = Api::namespaced(client.clone(), name);
            let stream = watcher(api, watcher::Config::default()).default_backoff();
            changes.push(stream.map(|event| event.map_or(Change::Other, $change)).boxed());
        )*};
    }
    of!(
        Deployment: Change::Deployment,
        Pod: Change::Pod,
        Service: Change::Service,
        EndpointSlice: Change::Slice,
        Ingress: Change::Ingress
    );
    changes
}

impl View {
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Deployment(event) => self.deployments.apply(event),
            Change::Pod(event) => self.pods.apply(event),
            Change::Service(event) => self.services.apply(event),
            Change::Slice(event) => self.slices.apply(event),
            Change::Ingress(event) => self.ingresses.apply(event),
            Change::Other => {}
        }
    }

    /// One line: the ready pods of each Deployment with their versions, and the ready endpoints of each Service.
    pub(super) fn status(&self) -> String {
        let pods = self.deployments.objects.iter().map(|(name, deployment)| {
            let spec = deployment.spec.as_ref();
            let selector = spec.and_then(|spec| spec.selector.match_labels.as_ref());
            let own = |pod: &&Pod| selector.is_some_and(|all| selects_labels(all, pod));
            let pods: Vec<&Pod> = self.current().filter(own).collect();
            let ready = pods.iter().filter(|pod| pods::is_ready(pod)).count();
            let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
            let tag = |pod: &&Pod| {
                pods::image(pod).rsplit_once(':').map_or("?", |(_, tag)| tag).to_owned()
            };
            let tags: BTreeSet<String> = pods.iter().map(tag).collect();
            let tags = tags.into_iter().collect::<Vec<_>>().join(" and ");
            let tags = if tags.is_empty() { tags } else { format!(" ({tags})") };
            format!("{} {ready}/{wanted}{tags}", short(name))
        });
        let endpoints = self.services.objects.iter().map(|(name, service)| {
            let of = |slice: &&EndpointSlice| {
                slice.labels().get("kubernetes.io/service-name") == Some(&service.name_any())
            };
            let endpoints = service::endpoints(self.slices.objects.values().filter(of));
            let ready = endpoints.values().filter(|ready| **ready).count();
            format!("{} {ready}", short(name))
        });
        let listed = |what: &str, parts: Vec<String>| {
            (!parts.is_empty()).then(|| format!("{what}: {}", parts.join(", ")))
        };
        let parts = [listed("pods", pods.collect()), listed("endpoints", endpoints.collect())];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "the namespace is empty".to_owned() } else { parts.join(" · ") }
    }

    /// The pods that are not being deleted.
    fn current(&self) -> impl Iterator<Item = &Pod> {
        self.pods.objects.values().filter(|pod| !pods::is_terminating(pod))
    }

    /// The images of the pods with these labels, also of those that are being deleted.
    pub(super) fn images(&self, labels: &str) -> BTreeSet<&str> {
        let pods = self.pods.objects.values().filter(|pod| pods::has_labels(pod, labels));
        pods.map(pods::image).collect()
    }

    /// The number of ready pods with these labels.
    pub(super) fn ready(&self, labels: &str) -> usize {
        let ready = |pod: &&Pod| pods::is_ready(pod) && pods::has_labels(pod, labels);
        self.current().filter(ready).count()
    }

    /// The Ingress of that name.
    pub(super) fn ingress(&self, name: &str) -> Option<&Ingress> {
        self.ingresses.objects.get(name)
    }

    /// The address at which users reach the app in this lab.
    pub(super) fn published(&self, lab: &Lab) -> Option<Published> {
        let (address, names): (_, &[&str]) = if lab.name == "phase5" {
            let address = published_address(self.ingress("app-ingress")?, 80);
            (address, &["foo.bar", "canary.foo.bar"])
        } else {
            (published_address(self.services.objects.get("app-lb")?, 80), &[])
        };
        address.map(|(host, port)| Published { host, port, names })
    }
}

/// The name without what those of the article have in common, for narrow terminals.
fn short(name: &str) -> &str {
    let name = name.strip_prefix("kubeapp-").unwrap_or(name);
    name.strip_suffix("-service").unwrap_or(name)
}

/// The objects of one kind, by name.
struct Store<K> {
    objects: BTreeMap<String, K>,
    /// Those of a list that is not complete yet.
    listed: BTreeMap<String, K>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listed: BTreeMap::new() }
    }
}

impl<K: ResourceExt> Store<K> {
    fn apply(&mut self, event: watcher::Event<K>) {
        match event {
            watcher::Event::Apply(object) => _ = self.objects.insert(object.name_any(), object),
            watcher::Event::Delete(object) => _ = self.objects.remove(&object.name_any()),
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(object) => {
                self.listed.insert(object.name_any(), object);
            }
            watcher::Event::InitDone => self.objects = std::mem::take(&mut self.listed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases;
    use serde_json::{Value, json};
    use watcher::Event;

    fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    fn pod(name: &str, env: &str, image: &str, ready: &str) -> Change {
        Change::Pod(Event::Apply(object(json!({
            "metadata": {"name": name, "labels": {"app": "kubeapp", "env": env}},
            "spec": {"containers": [{"name": "kubeapp", "image": image}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))))
    }

    #[test]
    fn status_counts_ready_pods_and_endpoints() {
        let mut view = View::default();
        assert_eq!(view.status(), "the namespace is empty");
        view.apply(Change::Deployment(Event::Apply(object(json!({
            "metadata": {"name": "kubeapp-canary"},
            "spec": {"replicas": 2, "template": {}, "selector": {"matchLabels": {"env": "canary"}}},
        })))));
        assert_eq!(view.status(), "pods: canary 0/2");
        view.apply(pod("a", "canary", "registry:5000/kubeapp:2.0", "True"));
        view.apply(pod("b", "canary", "kubeapp:1.0", "False"));
        view.apply(pod("c", "production", "kubeapp:1.0", "True"));
        assert_eq!(view.status(), "pods: canary 1/2 (1.0 and 2.0)");
        assert_eq!((view.ready("env=canary"), view.images("env=canary").len()), (1, 2));
        let address = json!({"loadBalancer": {"ingress": [{"ip": "127.1.1.1"}]}});
        view.apply(Change::Service(Event::Apply(object(
            json!({"metadata": {"name": "app-lb"}, "status": address}),
        ))));
        assert_eq!(view.status(), "pods: canary 1/2 (1.0 and 2.0) · endpoints: app-lb 0");
        let published = view.published(phases::find("phase4").unwrap()).unwrap();
        assert_eq!((&*published.host, published.port), ("127.1.1.1", 80));
        assert_eq!(view.published(phases::find("phase5").unwrap()), None);
    }

    #[test]
    fn complete_list_replaces_what_was_there() {
        let mut store = Store::default();
        let named = |name: &str| object::<Pod>(json!({"metadata": {"name": name}}));
        store.apply(Event::Apply(named("old")));
        store.apply(Event::Init);
        store.apply(Event::InitApply(named("new")));
        assert_eq!(store.objects.keys().collect::<Vec<_>>(), ["old"]);
        store.apply(Event::InitDone);
        assert_eq!(store.objects.keys().collect::<Vec<_>>(), ["new"]);
        store.apply(Event::Delete(named("new")));
        assert!(store.objects.is_empty());
    }
}
