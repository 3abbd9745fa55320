//! Routes to the canary by host name or path, without effect on stable, and its promotion.

use super::common::{
    Backend, CANARY, CANARY_BACKEND, CANARY_HOST, CONTAINER, FEW_REQUESTS, HTTP, PRODUCTION,
    Phase5, RATE, REQUESTS, STABLE, STABLE_HOST, UNDER_LOAD, host_with_port,
};
use super::steps;
use crate::claim::Verdict;
use crate::expectation::{ExpectedDeployment, ExpectedRoute};
use crate::kubernetes::{
    pods,
    wait::{split_infra_errors, with_note},
};
use crate::verdicts;
use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use std::net::IpAddr;

const RULES: &str = "ingress/app-ingress-canary.yml";

impl Phase5<'_> {
    /// Applies the canary, then its routing rule, while stable has traffic.
    pub(super) async fn add_canary(&self) -> anyhow::Result<()> {
        let Self { context, namespace, .. } = self;
        let (stable, canary) = (self.host(STABLE_HOST), self.host(CANARY_HOST));
        let version = &context.stable()?.version;
        let image = context.canary()?.name.clone();
        context.expect(|expected| {
            let labels = CANARY_BACKEND.pods;
            let deployment = ExpectedDeployment { replicas: 1, image, labels, ready: true };
            expected.deployments.insert(CANARY, deployment);
            expected.services.insert(CANARY_BACKEND.service, CANARY_BACKEND.expected());
        });
        let rolled = {
            let _step = context.step(&steps::CANARY).await;
            context.checking("service-internal-address");
            self.apply("ingress/app-canary.yml").await?;
            split_infra_errors(namespace.wait_rolled_out(CANARY).await)?
        };
        if let Err(why) = rolled {
            // The rest of the lab needs a running canary.
            return context.require("service-internal-address", Verdict::fails(why)).await;
        }
        let parts = [
            (STABLE.service, self.internal_address(STABLE, &context.stable()?.name).await?),
            (
                CANARY_BACKEND.service,
                self.internal_address(CANARY_BACKEND, &context.canary()?.name).await?,
            ),
        ];
        context.judge("service-internal-address", Verdict::all(parts)).await?;

        if context.skip(&["stable-unaffected"])? {
            self.expect_hosts();
            return self.apply(RULES).await;
        }
        let _step = context.step(&steps::RULES).await;
        context.checking("stable-unaffected");
        let before = self.wait_routed(&stable, STABLE).await?;
        let load = context.background("stable while the rules are added", &stable, RATE).await?;
        self.apply(RULES).await?;
        self.expect_hosts();
        let after = self.wait_routed(&canary, CANARY_BACKEND).await?;
        let after = after.and(self.wait_routed(&stable, STABLE).await?);
        let during = load.stop_after(UNDER_LOAD).await?;
        context.keep_sample("stable while the rules are added", &during);
        let verdict = verdicts::all_are(&during, version);
        let evidence = format!("{STABLE_HOST}, for {:.1} s: {}", during.seconds, verdict.evidence);
        let verdict = Verdict { evidence, ..verdict };
        context.judge("stable-unaffected", with_note(verdict, before.and(after))).await?;
        Ok(())
    }

    /// Records where the rules for both hosts route to.
    pub(super) fn expect_hosts(&self) {
        let route = |host, service| ExpectedRoute { host, path: "/version", service };
        self.context.expect(|expected| {
            expected.routes = vec![
                route(CANARY_HOST, CANARY_BACKEND.service),
                route(STABLE_HOST, STABLE.service),
                route("unknown.example", STABLE.service),
            ];
        });
    }

    /// Judges that the Service has an address of its own and selects exactly the pods of that image.
    async fn internal_address(&self, backend: Backend, image: &str) -> anyhow::Result<Verdict> {
        let Self { namespace, .. } = self;
        let service = namespace.api::<Service>().get(backend.service).await;
        let service = service.with_context(|| format!("failed to get {}", backend.service))?;
        let spec = service.spec.unwrap_or_default();
        let address = spec.cluster_ip.unwrap_or_default();
        let has_address = address.parse::<IpAddr>().is_ok();
        let pods = namespace.pods(backend.pods).await?;
        let names = pods::names(&pods);
        let alone = split_infra_errors(namespace.wait_endpoints(backend.service, &names).await)?;
        // Endpoints follow the selector with a delay, so the selector is checked as well.
        let selector = spec.selector.unwrap_or_default();
        let selector: Vec<String> = selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let selected = pods::names(&namespace.pods(&selector.join(",")).await?);
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

    /// Samples each host, and hosts without a rule.
    pub(super) async fn hosts(&self) -> anyhow::Result<()> {
        let Self { context, namespace, external } = self;
        if context.skip(&["vhost-canary", "vhost-stable", "vhost-default"])? {
            return Ok(());
        }
        let (stable, canary) = (self.host(STABLE_HOST), self.host(CANARY_HOST));
        let _step =
            context.step_as(&steps::HOSTS, format!("send {REQUESTS} requests to each host")).await;
        let canary_settled = self.wait_routed(&canary, CANARY_BACKEND).await?;
        let stable_settled = self.wait_routed(&stable, STABLE).await?;
        let (new, old) = (&context.canary()?.version, &context.stable()?.version);

        let verdict = self.all_are(CANARY_HOST, &canary, REQUESTS, new).await?;
        let evidence = format!("{}; {}", verdict.evidence, self.curl_command(CANARY_HOST));
        let verdict = Verdict { evidence, ..verdict };
        context.judge("vhost-canary", with_note(verdict, canary_settled)).await?;
        let verdict = self.all_are(STABLE_HOST, &stable, REQUESTS, old).await?;
        context.judge("vhost-stable", with_note(verdict, stable_settled)).await?;

        let address = host_with_port(&external.host, external.port, HTTP);
        let mut samples = Vec::new();
        for (what, sampler) in [
            ("no host".to_owned(), namespace.sampler(external).without_host()),
            (address.clone(), namespace.sampler(external).host(&address)),
            ("unknown.example".to_owned(), self.host("unknown.example")),
        ] {
            let sample = context.sample(&what, &sampler, FEW_REQUESTS, None).await?;
            samples.push((what, sample));
        }
        context.judge("vhost-default", verdicts::each_is(&samples, old)).await?;
        Ok(())
    }

    /// Formats a command that shows the same to people.
    fn curl_command(&self, host: &str) -> String {
        let (port, address) = (self.external.port, self.external.socket.ip());
        let name = host_with_port(host, port, HTTP);
        format!("to see it: curl --resolve {host}:{port}:{address} http://{name}/")
    }

    /// Samples each host as one client, with a connection per request and with a persistent one.
    pub(super) async fn sessions(&self) -> anyhow::Result<()> {
        let Self { context, .. } = self;
        if context.skip(&["sessions-hold"])? {
            return Ok(());
        }
        let _step = context.step(&steps::SESSIONS).await;
        let mut parts = Vec::new();
        for host in [STABLE_HOST, CANARY_HOST] {
            let sampler = self.host(host);
            let what = format!("one client of {host}");
            let one = sampler.clone().in_flight(1);
            let sample = context.sample(&what, &one, FEW_REQUESTS, None).await?;
            parts.push((format!("{host}, a connection each"), verdicts::steady(&sample)));
            let mut session = sampler.session();
            let sample = session.take(FEW_REQUESTS).await;
            context.keep_sample(&format!("one connection to {host}"), &sample);
            let kept = format!("{host}, kept alive ({} connections)", session.connections());
            parts.push((kept, verdicts::steady(&sample)));
        }
        context.judge("sessions-hold", Verdict::all(parts)).await?;
        Ok(())
    }

    /// Routes to both versions by path on one host.
    pub(super) async fn fan_out(&self) -> anyhow::Result<()> {
        let Self { context, .. } = self;
        if context.omits(&["fanout-paths"]) {
            return Ok(());
        }
        let _step = context.step(&steps::FANOUT).await;
        context.checking("fanout-paths");
        self.apply("ingress/app-ingress-fanout.yml").await?;
        context.expect(|expected| {
            let route = |path, service| ExpectedRoute { host: STABLE_HOST, path, service };
            expected.routes = vec![
                route("/canary/version", CANARY_BACKEND.service),
                route("/stable/version", STABLE.service),
            ];
        });
        let host = self.host(STABLE_HOST);
        let routes = [
            ("/canary", CANARY_BACKEND, &context.canary()?.version),
            ("/stable", STABLE, &context.stable()?.version),
        ];
        let mut converged = Ok(());
        for (path, backend, _) in routes {
            let sampler = host.clone().path(&format!("{path}/version"));
            converged = converged.and(self.wait_routed(&sampler, backend).await?);
        }
        let mut parts = Vec::new();
        for (path, _, version) in routes {
            let sampler = host.clone().path(&format!("{path}/version"));
            let what = format!("{STABLE_HOST}{path}");
            parts.push((path, self.all_are(&what, &sampler, REQUESTS, version).await?));
        }
        context.judge("fanout-paths", with_note(Verdict::all(parts), converged)).await?;
        Ok(())
    }

    /// Promotes production to the canary's image while both hosts have traffic.
    pub(super) async fn promote(&self) -> anyhow::Result<()> {
        let Self { context, namespace, .. } = self;
        if context.skip(&["ingress-promotes"])? {
            return Ok(());
        }
        let (stable, canary) = (self.host(STABLE_HOST), self.host(CANARY_HOST));
        let _step = context.step(&steps::PROMOTE).await;
        context.checking("ingress-promotes");
        // The article's rules again: with TLS configured, some controllers redirect plain HTTP.
        self.apply(RULES).await?;
        self.expect_hosts();
        let converged = self.wait_routed(&canary, CANARY_BACKEND).await?;
        let converged = converged.and(self.wait_routed(&stable, STABLE).await?);
        let during = |host: &str| format!("{host} while production is promoted");
        let [what_stable, what_canary] = [STABLE_HOST, CANARY_HOST].map(during);
        let on_stable = context.background(&what_stable, &stable, RATE).await?;
        let on_canary = context.background(&what_canary, &canary, RATE).await?;
        let image = context.canary()?;
        context.expect(|expected| expected.set_image(PRODUCTION, &image.name));
        let promotion = namespace.promote(PRODUCTION, STABLE.pods, CONTAINER, &image.name).await?;
        let after = self.wait_routed(&stable, STABLE).await?;
        let on_stable = on_stable.stop_after(UNDER_LOAD).await?;
        let on_canary = on_canary.stop_after(UNDER_LOAD).await?;
        context.keep_sample(&what_stable, &on_stable);
        context.keep_sample(&what_canary, &on_canary);
        let what = format!("{STABLE_HOST} after it was promoted");
        let moved = self.all_are(&what, &stable, REQUESTS, &image.version).await?;
        let parts = [
            ("rollout", promotion.verdict()),
            // Either version is right on stable's host; only the canary's on its own.
            (STABLE_HOST, verdicts::none_failed(&on_stable)),
            (CANARY_HOST, verdicts::all_are(&on_canary, &image.version)),
            ("after", moved),
        ];
        let verdict = with_note(Verdict::all(parts), converged.and(after));
        context.judge("ingress-promotes", verdict).await?;
        Ok(())
    }
}
