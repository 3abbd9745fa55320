//! Checks of Services and Ingresses against what they refer to. Pure: a wait uses them to end before its
//! timeout, and a diagnosis to name the layer at fault.

use super::pods;
use crate::expectation::ExpectedRoute;
use crate::fault::{Fault, Layer, kubectl};
use k8s_openapi::api::core::v1::{Pod, PodSpec, Service, ServicePort};
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressServiceBackend};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use std::collections::{BTreeMap, BTreeSet};

/// Formats labels as a selector: `app=kubeapp,env=canary`.
pub(crate) fn selector_text(labels: &BTreeMap<String, String>) -> String {
    let pairs = labels.iter().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

/// Returns true if a Service selects the pod. Without a selector it selects none.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| selects_labels(selector, pod))
}

/// Returns true if the pod has all of these labels.
pub(crate) fn selects_labels(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
}

/// Returns the fault of a Service that does not select each of these pods.
pub(crate) fn selector_fault<'a>(
    service: &Service,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> Option<Fault> {
    let pods: Vec<&Pod> = pods.into_iter().collect();
    let missed: Vec<&&Pod> = pods.iter().filter(|pod| !selects(service, pod)).collect();
    let first = missed.first()?;
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
    let mut labels = first.labels().clone();
    labels.remove("pod-template-hash");
    let (name, all) = (service.name_any(), pods.len());
    let why = format!(
        "{name} selects {} of {all} pods: its selector is `{}`, and {} has the labels `{}`",
        all - missed.len(),
        selector_text(&selector),
        first.name_any(),
        selector_text(&labels)
    );
    Some(Fault::new(Layer::Selector, why, kubectl("get pods --show-labels")))
}

/// Returns the fault of a Service whose port for clients is missing, or leads to a port that its pods do
/// not listen on, as far as their manifest says.
pub(crate) fn port_fault<'a>(
    service: &Service,
    port: u16,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> Option<Fault> {
    let name = service.name_any();
    let fault = |why: String| {
        let command = kubectl(&format!("describe service {name}"));
        Some(Fault::new(Layer::Port, why, command))
    };
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let tcp = |p: &&ServicePort| p.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let Some(found) = ports.iter().filter(tcp).find(|p| p.port == i32::from(port)) else {
        let has =
            ports.iter().map(|p| format!("{}/{}", p.port, p.protocol.as_deref().unwrap_or("TCP")));
        let has = has.collect::<Vec<_>>().join(", ");
        return fault(format!("{name} has no TCP port {port}, which clients use; it has {has}"));
    };
    let target = found.target_port.clone().unwrap_or(IntOrString::Int(found.port));
    for pod in pods {
        let spec = pod.spec.as_ref()?;
        let declared =
            spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let number = match &target {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let mut named = declared.clone().filter(|port| port.name.as_ref() == Some(name));
                named.next().map(|port| port.container_port)
            }
        };
        // A port that is probed is one that a ready pod listens on; the declared ones are only that.
        let mut open = probed_ports(spec);
        if open.is_empty() {
            open.extend(declared.clone().map(|port| port.container_port));
        }
        if number.is_some_and(|number| open.is_empty() || open.contains(&number)) {
            continue;
        }
        let target = match (&target, number) {
            (IntOrString::Int(number), _) => number.to_string(),
            (IntOrString::String(name), Some(number)) => format!("`{name}`, which is {number}"),
            (IntOrString::String(name), None) => format!("`{name}`, which no container has"),
        };
        let names = declared.filter_map(|port| Some(format!(" (`{}`)", port.name.as_ref()?)));
        let open: Vec<String> = open.iter().map(ToString::to_string).collect();
        return fault(format!(
            "{name} sends port {port} to the target port {target}, but {} listens on {}{}",
            pod.name_any(),
            open.join(", "),
            names.collect::<String>()
        ));
    }
    None
}

/// Returns the ports that the readiness probes of a pod request.
fn probed_ports(spec: &PodSpec) -> Vec<i32> {
    let probes =
        spec.containers.iter().filter_map(|c| c.readiness_probe.as_ref()?.http_get.as_ref());
    let ports = probes.filter_map(|probe| match probe.port {
        IntOrString::Int(port) => Some(port),
        IntOrString::String(_) => None,
    });
    ports.collect()
}

