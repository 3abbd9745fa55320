//! Phase 5 by hand.

use super::judgment::{Judgments, State};
use super::observed::Observed;
use crate::claim::Verdict;
use crate::verdicts;
use k8s_openapi::api::networking::v1::Ingress;

const STABLE_HOST: &str = "foo.bar";
const CANARY_HOST: &str = "canary.foo.bar";
const SERVICES: [(&str, &str); 2] = [
    ("kubeapp-production-service", "app=kubeapp,env=production"),
    ("kubeapp-canary-service", "app=kubeapp,env=canary"),
];
const REQUESTS: u64 = 500;

pub(super) async fn check(observed: &Observed<'_>) -> anyhow::Result<Judgments> {
    let mut found = Judgments::default();
    let [old, new] = &*observed.environment.images else {
        anyhow::bail!("the environment lists other than two images");
    };
    services(observed, &mut found);
    let ingress = observed.ingresses.get("app-ingress");
    let show = observed.kubectl("describe ingress/app-ingress");
    let external = observed.external::<Ingress>(ingress, 80).await?;
    let (Some(ingress), Some(external)) = (ingress, external) else {
        let why = "there is no Ingress app-ingress with an address";
        let claims = [
            "backends-healthy-first",
            "default-backend-takes-all",
            "vhost-canary",
            "vhost-stable",
            "vhost-default",
            "sessions-hold",
            "fanout-paths",
        ];
        found.not_yet(&claims, why, "");
        return Ok(found);
    };
    let at = |host: &str| {
        let name =
            if external.port == 80 { host.to_owned() } else { format!("{host}:{}", external.port) };
        observed.namespace.sampler(&external).host(&name)
    };
    if observed.ready(SERVICES[0].1).is_empty() {
        found.not_yet(&["backends-healthy-first"], "no pod of production is ready", &show);
        return Ok(found);
    }
    let stable =
        &if observed.image("kubeapp-production") == Some(&new.name) { new } else { old }.version;
    let first = observed.all_are(&at(STABLE_HOST), REQUESTS, stable).await?;
    let rules = ingress.spec.as_ref().and_then(|spec| spec.rules.clone()).unwrap_or_default();
    let hosts: Vec<&str> = rules.iter().filter_map(|rule| rule.host.as_deref()).collect();
    let paths = rules.iter().filter_map(|rule| rule.http.as_ref()).flat_map(|http| &http.paths);
    let fanout = paths.filter(|path| path.path.as_deref().is_some_and(|p| p.len() > 1)).count() > 1;
    if fanout {
        let mut parts = Vec::new();
        for (path, version) in [("/stable", stable), ("/canary", &new.version)] {
            let sampler = at(STABLE_HOST).path(&format!("{path}/version"));
            parts.push((path, observed.all_are(&sampler, REQUESTS, version).await?));
        }
        found.verdict("fanout-paths", Verdict::all(parts), &show);
        return Ok(found);
    }
    found.not_yet(&["fanout-paths"], "no rule has a path", "");
    let healthy = Verdict { evidence: format!("ready pods; {}", first.evidence), ..first.clone() };
    found.verdict("backends-healthy-first", healthy, &show);
    if rules.is_empty() {
        found.verdict("default-backend-takes-all", first, &show);
        let claims = ["vhost-canary", "vhost-stable", "vhost-default", "sessions-hold"];
        found.not_yet(&claims, "the Ingress has no rules", "");
        return Ok(found);
    }
    found.not_yet(&["default-backend-takes-all"], "the Ingress has rules", &show);
    let canary = observed.sample(&at(CANARY_HOST), REQUESTS).await?;
    let steady = verdicts::steady(&canary);
    found.verdict("vhost-canary", verdicts::all_are(&canary, &new.version), &show);
    found.verdict("vhost-stable", first, &show);
    found.verdict(
        "vhost-default",
        observed.all_are(&at("nobody.example"), 100, stable).await?,
        &show,
    );
    if hosts.contains(&CANARY_HOST) {
        found.verdict("sessions-hold", steady, &show);
    }
    Ok(found)
}

/// Judges the Services of both versions.
fn services(observed: &Observed<'_>, found: &mut Judgments) {
    let show = observed.kubectl("get services,endpointslices -o wide");
    let mut parts = Vec::new();
    for (name, pods) in SERVICES {
        let Some(service) = observed.services.get(name) else {
            let why = format!("there is no Service {name}");
            found.not_yet(&["service-internal-address"], &why, "");
            continue;
        };
        let (endpoints, ready) = (observed.endpoints(name), observed.ready(pods));
        let evidence =
            format!("{} endpoints, {} ready pods of {pods}", endpoints.len(), ready.len());
        parts.push((name, Verdict::of(!ready.is_empty() && endpoints == ready, evidence)));
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let port = ports.filter_map(|port| port.node_port).next();
        if name == SERVICES[0].0 {
            let why = format!("node port {port:?}");
            let in_range = port.is_some_and(|port| (30000..=32767).contains(&port));
            found.push(
                "nodeport-in-range",
                if in_range { State::Holds } else { State::Fails },
                why,
                &show,
            );
        }
    }
    if parts.len() == SERVICES.len() {
        found.verdict("service-internal-address", Verdict::all(parts), &show);
    }
}
