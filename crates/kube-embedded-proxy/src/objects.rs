//! The Services, EndpointSlices and pods of a cluster as the edge last saw them, and which Services
//! need another look.

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Resource, runtime::watcher::Event};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Namespace and name.
pub(super) type Key = (String, String);

/// One event of one of the watches.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, and is looked at at once")]
pub(super) enum Seen {
    Service(Event<Service>),
    Slice(Event<EndpointSlice>),
    Pod(Event<Pod>),
}

/// What the edge must know of a pod before it listens inside of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodView {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) node: String,
    /// Ports that its containers declare.
    pub(super) ports: BTreeSet<u16>,
}

#[derive(Default)]
pub(super) struct Objects {
    services: Mirror<Service>,
    slices: Mirror<EndpointSlice>,
    slices_of: BTreeMap<Key, BTreeSet<Key>>,
    pods: Mirror<PodView>,
    dirty: BTreeSet<Key>,
    /// Whether pods, or the ports that they serve on, are others than at the last look.
    pods_changed: bool,
}

impl Objects {
    pub(super) fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Service(event) => {
                for change in self.services.apply(event, light) {
                    self.dirty.insert(change.key);
                }
            }
            Seen::Slice(event) => {
                for change in self.slices.apply(event, light) {
                    self.move_slice(change);
                }
            }
            Seen::Pod(event) => {
                let changes = self.pods.apply(event, |pod| PodView::of(&pod));
                let now = |change: &Change<PodView>| self.pods.items.get(&change.key).cloned();
                self.pods_changed |= changes.iter().any(|change| change.before != now(change));
            }
        }
    }

    /// Whether all Services and their endpoints are known: nothing can be planned before.
    pub(super) fn complete(&self) -> bool {
        self.services.complete && self.slices.complete
    }

    /// The Services to look at again.
    pub(super) fn take_dirty(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn look_again(&mut self, service: Key) {
        self.dirty.insert(service);
    }

    pub(super) fn look_at_all(&mut self) {
        self.dirty.extend(self.services.items.keys().cloned());
    }

    pub(super) fn take_pods_changed(&mut self) -> bool {
        std::mem::take(&mut self.pods_changed)
    }

    pub(super) fn service(&self, key: &Key) -> Option<&Service> {
        self.services.items.get(key)
    }

    pub(super) fn slices_of(&self, key: &Key) -> impl Iterator<Item = &EndpointSlice> + Clone {
        let keys = self.slices_of.get(key).into_iter().flatten();
        keys.filter_map(|key| self.slices.items.get(key))
    }

    pub(super) fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.items.values()
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &PodView> {
        self.pods.items.values()
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
        if let Some(service) = self.slices.items.get(&change.key).and_then(service_of) {
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

/// Managed fields are often larger than the rest, and nothing here reads them.
pub(super) fn light<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// All objects of a kind, kept over lost watches: a new list replaces what was there.
pub(super) struct Mirror<V> {
    pub(super) items: BTreeMap<Key, V>,
    listing: Option<BTreeMap<Key, V>>,
    pub(super) complete: bool,
}

pub(super) struct Change<V> {
    pub(super) key: Key,
    pub(super) before: Option<V>,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), listing: None, complete: false }
    }
}

impl<V> Mirror<V> {
    pub(super) fn apply<K: Resource>(
        &mut self,
        event: Event<K>,
        view: impl Fn(K) -> V,
    ) -> Vec<Change<V>> {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let listing = self.listing.get_or_insert_default();
                listing.insert(key(&object), view(object));
                Vec::new()
            }
            Event::InitDone => {
                self.complete = true;
                let listed = self.listing.take().unwrap_or_default();
                let mut before = std::mem::replace(&mut self.items, listed);
                let mut changes: Vec<Change<V>> = self
                    .items
                    .keys()
                    .map(|key| Change { key: key.clone(), before: before.remove(key) })
                    .collect();
                changes.extend(before.into_iter().map(|(key, v)| Change { key, before: Some(v) }));
                changes
            }
            Event::Apply(object) => {
                let key = key(&object);
                let before = self.items.insert(key.clone(), view(object));
                vec![Change { key, before }]
            }
            Event::Delete(object) => {
                let key = key(&object);
                let before = self.items.remove(&key);
                vec![Change { key, before }]
            }
        }
    }
}

fn key(object: &impl Resource) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
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

    fn named(name: &str) -> Key {
        ("default".into(), name.into())
    }

    fn dirty(objects: &mut Objects) -> Vec<String> {
        objects.take_dirty().into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn a_slice_that_moves_between_services_concerns_both() {
        let mut objects = Objects::default();
        objects.see(Seen::Slice(Event::Apply(slice("s", "one"))));
        assert_eq!(dirty(&mut objects), ["one"]);
        objects.see(Seen::Slice(Event::Apply(slice("s", "two"))));
        assert_eq!(dirty(&mut objects), ["one", "two"]);
        assert_eq!(objects.slices_of(&named("one")).count(), 0);
        assert_eq!(objects.slices_of(&named("two")).count(), 1);
        objects.see(Seen::Slice(Event::Delete(slice("s", "two"))));
        assert_eq!(dirty(&mut objects), ["two"]);
        assert_eq!(objects.slices_of(&named("two")).count(), 0);
    }

    #[test]
    fn a_new_list_replaces_what_a_lost_watch_missed() {
        let mut objects = Objects::default();
        for event in [Event::Init, Event::InitApply(service("a")), Event::InitApply(service("b"))] {
            objects.see(Seen::Service(event));
            assert!(dirty(&mut objects).is_empty(), "half a list is no state");
        }
        objects.see(Seen::Service(Event::InitDone));
        assert_eq!(dirty(&mut objects), ["a", "b"]);
        assert!(!objects.complete(), "slices are not known");
        for event in [Event::Init, Event::InitApply(service("b")), Event::InitDone] {
            objects.see(Seen::Service(event));
        }
        assert_eq!(dirty(&mut objects), ["a", "b"]);
        assert!(objects.service(&named("a")).is_none());
        assert!(objects.service(&named("b")).is_some());
    }
}
