//! Statuses and tables of small sets of objects, with the reasons that the conformance suite expects.

use super::*;
use crate::{
    gateway::{
        api::{
            AncestorStatus, BackendTlsPolicy, Gateway, GatewayClass, HttpRoute, ListenerSet,
            NamespaceLabels, ReferenceGrant,
        },
        conditions::is_true,
        object::GROUP,
        plan::plan,
        view::{GATEWAY_CONTROLLER, View},
    },
    http_proxy::conditions::RequestFields,
    route::{Route, Routing},
};
use http::{HeaderMap, Method};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

mod changes;

/// Objects, and a Service `app` with port 80 in every namespace.
#[derive(Default)]
struct Fixture {
    gateways: Vec<Arc<Gateway>>,
    routes: Vec<Arc<HttpRoute>>,
    listener_sets: Vec<Arc<ListenerSet>>,
    policies: Vec<Arc<BackendTlsPolicy>>,
    grants: Vec<Arc<ReferenceGrant>>,
}

/// What is planned, with statuses.
struct Planned {
    planner: Planner,
    routes: BTreeMap<RouteKey, Vec<ParentStatus>>,
    policies: BTreeMap<ObjectKey, Vec<AncestorStatus>>,
}

impl Planned {
    /// Returns the only Gateway.
    fn gateway(&self) -> (&GatewayPlan, &AttachedRoutes) {
        let routes = self.planner.gateways.values().next().unwrap();
        (self.planner.plan.gateways.values().next().unwrap(), routes)
    }

    /// Returns the rule of `GET /` to port 80.
    fn rule(&self) -> Arc<RouteRule> {
        let (method, headers) = (&Method::GET, &HeaderMap::new());
        let fields = RequestFields { method, headers, query: None };
        let table = self.gateway().1.table(80);
        table.find(Some("a.com"), "/", &fields).unwrap().rule.clone()
    }
}

fn object<T: DeserializeOwned>(namespace: &str, name: &str, spec: Value) -> Arc<T> {
    let metadata = json!({ "namespace": namespace, "name": name, "uid": name, "generation": 7 });
    Arc::new(serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap())
}

impl Fixture {
    /// Returns a Gateway `infra/gateway` with these listeners.
    fn new(listeners: Value) -> Self {
        Self::with_spec(json!({ "gatewayClassName": "ours", "listeners": listeners }))
    }

    fn with_spec(spec: Value) -> Self {
        Self { gateways: vec![object("infra", "gateway", spec)], ..Self::default() }
    }

    fn route(mut self, namespace: &str, spec: Value) -> Self {
        let name = format!("route-{}", self.routes.len());
        self.routes.push(object(namespace, &name, spec));
        self
    }

