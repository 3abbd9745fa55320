//! After any sequence of changes the plan is the one that the objects make from scratch.

use super::*;
use crate::{
    config::{EmbeddedNodes, Topology},
    gateway::{
        objects::{GatewayEvent, KindEvent, Objects, Watches},
        reconciler::{References, replan},
    },
    secrets::{NamedEvent, NamedObjects},
    services::objects::ObjectEvent,
};
use http::{Request, Response};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Client, client::Body, runtime::watcher::Event};
use kube_embedded_core::network::{Addresses, Sandbox};
use proptest::{collection::vec, prelude::*};
use std::sync::LazyLock;

/// One way of looking at the objects: their plan, and what it was made of.
struct Observer {
    objects: Objects,
    references: References,
    watches: Watches,
    planner: Planner,
    statuses: BTreeMap<RouteKey, Vec<ParentStatus>>,
    topology: Topology,
}

/// An object that exists, as one of a fixed set, and the numbers that its content is drawn from.
#[derive(Clone, Debug)]
struct Live {
    incarnation: u32,
    seed: u32,
}

/// The objects that exist, by their position in `OBJECTS`.
type World = BTreeMap<usize, Live>;

const OBJECTS: [(&str, &str, &str); 27] = [
    ("GatewayClass", "", "ours"),
    ("Gateway", "infra", "one"),
    ("Gateway", "infra", "two"),
    ("ListenerSet", "apps", "set"),
    ("HTTPRoute", "infra", "a"),
    ("HTTPRoute", "infra", "b"),
    ("HTTPRoute", "infra", "c"),
    ("HTTPRoute", "apps", "a"),
    ("HTTPRoute", "apps", "b"),
    ("GRPCRoute", "infra", "a"),
    ("TLSRoute", "infra", "a"),
    ("TLSRoute", "infra", "b"),
    ("TCPRoute", "infra", "a"),
    ("UDPRoute", "infra", "a"),
    ("BackendTLSPolicy", "infra", "p"),
    ("BackendTLSPolicy", "infra", "q"),
    ("ReferenceGrant", "infra", "grant"),
    ("Namespace", "", "apps"),
    ("Namespace", "", "infra"),
    ("Service", "infra", "a"),
    ("Service", "infra", "b"),
    ("Service", "apps", "a"),
    ("EndpointSlice", "infra", "a"),
    ("EndpointSlice", "infra", "b"),
    ("Secret", "infra", "cert"),
    ("Secret", "apps", "cert"),
    ("ConfigMap", "infra", "ca"),
];

/// A certificate and its key.
static CERTIFICATE: LazyLock<[String; 2]> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.com".to_owned()]).unwrap();
    [params.self_signed(&key).unwrap().pem(), key.serialize_pem()]
});

/// Draws from a few numbers.
struct Draw(u32);

