//! Ingresses and Services as YAML, and the rules and routes that follow.

use super::*;
use crate::{config::EmbeddedNodes, route::Backends};
use kube_embedded_core::network::{Addresses, Sandbox};
use serde::de::DeserializeOwned;
use std::net::SocketAddr;

fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap()
}

fn ingress(name: &str, second: u8, spec: &str) -> Ingress {
    yaml(&format!(
        "{{metadata: {{name: {name}, creationTimestamp: '2026-01-01T00:00:{second:02}Z'}},
           spec: {spec}}}"
    ))
}

fn to(service: &str) -> String {
    format!("backend: {{service: {{name: {service}, port: {{number: 80}}}}}}")
}

fn rule(host: &str, path: &str, service: &str) -> String {
    let to = to(service);
    format!("{{host: {host}, http: {{paths: [{{pathType: Prefix, path: {path}, {to}}}]}}}}")
}

fn planned(mut ingresses: Vec<&Ingress>) -> NamespacePlan {
    sort(&mut ingresses);
    plan(&ingresses)
}

/// Rules and default backend as `HOST PATH -> TARGET`.
fn lines(plan: &NamespacePlan) -> Vec<String> {
    let rules = plan.rules.iter().map(|rule| {
        format!("{} {} -> {}", rule.host.as_deref().unwrap_or("*"), rule.path, rule.target)
    });
    rules.chain(plan.default.iter().map(|target| format!("default -> {target}"))).collect()
}

#[test]
fn ingress_is_ours_by_class_or_without_one() {
    let is_our_class = |class: &str| class == "edge" || class == "another";
    for (meta, spec, ours) in [
        ("{}", "{}", true),
        ("{}", "{ingressClassName: edge}", true),
        ("{}", "{ingressClassName: another}", true),
        ("{}", "{ingressClassName: nginx}", false),
        ("{annotations: {kubernetes.io/ingress.class: edge}}", "{}", true),
        ("{annotations: {kubernetes.io/ingress.class: gce}}", "{}", false),
        ("{annotations: {kubernetes.io/ingress.class: ''}}", "{}", true),
        ("{annotations: {kubernetes.io/ingress.class: gce}}", "{ingressClassName: edge}", true),
    ] {
        let ingress: Ingress = yaml(&format!("{{metadata: {meta}, spec: {spec}}}"));
        assert_eq!(is_ours(&ingress, is_our_class), ours, "{meta} {spec}");
    }
}

#[test]
fn ingresses_of_a_namespace_share_a_table_and_the_oldest_wins() {
    let a_foo = rule("Foo.bar", "/", "late");
    let younger = ingress(
        "a",
        2,
        &format!(
            "{{defaultBackend: {{service: {{name: late, port: {{number: 80}}}}}},
               rules: [{a_foo}, {}]}}",
            rule("other.bar", "/", "other")
        ),
    );
    let older = ingress(
        "b",
        1,
        &format!(
            "{{defaultBackend: {{service: {{name: first, port: {{name: web}}}}}},
               rules: [{}, {}, {}]}}",
            rule("foo.bar", "/", "first"),
            rule("foo.bar", "/", "never"),
            rule("foo.bar", "/x/", "first"),
        ),
    );
    let plan = planned(vec![&younger, &older]);
    assert_eq!(
        lines(&plan),
        [
            "foo.bar / (Prefix) -> first:80",
            "foo.bar /x (Prefix) -> first:80",
            "other.bar / (Prefix) -> other:80",
            "default -> first:web"
        ]
    );
    let problems: Vec<(&str, &str, &str)> =
        plan.problems.iter().map(|t| (&*t.ingress, t.reason, &*t.message)).collect();
    assert_eq!(
        problems,
        [
            (
                "a",
                "Conflict",
                "the default backend belongs to Ingress \"b\", which comes first (by age, then by name)"
            ),
            (
                "a",
                "Conflict",
                "host foo.bar, path / (Prefix) belongs to Ingress \"b\", which comes first (by age, then by name)"
            ),
        ]
    );
    assert!(plan.targets.values().flatten().any(|name| name == "a"), "of other.bar");
    assert!(!plan.targets.keys().any(|target| target.to_string() == "late:80"));
}

