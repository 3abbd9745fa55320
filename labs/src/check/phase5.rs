//! Phase 5 by hand.

use super::expected::Rules;
use super::judgment::{Judgments, State};
use super::observed::Observed;
use crate::claim::Verdict;
use crate::kubernetes::certificate;
use crate::verdicts;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::Ingress;

const STABLE_HOST: &str = "foo.bar";
const CANARY_HOST: &str = "canary.foo.bar";
const SERVICES: [(&str, &str); 2] = [
    ("kubeapp-production-service", "app=kubeapp,env=production"),
    ("kubeapp-canary-service", "app=kubeapp,env=canary"),
];
const REQUESTS: u64 = 500;
const FEW_REQUESTS: u64 = 100;

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
            "tls-terminates",
        ];
        found.not_yet(&claims, why, "");
        return Ok(found);
    };
    let at = |host: &str| {
        observed.namespace.sampler(&external).host(&host_with_port(host, external.port, 80))
    };
    if observed.ready(SERVICES[0].1).is_empty() {
        found.not_yet(&["backends-healthy-first"], "no pod of production is ready", &show);
        return Ok(found);
    }
    let stable =
        &if observed.image("kubeapp-production") == Some(&new.name) { new } else { old }.version;
    let first = observed.all_are(&at(STABLE_HOST), REQUESTS, stable).await?;
    tls(observed, ingress, &mut found).await?;
    let rules = Rules::of(ingress);
    if rules == Rules::Paths {
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
    if rules == Rules::None {
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
        observed.all_are(&at("unknown.example"), FEW_REQUESTS, stable).await?,
        &show,
    );
    found.verdict("sessions-hold", steady, &show);
    Ok(found)
}

/// The host name as clients send it: with the port unless that is the scheme's.
fn host_with_port(host: &str, port: u16, default: u16) -> String {
    if port == default { host.to_owned() } else { format!("{host}:{port}") }
}

/// Judges what the Ingress presents and responds over TLS, for each host with a certificate.
async fn tls(
    observed: &Observed<'_>,
    ingress: &Ingress,
    found: &mut Judgments,
) -> anyhow::Result<()> {
    const CLAIM: &str = "tls-terminates";
    let show = observed.kubectl("describe ingress/app-ingress");
    let all: Vec<_> = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten()).collect();
    let external = observed.external(Some(ingress), 443).await?;
    let (false, Some(external)) = (all.is_empty(), external) else {
        found.not_yet(&[CLAIM], "the Ingress names no certificate", "");
        return Ok(());
    };
    let mut parts = Vec::new();
    for tls in all {
        let name = tls.secret_name.clone().unwrap_or_default();
        let secret = observed.namespace.api::<Secret>().get_opt(&name).await?;
        for host in tls.hosts.iter().flatten() {
            let client = match &secret {
                Some(secret) => certificate::trusting_secret(secret, host),
                None => Err(anyhow::anyhow!("it does not exist")),
            };
            let verdict = match client {
                Ok(client) => {
                    let name = host_with_port(host, external.port, 443);
                    let sampler = observed.namespace.sampler(&external).host(&name).over(client);
                    verdicts::steady(&observed.sample(&sampler, FEW_REQUESTS).await?)
                }
                Err(error) => Verdict::fails(format!("the Secret `{name}`: {error:#}")),
            };
            parts.push((host.clone(), verdict));
        }
    }
    found.verdict(CLAIM, Verdict::all(parts), &show);
    Ok(())
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