impl Draw {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) % n
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize].clone()
    }

    fn some<T>(&mut self, most: u32, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.below(most + 1);
        (0..count).map(|_| one(self)).collect()
    }

    fn parent(&mut self) -> Value {
        let mut parent = json!({ "name": self.one(&["one", "one", "two"]), "namespace": "infra" });
        match self.below(6) {
            0 => parent = json!({ "kind": "ListenerSet", "name": "set", "namespace": "apps" }),
            1 => parent["sectionName"] = self.one(&["l0", "l1", "l2"]).into(),
            2 => parent["port"] = self.one(&[80, 443]).into(),
            _ => {}
        }
        parent
    }

    fn backend(&mut self) -> Value {
        let port = self.one(&[80, 80, 81, 53]);
        let mut backend =
            json!({ "name": self.one(&["a", "b"]), "port": port, "weight": self.below(4) });
        if self.below(2) == 0 {
            backend["namespace"] = self.one(&["infra", "infra", "apps"]).into();
        }
        backend
    }

    fn hostname(&mut self) -> &'static str {
        self.one(&["a.com", "b.com", "*.com", "x.a.com", "*.a.com"])
    }

    fn listener(&mut self, n: usize) -> Value {
        let (protocol, port) = self.one(&[
            ("HTTP", 80),
            ("HTTP", 80),
            ("HTTPS", 443),
            ("TLS", 443),
            ("TCP", 90),
            ("UDP", 90),
        ]);
        let mut listener = json!({ "name": format!("l{n}"), "protocol": protocol, "port": port });
        if self.below(2) == 0 {
            listener["hostname"] = self.hostname().into();
        }
        if protocol == "HTTPS" || protocol == "TLS" {
            let mode = if protocol == "TLS" {
                self.one(&["Terminate", "Passthrough"])
            } else {
                "Terminate"
            };
            listener["tls"] = json!({ "mode": mode, "certificateRefs": [{ "name": "cert" }] });
        }
        listener["allowedRoutes"]["namespaces"] = match self.below(4) {
            0 => json!({ "from": "Same" }),
            1 => json!({ "from": "Selector", "selector": { "matchLabels": { "team": "x" } } }),
            _ => json!({ "from": "All" }),
        };
        listener
    }

    fn listeners(&mut self) -> Vec<Value> {
        (0..1 + self.below(4)).map(|n| self.listener(n as usize)).collect()
    }

    fn http_match(&mut self) -> Value {
        let (r#type, value) = self.one(&[
            ("PathPrefix", "/"),
            ("PathPrefix", "/a"),
            ("PathPrefix", "/a/b"),
            ("Exact", "/a"),
            ("RegularExpression", "/a.*"),
            ("RegularExpression", "("),
        ]);
        let mut found = json!({ "path": { "type": r#type, "value": value } });
        if self.below(3) == 0 {
            found["headers"] = json!([{ "name": "v", "value": self.one(&["1", "2"]) }]);
        }
        found
    }

    fn http_rule(&mut self) -> Value {
        let filters = self.some(1, |draw| match draw.below(2) {
            0 => json!({ "type": "RequestMirror", "requestMirror": { "backendRef": draw.backend() } }),
            _ => json!({ "type": "URLRewrite", "urlRewrite": { "hostname": draw.hostname() } }),
        });
        json!({
            "matches": self.some(2, Self::http_match), "filters": filters,
            "backendRefs": self.some(2, Self::backend),
        })
    }

    fn spec(&mut self, kind: &str) -> Value {
        let parents = self.some(2, Self::parent);
        let hostnames = self.some(2, Self::hostname);
        let rules = [json!({ "backendRefs": self.some(2, Self::backend) })];
        match kind {
            "GatewayClass" => {
                json!({ "controllerName": self.one(&[GATEWAY_CONTROLLER, GATEWAY_CONTROLLER, "x/y"]) })
            }
            "Gateway" => {
                let client = json!({ "backend": { "clientCertificateRef": { "name": "cert" } } });
                json!({
                    "gatewayClassName": "ours", "listeners": self.listeners(),
                    "allowedListeners": { "namespaces": { "from": self.one(&["All", "None"]) } },
                    "tls": (self.below(3) == 0).then_some(client),
                })
            }
            "ListenerSet" => {
                let parent = json!({ "name": self.one(&["one", "two"]), "namespace": "infra" });
                json!({ "parentRef": parent, "listeners": self.listeners() })
            }
            "HTTPRoute" => {
                let rules = self.some(3, Self::http_rule);
                json!({ "parentRefs": parents, "hostnames": hostnames, "rules": rules })
            }
            "GRPCRoute" | "TLSRoute" => {
                json!({ "parentRefs": parents, "hostnames": hostnames, "rules": rules })
            }
            "TCPRoute" | "UDPRoute" => json!({ "parentRefs": parents, "rules": rules }),
            "BackendTLSPolicy" => json!({
                "targetRefs": [{ "group": "", "kind": "Service", "name": self.one(&["a", "b"]) }],
                "validation": {
                    "hostname": "a.com",
                    "caCertificateRefs": [{ "group": "", "kind": "ConfigMap", "name": "ca" }],
                },
            }),
            "ReferenceGrant" => {
                let from = self.one(&["HTTPRoute", "HTTPRoute", "TCPRoute"]);
                let from = [json!({ "group": GROUP, "kind": from, "namespace": "apps" })];
                let name = self.one(&["", "a"]);
                json!({ "from": from, "to": [{ "group": "", "kind": "Service", "name": name }] })
            }
            "Service" => {
                let mut http = json!({ "name": "http", "port": 80 });
                if self.below(3) == 0 {
                    http["appProtocol"] = "kubernetes.io/h2c".into();
                }
                let mut ports = vec![http];
                ports.extend(
                    self.some(1, |_| json!({ "name": "dns", "port": 53, "protocol": "UDP" })),
                );
                json!({ "type": self.one(&["ClusterIP", "ClusterIP", "ExternalName"]), "ports": ports })
            }
            _ => Value::Null,
        }
    }
}

/// Returns an object with the content that is drawn.
fn drawn(at: usize, live: &Live, version: u64) -> Value {
    let (kind, namespace, name) = OBJECTS[at];
    let mut draw = Draw(live.seed);
    let created = format!("2026-01-0{}T00:00:00Z", 1 + live.incarnation % 3);
    let mut object = json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("{at}-{}", live.incarnation),
            "resourceVersion": version.to_string(), "generation": 1, "creationTimestamp": created,
        },
        "spec": draw.spec(kind),
    });
    let team = draw.one(&["x", "y"]);
    match kind {
        "Namespace" => object["metadata"]["labels"] = json!({ "team": team }),
        "EndpointSlice" => {
            let service = draw.one(&["a", "b"]);
            object["metadata"]["labels"] = json!({ "kubernetes.io/service-name": service });
            object["addressType"] = "IPv4".into();
            let addresses = draw.some(2, |draw| format!("10.244.0.{}", 1 + draw.below(3)));
            object["endpoints"] =
                json!([{ "addresses": addresses, "conditions": { "ready": true } }]);
            object["ports"] = json!([{ "name": "http", "port": 8080, "protocol": "TCP" }]);
        }
        _ => {}
    }
    object
}

