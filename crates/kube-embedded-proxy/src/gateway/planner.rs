//! Keeps the plan of Gateways and their routes in line with the objects. One route of a thousand changes at
//! a time: what depends on it is planned again, and nothing else.

use super::{
    api::{ListenerStatus, ParentStatus},
    attachment::{Attachment, FoundBackend, ParentKey, PlannedRoute, plan_route},
    conversion::AnyRoute,
    listeners::{ListenerPlan, Protocol},
    plan::{GatewayPlan, Plan},
    policies::{Ancestors, Policies},
    view::Target,
};
use crate::{
    http_proxy::route_table::{
        Backend, HttpMatch, MatchHost, Precedence, Rank, RouteRule, RouteTable,
    },
    streams::{StreamMatch, StreamTable},
};
use kube_embedded_core::informer::ObjectKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

/// The kind and name of a route.
pub(super) type RouteKey = (&'static str, ObjectKey);

/// Finds the backend of a target, given the one that was found before.
pub(super) type FindBackend<'a> =
    dyn FnMut(&Target, &Policies, Option<&Arc<Backend>>) -> FoundBackend + 'a;

/// What Gateways and routes ask for together.
#[derive(Debug, Default)]
pub(super) struct Planner {
    pub(super) plan: Plan,
    pub(super) gateways: BTreeMap<ObjectKey, AttachedRoutes>,
    pub(super) ancestors: Ancestors,
    routes: BTreeMap<RouteKey, PlannedRoute>,
    targets: BTreeMap<Target, PlannedTarget>,
}

/// A Service port that routes name.
#[derive(Debug)]
struct PlannedTarget {
    found: FoundBackend,
    routes: BTreeSet<RouteKey>,
}

/// The routes of one Gateway.
#[derive(Debug, Default)]
pub(super) struct AttachedRoutes {
    /// The number of routes of each listener.
    counts: Vec<i32>,
    tables: BTreeMap<u16, RouteTable>,
    /// The same of listeners that are not of HTTP, by port and whether it is one of UDP.
    streams: BTreeMap<(u16, bool), Streams>,
}

/// Matches by the route that has them and a number.
type Streams = BTreeMap<(Arc<Precedence>, usize), StreamMatch>;

/// What has changed.
pub(super) struct Changed<'a> {
    /// The new plan of Gateways, if that may have changed, or the endpoints of all Services.
    pub(super) plan: Option<Plan>,
    pub(super) routes: BTreeSet<RouteKey>,
    pub(super) services: BTreeSet<ObjectKey>,
    /// Returns a route, unless it is deleted.
    pub(super) route: &'a dyn Fn(&RouteKey) -> Option<Arc<dyn AnyRoute>>,
}

/// What is planned otherwise than before.
#[derive(Debug, Default)]
pub(super) struct Replanned {
    /// Whether that may be any Gateway, and more than routes.
    pub(super) all: bool,
    /// Gateways whose routes changed.
    pub(super) gateways: BTreeSet<ObjectKey>,
    /// The statuses of routes, for those parents that are ours.
    pub(super) routes: BTreeMap<RouteKey, Vec<ParentStatus>>,
}

impl Replanned {
    pub(super) fn add(&mut self, later: Self) {
        self.all |= later.all;
        self.gateways.extend(later.gateways);
        self.routes.extend(later.routes);
    }
}

