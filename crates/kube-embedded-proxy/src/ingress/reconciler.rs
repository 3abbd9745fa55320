//! Reconciles the frontends of namespaces with their Ingresses, and writes load balancer status.

use super::{
    namespace::NamespaceState,
    objects::{IngressEvent, Objects, Watches},
    plan::{self, Problem},
};
use crate::{
    config::Config,
    data_plane::{DataPlane, ListenerError},
    http_proxy::certificates::{TlsError, self_signed},
    load_balancer::{
        self, AddressPool, Bind, LbStatus, LbStatusWriter, LoadBalanced, Ownership, WriteResult,
    },
    secrets::Secrets,
};
use k8s_openapi::api::{core::v1::ObjectReference, networking::v1::Ingress};
use kube::{Client, ResourceExt};
use kube_embedded_core::{
    events::{self, Recorder},
    informer::ObjectKey,
    network::Network,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};
use tokio_rustls::rustls::sign::CertifiedKey;

/// The source of events and the field manager of writes.
const COMPONENT: &str = "ingress-controller";

/// Brings frontends in line with Ingresses.
pub(super) struct IngressReconciler {
    recorder: Recorder,
    pub(super) ownership: Ownership,
    pool: AddressPool,
    bind: Bind,
    default_certificate: Arc<CertifiedKey>,
    namespaces: BTreeMap<String, NamespaceState>,
    reports: BTreeMap<ObjectKey, IngressReport>,
    pub(super) statuses: LbStatusWriter<Ingress>,
    /// Namespaces with a failed bind or write, which are retried.
    pub(super) unfinished: BTreeSet<String>,
    network: Arc<Network>,
    // Last, so that the listeners above are closed before their threads end.
    data_plane: Arc<DataPlane>,
}