fn secret(live: &Live) -> Secret {
    let [certificate, key] = &*CERTIFICATE;
    let data = [("tls.crt", certificate), ("tls.key", key)];
    let data = data.map(|(name, text)| (name.to_owned(), ByteString(text.clone().into_bytes())));
    // Sometimes without the key.
    let kept = if Draw(live.seed).below(3) == 0 { 1 } else { 2 };
    Secret { data: Some(data.into_iter().take(kept).collect()), ..Secret::default() }
}

fn config_map(live: &Live) -> ConfigMap {
    let text = if Draw(live.seed).below(3) == 0 { "none" } else { &CERTIFICATE[0] };
    let data = [("ca.crt".to_owned(), text.to_owned())].into();
    ConfigMap { data: Some(data), ..ConfigMap::default() }
}

/// Returns the event of an object, which exists or is deleted, unless only references know it.
fn event(at: usize, live: &Live, version: u64, exists: bool) -> Option<GatewayEvent> {
    fn of<T: DeserializeOwned>(object: Value, exists: bool) -> Event<T> {
        let object = serde_json::from_value(object).unwrap();
        if exists { Event::Apply(object) } else { Event::Delete(object) }
    }
    let object = drawn(at, live, version);
    Some(match OBJECTS[at].0 {
        "GatewayClass" => GatewayEvent::Kind(KindEvent::Class(of(object, exists))),
        "Gateway" => GatewayEvent::Kind(KindEvent::Gateway(of(object, exists))),
        "ListenerSet" => GatewayEvent::Kind(KindEvent::ListenerSet(of(object, exists))),
        "HTTPRoute" => GatewayEvent::Kind(KindEvent::HttpRoute(of(object, exists))),
        "GRPCRoute" => GatewayEvent::Kind(KindEvent::GrpcRoute(of(object, exists))),
        "TLSRoute" => GatewayEvent::Kind(KindEvent::TlsRoute(of(object, exists))),
        "TCPRoute" => GatewayEvent::Kind(KindEvent::TcpRoute(of(object, exists))),
        "UDPRoute" => GatewayEvent::Kind(KindEvent::UdpRoute(of(object, exists))),
        "BackendTLSPolicy" => GatewayEvent::Kind(KindEvent::Policy(of(object, exists))),
        "ReferenceGrant" => GatewayEvent::Kind(KindEvent::Grant(of(object, exists))),
        "Namespace" => GatewayEvent::Namespace(of(object, exists)),
        "Service" => GatewayEvent::Service(ObjectEvent::Service(of(object, exists))),
        "EndpointSlice" => GatewayEvent::Service(ObjectEvent::Slice(of(object, exists))),
        _ => return None,
    })
}

