//! Ingresses and Services as YAML, and the rules and routes that follow.

use super::*;
use crate::{plan::Own, route::Backends};
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

fn planned(mut ingresses: Vec<&Ingress>) -> Wanted {
    sort(&mut ingresses);
    plan(&ingresses)
}

/// Rules and default backend as `HOST PATH -> TARGET`.
fn lines(wanted: &Wanted) -> Vec<String> {
    let rules = wanted.rules.iter().map(|rule| {
        format!("{} {} -> {}", rule.host.as_deref().unwrap_or("*"), rule.path, rule.target)
    });
    rules.chain(wanted.default.iter().map(|target| format!("default -> {target}"))).collect()
}

#[test]
fn classes_that_are_ours() {
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
fn ingresses_of_a_namespace_are_one_table_and_the_oldest_wins() {
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
    let wanted = planned(vec![&younger, &older]);
    assert_eq!(
        lines(&wanted),
        [
            "foo.bar / (Prefix) -> first:80",
            "foo.bar /x (Prefix) -> first:80",
            "other.bar / (Prefix) -> other:80",
            "default -> first:web"
        ]
    );
    let troubles: Vec<(&str, &str, &str)> =
        wanted.troubles.iter().map(|t| (&*t.ingress, t.reason, &*t.message)).collect();
    assert_eq!(
        troubles,
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
    assert!(wanted.targets.values().flatten().any(|name| name == "a"), "of other.bar");
    assert!(!wanted.targets.keys().any(|target| target.to_string() == "late:80"));
}

#[test]
fn of_the_same_age_the_name_decides_and_another_type_of_path_is_no_conflict() {
    let to_a = to("a");
    let exact = format!("{{http: {{paths: [{{pathType: Exact, path: /x, {to_a}}}]}}}}");
    let a = ingress("a", 1, &format!("{{rules: [{exact}]}}"));
    let b = ingress("b", 1, &format!("{{rules: [{}]}}", rule("", "/x", "b")));
    let c = ingress("c", 1, &format!("{{rules: [{}]}}", rule("", "/x/", "c")));
    let wanted = planned(vec![&c, &b, &a]);
    assert_eq!(lines(&wanted), ["* /x (Exact) -> a:80", "* /x (Prefix) -> b:80"]);
    let losers: Vec<&str> = wanted.troubles.iter().map(|t| &*t.ingress).collect();
    assert_eq!(losers, ["c"]);
}

#[test]
fn a_rule_of_a_host_alone_leads_to_the_default_backend() {
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
fn certificates_are_listed_with_their_hosts() {
    let spec = "{tls: [{hosts: [a, b], secretName: one}, {secretName: two}, {hosts: [c]}]}";
    let wanted = planned(vec![&ingress("i", 1, spec)]);
    let tls = |hosts: &[&str], secret: &str| Tls {
        ingress: "i".into(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        secret: secret.into(),
    };
    assert_eq!(wanted.tls, [tls(&["a", "b"], "one"), tls(&[], "two")]);
}

#[test]
fn a_target_is_a_port_of_a_service_or_a_fault() {
    let service: Service = yaml(
        "{metadata: {name: app}, spec: {type: NodePort, ports: [
            {name: web, port: 80, targetPort: http}, {name: dns, port: 53, protocol: UDP}]}}",
    );
    let external: Service =
        yaml("{metadata: {name: ext}, spec: {type: ExternalName, externalName: e.com}}");
    let slice: EndpointSlice = yaml(
        "{addressType: IPv4, metadata: {}, ports: [{name: web, port: 8080}], endpoints: [
            {addresses: [10.0.0.1], conditions: {ready: true}},
            {addresses: [10.0.0.2], conditions: {ready: false}}]}",
    );
    let own = Own { nodes: Vec::new(), cluster_addresses_on_host: false, balancers: true };
    let place = Place::Own(own);
    let ask = |target: &Target| {
        let service = |name: &str| match name {
            "app" => Some(&service),
            "ext" => Some(&external),
            _ => None,
        };
        routing(target, service, [&slice], &place)
    };
    let service = |name: &str, port: PortOf| Target::Service { name: name.into(), port };
    for port in [PortOf::Number(80), PortOf::Name("web".into())] {
        let ready = Backends::alike([SocketAddr::from(([10, 0, 0, 1], 8080))]);
        let routing = Routing { backends: ready, ..Routing::default() };
        assert_eq!(ask(&service("app", port)), Ok(routing));
    }
    for (target, reason, part) in [
        (service("none", PortOf::Number(80)), "BackendNotFound", "Service \"none\" does not exist"),
        (service("app", PortOf::Number(8080)), "BackendNotFound", "has no port 8080"),
        (service("app", PortOf::Name("http".into())), "BackendNotFound", "has no port \"http\""),
        (service("app", PortOf::Name("dns".into())), "BackendNotSupported", "is not TCP"),
        (service("ext", PortOf::Number(80)), "BackendNotSupported", "ExternalName"),
        (Target::Resource("Bucket/b".into()), "BackendNotSupported", "Bucket/b is no Service"),
    ] {
        let fault = ask(&target).unwrap_err();
        assert_eq!(fault.reason, reason, "{target}");
        assert!(fault.message.contains(part), "{}", fault.message);
    }
}