/// What has been reported for one Ingress.
struct IngressReport {
    uid: String,
    reference: ObjectReference,
    /// That of the spec which was reconciled last.
    generation: Option<i64>,
    /// Reasons and messages of the current warnings, so that each is reported once, and again if it
    /// comes back.
    warnings: BTreeSet<(&'static str, String)>,
}

impl IngressReconciler {
    pub(super) fn new(
        client: Client,
        config: &Config,
        data_plane: Arc<DataPlane>,
        bind: Bind,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            recorder: Recorder::new(client.clone(), COMPONENT, ""),
            ownership: Ownership::new(config),
            pool: AddressPool::new(config.addresses.ingresses()),
            bind,
            default_certificate: self_signed()?,
            namespaces: BTreeMap::new(),
            reports: BTreeMap::new(),
            statuses: LbStatusWriter::new(client, COMPONENT),
            unfinished: BTreeSet::new(),
            network: config.network.clone(),
            data_plane,
        })
    }

    /// Brings rules, certificates and listeners in line with the objects.
    pub(super) async fn reconcile(
        &mut self,
        objects: &Objects,
        secrets: &mut Secrets<IngressEvent>,
        watches: &mut Watches,
    ) {
        let mut dirty = objects.take_dirty();
        for ObjectKey { namespace, name } in objects.take_services_changed() {
            let state = self.namespaces.get_mut(&namespace).filter(|_| !dirty.contains(&namespace));
            let topology = &self.ownership.topology;
            if !state.is_some_and(|state| state.sync_service(&name, objects, topology)) {
                dirty.insert(namespace);
            }
        }
        // Reserve the addresses that are recorded in status, from before a restart, before
        // allocating new ones.
        for namespace in dirty.iter().filter(|name| !self.namespaces.contains_key(*name)) {
            let ingresses = self.served(objects, namespace);
            let address = ingresses.into_iter().find_map(|i| i.lb_status().address());
            if let Some(address) = address {
                self.pool.assign(address, namespace);
            }
        }
        for namespace in dirty {
            self.unfinished.remove(&namespace);
            self.reconcile_namespace(&namespace, objects, secrets, watches).await;
            let ingresses = objects.ingresses(&namespace);
            let exist: BTreeSet<String> = ingresses.iter().map(|i| i.name_any()).collect();
            let is_deleted =
                |key: &ObjectKey| key.namespace == namespace && !exist.contains(&key.name);
            self.reports.retain(|key, _| !is_deleted(key));
            self.statuses.forget(is_deleted);
            for ingress in &ingresses {
                self.sync_status(ingress, objects);
            }
        }
        for key in objects.take_status_changed() {
            if let Some(ingress) = objects.ingress(&key) {
                self.sync_status(&ingress, objects);
            }
        }
    }

    async fn reconcile_namespace(
        &mut self,
        namespace: &str,
        objects: &Objects,
        secrets: &mut Secrets<IngressEvent>,
        watches: &mut Watches,
    ) {
        let ingresses = self.served(objects, namespace);
        let Some(oldest) = ingresses.first() else {
            secrets.sync(Some(namespace), &BTreeSet::new(), watches);
            self.pool.release(namespace);
            if let Some(state) = self.namespaces.remove(namespace) {
                state.close().await;
            }
            return;
        };
        let mut plan = plan::plan(&ingresses);
        let named = plan.tls.iter().map(|tls| ObjectKey::new(namespace, &tls.secret));
        let named: BTreeSet<ObjectKey> = named.collect();
        secrets.sync(Some(namespace), &named, watches);
        let mut state = match self.namespaces.remove(namespace) {
            Some(state) => state,
            // There are no clients yet, and the first one is to get the right certificate.
            None if named.iter().any(|key| secrets.get(key).is_none()) => return,
            None => match NamespaceState::new(namespace, self.default_certificate.clone()) {
                Ok(state) => state,
                Err(error) => {
                    let message = format!("failed to serve namespace {namespace}: {error}");
                    let about = events::about(&**oldest);
                    self.recorder.publish(&about, "Warning", "SyncFailed", &message);
                    self.unfinished.insert(namespace.to_owned());
                    return;
                }
            },
        };
        state.sync_routes(&mut plan, objects, &self.ownership.topology);
        state.sync_certificates(&mut plan, secrets);
        self.open(namespace, &mut state);
        self.report(namespace, &ingresses, &state, plan.problems);
        self.namespaces.insert(namespace.to_owned(), state);
    }

    /// Publishes the ports that are not published yet.
    fn open(&mut self, namespace: &str, state: &mut NamespaceState) {
        let unpublished = state.unpublished();
        if unpublished.is_empty() {
            return;
        }
        let candidates = self.pool.candidates(namespace, None);
        let published = load_balancer::publish(&candidates, &unpublished, self.bind);
        let Some(published) = published else {
            state
                .warn_unpublished(&unpublished, "all addresses for Ingresses are in use; retrying");
            self.unfinished.insert(namespace.to_owned());
            return;
        };
        self.pool.assign(published.address, namespace);
        if !state.publish(&self.data_plane, &self.network, published.ports) {
            self.unfinished.insert(namespace.to_owned());
        }
    }

    /// Records a warning event for each new problem and forgets problems that are resolved.
    fn report(
        &mut self,
        namespace: &str,
        ingresses: &[Arc<Ingress>],
        state: &NamespaceState,
        problems: Vec<Problem>,
    ) {
        let mut by_ingress: BTreeMap<String, BTreeSet<(&'static str, String)>> = BTreeMap::new();
        for Problem { ingress, reason, message } in problems {
            by_ingress.entry(ingress).or_default().insert((reason, message));
        }
        for ingress in ingresses {
            let name = ingress.name_any();
            let mut warnings = by_ingress.remove(&name).unwrap_or_default();
            warnings.extend(state.port_warnings().map(|message| ("PortNotBound", message.clone())));
            let report = report_of(&mut self.reports, ObjectKey::new(namespace, &name), ingress);
            let generation = Some(ingress.metadata.generation.unwrap_or_default());
            if report.generation != generation {
                report.generation = generation;
                report.reference = events::about(&**ingress);
                self.recorder.publish(&report.reference, "Normal", "Sync", "Scheduled for sync");
            }
            for (reason, message) in warnings.difference(&report.warnings) {
                report.publish_warning(&self.recorder, reason, message);
            }
            report.warnings = warnings;
        }
    }

    /// Updates the status of an Ingress that is out of date, also of one that is no longer served
    /// here.
    fn sync_status(&mut self, ingress: &Ingress, objects: &Objects) {
        let key = ObjectKey::of(ingress);
        let namespace = &key.namespace;
        let observed = ingress.lb_status();
        let is_served = objects.is_ours(ingress) && !self.ownership.is_foreign(ingress);
        let is_ours = observed.address().is_some_and(|address| self.pool.contains(address.into()));
        let is_reported = self.reports.contains_key(&key);
        let status = match (is_served, self.namespaces.get(namespace)) {
            (true, Some(state)) if is_reported => state.status(),
            // Not synced yet: the recorded status may become true again.
            (true, _) => {
                self.unfinished.insert(namespace.clone());
                return;
            }
            (false, _) if is_ours => LbStatus::default(),
            // The address belongs to another controller, so our annotation no longer applies.
            (false, _) if observed.published_port.is_some() && is_reported => {
                LbStatus { published_port: None, ..observed }
            }
            (false, _) => {
                if self.reports.remove(&key).is_some() {
                    // Its rules have to be removed as well.
                    self.unfinished.insert(namespace.clone());
                }
                return;
            }
        };
        report_of(&mut self.reports, key, ingress);
        self.statuses.sync(ingress, &status);
    }

    /// Returns the Ingresses of the namespace that are served here, oldest first.
    fn served(&self, objects: &Objects, namespace: &str) -> Vec<Arc<Ingress>> {
        let mut served = objects.ingresses(namespace);
        served.retain(|i| objects.is_ours(i) && !self.ownership.is_foreign(&**i));
        plan::sort(&mut served);
        served
    }

    /// Reports the end of a status write. A failed one is retried later.
    pub(super) fn status_written(&mut self, written: WriteResult, objects: &Objects) {
        let Some(report) = self.reports.get_mut(&written.key) else { return };
        match written.result {
            Ok(()) => {
                let message = match written.status.address() {
                    Some(address) => format!("Address {address} assigned"),
                    None => "Address released".to_owned(),
                };
                self.recorder.publish(&report.reference, "Normal", "Sync", &message);
                objects.requeue_status(written.key);
            }
            Err(error) => {
                let message = format!("failed to write the status: {error}");
                report.warn(&self.recorder, "SyncFailed", message);
                self.unfinished.insert(written.key.namespace);
            }
        }
    }

    /// Reports an error of a listener. One that could not listen is opened again later.
    pub(super) fn listener_failed(&mut self, at: SocketAddr, error: ListenerError) {
        let affected = self.namespaces.iter_mut().find(|(_, state)| state.has_address(at));
        let Some((namespace, state)) = affected else { return };
        let (reason, message) = load_balancer::listener_error(at, error);
        for (_, report) in self.reports.iter_mut().filter(|(key, _)| key.namespace == *namespace) {
            report.warn(&self.recorder, reason, message.clone());
        }
        if error == ListenerError::CannotListen {
            state.drop_listener(at);
            self.unfinished.insert(namespace.clone());
        }
    }
}

impl IngressReport {
    /// Records a warning event unless the warning is current.
    fn warn(&mut self, recorder: &Recorder, reason: &'static str, message: String) {
        if self.warnings.insert((reason, message.clone())) {
            self.publish_warning(recorder, reason, &message);
        }
    }

    fn publish_warning(&self, recorder: &Recorder, reason: &str, message: &str) {
        let (namespace, name) = (&self.reference.namespace, &self.reference.name);
        tracing::warn!(?namespace, ?name, reason, "{message}");
        recorder.publish(&self.reference, "Warning", reason, message);
    }
}

/// Returns the report of the Ingress; an empty one if it was created again under the same name.
fn report_of<'a>(
    all: &'a mut BTreeMap<ObjectKey, IngressReport>,
    key: ObjectKey,
    ingress: &Ingress,
) -> &'a mut IngressReport {
    let uid = ingress.metadata.uid.clone().unwrap_or_default();
    if all.get(&key).is_some_and(|report| report.uid != uid) {
        all.remove(&key);
    }
    all.entry(key).or_insert_with(|| IngressReport {
        uid,
        reference: events::about(ingress),
        generation: None,
        warnings: BTreeSet::new(),
    })
}