impl Observer {
    fn new() -> Self {
        let client = Client::new(
            tower::service_fn(|_: Request<Body>| async { Response::builder().body(Body::empty()) }),
            "default",
        );
        let mut watches = Watches::new();
        let mut objects = Objects::new(client.clone(), &mut watches);
        let references = References {
            secrets: NamedObjects::new(client.clone(), GatewayEvent::Secret),
            config_maps: NamedObjects::new(client, GatewayEvent::ConfigMap),
        };
        // Services are watched from the first Gateway on.
        let live = Live { incarnation: 0, seed: 0 };
        for done in [KindEvent::Class(Event::InitDone), KindEvent::Gateway(Event::InitDone)] {
            objects.apply(GatewayEvent::Kind(done), &mut watches);
        }
        for exists in [true, false] {
            objects.apply(event(1, &live, 1, exists).unwrap(), &mut watches);
            objects.synced(&mut watches);
        }
        let (planner, statuses) = Default::default();
        let addresses = Addresses { block: 9, sandbox: Sandbox::Namespaced };
        let embedded = EmbeddedNodes { nodes: Vec::new(), addresses, load_balancers: false };
        let topology = Topology::Embedded(embedded);
        Self { objects, references, watches, planner, statuses, topology }
    }

    /// Plans again, as the controller does after a round of events.
    fn update(&mut self, world: &World) {
        loop {
            let Self { objects, references, watches, planner, statuses, topology } = &mut *self;
            let changes = objects.take_changes();
            let replanned = replan(planner, changes, objects, references, topology, None);
            statuses.extend(replanned.routes);
            if references.sync(&planner.plan, watches) {
                break;
            }
            self.deliver_references(world);
        }
        let exists = |key: &RouteKey| self.objects.kinds.route(key).is_some();
        self.statuses.retain(|key, _| exists(key));
    }

    /// Delivers the objects that are watched by name.
    fn deliver_references(&mut self, world: &World) {
        for (at, (kind, namespace, name)) in OBJECTS.into_iter().enumerate() {
            let key = ObjectKey::new(namespace, name);
            let event = match kind {
                "Secret" => GatewayEvent::Secret(NamedEvent(key, Ok(world.get(&at).map(secret)))),
                "ConfigMap" => {
                    GatewayEvent::ConfigMap(NamedEvent(key, Ok(world.get(&at).map(config_map))))
                }
                _ => continue,
            };
            self.apply(event);
        }
    }

    fn apply(&mut self, event: GatewayEvent) {
        if self.references.apply(&event) {
            self.objects.requeue_all();
        }
        self.objects.apply(event, &mut self.watches);
    }

    /// Returns all that is planned, as text.
    fn shown(&self) -> Vec<String> {
        let Planner { plan, gateways, ancestors, routes, targets } = &self.planner;
        let backend = |backend: &Option<Arc<Backend>>| {
            backend.as_ref().map(|backend| {
                let Backend { name, route, upstream, .. } = &**backend;
                let endpoints = route.changes().borrow().clone();
                format!("{name} {endpoints:?} {} {}", upstream.http2, upstream.tls.is_some())
            })
        };
        let rule = |rule: &RouteRule| {
            let backends = rule.backends.iter().map(|b| (b.weight, backend(&b.backend)));
            let filters = rule.filters.iter().map(|filters| {
                let mirrors = filters.mirrors.iter().map(|m| backend(&Some(m.backend.clone())));
                (mirrors.collect::<Vec<_>>(), filters.rewrite.clone())
            });
            format!("{:?} {:?}", backends.collect::<Vec<_>>(), filters.collect::<Vec<_>>())
        };
        let mut all = vec![format!("{:#?}", plan.gateways), format!("{ancestors:?}")];
        all.push(format!("{:?}", plan.policies.statuses(ancestors)));
        all.extend(routes.keys().map(|key| format!("{key:?}")));
        all.extend(self.statuses.iter().map(|(key, status)| format!("{key:?} {status:?}")));
        for (target, PlannedTarget { found, routes }) in targets {
            all.push(format!("{target:?} {:?} {routes:?}", found.as_ref().map(backend)));
        }
        for (key, AttachedRoutes { counts, tables, streams }) in gateways {
            all.push(format!("{key} {counts:?}"));
            for (port, table) in tables {
                all.extend(table.rows(rule).into_iter().map(|row| format!("{key} {port} {row}")));
            }
            for (port, streams) in streams.iter().filter(|(_, streams)| !streams.is_empty()) {
                let streams = streams.values().map(|s| (&s.listener, &s.host, rule(&s.rule)));
                all.push(format!("{key} {port:?} {:?}", streams.collect::<Vec<_>>()));
            }
        }
        all
    }
}

