//! The Services, EndpointSlices and pods of a cluster as last seen, and which Services are to be
//! reconciled.

use k8s_openapi::api::{
    core::v1::{Container, Pod, PodSpec, PodStatus, Service},
    discovery::v1::EndpointSlice,
};
use kube::runtime::watcher::Event;
use kube_embedded_core::informer::{Index, Informer, ObjectKey};
use std::{
    collections::BTreeSet,
    mem,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

/// The objects, and what has changed since they were last reconciled.
pub(crate) struct Objects {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    slices_by_service: Arc<Index<ObjectKey, EndpointSlice>>,
    pods: Informer<Pod>,
    changes: Arc<Mutex<Changes>>,
}

#[derive(Default)]
struct Changes {
    services: BTreeSet<ObjectKey>,
    /// Whether pods, or the ports that they serve on, have changed.
    pods: bool,
}

impl Default for Objects {
    fn default() -> Self {
        let changes = Arc::<Mutex<Changes>>::default();
        let services = Informer::default();
        let queue = changes.clone();
        services.add_event_handler(
            move |old: Option<&Arc<Service>>, new: Option<&Arc<Service>>| {
                lock(&queue).services.extend(old.or(new).map(|service| ObjectKey::of(&**service)));
            },
        );
        let slices = Informer::default();
        let slices_by_service = slices.add_index(service_of);
        let queue = changes.clone();
        slices.add_event_handler(
            move |old: Option<&Arc<EndpointSlice>>, new: Option<&Arc<EndpointSlice>>| {
                let affected = old.into_iter().chain(new).filter_map(|slice| service_of(slice));
                let mut queue = lock(&queue);
                queue.services.extend(affected);
                queue.pods = true;
            },
        );
        let pods = Informer::with_transform("pods", strip_pod);
        let queue = changes.clone();
        pods.add_event_handler(move |old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>| {
            let view = |pod: Option<&Arc<Pod>>| pod.map(|pod| PodView::of(pod));
            lock(&queue).pods |= view(old) != view(new);
        });
        Self { services, slices, slices_by_service, pods, changes }
    }
}

impl Objects {
    /// Stores what an event reports. Returns whether that may have changed an object.
    pub(crate) fn apply(&self, event: ObjectEvent) -> bool {
        match event {
            ObjectEvent::Service(event) => self.services.observe(event),
            ObjectEvent::Slice(event) => self.slices.observe(event),
            ObjectEvent::Pod(event) => self.pods.observe(event),
        }
    }

    /// Returns whether all Services and their endpoints are known, which planning requires.
    pub(crate) fn synced(&self) -> bool {
        self.services.has_synced() && self.slices.has_synced()
    }

    /// Returns the Services to reconcile, and clears them.
    pub(crate) fn take_dirty(&self) -> BTreeSet<ObjectKey> {
        mem::take(&mut lock(&self.changes).services)
    }

    pub(crate) fn requeue(&self, service: ObjectKey) {
        lock(&self.changes).services.insert(service);
    }

    pub(crate) fn requeue_all(&self) {
        let all = self.services.list();
        lock(&self.changes).services.extend(all.iter().map(|service| ObjectKey::of(&**service)));
    }

    pub(crate) fn take_pods_changed(&self) -> bool {
        mem::take(&mut lock(&self.changes).pods)
    }

    pub(crate) fn service(&self, key: &ObjectKey) -> Option<Arc<Service>> {
        self.services.get(key)
    }

    pub(crate) fn slices_of(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        self.slices_by_service.get(service)
    }

    pub(crate) fn slices(&self) -> Vec<Arc<EndpointSlice>> {
        self.slices.list()
    }

    pub(crate) fn pods(&self) -> Vec<PodView> {
        self.pods.list().iter().map(|pod| PodView::of(pod)).collect()
    }
}

fn lock(changes: &Mutex<Changes>) -> MutexGuard<'_, Changes> {
    changes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves of a pod only what [`PodView`] reads: all pods of the cluster are kept.
fn strip_pod(pod: &mut Pod) {
    (pod.metadata.labels, pod.metadata.annotations) = (None, None);
    if let Some(spec) = pod.spec.take() {
        let ports_only = |containers: Vec<Container>| {
            let strip =
                |container: Container| Container { ports: container.ports, ..Container::default() };
            containers.into_iter().map(strip).collect()
        };
        pod.spec = Some(PodSpec {
            node_name: spec.node_name,
            containers: ports_only(spec.containers),
            init_containers: spec.init_containers.map(ports_only),
            ..PodSpec::default()
        });
    }
    if let Some(status) = pod.status.take() {
        let PodStatus { pod_ip, pod_ips, .. } = status;
        pod.status = Some(PodStatus { pod_ip, pod_ips, ..PodStatus::default() });
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

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let service = labels.get("kubernetes.io/service-name")?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service))
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

    fn key_of(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    fn dirty(objects: &Objects) -> Vec<String> {
        objects.take_dirty().into_iter().map(|key| key.name).collect()
    }

    #[test]
    fn slice_that_moves_between_services_requeues_both() {
        let objects = Objects::default();
        objects.apply(ObjectEvent::Slice(Event::Apply(slice("s", "one"))));
        assert_eq!(dirty(&objects), ["one"]);
        objects.apply(ObjectEvent::Slice(Event::Apply(slice("s", "two"))));
        assert_eq!(dirty(&objects), ["one", "two"]);
        assert_eq!(objects.slices_of(&key_of("one")).len(), 0);
        assert_eq!(objects.slices_of(&key_of("two")).len(), 1);
        objects.apply(ObjectEvent::Slice(Event::Delete(slice("s", "two"))));
        assert_eq!(dirty(&objects), ["two"]);
        assert_eq!(objects.slices_of(&key_of("two")).len(), 0);
    }

    #[test]
    fn relist_replaces_what_a_lost_watch_missed() {
        let objects = Objects::default();
        for event in [Event::Init, Event::InitApply(service("a")), Event::InitApply(service("b"))] {
            objects.apply(ObjectEvent::Service(event));
            assert!(dirty(&objects).is_empty(), "an incomplete list has no effect");
        }
        objects.apply(ObjectEvent::Service(Event::InitDone));
        assert_eq!(dirty(&objects), ["a", "b"]);
        assert!(!objects.synced(), "slices are not known");
        for event in [Event::Init, Event::InitApply(service("b")), Event::InitDone] {
            objects.apply(ObjectEvent::Service(event));
        }
        assert_eq!(dirty(&objects), ["a", "b"]);
        assert!(objects.service(&key_of("a")).is_none());
        assert!(objects.service(&key_of("b")).is_some());
    }
}
