//! The faults of an Ingress itself: a missing address, or a reference to a missing object.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{Ingress, IngressServiceBackend};
use kube::ResourceExt as _;
use serde::Serialize;
use std::collections::BTreeSet;

use crate::expectation::ExpectedRoute;
use crate::kubernetes::{checks, external::Exposed as _};

/// The state of an Ingress.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IngressFacts {
    /// Its name.
    pub name: String,
    /// The missing objects it refers to: `kubeapp-service:80 for foo.bar/`.
    pub missing: Vec<String>,
    /// Why its class is not served.
    pub class_problem: Option<String>,
    /// A request that it does not route as expected.
    pub misroute: Option<String>,
    /// Whether its address is pending.
    pub awaits_address: bool,
}

impl IngressFacts {
    /// Reads the state of an Ingress and of the objects it refers to.
    pub(super) fn of(
        ingress: &Ingress,
        services: &[Service],
        secrets: &BTreeSet<String>,
        classes: &[String],
        routes: &[ExpectedRoute],
    ) -> Self {
        let mut missing = Vec::new();
        let spec = ingress.spec.clone().unwrap_or_default();
        let default = spec.default_backend.and_then(|backend| backend.service);
        let mut check = |backend: &IngressServiceBackend, route: String| {
            if !checks::backend_exists(backend, services) {
                missing.push(format!("{} for {route}", checks::backend_text(backend)));
            }
        };
        default.iter().for_each(|backend| check(backend, "the default backend".to_owned()));
        for rule in spec.rules.unwrap_or_default() {
            let host = rule.host.unwrap_or_default();
            for path in rule.http.map(|http| http.paths).unwrap_or_default() {
                let route = format!("{host}{}", path.path.unwrap_or_default());
                path.backend.service.iter().for_each(|backend| check(backend, route.clone()));
            }
        }
        let named = spec.tls.unwrap_or_default().into_iter().filter_map(|tls| tls.secret_name);
        let absent = named.filter(|name| !secrets.contains(name));
        missing.extend(absent.map(|name| format!("the Secret {name} for TLS")));
        let misroute = routes.iter().find_map(|route| checks::route_fault(ingress, route));
        Self {
            name: ingress.name_any(),
            missing,
            class_problem: checks::class_fault(ingress, classes).map(|fault| fault.why),
            misroute: misroute.map(|fault| fault.why),
            awaits_address: ingress.address().is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn missing_services_ports_and_secrets_are_listed() {
        let backend =
            |name: &str, port: serde_json::Value| json!({"service": {"name": name, "port": port}});
        let path = |path: &str, backend: serde_json::Value| json!({"path": path, "pathType": "Prefix", "backend": backend});
        let ingress = json!({
            "metadata": {"name": "app-ingress"},
            "spec": {
                "defaultBackend": backend("stable", json!({"number": 80})),
                "rules": [{"host": "foo.bar", "http": {"paths": [
                    path("/", backend("stable", json!({"name": "http"}))),
                    path("/a", backend("stable", json!({"number": 81}))),
                    path("/b", backend("stable", json!({"name": "other"}))),
                    path("/c", backend("canary", json!({"number": 80}))),
                ]}}],
                "tls": [{"secretName": "there"}, {"secretName": "gone"}, {}],
            },
        });
        let service = json!({"metadata": {"name": "stable"},
            "spec": {"ports": [{"name": "http", "port": 80}]}});
        let mut ingress: Ingress = serde_json::from_value(ingress).unwrap();
        let services = [serde_json::from_value(service).unwrap()];
        let facts = IngressFacts::of(&ingress, &services, &["there".to_owned()].into(), &[], &[]);
        assert_eq!(
            facts.missing,
            [
                "stable:81 for foo.bar/a",
                "stable:other for foo.bar/b",
                "canary:80 for foo.bar/c",
                "the Secret gone for TLS",
            ]
        );
        assert!(facts.awaits_address);
        let status = json!({"loadBalancer": {"ingress": [{"ip": "127.1.1.1"}]}});
        ingress.status = Some(serde_json::from_value(status).unwrap());
        assert!(!IngressFacts::of(&ingress, &[], &BTreeSet::new(), &[], &[]).awaits_address);
    }
}