/// Draws an object, its new content or none, and how many changes come in the same round. Those of which there
/// is one of a kind, on which much depends, are drawn more often.
fn change() -> impl Strategy<Value = (usize, Option<u32>, u8)> {
    let rare = ["ListenerSet", "ReferenceGrant", "Namespace"];
    let rare = OBJECTS.iter().enumerate().filter(|(_, (kind, ..))| rare.contains(kind));
    let rare: Vec<usize> = rare.map(|(at, _)| at).collect();
    let at = prop_oneof![0..OBJECTS.len(), proptest::sample::select(rare)];
    (at, proptest::option::weighted(0.8, any::<u32>()), 0_u8..2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn plan_after_changes_is_the_plan_from_scratch(
        first in any::<u32>(),
        changes in vec(change(), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        let mut observer = Observer::new();
        let (mut world, mut version) = (World::new(), 10);
        // Everything exists at first, so that changes meet what depends on them.
        let all = (0..OBJECTS.len()).map(|at| (at, Some(first.wrapping_add(at as u32)), 1));
        for (at, seed, more) in all.chain(changes) {
            version += 1;
            let known = world.get(&at).cloned();
            match (seed, known) {
                (Some(seed), known) => {
                    let incarnation = known.map_or(version as u32, |known| known.incarnation);
                    let live = Live { incarnation, seed };
                    event(at, &live, version, true).into_iter().for_each(|e| observer.apply(e));
                    world.insert(at, live);
                }
                (None, Some(live)) => {
                    world.remove(&at);
                    event(at, &live, version, false).into_iter().for_each(|e| observer.apply(e));
                }
                (None, None) => {}
            }
            if matches!(OBJECTS[at].0, "Secret" | "ConfigMap") {
                observer.deliver_references(&world);
            }
            // Several changes may come in one round.
            if more > 0 {
                continue;
            }
            observer.update(&world);
            let mut scratch = Observer::new();
            for (at, live) in &world {
                event(*at, live, version, true).into_iter().for_each(|e| scratch.apply(e));
            }
            scratch.update(&world);
            pretty_assert(&observer.shown(), &scratch.shown())?;
        }
    }
}

/// Makes everything exist, then one object change. Returns what is planned again.
fn replanned_after(at: usize) -> Replanned {
    let mut observer = Observer::new();
    let all: World =
        (0..OBJECTS.len()).map(|at| (at, Live { incarnation: 1, seed: at as u32 })).collect();
    for (at, live) in &all {
        event(*at, live, 10, true).into_iter().for_each(|e| observer.apply(e));
    }
    observer.update(&all);
    observer.apply(event(at, &Live { incarnation: 1, seed: 1000 }, 11, true).unwrap());
    let Observer { objects, references, planner, topology, .. } = &mut observer;
    let changes = objects.take_changes();
    replan(planner, changes, objects, references, topology, None)
}

#[test]
fn change_of_a_route_or_its_endpoints_plans_nothing_else() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _guard = runtime.enter();
    for (at, (kind, namespace, name)) in OBJECTS.into_iter().enumerate() {
        if kind.ends_with("Route") {
            let Replanned { all, routes, .. } = replanned_after(at);
            let expected = (kind, ObjectKey::new(namespace, name));
            assert_eq!((all, routes.into_keys().collect()), (false, vec![expected]));
        }
        if kind == "EndpointSlice" {
            let Replanned { all, gateways, routes } = replanned_after(at);
            assert_eq!((all, gateways.len(), routes.len()), (false, 0, 0));
        }
    }
}

/// Compares line by line: the whole is too long to read.
fn pretty_assert(incremental: &[String], scratch: &[String]) -> Result<(), TestCaseError> {
    let missing = scratch.iter().find(|line| !incremental.contains(line));
    let superfluous = incremental.iter().find(|line| !scratch.contains(line));
    prop_assert!(missing.is_none() && superfluous.is_none(), "{missing:#?} not {superfluous:#?}");
    prop_assert_eq!(incremental.len(), scratch.len());
    Ok(())
}
