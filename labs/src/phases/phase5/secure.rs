//! TLS that ends at the Ingress, with a certificate made in this run and trusted by nobody else.

use super::{CANARY_HOST, FEW_REQUESTS, HTTPS, INGRESS, Play, STABLE, STABLE_HOST, TRIED, named};
use crate::claim::Verdict;
use crate::kubernetes::{
    certificate::Certificate,
    wait::{evidence, noting},
};
use crate::traffic;
use k8s_openapi::api::networking::v1::Ingress;
use std::collections::BTreeSet;

/// What app-ingress-tls.yml calls the Secret.
const SECRET: &str = "app-tls";

impl Play<'_> {
    /// Each host over TLS.
    pub(super) async fn end_tls(&self) -> anyhow::Result<()> {
        let Self { context, scope, .. } = self;
        let _step = context.step("end TLS at the Ingress");
        let certificate = Certificate::new(&[STABLE_HOST, CANARY_HOST])?;
        scope.apply_certificate(SECRET, &certificate).await?;
        self.apply("ingress/app-ingress-tls.yml").await?;
        let external = match evidence(scope.external::<Ingress>(INGRESS, HTTPS).await)? {
            Ok(external) => external,
            Err(why) => {
                context.judge("tls-terminates", Verdict::fails(why))?;
                return Ok(());
            }
        };
        let ours = certificate.as_seen();
        let (mut parts, mut shown) = (Vec::new(), BTreeSet::new());
        for (host, backend, version) in [
            (STABLE_HOST, STABLE, &context.stable()?.version),
            (CANARY_HOST, TRIED, &context.canary()?.version),
        ] {
            let sampler = scope.sampler(&external).host(&named(host, external.port, HTTPS));
            // Until it takes effect another certificate may be shown: one client waits, another one
            // tells what it saw.
            let waiting = sampler.clone().over(certificate.trusted(host)?);
            let settled = self.leads_to(&waiting, backend).await?;
            let tls = certificate.trusted(host)?;
            let sampler = sampler.over(tls.clone());
            let what = format!("{host} over TLS");
            let sample = context.sample(&what, &sampler, FEW_REQUESTS, None).await?;
            let answers = noting(traffic::all_are(&sample, version), settled);
            shown.extend(tls.seen());
            parts.push((host, answers));
        }
        let only_ours = shown.len() == 1 && shown.contains(&ours);
        let whose =
            if only_ours { "the one made in this run" } else { "not the one made in this run" };
        let said: Vec<String> = shown.iter().map(ToString::to_string).collect();
        let said = format!("{whose}: {}", said.join(" and "));
        parts.insert(0, ("certificate", Verdict::of(only_ours, said).with(shown)));
        context.judge("tls-terminates", Verdict::all(parts))?;
        Ok(())
    }
}