impl Planner {
    /// Plans what depends on something that has changed.
    pub(super) fn update(&mut self, changed: Changed<'_>, find: &mut FindBackend<'_>) -> Replanned {
        let mut dirty = changed.routes;
        let mut replanned = Replanned { all: changed.plan.is_some(), ..Replanned::default() };
        let mut replaced = BTreeSet::new();
        if let Some(plan) = changed.plan {
            let before = mem::replace(&mut self.plan, plan);
            replaced = self.replaced_gateways(&before);
            dirty.extend(self.affected_routes(&before, &replaced));
            for target in self.targets.keys().cloned().collect::<Vec<_>>() {
                dirty.extend(self.update_target(&target, find));
            }
        } else {
            let targets = changed.services.iter().flat_map(|service| self.targets_of(service));
            for target in targets.collect::<Vec<_>>() {
                dirty.extend(self.update_target(&target, find));
            }
        }
        for key in &replaced {
            match self.plan.gateways.get(key) {
                Some(plan) => drop(self.gateways.insert(key.clone(), AttachedRoutes::new(plan))),
                None => drop(self.gateways.remove(key)),
            }
        }
        let mut released = BTreeSet::new();
        for key in &dirty {
            released.extend(self.remove_route(key, &replaced, &mut replanned));
        }
        for key in dirty {
            if let Some(route) = (changed.route)(&key) {
                let statuses = self.add_route(&key, &*route, find, &mut replanned);
                replanned.routes.insert(key, statuses);
            }
        }
        for target in released {
            if self.targets.get(&target).is_some_and(|known| known.routes.is_empty()) {
                self.targets.remove(&target);
            }
        }
        replanned
    }

    /// Returns the Gateways that are new, gone, or have other listeners.
    fn replaced_gateways(&self, before: &Plan) -> BTreeSet<ObjectKey> {
        let all = before.gateways.keys().chain(self.plan.gateways.keys());
        all.filter(|key| before.gateways.get(*key) != self.plan.gateways.get(*key))
            .cloned()
            .collect()
    }

    /// Returns the routes that may be attached otherwise with the new plan, or refer to other objects.
    fn affected_routes(&self, before: &Plan, replaced: &BTreeSet<ObjectKey>) -> Vec<RouteKey> {
        let now = &self.plan;
        let grants = |plan: &Plan| -> Vec<_> {
            let grants = plan.grants.iter();
            grants.map(|grant| (grant.metadata.namespace.clone(), grant.spec.clone())).collect()
        };
        let all = grants(before) != grants(now);
        let is_affected = |parent: &ParentKey| match parent {
            ParentKey::Gateway(gateway) => replaced.contains(gateway),
            ParentKey::ListenerSet(set) => {
                let gateway = |plan: &Plan| Some(plan.listener_sets.get(set)?.gateway.clone());
                let (before, now) = (gateway(before), gateway(now));
                before != now || now.is_some_and(|gateway| replaced.contains(&gateway))
            }
        };
        let labels = |plan: &Plan, namespace: &str| plan.namespaces.get(namespace).cloned();
        let affected = self.routes.iter().filter(|((_, key), route)| {
            all || route.parents.iter().any(is_affected)
                || labels(before, &key.namespace) != labels(now, &key.namespace)
        });
        affected.map(|(key, _)| key.clone()).collect()
    }

    fn targets_of(&self, service: &ObjectKey) -> Vec<Target> {
        let from = Target::first_of(service);
        let targets = self.targets.range(from..).map(|(target, _)| target);
        targets.take_while(|target| target.service == *service).cloned().collect()
    }

    /// Gives a target its current endpoints. Returns the routes that need another backend.
    fn update_target(&mut self, target: &Target, find: &mut FindBackend<'_>) -> BTreeSet<RouteKey> {
        let Some(known) = self.targets.get_mut(target) else { return BTreeSet::new() };
        let found = find(target, &self.plan.policies, backend_of(&known.found));
        let is_same = match (&known.found, &found) {
            (Ok(Some(before)), Ok(Some(now))) => Arc::ptr_eq(before, now),
            (Ok(None), Ok(None)) => true,
            (Err(before), Err(now)) => before == now,
            _ => false,
        };
        known.found = found;
        if is_same { BTreeSet::new() } else { known.routes.clone() }
    }