/// Returns the backend that an Ingress routes a request to, and whether it is the default one. The rules
/// are those of the API: an exact host before a wildcard before none, then an exact path before the
/// longest prefix.
fn route<'a>(
    ingress: &'a Ingress,
    host: &str,
    path: &str,
) -> Option<(&'a IngressServiceBackend, bool)> {
    let spec = ingress.spec.as_ref()?;
    let rules = spec.rules.as_deref().unwrap_or_default();
    let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
    let hosts = [Some(host.to_owned()), wildcard, Some(String::new())];
    let of_host = |host: String| {
        let mut of_host = rules.iter().filter(|r| r.host.as_deref().unwrap_or_default() == host);
        of_host.next().is_some().then_some(host)
    };
    let paths = hosts.into_iter().flatten().find_map(of_host).map(|host| {
        let of_host = rules.iter().filter(move |r| r.host.as_deref().unwrap_or_default() == host);
        of_host.flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths))
    });
    let matching = paths.into_iter().flatten().filter(|rule| path_matches(rule, path));
    let specific = |rule: &&HTTPIngressPath| {
        (rule.path_type == "Exact", rule.path.as_ref().map_or(0, String::len))
    };
    match matching.max_by_key(specific) {
        Some(rule) => Some((rule.backend.service.as_ref()?, false)),
        None => Some((spec.default_backend.as_ref()?.service.as_ref()?, true)),
    }
}