    fn plan(&self) -> Planned {
        let class = |name: &str, controller: &str| {
            object::<GatewayClass>("", name, json!({ "controllerName": controller }))
        };
        let classes = [class("ours", GATEWAY_CONTROLLER), class("other", "example.com/other")];
        let labels = |labels: &[(&str, &str)]| {
            labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let namespaces: NamespaceLabels =
            [("infra".to_owned(), labels(&[])), ("apps".to_owned(), labels(&[("team", "apps")]))]
                .into();
        let problem = |key: &ObjectKey| (key.name != "good").then(|| "does not exist".to_owned());
        let view = View {
            classes: &classes,
            gateways: &self.gateways,
            listener_sets: &self.listener_sets,
            policies: &self.policies,
            grants: &self.grants,
            namespaces: &namespaces,
            secret_problem: &problem,
            authorities: &|key| Err(format!("{key} has no ca.crt")),
        };
        let route = |(_, key): &RouteKey| {
            let mut routes = self.routes.iter().filter(|route| ObjectKey::of(&***route) == *key);
            routes.next().cloned().map(|route| route as Arc<dyn AnyRoute>)
        };
        let routes = self.routes.iter().map(|route| ("HTTPRoute", ObjectKey::of(&**route)));
        let (plan, routes) = (Some(plan(&view)), routes.collect());
        let mut planner = Planner::default();
        let changed = Changed { plan, routes, services: BTreeSet::new(), route: &route };
        let replanned = planner.update(changed, &mut |target, policies, _| match (
            &*target.service.name,
            target.port,
        ) {
            ("app", 80) if policies.of(&target.service, "http") == Some(None) => Ok(None),
            ("app", 80) => {
                let route = Arc::new(Route::new(Routing::default(), Arc::default()));
                let name = format!("{}:{}", target.service, target.port);
                Ok(Some(Arc::new(Backend::plain(name, route))))
            }
            (key, _) => Err(("BackendNotFound", format!("Service {key} does not exist"))),
        });
        let policies = planner.plan.policies.statuses(&planner.ancestors);
        Planned { planner, routes: replanned.routes, policies }
    }
}

/// Returns `TYPE=STATUS/REASON` of each condition.
fn shown(conditions: &[Condition]) -> Vec<String> {
    assert!(conditions.iter().all(|c| c.observed_generation == Some(7)), "{conditions:?}");
    conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
}

fn http(name: &str, extra: Value) -> Value {
    let mut listener = json!({ "name": name, "port": 80, "protocol": "HTTP" });
    listener.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    listener
}

fn gateway(planned: &Planned) -> &GatewayPlan {
    planned.gateway().0
}

#[test]
fn gateway_of_another_class_is_not_planned() {
    let mut fixture = Fixture::with_spec(json!({ "gatewayClassName": "other" }));
    fixture.gateways.push(object("infra", "none", json!({ "gatewayClassName": "absent" })));
    let fixture = fixture.route("infra", json!({ "parentRefs": [{ "name": "gateway" }] }));
    let plan = fixture.plan();
    assert_eq!(plan.planner.gateways.len() + plan.routes.values().flatten().count(), 0);
    assert_eq!(plan.planner.plan.classes.len(), 1);
}

#[test]
fn gateway_is_accepted_with_one_valid_listener() {
    let invalid = json!({ "name": "invalid", "port": 80, "protocol": "example.com/x" });
    let parameters = json!({ "parametersRef": { "group": "x", "kind": "X", "name": "x" } });
    for (spec, expected) in [
        (json!({ "listeners": [http("a", json!({}))] }), "Accepted=True/Accepted"),
        (json!({ "listeners": [invalid] }), "Accepted=False/ListenersNotValid"),
        (
            json!({ "listeners": [http("a", json!({})), invalid] }),
            "Accepted=True/ListenersNotValid",
        ),
        (
            json!({ "listeners": [http("a", json!({}))], "infrastructure": parameters }),
            "Accepted=False/InvalidParameters",
        ),
        (
            json!({
                "listeners": [http("a", json!({}))],
                "addresses": [{ "type": "example.com/x", "value": "x" }],
            }),
            "Accepted=False/UnsupportedAddress",
        ),
    ] {
        let mut spec = spec;
        spec["gatewayClassName"] = "ours".into();
        let plan = Fixture::with_spec(spec.clone()).plan();
        assert_eq!(shown(&[gateway(&plan).accepted.clone()]), [expected], "{spec}");
        assert_eq!(gateway(&plan).ports().is_empty(), expected.contains("False"), "{spec}");
    }
}

#[test]
fn listener_status_says_what_is_wrong() {
    let ok = "Conflicted=False/NoConflicts";
    let tls = |refs: Value| json!({ "name": "l", "port": 443, "protocol": "HTTPS", "tls": { "certificateRefs": refs } });
    let kinds = |kinds: Value| http("l", json!({ "allowedRoutes": { "kinds": kinds } }));
    let accepted = ["Accepted=True/Accepted", "Programmed=True/Programmed"];
    let unusable = ["Accepted=True/Accepted", "Programmed=False/Invalid"];
    let table: [(Value, [&str; 2], &str, usize); 9] = [
        (http("l", json!({})), accepted, "ResolvedRefs=True/ResolvedRefs", 2),
        (kinds(json!([{ "kind": "X" }])), accepted, "ResolvedRefs=False/InvalidRouteKinds", 0),
        (
            kinds(json!([{ "kind": "X" }, { "kind": "HTTPRoute" }])),
            accepted,
            "ResolvedRefs=False/InvalidRouteKinds",
            1,
        ),
        (tls(json!([{ "name": "good" }])), accepted, "ResolvedRefs=True/ResolvedRefs", 2),
        (tls(json!([])), unusable, "ResolvedRefs=False/InvalidCertificateRef", 2),
        (tls(json!([{ "name": "no" }])), unusable, "ResolvedRefs=False/InvalidCertificateRef", 2),
        (
            tls(json!([{ "name": "good", "kind": "X" }])),
            unusable,
            "ResolvedRefs=False/InvalidCertificateRef",
            2,
        ),
        (
            tls(json!([{ "name": "good", "group": "x" }])),
            unusable,
            "ResolvedRefs=False/InvalidCertificateRef",
            2,
        ),
        (
            tls(json!([{ "name": "good", "namespace": "certificates" }])),
            unusable,
            "ResolvedRefs=False/RefNotPermitted",
            2,
        ),
    ];
    for (listener, [accepted, programmed], resolved, kinds) in table {
        let plan = Fixture::new(json!([listener])).plan();
        let status = &gateway(&plan).listeners[0].status;
        assert_eq!(shown(&status.conditions), [accepted, programmed, resolved, ok], "{listener}");
        assert_eq!(status.supported_kinds.len(), kinds, "{listener}");
    }
}

#[test]
fn later_of_two_conflicting_listeners_is_rejected() {
    let https = json!({
        "name": "b", "port": 80, "protocol": "HTTPS", "tls": { "certificateRefs": [{ "name": "good" }] }
    });
    for (second, reason) in [
        (http("b", json!({ "hostname": "A.com" })), "HostnameConflict"),
        (https, "ProtocolConflict"),
        (http("b", json!({ "hostname": "b.com" })), "NoConflicts"),
    ] {
        let plan = Fixture::new(json!([http("a", json!({ "hostname": "a.com" })), second])).plan();
        let listeners = &gateway(&plan).listeners;
        assert!(listeners[0].serves);
        assert_eq!(listeners[1].serves, reason == "NoConflicts");
        assert_eq!(listeners[1].status.conditions[3].reason, reason, "{second}");
    }
}

#[test]
fn listener_that_conflicts_serves_no_route() {
    let listeners = json!([http("a", json!({})), http("b", json!({}))]);
    let rules = json!([{ "backendRefs": [{ "name": "app", "port": 80 }] }]);
    let parent = |listener: &str| json!([{ "name": "gateway", "sectionName": listener }]);
    for (listener, served) in [("a", true), ("b", false)] {
        let spec = json!({ "parentRefs": parent(listener), "rules": rules });
        let plan = Fixture::new(listeners.clone()).route("infra", spec).plan();
        let (method, headers) = (&Method::GET, &HeaderMap::new());
        let fields = RequestFields { method, headers, query: None };
        let table = plan.gateway().1.table(80);
        assert_eq!(table.find(Some("a.com"), "/", &fields).is_some(), served, "{listener}");
    }
}

#[test]
fn grant_in_the_namespace_of_the_target_permits_a_reference() {
    let reference = json!([{ "name": "good", "namespace": "certificates" }]);
    let listener = json!({
        "name": "l", "port": 443, "protocol": "HTTPS", "tls": { "certificateRefs": reference }
    });
    let from = |kind: &str, namespace: &str| json!([{ "group": GROUP, "kind": kind, "namespace": namespace }]);
    for (namespace, from, to, permitted) in [
        (
            "certificates",
            from("Gateway", "infra"),
            json!([{ "group": "", "kind": "Secret" }]),
            true,
        ),
        (
            "certificates",
            from("Gateway", "infra"),
            json!([{ "kind": "Secret", "name": "good" }]),
            true,
        ),
        (
            "certificates",
            from("Gateway", "infra"),
            json!([{ "kind": "Secret", "name": "x" }]),
            false,
        ),
        ("certificates", from("Gateway", "infra"), json!([{ "kind": "Service" }]), false),
        ("certificates", from("HTTPRoute", "infra"), json!([{ "kind": "Secret" }]), false),
        ("certificates", from("Gateway", "apps"), json!([{ "kind": "Secret" }]), false),
        ("infra", from("Gateway", "infra"), json!([{ "kind": "Secret" }]), false),
    ] {
        let mut fixture = Fixture::new(json!([listener]));
        fixture.grants.push(object(namespace, "grant", json!({ "from": from, "to": to })));
        let served = gateway(&fixture.plan()).listeners[0].serves;
        assert_eq!(served, permitted, "{namespace} {from} {to}");
    }
}

#[test]
fn route_status_says_why_it_is_not_attached() {
    let listeners = json!([
        http("same", json!({ "hostname": "same.com" })),
        http(
            "all",
            json!({ "port": 81, "hostname": "*.all.com",
            "allowedRoutes": { "namespaces": { "from": "All" } } })
        ),
        http(
            "selected",
            json!({ "port": 82, "hostname": "selected.com", "allowedRoutes": {
            "namespaces": { "from": "Selector", "selector": { "matchLabels": { "team": "apps" } } }
        } })
        ),
    ]);
    let parent = |extra: Value| {
        let mut parent = json!({ "name": "gateway", "namespace": "infra" });
        parent.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        parent
    };
    for (namespace, parent, hosts, expected, attached) in [
        ("infra", parent(json!({})), json!([]), "True/Accepted", [1, 1, 0]),
        ("apps", parent(json!({})), json!([]), "True/Accepted", [0, 1, 1]),
        ("apps", parent(json!({})), json!(["x.all.com"]), "True/Accepted", [0, 1, 0]),
        ("apps", parent(json!({ "port": 82 })), json!([]), "True/Accepted", [0, 0, 1]),
        (
            "infra",
            parent(json!({ "sectionName": "no" })),
            json!([]),
            "False/NoMatchingParent",
            [0; 3],
        ),
        ("infra", parent(json!({ "port": 83 })), json!([]), "False/NoMatchingParent", [0; 3]),
        (
            "infra",
            parent(json!({ "port": 82, "sectionName": "same" })),
            json!([]),
            "False/NoMatchingParent",
            [0; 3],
        ),
        (
            "apps",
            parent(json!({ "sectionName": "same" })),
            json!([]),
            "False/NotAllowedByListeners",
            [0; 3],
        ),
        (
            "apps",
            parent(json!({})),
            json!(["all.com", "x.org"]),
            "False/NoMatchingListenerHostname",
            [0; 3],
        ),
    ] {
        let rules = json!([{ "backendRefs": [{ "name": "app", "port": 80 }] }]);
        let spec = json!({ "parentRefs": [parent], "hostnames": hosts, "rules": rules });
        let plan = Fixture::new(listeners.clone()).route(namespace, spec.clone()).plan();
        let statuses = plan.routes.values().next().unwrap();
        let shown = shown(&statuses[0].conditions);
        assert_eq!(shown[0], format!("Accepted={expected}"), "{spec}");
        assert_eq!(shown[1], "ResolvedRefs=True/ResolvedRefs");
        assert_eq!(plan.gateway().1.counts, attached, "{spec}");
    }
}

#[test]
fn unresolved_backend_keeps_its_share_of_the_requests() {
    for (backend, reason) in [
        (json!({ "name": "app", "port": 80 }), None),
        (json!({ "name": "absent", "port": 80 }), Some("BackendNotFound")),
        (json!({ "name": "app", "port": 81 }), Some("BackendNotFound")),
        (json!({ "name": "app" }), Some("BackendNotFound")),
        (json!({ "name": "app", "port": 80, "kind": "X" }), Some("InvalidKind")),
        (json!({ "name": "app", "port": 80, "group": "x" }), Some("InvalidKind")),
        (json!({ "name": "app", "port": 80, "namespace": "apps" }), Some("RefNotPermitted")),
    ] {
        let rules =
            json!([{ "backendRefs": [backend, { "name": "app", "port": 80, "weight": 3 }] }]);
        let spec = json!({ "parentRefs": [{ "name": "gateway" }], "rules": rules });
        let plan = Fixture::new(json!([http("l", json!({}))])).route("infra", spec).plan();
        let expected = match reason {
            None => "ResolvedRefs=True/ResolvedRefs".to_owned(),
            Some(reason) => format!("ResolvedRefs=False/{reason}"),
        };
        let conditions = &plan.routes.values().next().unwrap()[0].conditions;
        assert_eq!(shown(conditions), ["Accepted=True/Accepted", &expected], "{backend}");
        let rule = plan.rule();
        let backends = &rule.backends;
        let shares: Vec<_> = backends.iter().map(|b| (b.weight, b.backend.is_some())).collect();
        assert_eq!(shares, [(1, reason.is_none()), (3, true)], "{backend}");
    }
}

#[test]
fn unsupported_value_is_reported_and_never_ignored() {
    for rule in [
        json!({ "filters": [{ "type": "ExtensionRef" }] }),
        json!({ "filters": [{ "type": "URLRewrite" }] }),
        json!({ "matches": [{ "path": { "type": "RegularExpression", "value": "(" } }] }),
        json!({ "matches": [{ "headers": [{ "name": "a b", "value": "x" }] }] }),
        json!({ "timeouts": { "request": "soon" } }),
    ] {
        let mut rule = rule;
        rule["backendRefs"] = json!([{ "name": "app", "port": 80 }]);
        let spec = json!({ "parentRefs": [{ "name": "gateway" }], "rules": [rule] });
        let plan = Fixture::new(json!([http("l", json!({}))])).route("infra", spec).plan();
        let conditions = &plan.routes.values().next().unwrap()[0].conditions;
        assert_eq!(shown(conditions)[0], "Accepted=False/UnsupportedValue", "{rule}");
    }
}

#[test]
fn older_route_wins_between_equal_matches() {
    let rules = |name: &str| {
        json!([{ "backendRefs": [{ "name": "app", "port": 80 }],
        "filters": [{ "type": "URLRewrite", "urlRewrite": { "hostname": name } }] }])
    };
    let spec = |name: &str| json!({ "parentRefs": [{ "name": "gateway" }], "rules": rules(name) });
    let mut fixture = Fixture::new(json!([http("l", json!({}))]));
    for (name, created) in [("young", "2026-02-01T00:00:00Z"), ("old", "2026-01-01T00:00:00Z")] {
        let mut route: HttpRoute = (*object::<HttpRoute>("infra", name, spec(name))).clone();
        route.metadata.creation_timestamp = serde_json::from_value(json!(created)).unwrap();
        fixture.routes.push(Arc::new(route));
    }
    let rule = fixture.plan().rule();
    let rewrite = rule.filters.as_ref().unwrap().rewrite.clone().unwrap();
    assert_eq!(rewrite.host.unwrap(), "old");
}

#[test]
fn listener_set_attaches_where_the_gateway_allows_it() {
    let set = |name: &str| {
        let parent = json!({ "name": "gateway", "namespace": "infra" });
        let listeners = json!([http("own", json!({ "hostname": "set.com" }))]);
        object::<ListenerSet>("apps", name, json!({ "parentRef": parent, "listeners": listeners }))
    };
    let selector = json!({ "from": "Selector", "selector": { "matchLabels": { "team": "apps" } } });
    for (namespaces, first, second, attached) in [
        (json!({ "from": "All" }), "Accepted=True/Accepted", "Accepted=False/ListenersNotValid", 1),
        (selector, "Accepted=True/Accepted", "Accepted=False/ListenersNotValid", 1),
        (json!({ "from": "Same" }), "Accepted=False/NotAllowed", "Accepted=False/NotAllowed", 0),
        (json!({}), "Accepted=False/NotAllowed", "Accepted=False/NotAllowed", 0),
    ] {
        let mut fixture = Fixture::with_spec(json!({
            "gatewayClassName": "ours",
            "listeners": [http("a", json!({ "hostname": "gateway.com" }))],
            "allowedListeners": { "namespaces": namespaces },
        }));
        // The second one has the host of the first.
        fixture.listener_sets = vec![set("set-1"), set("set-2")];
        let parent = json!([{ "kind": "ListenerSet", "name": "set-1" }]);
        let rules = json!([{ "backendRefs": [{ "name": "app", "port": 80 }] }]);
        let plan = fixture.route("apps", json!({ "parentRefs": parent, "rules": rules })).plan();
        let conditions = |name: &str| {
            let set = &plan.planner.plan.listener_sets[&ObjectKey::new("apps", name)];
            shown(&set.conditions)[0].clone()
        };
        assert_eq!([&*conditions("set-1"), &*conditions("set-2")], [first, second], "{namespaces}");
        assert_eq!(gateway(&plan).attached_sets, Some(attached));
        let (of_gateway, routes) = plan.gateway();
        let own = routes.statuses(of_gateway, Some(&ObjectKey::new("apps", "set-1")));
        assert_eq!(own.iter().map(|status| status.attached_routes).sum::<i32>(), attached);
        assert_eq!(
            routes.statuses(of_gateway, None).len(),
            1,
            "the Gateway reports its own listeners"
        );
        let route = &plan.routes.values().next().unwrap()[0].conditions;
        let reason = if attached == 1 { "True/Accepted" } else { "False/NoMatchingParent" };
        assert_eq!(shown(route)[0], format!("Accepted={reason}"), "{namespaces}");
    }
}

#[test]
fn policy_status_says_why_a_backend_is_not_spoken_to() {
    let policy = |name: &str, reference: Value| {
        let target = json!([{ "group": "", "kind": "Service", "name": "app" }]);
        let validation = json!({ "caCertificateRefs": [reference], "hostname": "app.com" });
        object("infra", name, json!({ "targetRefs": target, "validation": validation }))
    };
    let map = json!({ "group": "", "kind": "ConfigMap", "name": "absent" });
    let other = json!({ "group": "", "kind": "Secret", "name": "absent" });
    let no_authority = "Accepted=False/NoValidCACertificate";
    for (reference, resolved) in [
        (map.clone(), "ResolvedRefs=False/InvalidCACertificateRef"),
        (other, "ResolvedRefs=False/InvalidKind"),
    ] {
        let mut fixture = Fixture::new(json!([http("a", json!({}))])).route(
            "infra",
            json!({
                "parentRefs": [{ "name": "gateway" }],
                "rules": [{ "backendRefs": [{ "name": "app", "port": 80 }] }],
            }),
        );
        fixture.policies = vec![policy("a", reference), policy("b", map.clone())];
        let plan = fixture.plan();
        let conditions = |name: &str| {
            let ancestors = &plan.policies[&ObjectKey::new("infra", name)];
            assert_eq!(ancestors[0].ancestor_ref.name, "gateway");
            shown(&ancestors[0].conditions)
        };
        assert_eq!(conditions("a"), [no_authority, resolved]);
        assert_eq!(conditions("b")[0], "Accepted=False/Conflicted");
        // The reference itself is fine, so the route is; its requests fail.
        let route = &plan.routes.values().next().unwrap()[0].conditions;
        assert_eq!(shown(route)[1], "ResolvedRefs=True/ResolvedRefs");
        assert!(plan.rule().backends[0].backend.is_none());
    }
}

#[test]
fn listeners_of_one_port_speak_protocols_that_can_be_told_apart() {
    let listener = |name: &str, protocol: &str, mode: &str| {
        let tls = json!({ "mode": mode, "certificateRefs": [{ "name": "good" }] });
        json!({ "name": name, "port": 443, "protocol": protocol, "hostname": format!("{name}.com"),
                "tls": (!mode.is_empty()).then_some(tls) })
    };
    for (first, second, conflict) in [
        (("TLS", "Terminate"), ("TLS", "Passthrough"), ""),
        (("HTTPS", "Terminate"), ("TLS", "Passthrough"), "ProtocolConflict"),
        (("TCP", ""), ("HTTP", ""), "ProtocolConflict"),
        (("TCP", ""), ("UDP", ""), ""),
        (("UDP", ""), ("HTTP", ""), ""),
    ] {
        let listeners = [listener("a", first.0, first.1), listener("b", second.0, second.1)];
        let plan = Fixture::new(json!(listeners)).plan();
        let [a, b] = &*gateway(&plan).listeners else { panic!("two listeners") };
        assert!(is_true(&a.status.conditions, "Accepted"), "{first:?}");
        let accepted = shown(&b.status.conditions)[0].clone();
        let expected = match conflict {
            "" => "Accepted=True/Accepted".to_owned(),
            reason => format!("Accepted=False/{reason}"),
        };
        assert_eq!(accepted, expected, "{first:?} and {second:?}");
    }
}