#[test]
fn name_decides_between_ingresses_of_the_same_age() {
    let to_a = to("a");
    let exact = format!("{{http: {{paths: [{{pathType: Exact, path: /x, {to_a}}}]}}}}");
    let a = ingress("a", 1, &format!("{{rules: [{exact}]}}"));
    let b = ingress("b", 1, &format!("{{rules: [{}]}}", rule("", "/x", "b")));
    let c = ingress("c", 1, &format!("{{rules: [{}]}}", rule("", "/x/", "c")));
    let plan = planned(vec![&c, &b, &a]);
    assert_eq!(lines(&plan), ["* /x (Exact) -> a:80", "* /x (Prefix) -> b:80"]);
    let losers: Vec<&str> = plan.problems.iter().map(|t| &*t.ingress).collect();
    assert_eq!(losers, ["c"]);
}

#[test]
fn rule_without_paths_routes_to_the_default_backend() {
    let rules = "[{host: a.foo.com}, {host: b.foo.com}]";
    let other = rule("b.foo.com", "/", "b");
    let all = ingress("all", 1, &format!("{{rules: {rules}}}"));
    let more = ingress(
        "more",
        2,
        &format!(
            "{{defaultBackend: {{service: {{name: d, port: {{number: 80}}}}}}, rules: [{other}]}}"
        ),
    );
    assert_eq!(
        lines(&planned(vec![&all, &more])),
        ["b.foo.com / (Prefix) -> b:80", "a.foo.com / (Prefix) -> d:80", "default -> d:80"]
    );
    assert_eq!(lines(&planned(vec![&all])), [""; 0]);
    assert_eq!(lines(&planned(vec![&ingress("nothing", 1, "{}")])), [""; 0]);
}

#[test]
fn tls_entries_are_planned_with_their_hosts() {
    let spec = "{tls: [{hosts: [a, b], secretName: one}, {secretName: two}, {hosts: [c]}]}";
    let plan = planned(vec![&ingress("i", 1, spec)]);
    let tls = |hosts: &[&str], secret: &str| Tls {
        ingress: "i".into(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        secret: secret.into(),
    };
    assert_eq!(plan.tls, [tls(&["a", "b"], "one"), tls(&[], "two")]);
}

#[test]
fn target_is_a_service_port_or_an_error() {
    let service: Service = yaml(
        "{metadata: {name: app}, spec: {type: NodePort, ports: [
            {name: web, port: 80, targetPort: http}, {name: dns, port: 53, protocol: UDP}]}}",
    );
    let external: Service =
        yaml("{metadata: {name: ext}, spec: {type: ExternalName, externalName: e.com}}");
    let slice: EndpointSlice = yaml(
        "{addressType: IPv4, metadata: {}, ports: [{name: web, port: 8080}], endpoints: [
            {addresses: [10.244.0.1], conditions: {ready: true}},
            {addresses: [10.244.0.2], conditions: {ready: false}}]}",
    );
    let addresses = Addresses { block: 9, sandbox: Sandbox::Namespaced };
    let embedded = EmbeddedNodes { nodes: Vec::new(), addresses, load_balancers: true };
    let topology = Topology::Embedded(embedded);
    let ask = |target: &Target| {
        let service = match target {
            Target::Service { name, .. } if name == "app" => Some(&service),
            Target::Service { name, .. } if name == "ext" => Some(&external),
            _ => None,
        };
        routing(target, service, [&slice], &topology)
    };
    let service = |name: &str, port: PortRef| Target::Service { name: name.into(), port };
    for port in [PortRef::Number(80), PortRef::Name("web".into())] {
        let ready = Backends::uniform([SocketAddr::from(([10, 244, 0, 1], 8080))]);
        let routing = Routing { backends: ready, ..Routing::default() };
        assert_eq!(ask(&service("app", port)), Ok(routing));
    }
    for (target, reason, part) in [
        (
            service("none", PortRef::Number(80)),
            "BackendNotFound",
            "Service \"none\" does not exist",
        ),
        (service("app", PortRef::Number(8080)), "BackendNotFound", "has no port 8080"),
        (service("app", PortRef::Name("http".into())), "BackendNotFound", "has no port \"http\""),
        (service("app", PortRef::Name("dns".into())), "BackendNotSupported", "is not TCP"),
        (service("ext", PortRef::Number(80)), "BackendNotSupported", "ExternalName"),
        (Target::Resource("Bucket/b".into()), "BackendNotSupported", "Bucket/b is not a Service"),
    ] {
        let error = ask(&target).unwrap_err();
        assert_eq!(error.reason, reason, "{target}");
        assert!(error.message.contains(part), "{}", error.message);
    }
}

