//! The Services, EndpointSlices and pods of a cluster as last seen, and which Services are to be
//! reconciled.

use crate::watch_cache::{Change, Key, ObjectStore, strip_managed_fields};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::runtime::watcher::Event;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// An event of one of the watches.
#[expect(clippy::large_enum_variant, reason = "one exists at a time, and is consumed at once")]
pub(crate) enum ObjectEvent {
    Service(Event<Service>),
    Slice(Event<EndpointSlice>),
    Pod(Event<Pod>),
}

/// What is needed of a pod before listening inside its network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodView {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) node: String,
    /// Ports that its containers declare.
    pub(crate) ports: BTreeSet<u16>,
}

#[derive(Default)]
pub(crate) struct Objects {
    services: ObjectStore<Service>,
    slices: ObjectStore<EndpointSlice>,
    slices_of: BTreeMap<Key, BTreeSet<Key>>,
    pods: ObjectStore<PodView>,
    dirty: BTreeSet<Key>,
    /// Whether pods, or the ports that they serve on, have changed.
    pods_changed: bool,
}

impl Objects {
    pub(crate) fn apply(&mut self, event: ObjectEvent) {
        match event {
            ObjectEvent::Service(event) => {
                for change in self.services.apply(event, strip_managed_fields) {
                    self.dirty.insert(change.key);
                }
            }
            ObjectEvent::Slice(event) => {
                for change in self.slices.apply(event, strip_managed_fields) {
                    self.move_slice(change);
                }
            }
            ObjectEvent::Pod(event) => {
                let changes = self.pods.apply(event, |pod| PodView::of(&pod));
                let now = |change: &Change<PodView>| self.pods.objects.get(&change.key).cloned();
                self.pods_changed |= changes.iter().any(|change| change.before != now(change));
            }
        }
    }

    /// Returns whether all Services and their endpoints are known, which planning requires.
    pub(crate) fn synced(&self) -> bool {
        self.services.synced && self.slices.synced
    }

    /// Returns the Services to reconcile, and clears them.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.dirty)
    }

    pub(crate) fn requeue(&mut self, service: Key) {
        self.dirty.insert(service);
    }

    pub(crate) fn requeue_all(&mut self) {
        self.dirty.extend(self.services.objects.keys().cloned());
    }

    pub(crate) fn take_pods_changed(&mut self) -> bool {
        std::mem::take(&mut self.pods_changed)
    }

    pub(crate) fn service(&self, key: &Key) -> Option<&Service> {
        self.services.objects.get(key)
    }

    pub(crate) fn slices_of(&self, key: &Key) -> impl Iterator<Item = &EndpointSlice> + Clone {
        let keys = self.slices_of.get(key).into_iter().flatten();
        keys.filter_map(|key| self.slices.objects.get(key))
    }

    pub(crate) fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.objects.values()
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = &PodView> {
        self.pods.objects.values()
    }

    fn move_slice(&mut self, change: Change<EndpointSlice>) {
        if let Some(service) = change.before.as_ref().and_then(service_of) {
            if let Some(slices) = self.slices_of.get_mut(&service) {
                slices.remove(&change.key);
                if slices.is_empty() {
                    self.slices_of.remove(&service);
                }
            }
            self.dirty.insert(service);
        }
        if let Some(service) = self.slices.objects.get(&change.key).and_then(service_of) {
            self.slices_of.entry(service.clone()).or_default().insert(change.key);
            self.dirty.insert(service);
        }
        self.pods_changed = true;
    }
}

impl PodView {
    fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let listed = status.into_iter().flat_map(|s| s.pod_ips.iter().flatten().map(|ip| &ip.ip));
        let addresses = listed.chain(status.and_then(|s| s.pod_ip.as_ref()));
        let init = spec.into_iter().flat_map(|s| s.init_containers.iter().flatten());
        let containers = init.chain(spec.into_iter().flat_map(|s| &s.containers));
        let ports = containers.flat_map(|c| c.ports.iter().flatten());
        Self {
            addresses: addresses.filter_map(|ip| ip.parse().ok()).collect(),
            node: spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
            ports: ports.filter_map(|p| u16::try_from(p.container_port).ok()).collect(),
        }
    }
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let service = labels.get("kubernetes.io/service-name")?.clone();
    Some((slice.metadata.namespace.clone().unwrap_or_default(), service))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn slice(name: &str, service: &str) -> EndpointSlice {
        EndpointSlice {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("default".into()),
                labels: Some([("kubernetes.io/service-name".into(), service.into())].into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn service(name: &str) -> Service {
        Service { metadata: slice(name, name).metadata, ..Default::default() }
    }

    fn key_of(name: &str) -> Key {
        ("default".into(), name.into())
    }

    fn dirty(objects: &mut Objects) -> Vec<String> {
        objects.take_dirty().into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn slice_that_moves_between_services_requeues_both() {
        let mut objects = Objects::default();
        objects.apply(ObjectEvent::Slice(Event::Apply(slice("s", "one"))));
        assert_eq!(dirty(&mut objects), ["one"]);
        objects.apply(ObjectEvent::Slice(Event::Apply(slice("s", "two"))));
        assert_eq!(dirty(&mut objects), ["one", "two"]);
        assert_eq!(objects.slices_of(&key_of("one")).count(), 0);
        assert_eq!(objects.slices_of(&key_of("two")).count(), 1);
        objects.apply(ObjectEvent::Slice(Event::Delete(slice("s", "two"))));
        assert_eq!(dirty(&mut objects), ["two"]);
        assert_eq!(objects.slices_of(&key_of("two")).count(), 0);
    }

    #[test]
    fn relist_replaces_what_a_lost_watch_missed() {
        let mut objects = Objects::default();
        for event in [Event::Init, Event::InitApply(service("a")), Event::InitApply(service("b"))] {
            objects.apply(ObjectEvent::Service(event));
            assert!(dirty(&mut objects).is_empty(), "an incomplete list has no effect");
        }
        objects.apply(ObjectEvent::Service(Event::InitDone));
        assert_eq!(dirty(&mut objects), ["a", "b"]);
        assert!(!objects.synced(), "slices are not known");
        for event in [Event::Init, Event::InitApply(service("b")), Event::InitDone] {
            objects.apply(ObjectEvent::Service(event));
        }
        assert_eq!(dirty(&mut objects), ["a", "b"]);
        assert!(objects.service(&key_of("a")).is_none());
        assert!(objects.service(&key_of("b")).is_some());
    }
}
