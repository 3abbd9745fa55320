//! Keeps each namespace's address, rules and certificates as its Ingresses ask for, and tells the
//! API what came of it.

use super::{
    front::{Certificates, Front, FrontError, self_signed},
    objects::{Objects, SecretSeen, Secrets, Watches},
    plan::{self, Rule, Target, Trouble, Wanted},
    table::{self, Backend, Table},
};
use crate::{
    Bind, Config,
    balancer::{self, Pool, Sent, Status},
    objects::Key,
    plan::Place,
    plane::{self, Listening, Plane, Port},
    route::{Route, Routing},
};
use futures::{future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::ObjectReference, networking::v1::Ingress};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use kube_embedded_core::events::{self, Recorder};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio_rustls::rustls::sign::CertifiedKey;

const COMPONENT: &str = "ingress-controller";
const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// A write of an Ingress' status that has ended: for whom, and whether it was taken.
pub(super) struct Written {
    ingress: Key,
    uid: String,
    status: Status,
    /// The version of the Ingress that it made.
    result: kube::Result<Option<u64>>,
}

pub(super) type Writes = FuturesUnordered<BoxFuture<'static, Written>>;

pub(super) struct Keeper {
    client: Client,
    recorder: Recorder,
    pub(super) place: Place,
    only: Option<String>,
    pool: Pool,
    bind: Bind,
    default_certificate: Arc<CertifiedKey>,
    held: BTreeMap<String, Held>,
    told: BTreeMap<Key, Told>,
    /// Namespaces for which something could not be bound or written: looked at again after a while.
    pub(super) unfinished: BTreeSet<String>,
    // Last, so that the listeners above are gone before their threads end.
    plane: Arc<Plane>,
}

/// What a namespace with Ingresses has now.
struct Held {
    front: Arc<Front>,
    /// The same for as long as a rule leads there, whatever becomes of its endpoints.
    backends: BTreeMap<Target, Arc<Backend>>,
    rules: Option<(Vec<Rule>, Option<Target>)>,
    /// Where HTTP and HTTPS are published.
    ports: BTreeMap<u16, (SocketAddr, Listening)>,
    /// Why one of them is not published as it should be.
    troubles: BTreeMap<u16, String>,
}

/// What one Ingress was told.
struct Told {
    uid: String,
    reference: ObjectReference,
    /// Of the spec that was acted upon last.
    generation: Option<i64>,
    /// The warnings that hold, so that each is said once, and again should it come back.
    said: BTreeSet<(&'static str, String)>,
    sent: Sent,
    writing: bool,
}

impl Keeper {
    pub(super) fn new(
        client: Client,
        config: &Config,
        plane: Arc<Plane>,
        bind: Bind,
    ) -> Result<Self, FrontError> {
        Ok(Self {
            recorder: Recorder::new(client.clone(), COMPONENT, ""),
            client,
            place: config.place(),
            only: config.only.clone(),
            pool: Pool::new(config.addresses.ingresses()),
            bind,
            default_certificate: self_signed()?,
            held: BTreeMap::new(),
            told: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            plane,
        })
    }

    /// Brings rules, certificates and listeners in line with the objects; the writes that follow
    /// are added to `writes`.
    pub(super) async fn keep(
        &mut self,
        objects: &mut Objects,
        secrets: &mut Secrets,
        watches: &mut Watches,
        writes: &mut Writes,
    ) {
        let dirty = objects.take_dirty();
        // Addresses of an earlier life first, so that no other namespace gets them.
        for namespace in dirty.iter().filter(|namespace| !self.held.contains_key(*namespace)) {
            let mut ours = self.ours(objects, namespace);
            plan::sort(&mut ours);
            let address = ours.into_iter().find_map(|i| Status::of_ingress(i).address());
            if let Some(address) = address {
                self.pool.take(address, namespace);
            }
        }
        for namespace in dirty {
            self.unfinished.remove(&namespace);
            self.keep_namespace(&namespace, objects, secrets, watches).await;
            let ingresses = || objects.ingresses(&namespace);
            let there: BTreeSet<String> = ingresses().map(ResourceExt::name_any).collect();
            self.told.retain(|(other, name), _| *other != namespace || there.contains(name));
            for ingress in ingresses() {
                self.tell(&namespace, ingress, objects, writes);
            }
        }
        for key in objects.take_restated() {
            if let Some(ingress) = objects.ingress(&key) {
                self.tell(&key.0, ingress, objects, writes);
            }
        }
    }