#[test]
fn rule_that_cannot_match_as_meant_is_reported() {
    let path = |kind: &str, path: &str| {
        format!("{{http: {{paths: [{{pathType: {kind}, path: '{path}', {}}}]}}}}", to("a"))
    };
    let literal = Some("PathTakenLiterally");
    let nothing = Some("RuleMatchesNothing");
    for (kind, text, reason, hint) in [
        ("ImplementationSpecific", "/*", None, ""),
        ("ImplementationSpecific", "/v2/*", None, ""),
        ("ImplementationSpecific", "/v2*", literal, ""),
        ("ImplementationSpecific", "/*/x", literal, ""),
        ("ImplementationSpecific", "/a(/|$)(.*)", literal, ""),
        ("ImplementationSpecific", "/a/.+", literal, ""),
        ("Prefix", "/*", literal, "use / to match every path"),
        ("Prefix", "/v2/*", literal, "use /v2 to match what is below it"),
        ("Exact", "/v2/*", literal, "use /v2"),
        ("Prefix", "/v2?x=1", nothing, "remove \"?x=1\""),
        ("Exact", "/v2#top", nothing, "remove \"#top\""),
        ("Prefix", "/a.b-c_d~e!f&g=h+i,j;k:l@m%20n", None, ""),
        ("Exact", "/", None, ""),
    ] {
        let plan = planned(vec![&ingress("a", 1, &format!("{{rules: [{}]}}", path(kind, text)))]);
        let found: Vec<_> = plan.problems.iter().map(|problem| problem.reason).collect();
        assert_eq!(found, Vec::from_iter(reason), "{kind} {text}");
        assert!(plan.problems.iter().all(|problem| problem.message.contains(hint)), "{plan:?}");
    }
    let bare = ingress("bare", 1, "{rules: [{host: foo.bar}]}");
    let plan = planned(vec![&bare]);
    assert_eq!(plan.problems[0].reason, "RuleMatchesNothing");
    assert!(plan.problems[0].message.contains("host foo.bar has no paths"));
    let with_default =
        ingress("default", 1, "{defaultBackend: {service: {name: a, port: {number: 80}}}}");
    assert_eq!(planned(vec![&bare, &with_default]).problems, []);
}

#[test]
fn annotations_of_other_controllers_are_reported() {
    let mut annotated = ingress("a", 1, "{}");
    let annotations = [
        ("nginx.ingress.kubernetes.io/canary", "true"),
        ("alb.ingress.kubernetes.io/scheme", "internal"),
        ("kubernetes.io/ingress.class", "edge"),
        ("example.com/mine", "1"),
        ("plain", "1"),
    ];
    let annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned()));
    annotated.metadata.annotations = Some(annotations.into());
    let problem = &planned(vec![&annotated]).problems[0];
    assert_eq!(problem.reason, "AnnotationNotSupported");
    assert_eq!(
        problem.message,
        "has no effect here: alb.ingress.kubernetes.io/scheme, nginx.ingress.kubernetes.io/canary"
    );
}
