//! The canary by its host name or by a path, beside a stable that must not notice, and promoted there.

use super::{
    Backend, CANARY, CANARY_HOST, CONTAINER, FEW_REQUESTS, HTTP, PRODUCTION, Play, RATE, REQUESTS,
    STABLE, STABLE_HOST, TRIED, UNDER_LOAD, named,
};
use crate::claim::Verdict;
use crate::kubernetes::{
    pods,
    wait::{evidence, noting},
};
use crate::traffic;
use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use std::net::IpAddr;

const RULES: &str = "ingress/app-ingress-canary.yml";

impl Play<'_> {
    /// Applies the canary, then the rule that leads to it, while stable has visitors.
    pub(super) async fn add_canary(&self) -> anyhow::Result<()> {
        let Self { context, scope, .. } = self;
        let (stable, canary) = (self.host(STABLE_HOST), self.host(CANARY_HOST));
        let version = &context.stable()?.version;
        let rolled = {
            let _step = context.step("apply the canary");
            self.apply("ingress/app-canary.yml").await?;
            evidence(scope.rolled_out(CANARY).await)?
        };
        if let Err(why) = rolled {
            // No rule could lead to a canary that is not there.
            return context.require("service-internal-address", Verdict::fails(why));
        }
        let parts = [
            (STABLE.service, self.internal_address(STABLE, &context.stable()?.name).await?),
            (TRIED.service, self.internal_address(TRIED, &context.canary()?.name).await?),
        ];
        context.judge("service-internal-address", Verdict::all(parts))?;

        let _step = context.step("add the rules for both hosts, while stable has visitors");
        let before = self.leads_to(&stable, STABLE).await?;
        let load = context.background("stable while the rules are added", &stable, RATE).await?;
        self.apply(RULES).await?;
        let after = self.leads_to(&canary, TRIED).await?;
        let after = after.and(self.leads_to(&stable, STABLE).await?);
        let during = load.stop_after(UNDER_LOAD).await?;
        context.keep_sample("stable while the rules are added", &during);
        let verdict = traffic::all_are(&during, version);
        let said = format!("{STABLE_HOST}, for {:.1} s: {}", during.seconds, verdict.evidence);
        let verdict = Verdict { evidence: said, ..verdict };
        context.judge("stable-unaffected", noting(verdict, before.and(after)))?;
        Ok(())
    }

    /// The Service's own address, and whether it has the pods of that image and no others.
    async fn internal_address(&self, backend: Backend, image: &str) -> anyhow::Result<Verdict> {
        let Self { scope, .. } = self;
        let service = scope.api::<Service>().get(backend.service).await;
        let service = service.with_context(|| format!("failed to get {}", backend.service))?;
        let spec = service.spec.unwrap_or_default();
        let address = spec.cluster_ip.unwrap_or_default();
        let has_address = address.parse::<IpAddr>().is_ok();
        let pods = scope.pods(backend.pods).await?;
        let names = pods::names(&pods);
        let alone = evidence(scope.endpoints_are(backend.service, &names).await)?;
        // Its endpoints follow its selector a moment later: they may be right and not stay so.
        let selector = spec.selector.unwrap_or_default();
        let selector: Vec<String> = selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let selected = pods::names(&scope.pods(&selector.join(",")).await?);
        let of_image = pods.iter().filter(|pod| pods::image(pod) == image).count();
        let found = match &alone {
            Ok(()) if selected != names => {
                format!("its selector {} finds {} pods", selector.join(","), selected.len())
            }
            Ok(()) => format!("its endpoints are the {} pods with {}", names.len(), backend.pods),
            Err(why) => why.clone(),
        };
        let one_version =
            alone.is_ok() && selected == names && of_image == pods.len() && !pods.is_empty();
        Ok(Verdict::of(
            has_address && one_version,
            format!("{address}; {found}, {of_image} of {} run {image}", pods.len()),
        ))
    }

    /// Each host gets its version, and what no rule names the default.
    pub(super) async fn hosts(&self) -> anyhow::Result<()> {
        let Self { context, scope, external } = self;
        let (stable, canary) = (self.host(STABLE_HOST), self.host(CANARY_HOST));
        let _step = context.step(format!("send {REQUESTS} requests to each host"));
        let canary_settled = self.leads_to(&canary, TRIED).await?;
        let stable_settled = self.leads_to(&stable, STABLE).await?;
        let (new, old) = (&context.canary()?.version, &context.stable()?.version);

        let verdict = self.all_are(CANARY_HOST, &canary, REQUESTS, new).await?;
        let said = format!("{}; {}", verdict.evidence, self.how_to_see(CANARY_HOST));
        let verdict = Verdict { evidence: said, ..verdict };
        context.judge("vhost-canary", noting(verdict, canary_settled))?;
        let verdict = self.all_are(STABLE_HOST, &stable, REQUESTS, old).await?;
        context.judge("vhost-stable", noting(verdict, stable_settled))?;

        let address = named(&external.host, external.port, HTTP);
        let mut samples = Vec::new();
        for (what, sampler) in [
            ("no host".to_owned(), scope.sampler(external).without_host()),
            (address.clone(), scope.sampler(external).host(&address)),
            ("nobody.example".to_owned(), self.host("nobody.example")),
        ] {
            let sample = context.sample(&what, &sampler, FEW_REQUESTS, None).await?;
            samples.push((what, sample));
        }
        context.judge("vhost-default", traffic::each_is(&samples, old))?;
        Ok(())
    }

    /// What a person types to see the same.
    fn how_to_see(&self, host: &str) -> String {
        let (port, address) = (self.external.port, self.external.socket.ip());
        let name = named(host, port, HTTP);
        format!("to see it: curl --resolve {host}:{port}:{address} http://{name}/")
    }

    /// One client on each host, with a connection for each request and with one for all.
    pub(super) async fn sessions(&self) -> anyhow::Result<()> {
        let Self { context, .. } = self;
        let _step = context.step("stay on each host as one client");
        let mut parts = Vec::new();
        for host in [STABLE_HOST, CANARY_HOST] {
            let sampler = self.host(host);
            let what = format!("one client of {host}");
            let one = sampler.clone().in_flight(1);
            let sample = context.sample(&what, &one, FEW_REQUESTS, None).await?;
            parts.push((format!("{host}, a connection each"), traffic::steady(&sample)));
            let mut session = sampler.session();
            let sample = session.take(FEW_REQUESTS).await;
            context.keep_sample(&format!("one connection to {host}"), &sample);
            let kept = format!("{host}, kept alive ({} connections)", session.connections());
            parts.push((kept, traffic::steady(&sample)));
        }
        context.judge("sessions-hold", Verdict::all(parts))?;
        Ok(())
    }

    /// The versions on paths of one host.
    pub(super) async fn fan_out(&self) -> anyhow::Result<()> {
        let Self { context, .. } = self;
        let _step = context.step("fan out over paths of one host");
        self.apply("ingress/app-ingress-fanout.yml").await?;
        let host = self.host(STABLE_HOST);
        let ways = [
            ("/canary", TRIED, &context.canary()?.version),
            ("/stable", STABLE, &context.stable()?.version),
        ];
        let mut settled = Ok(());
        for (path, backend, _) in ways {
            let sampler = host.clone().path(&format!("{path}/version"));
            settled = settled.and(self.leads_to(&sampler, backend).await?);
        }
        let mut parts = Vec::new();
        for (path, _, version) in ways {
            let sampler = host.clone().path(&format!("{path}/version"));
            let what = format!("{STABLE_HOST}{path}");
            parts.push((path, self.all_are(&what, &sampler, REQUESTS, version).await?));
        }
        context.judge("fanout-paths", noting(Verdict::all(parts), settled))?;
        Ok(())
    }

    /// Moves production to the canary's image while both hosts have visitors.
    pub(super) async fn promote(&self) -> anyhow::Result<()> {
        let Self { context, scope, .. } = self;
        let (stable, canary) = (self.host(STABLE_HOST), self.host(CANARY_HOST));
        let _step = context.step("set production's image to the canary's, both hosts under load");
        // The article's rules again: where TLS ends, some controllers send plain HTTP elsewhere.
        self.apply(RULES).await?;
        let settled = self.leads_to(&canary, TRIED).await?;
        let settled = settled.and(self.leads_to(&stable, STABLE).await?);
        let during = |host: &str| format!("{host} while production is promoted");
        let [what_stable, what_canary] = [STABLE_HOST, CANARY_HOST].map(during);
        let on_stable = context.background(&what_stable, &stable, RATE).await?;
        let on_canary = context.background(&what_canary, &canary, RATE).await?;
        let image = context.canary()?;
        let promotion = scope.promote(PRODUCTION, STABLE.pods, CONTAINER, &image.name).await?;
        let after = self.leads_to(&stable, STABLE).await?;
        let on_stable = on_stable.stop_after(UNDER_LOAD).await?;
        let on_canary = on_canary.stop_after(UNDER_LOAD).await?;
        context.keep_sample(&what_stable, &on_stable);
        context.keep_sample(&what_canary, &on_canary);
        let what = format!("{STABLE_HOST} after it was promoted");
        let moved = self.all_are(&what, &stable, REQUESTS, &image.version).await?;
        let parts = [
            ("rollout", promotion.verdict()),
            // Either version is right there, on the canary's host only the one it had.
            (STABLE_HOST, traffic::none_failed(&on_stable)),
            (CANARY_HOST, traffic::all_are(&on_canary, &image.version)),
            ("after", moved),
        ];
        let verdict = noting(Verdict::all(parts), settled.and(after));
        context.judge("ingress-promotes", verdict)?;
        Ok(())
    }
}