/// Returns true if a rule matches the path, element by element unless it is exact.
fn path_matches(rule: &HTTPIngressPath, path: &str) -> bool {
    let wanted = rule.path.as_deref().unwrap_or("/");
    if rule.path_type == "Exact" {
        return path == wanted;
    }
    let prefix = wanted.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns the fault of an Ingress that routes a request to another Service than expected.
pub(crate) fn route_fault(ingress: &Ingress, expected: &ExpectedRoute) -> Option<Fault> {
    let ExpectedRoute { host, path, service } = expected;
    let name = ingress.name_any();
    let request =
        if host.is_empty() { format!("{path} without a host") } else { format!("{host}{path}") };
    let why = match route(ingress, host, path) {
        Some((found, _)) if found.name == *service => return None,
        Some((found, false)) => {
            format!("{name} routes {request} to {}, not to {service}", found.name)
        }
        Some((found, true)) => format!(
            "no rule of {name} matches {request}, so the default backend {} gets it instead of {service}; \
             its rules are {}",
            found.name,
            rules_text(ingress)
        ),
        None => format!(
            "no rule of {name} matches {request}, and it has no default backend; its rules are {}",
            rules_text(ingress)
        ),
    };
    let command = kubectl(&format!("describe ingress {name}"));
    Some(Fault::new(Layer::Route, why, command))
}

/// Returns the fault of an Ingress that refers, for this request, to a Service or port that does not exist,
/// or for TLS to a Secret that does not.
pub(crate) fn missing_fault(
    ingress: &Ingress,
    request: &ExpectedRoute,
    services: &[Service],
    secrets: &BTreeSet<String>,
) -> Option<Fault> {
    let name = ingress.name_any();
    let fault = |missing: String| {
        let why = format!("{name} refers to a missing object: {missing}");
        Some(Fault::new(Layer::Route, why, kubectl(&format!("describe ingress {name}"))))
    };
    if let Some((backend, _)) = route(ingress, request.host, request.path)
        && !backend_exists(backend, services)
    {
        return fault(format!("{} for {}{}", backend_text(backend), request.host, request.path));
    }
    let tls = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
    let mut named = tls.filter_map(|tls| tls.secret_name.as_ref());
    let secret = named.find(|name| !secrets.contains(*name))?;
    fault(format!("the Secret {secret} for TLS"))
}

/// Returns true if the Service exists and has the port.
pub(crate) fn backend_exists(backend: &IngressServiceBackend, services: &[Service]) -> bool {
    let service = services.iter().find(|service| service.name_any() == backend.name);
    let ports = service.and_then(|service| service.spec.as_ref()?.ports.as_ref());
    let Some(wanted) = &backend.port else { return false };
    ports.is_some_and(|ports| {
        ports.iter().any(|port| match wanted.number {
            Some(number) => port.port == number,
            None => port.name == wanted.name,
        })
    })
}

/// Formats a backend: `kubeapp-canary-service:80`.
pub(crate) fn backend_text(backend: &IngressServiceBackend) -> String {
    let port = backend.port.clone().unwrap_or_default();
    let port = port.number.map(|n| n.to_string()).or(port.name).unwrap_or_default();
    format!("{}:{port}", backend.name)
}

/// Lists the rules of an Ingress: `foo.bar/ (Prefix)`.
fn rules_text(ingress: &Ingress) -> String {
    let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
    let rules = rules.flat_map(|rule| {
        let host = rule.host.as_deref().unwrap_or("*");
        let paths = rule.http.iter().flat_map(|http| &http.paths);
        paths.map(move |p| format!("{host}{} ({})", p.path.as_deref().unwrap_or("/"), p.path_type))
    });
    let rules: Vec<String> = rules.collect();
    if rules.is_empty() { "none".to_owned() } else { rules.join(", ") }
}

/// Returns the fault of an Ingress whose class does not exist.
pub(crate) fn class_fault(ingress: &Ingress, classes: &[String]) -> Option<Fault> {
    let class = ingress.spec.as_ref()?.ingress_class_name.as_ref()?;
    let name = ingress.name_any();
    let known = if classes.is_empty() { "none".to_owned() } else { classes.join(", ") };
    (!classes.contains(class)).then(|| {
        let why = format!(
            "{name} has the class `{class}`, which does not exist: `kubectl get ingressclass` lists {known}"
        );
        Fault::new(Layer::Route, why, "kubectl get ingressclass")
    })
}

/// Returns the pods that are not terminating.
pub(crate) fn current(pods: &[Pod]) -> impl Iterator<Item = &Pod> {
    pods.iter().filter(|pod| !pods::is_terminating(pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(labels: &Value, ports: &Value) -> Pod {
        let probe = json!({"httpGet": {"path": "/health", "port": 8080}});
        let container = json!({"name": "app", "ports": ports, "readinessProbe": probe});
        let spec = json!({"containers": [container]});
        let pod = json!({"metadata": {"name": "p", "labels": labels}, "spec": spec});
        serde_json::from_value(pod).unwrap()
    }

    fn service(selector: &Value, port: &Value) -> Service {
        let spec = json!({"selector": selector, "ports": [port]});
        serde_json::from_value(json!({"metadata": {"name": "app-lb"}, "spec": spec})).unwrap()
    }

    #[test]
    fn selector_must_match_every_label_it_names() {
        let labels = json!({"app": "kubeapp", "env": "canary", "pod-template-hash": "1"});
        let port = json!({"port": 80});
        for (selector, matches) in [
            (json!({"app": "kubeapp"}), true),
            (json!({"app": "kubeapp", "env": "canary"}), true),
            (json!({"app": "kubeap"}), false),
            (json!({"app": "kubeapp", "tier": "web"}), false),
            (json!(null), false),
        ] {
            let found = selector_fault(&service(&selector, &port), [&pod(&labels, &json!([]))]);
            assert_eq!(found.is_none(), matches, "{selector}: {found:?}");
        }
        let found =
            selector_fault(&service(&json!({"app": "x"}), &port), [&pod(&labels, &json!([]))]);
        let why = found.unwrap().why;
        let expected = "app-lb selects 0 of 1 pods: its selector is `app=x`, and p has the labels \
                        `app=kubeapp,env=canary`";
        assert_eq!(why, expected);
    }

    #[test]
    fn port_must_exist_and_lead_to_a_listening_port() {
        let named = json!([{"name": "http", "containerPort": 8080}]);
        let other = json!([{"name": "http", "containerPort": 8081}]);
        for (port, declared, fault) in [
            (json!({"port": 80, "targetPort": 8080}), &named, None),
            // The probe shows that the app listens on 8080, whatever is declared.
            (json!({"port": 80, "targetPort": 8080}), &other, None),
            (json!({"port": 80, "targetPort": "http"}), &named, None),
            (
                json!({"port": 80, "targetPort": "http"}),
                &other,
                Some("`http`, which is 8081, but p listens on 8080"),
            ),
            (
                json!({"port": 80, "targetPort": 8081}),
                &named,
                Some("target port 8081, but p listens on 8080"),
            ),
            (
                json!({"port": 80, "targetPort": "web"}),
                &named,
                Some("target port `web`, which no container has, but p listens on 8080 (`http`)"),
            ),
            (json!({"port": 80}), &named, Some("target port 80, but")),
            (json!({"port": 8080, "targetPort": 8080}), &named, Some("has no TCP port 80")),
            (json!({"port": 80, "protocol": "UDP"}), &named, Some("it has 80/UDP")),
        ] {
            let found = port_fault(&service(&json!({}), &port), 80, [&pod(&json!({}), declared)]);
            let why = found.map(|fault| fault.why);
            match fault {
                None => assert_eq!(why, None, "{port}"),
                Some(text) => {
                    assert!(why.clone().is_some_and(|w| w.contains(text)), "{port}: {why:?}")
                }
            }
        }
    }

    fn ingress(default: Option<&str>, rules: &[(&str, &str, &str, &str)]) -> Ingress {
        let backend = |name: &str| json!({"service": {"name": name, "port": {"number": 80}}});
        let rules = rules.iter().map(|(host, path, path_type, service)| {
            let path = json!({"path": path, "pathType": path_type, "backend": backend(service)});
            let mut rule = json!({"http": {"paths": [path]}});
            if !host.is_empty() {
                rule["host"] = json!(host);
            }
            rule
        });
        let mut spec = json!({"rules": rules.collect::<Vec<_>>()});
        if let Some(service) = default {
            spec["defaultBackend"] = backend(service);
        }
        serde_json::from_value(json!({"metadata": {"name": "i"}, "spec": spec})).unwrap()
    }

    /// The order of the rules does not matter.
    #[test]
    fn request_is_routed_as_the_api_defines() {
        let rules = [
            ("foo.bar", "/", "Prefix", "root"),
            ("foo.bar", "/a", "Prefix", "a"),
            ("foo.bar", "/a/b", "Exact", "ab"),
            ("*.bar", "/", "Prefix", "wildcard"),
            ("", "/", "Prefix", "any"),
            ("only.a", "/a", "Prefix", "only"),
        ];
        for (host, path, service) in [
            ("foo.bar", "/version", "root"),
            ("foo.bar", "/a", "a"),
            ("foo.bar", "/a/version", "a"),
            ("foo.bar", "/ab", "root"),
            ("foo.bar", "/a/b", "ab"),
            ("foo.bar", "/a/b/c", "a"),
            ("x.bar", "/", "wildcard"),
            ("x.y.bar", "/", "any"),
            ("", "/", "any"),
            ("only.a", "/b", "default"),
        ] {
            for reversed in [false, true] {
                let mut rules = rules.to_vec();
                if reversed {
                    rules.reverse();
                }
                let ingress = ingress(Some("default"), &rules);
                let found = route(&ingress, host, path).map(|(backend, _)| &*backend.name);
                assert_eq!(found, Some(service), "{host}{path}");
            }
        }
    }

    #[test]
    fn misrouted_request_is_explained() {
        let expected =
            ExpectedRoute { host: "canary.foo.bar", path: "/version", service: "canary" };
        let right = [("canary.foo.bar", "/", "Prefix", "canary")];
        assert_eq!(route_fault(&ingress(None, &right), &expected), None);
        for (default, rules, text) in [
            (
                Some("stable"),
                [("canary.foo.baz", "/", "Prefix", "canary")],
                "its rules are canary.foo.baz/ (Prefix)",
            ),
            (
                Some("stable"),
                [("canary.foo.bar", "/", "Exact", "canary")],
                "the default backend stable gets it",
            ),
            (
                Some("stable"),
                [("canary.foo.bar", "/", "Prefix", "stable")],
                "to stable, not to canary",
            ),
            (None, [("foo.bar", "/", "Prefix", "canary")], "it has no default backend"),
        ] {
            let fault = route_fault(&ingress(default, &rules), &expected).unwrap();
            assert!(fault.why.contains(text), "{fault}");
        }
    }

    #[test]
    fn class_must_exist() {
        let mut ingress = ingress(None, &[]);
        assert_eq!(class_fault(&ingress, &[]), None, "none is named");
        ingress.spec.as_mut().unwrap().ingress_class_name = Some("egde".to_owned());
        let fault = class_fault(&ingress, &["edge".to_owned()]).unwrap();
        assert!(fault.why.contains("`egde`") && fault.why.ends_with("lists edge"), "{fault}");
        assert_eq!(class_fault(&ingress, &["egde".to_owned()]), None);
    }
}