    async fn keep_namespace(
        &mut self,
        namespace: &str,
        objects: &Objects,
        secrets: &mut Secrets,
        watches: &mut Watches,
    ) {
        let mut ours = self.ours(objects, namespace);
        plan::sort(&mut ours);
        if ours.is_empty() {
            secrets.keep(namespace, &BTreeSet::new(), watches);
            self.pool.release(namespace);
            if let Some(held) = self.held.remove(namespace) {
                for (_, listening) in held.ports.into_values() {
                    listening.close().await;
                }
            }
            return;
        }
        let mut wanted = plan::plan(&ours);
        let named: BTreeSet<&str> = wanted.tls.iter().map(|tls| &*tls.secret).collect();
        secrets.keep(namespace, &named, watches);
        let mut held = match self.held.remove(namespace) {
            Some(held) => held,
            // Nobody connects yet; the first one who does shall see the right certificate.
            None if named.iter().any(|name| secrets.get(namespace, name).is_none()) => return,
            None => match Held::new(self.default_certificate.clone()) {
                Ok(held) => held,
                Err(error) => {
                    let reference = ours.first().map(|ingress| events::about(*ingress));
                    let message = format!("cannot serve namespace {namespace}: {error}");
                    if let Some(reference) = reference {
                        self.recorder.publish(&reference, "Warning", "SyncFailed", &message);
                    }
                    self.unfinished.insert(namespace.to_owned());
                    return;
                }
            },
        };
        held.lead(namespace, &mut wanted, objects, &self.place);
        held.certify(namespace, &mut wanted, secrets);
        self.open(namespace, &mut held);
        self.warn(namespace, &ours, &held, wanted.troubles);
        self.held.insert(namespace.to_owned(), held);
    }

    /// Publishes what is not published yet.
    fn open(&mut self, namespace: &str, held: &mut Held) {
        let missing: Vec<u16> =
            [HTTP, HTTPS].into_iter().filter(|port| !held.ports.contains_key(port)).collect();
        if missing.is_empty() {
            return;
        }
        let candidates = self.pool.candidates(namespace, None);
        let Some(published) = balancer::publish(&candidates.addresses, &missing, self.bind) else {
            let message = "all addresses for Ingresses are taken";
            held.troubles.extend(missing.iter().map(|port| (*port, message.to_owned())));
            self.unfinished.insert(namespace.to_owned());
            return;
        };
        self.pool.take(published.address, namespace);
        for (port, bound) in published.ports {
            let asked = SocketAddr::from((published.address, port));
            held.troubles.remove(&port);
            match bound {
                Ok((number, bound)) => {
                    let at = SocketAddr::from((published.address, number));
                    let listening = self.serve(port, bound, held.front.clone());
                    held.ports.insert(port, (at, listening));
                    if number != port {
                        held.troubles.insert(port, balancer::moved(asked, at));
                    }
                }
                Err(error) => {
                    held.troubles.insert(port, balancer::not_bound(asked, &error));
                    self.unfinished.insert(namespace.to_owned());
                }
            }
        }
    }

    fn serve(&self, port: u16, bound: Port, front: Arc<Front>) -> Listening {
        match port {
            HTTPS => self.plane.serve_https(bound, front),
            _ => self.plane.serve_http(bound, front),
        }
    }