    /// Removes a route, except from the tables of Gateways that have new ones. Returns the targets that it had.
    fn remove_route(
        &mut self,
        key: &RouteKey,
        replaced: &BTreeSet<ObjectKey>,
        replanned: &mut Replanned,
    ) -> BTreeSet<Target> {
        let Some(route) = self.routes.remove(key) else { return BTreeSet::new() };
        for attached in route.attached.iter().filter(|a| !replaced.contains(&a.gateway)) {
            replanned.gateways.insert(attached.gateway.clone());
            let plan = self.plan.gateways.get(&attached.gateway);
            if let Some((plan, routes)) = plan.zip(self.gateways.get_mut(&attached.gateway)) {
                routes.remove(attached, &route.precedence, plan);
            }
        }
        for (service, gateway) in &route.reached {
            let Some(gateways) = self.ancestors.get_mut(service) else { continue };
            if let Some(count) = gateways.get_mut(gateway) {
                *count -= 1;
            }
            gateways.retain(|_, count| *count > 0);
            if gateways.is_empty() {
                self.ancestors.remove(service);
            }
        }
        for target in &route.targets {
            if let Some(known) = self.targets.get_mut(target) {
                known.routes.remove(key);
            }
        }
        route.targets
    }

    /// Adds a route that is not there, and returns its statuses.
    fn add_route(
        &mut self,
        key: &RouteKey,
        route: &dyn AnyRoute,
        find: &mut FindBackend<'_>,
        replanned: &mut Replanned,
    ) -> Vec<ParentStatus> {
        let route = route.route();
        if route.metadata.deletion_timestamp.is_some() {
            return Vec::new();
        }
        let Self { plan, targets, .. } = self;
        let mut resolve = |target: &Target| {
            let known = targets.entry(target.clone()).or_insert_with(|| PlannedTarget {
                found: find(target, &plan.policies, None),
                routes: BTreeSet::new(),
            });
            known.routes.insert(key.clone());
            known.found.clone()
        };
        let (planned, statuses) = plan_route(&route, plan, &mut resolve);
        for attached in &planned.attached {
            replanned.gateways.insert(attached.gateway.clone());
            let plan = self.plan.gateways.get(&attached.gateway);
            if let Some((plan, routes)) = plan.zip(self.gateways.get_mut(&attached.gateway)) {
                routes.add(attached, &planned.precedence, plan);
            }
        }
        for (service, gateway) in &planned.reached {
            let gateways = self.ancestors.entry(service.clone()).or_default();
            *gateways.entry(gateway.clone()).or_default() += 1;
        }
        self.routes.insert(key.clone(), planned);
        statuses
    }

    /// Returns the keys of the routes that are planned.
    pub(super) fn routes(&self) -> impl Iterator<Item = &RouteKey> {
        self.routes.keys()
    }
}

fn backend_of(found: &FoundBackend) -> Option<&Arc<Backend>> {
    found.as_ref().ok()?.as_ref()
}

impl AttachedRoutes {
    fn new(gateway: &GatewayPlan) -> Self {
        let serving = || gateway.listeners.iter().filter(|listener| listener.serves);
        let http = serving().filter(|listener| listener.is_http());
        let ports: BTreeSet<u16> = http.map(|listener| listener.port).collect();
        let table = |port: u16| {
            let of_port = serving().filter(|listener| listener.is_http() && listener.port == port);
            (port, RouteTable::of_gateway(of_port.map(|listener| listener.hostname.as_deref())))
        };
        Self {
            counts: vec![0; gateway.listeners.len()],
            tables: ports.into_iter().map(table).collect(),
            streams: BTreeMap::new(),
        }
    }