    /// Says what does not work to those whom it concerns, and forgets what does again.
    fn warn(&mut self, namespace: &str, ours: &[&Ingress], held: &Held, troubles: Vec<Trouble>) {
        let mut of: BTreeMap<String, BTreeSet<(&'static str, String)>> = BTreeMap::new();
        for trouble in troubles {
            of.entry(trouble.ingress).or_default().insert((trouble.reason, trouble.message));
        }
        for ingress in ours {
            let name = ingress.name_any();
            let mut now = of.remove(&name).unwrap_or_default();
            now.extend(held.troubles.values().map(|message| ("PortNotBound", message.clone())));
            let told = told(&mut self.told, (namespace.to_owned(), name), ingress);
            let generation = Some(ingress.metadata.generation.unwrap_or_default());
            if told.generation != generation {
                told.generation = generation;
                told.reference = events::about(*ingress);
                self.recorder.publish(&told.reference, "Normal", "Sync", "Scheduled for sync");
            }
            for (reason, message) in now.difference(&told.said) {
                self.recorder.publish(&told.reference, "Warning", reason, message);
            }
            told.said = now;
        }
    }

    /// Writes the status of an Ingress that says something else than what is so: also of one that
    /// was served here and is no longer.
    fn tell(&mut self, namespace: &str, ingress: &Ingress, objects: &Objects, writes: &mut Writes) {
        let key = (namespace.to_owned(), ingress.name_any());
        let observed = Status::of_ingress(ingress);
        let ours = objects.is_ours(ingress) && !self.is_somebody_elses(ingress);
        let wanted = match (ours, self.held.get(namespace)) {
            (true, Some(held)) if self.told.contains_key(&key) => held.status(),
            // It is about to be served: what it says may well become true again.
            (true, _) => {
                self.unfinished.insert(namespace.to_owned());
                return;
            }
            (false, _) if self.left_behind(&observed) => Status::default(),
            // Somebody else's address is published where they say.
            (false, _) if observed.published_port.is_some() && self.told.contains_key(&key) => {
                Status { published_port: None, ..observed.clone() }
            }
            (false, _) => {
                if self.told.remove(&key).is_some() {
                    // Its rules go, too.
                    self.unfinished.insert(namespace.to_owned());
                }
                return;
            }
        };
        let told = told(&mut self.told, key.clone(), ingress);
        let due = told.sent.is_due(&wanted, &observed, &ingress.metadata);
        if due && !told.writing {
            told.sent.begin(wanted.clone());
            told.writing = true;
            writes.push(write(self.client.clone(), key, told.uid.clone(), observed, wanted));
        }
    }

    /// The Ingresses of the namespace that are to be served here.
    fn ours<'a>(&self, objects: &'a Objects, namespace: &'a str) -> Vec<&'a Ingress> {
        let ours =
            |ingress: &&Ingress| objects.is_ours(ingress) && !self.is_somebody_elses(ingress);
        objects.ingresses(namespace).filter(ours).collect()
    }

    /// Whether the Ingress is none of ours, or has an address that was not given here. In a cluster of
    /// our own nobody else gives any.
    fn is_somebody_elses(&self, ingress: &Ingress) -> bool {
        let elsewhere = self.only.is_some() && self.only != ingress.metadata.namespace;
        let outside = matches!(self.place, Place::Outside(_));
        outside && (elsewhere || Status::of_ingress(ingress).is_somebody_elses())
    }

    /// Whether a status that is no longer ours was written here.
    fn left_behind(&self, observed: &Status) -> bool {
        observed.address().is_some_and(|address| self.pool.contains(IpAddr::V4(address)))
    }

    /// A write has ended; a namespace where one failed is looked at again later.
    pub(super) fn written(&mut self, written: Written, objects: &mut Objects) {
        let Some(told) = self.told.get_mut(&written.ingress).filter(|t| t.uid == written.uid)
        else {
            return;
        };
        told.writing = false;
        match written.result {
            Ok(version) => {
                told.sent.end(true, version);
                let message = match written.status.address() {
                    Some(address) => format!("Address {address} assigned"),
                    None => "Address released".to_owned(),
                };
                self.recorder.publish(&told.reference, "Normal", "Sync", &message);
                objects.restate(written.ingress);
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => {
                told.sent.end(false, None);
                let trouble = ("SyncFailed", format!("status could not be written: {error}"));
                if told.said.insert(trouble.clone()) {
                    self.recorder.publish(&told.reference, "Warning", trouble.0, &trouble.1);
                }
                self.unfinished.insert(written.ingress.0);
            }
        }
    }

    /// Something went wrong on the data plane.
    pub(super) fn trouble(&mut self, at: SocketAddr, trouble: plane::Trouble) {
        let concerned = |held: &Held| held.ports.values().any(|(port, _)| *port == at);
        let Some((namespace, held)) = self.held.iter_mut().find(|(_, held)| concerned(held)) else {
            return;
        };
        let (reason, message) = balancer::trouble(at, trouble);
        for (_, told) in self.told.iter_mut().filter(|((there, _), _)| there == namespace) {
            if told.said.insert((reason, message.clone())) {
                self.recorder.publish(&told.reference, "Warning", reason, &message);
            }
        }
        if trouble == plane::Trouble::CannotListen {
            held.ports.retain(|_, (port, _)| *port != at);
            self.unfinished.insert(namespace.clone());
        }
    }
}

impl Held {
    fn new(default_certificate: Arc<CertifiedKey>) -> Result<Self, FrontError> {
        Ok(Self {
            front: Arc::new(Front::new(default_certificate)?),
            backends: BTreeMap::new(),
            rules: None,
            ports: BTreeMap::new(),
            troubles: BTreeMap::new(),
        })
    }

    /// Requests from now on go where the plan says. Endpoints first: a table that leads to a
    /// backend finds it as it is.
    fn lead(&mut self, namespace: &str, wanted: &mut Wanted, objects: &Objects, place: &Place) {
        self.backends.retain(|target, _| wanted.targets.contains_key(target));
        for (target, ingresses) in &wanted.targets {
            let service = |name: &str| (namespace.to_owned(), name.to_owned());
            let routing = match target {
                Target::Service { name, .. } => {
                    let key = service(name);
                    let service = |_: &str| objects.service(&key);
                    plan::routing(target, service, objects.slices_of(&key), place)
                }
                Target::Resource(_) => plan::routing(target, |_| None, [], place),
            };
            let routing = routing.unwrap_or_else(|fault| {
                wanted.troubles.extend(ingresses.iter().map(|ingress| Trouble {
                    ingress: ingress.clone(),
                    reason: fault.reason,
                    message: fault.message.clone(),
                }));
                Routing::default()
            });
            match self.backends.get(target) {
                Some(backend) => backend.route.set(routing),
                None => {
                    let name = format!("{namespace}/{target}");
                    let route = Arc::new(Route::new(routing, Arc::default()));
                    self.backends.insert(target.clone(), Arc::new(Backend { name, route }));
                }
            }
        }
        let rules = Some((std::mem::take(&mut wanted.rules), wanted.default.take()));
        if self.rules != rules {
            self.rules = rules;
            self.front.set_table(self.table());
        }
    }

    fn table(&self) -> Table {
        let Some((rules, default)) = &self.rules else { return Table::default() };
        let backend = |target: &Target| self.backends.get(target).cloned();
        let rules = rules.iter().filter_map(|rule| {
            let backend = backend(&rule.target)?;
            Some(table::Rule { host: rule.host.clone(), path: rule.path.clone(), backend })
        });
        Table::new(rules, default.as_ref().and_then(backend))
    }

    /// Handshakes from now on choose from the certificates that are of use; once all Secrets are
    /// known, so that none is taken away while the one that comes instead is on its way.
    fn certify(&mut self, namespace: &str, wanted: &mut Wanted, secrets: &Secrets) {
        let mut certificates = Certificates::default();
        let now = Timestamp::now();
        for tls in &wanted.tls {
            let mut trouble = |reason, message: String| {
                let secret = format!("Secret {:?} {message}", tls.secret);
                let ingress = tls.ingress.clone();
                wanted.troubles.push(Trouble { ingress, reason, message: secret });
            };
            let instead = match tls.hosts.is_empty() {
                true => "the default certificate is served".to_owned(),
                false => format!("the default certificate is served for {}", tls.hosts.join(", ")),
            };
            match secrets.get(namespace, &tls.secret) {
                None => {}
                Some(SecretSeen::Missing) => {
                    trouble("TLSSecretNotFound", format!("does not exist; {instead}"));
                }
                Some(SecretSeen::Bad(why)) => {
                    trouble("TLSSecretInvalid", format!("{why}; {instead}"));
                }
                Some(SecretSeen::Good(certificate)) => {
                    if let Some(why) = certificate.out_of_date(now) {
                        trouble(
                            "CertificateOutOfDate",
                            format!("{why}; it is served all the same"),
                        );
                    }
                    if tls.hosts.is_empty() {
                        certificates.add(None, certificate.key.clone());
                    }
                    for host in &tls.hosts {
                        if certificate.covers(host) {
                            certificates.add(Some(host), certificate.key.clone());
                        } else {
                            let message = format!(
                                "holds a certificate whose alternative names do not cover {host}; \
                                 the default certificate is served for it"
                            );
                            trouble("CertificateHostMismatch", message);
                        }
                    }
                }
            }
        }
        if wanted.tls.iter().all(|tls| secrets.get(namespace, &tls.secret).is_some()) {
            self.front.set_certificates(certificates);
        }
    }

    fn status(&self) -> Status {
        let published = |port| self.ports.get(&port).map(|(at, _)| *at);
        let address: Option<Ipv4Addr> = self.ports.values().find_map(|(at, _)| match at.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        let ports = [HTTP, HTTPS].map(|port| (port, published(port).map(|at| at.port())));
        address.map(|address| Status::new(address, &ports, "VIP").for_ingress()).unwrap_or_default()
    }
}

/// What the Ingress was told, nothing yet if it is a new one of the same name.
fn told<'a>(all: &'a mut BTreeMap<Key, Told>, key: Key, ingress: &Ingress) -> &'a mut Told {
    let uid = ingress.metadata.uid.clone().unwrap_or_default();
    if all.get(&key).is_some_and(|told| told.uid != uid) {
        all.remove(&key);
    }
    all.entry(key).or_insert_with(|| Told {
        uid,
        reference: events::about(ingress),
        generation: None,
        said: BTreeSet::new(),
        sent: Sent::default(),
        writing: false,
    })
}

/// The annotation goes first: who waits for the address must find it complete.
fn write(
    client: Client,
    ingress: Key,
    uid: String,
    observed: Status,
    status: Status,
) -> BoxFuture<'static, Written> {
    let api: Api<Ingress> = Api::namespaced(client, &ingress.0);
    let params = PatchParams { field_manager: Some(COMPONENT.into()), ..Default::default() };
    Box::pin(async move {
        // The uid keeps the write from an Ingress of the same name that came after.
        let annotation = json!({ "metadata": {
            "uid": uid,
            "annotations": { balancer::PUBLISHED_PORT: status.published_port },
        }});
        let load_balancer = match status.ingress.is_empty() {
            true => json!({ "ingress": null }),
            false => json!(status.ingress_status()),
        };
        let address = json!({
            "metadata": { "uid": uid },
            "status": { "loadBalancer": load_balancer },
        });
        let result = async {
            let mut version = None;
            if status.published_port != observed.published_port {
                let patched = api.patch(&ingress.1, &params, &Patch::Merge(annotation)).await?;
                version = balancer::version(&patched.metadata);
            }
            if status.ingress != observed.ingress {
                let status = Patch::Merge(address);
                let patched = api.patch_status(&ingress.1, &params, &status).await?;
                version = balancer::version(&patched.metadata);
            }
            Ok(version)
        };
        let result = result.await;
        Written { ingress, uid, status, result }
    })
}