    /// Adds the rules of a route to the table of a listener. One that is in conflict with another, or has no
    /// certificate, serves none.
    fn add(&mut self, attached: &Attachment, owner: &Arc<Precedence>, gateway: &GatewayPlan) {
        let Some(listener) = gateway.listeners.get(attached.listener) else { return };
        if let Some(count) = self.counts.get_mut(attached.listener) {
            *count += i32::from(attached.is_accepted);
        }
        if !listener.serves {
            return;
        }
        if !listener.is_http() {
            let streams = self.streams.entry(listener.key()).or_default();
            // A route of streams has one rule, whose matches mean nothing.
            for (_, rule) in attached.rules.iter().take(1) {
                for host in &attached.hosts {
                    let (listener, host) = (listener.hostname.clone(), host.clone());
                    let found = StreamMatch { listener, host, rule: rule.clone() };
                    streams.insert((owner.clone(), streams.len()), found);
                }
            }
            return;
        }
        let Some(table) = self.tables.get_mut(&listener.port) else { return };
        for (n, (matches, rule)) in attached.rules.iter().enumerate() {
            for (index, (path, conditions)) in matches.iter().enumerate() {
                for host in &attached.hosts {
                    let rank = Rank { owner: owner.clone(), rule: n, index };
                    let (path, conditions, rule) = (path.clone(), conditions.clone(), rule.clone());
                    let found = HttpMatch { path, conditions, rule, rank };
                    table.insert(listener.at(host), found);
                }
            }
        }
    }

    /// Removes what `add` added.
    fn remove(&mut self, attached: &Attachment, owner: &Arc<Precedence>, gateway: &GatewayPlan) {
        let Some(listener) = gateway.listeners.get(attached.listener) else { return };
        if let Some(count) = self.counts.get_mut(attached.listener) {
            *count -= i32::from(attached.is_accepted);
        }
        if !listener.serves {
            return;
        }
        if let Some(streams) = self.streams.get_mut(&listener.key()) {
            streams.retain(|(other, _), _| !Arc::ptr_eq(other, owner));
        }
        let Some(table) = self.tables.get_mut(&listener.port) else { return };
        for (path, _) in attached.rules.iter().flat_map(|(matches, _)| matches) {
            for host in attached.hosts.iter().filter(|_| listener.is_http()) {
                table.remove(listener.at(host), path, owner);
            }
        }
    }

    /// Returns the route table of a port.
    pub(super) fn table(&self, port: u16) -> RouteTable {
        self.tables.get(&port).cloned().unwrap_or_default()
    }

    /// Returns the routes of a port of TLS or TCP.
    pub(super) fn stream_table<'a>(
        &self,
        listeners: impl Iterator<Item = &'a ListenerPlan>,
        key: (u16, bool),
    ) -> StreamTable {
        let listeners = listeners.map(|listener| {
            let terminates = listener.protocol == Protocol::Tls { terminates: true };
            (listener.hostname.clone(), terminates)
        });
        let matches = self.streams.get(&key).into_iter().flat_map(BTreeMap::values);
        StreamTable::new(listeners, matches.cloned())
    }

    /// Returns the rule of a port of UDP.
    pub(super) fn udp_rule(&self, port: u16) -> Option<Arc<RouteRule>> {
        let (_, first) = self.streams.get(&(port, true))?.first_key_value()?;
        Some(first.rule.clone())
    }

    /// Returns the statuses of the listeners of a ListenerSet, or of the Gateway itself.
    pub(super) fn statuses(
        &self,
        gateway: &GatewayPlan,
        set: Option<&ObjectKey>,
    ) -> Vec<ListenerStatus> {
        let counted = gateway.listeners.iter().zip(&self.counts);
        let own = counted.filter(|(listener, _)| listener.set.as_ref() == set);
        let status = |(listener, attached_routes): (&ListenerPlan, &i32)| ListenerStatus {
            attached_routes: *attached_routes,
            ..listener.status.clone()
        };
        own.map(status).collect()
    }
}

impl ListenerPlan {
    fn is_http(&self) -> bool {
        matches!(self.protocol, Protocol::Http | Protocol::Https)
    }

    fn at<'a>(&'a self, host: &'a Option<String>) -> MatchHost<'a> {
        MatchHost { listener: self.hostname.as_deref(), host: host.as_deref() }
    }
}

#[cfg(test)]
mod tests;
