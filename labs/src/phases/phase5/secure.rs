//! TLS termination at the Ingress, with a self-signed certificate created during the run.

use super::common::{
    CANARY_BACKEND, CANARY_HOST, FEW_REQUESTS, HTTPS, INGRESS, Phase5, STABLE, STABLE_HOST,
    host_with_port,
};
use crate::claim::Verdict;
use crate::kubernetes::{
    certificate::Certificate,
    wait::{split_infra_errors, with_note},
};
use crate::verdicts;
use k8s_openapi::api::networking::v1::Ingress;
use std::collections::BTreeSet;

/// The Secret that app-ingress-tls.yml refers to.
const SECRET: &str = "app-tls";

impl Phase5<'_> {
    /// Samples each host over TLS.
    pub(super) async fn end_tls(&self) -> anyhow::Result<()> {
        let Self { context, namespace, .. } = self;
        if context.omits(&["tls-terminates"]) {
            return Ok(());
        }
        let _step = context.step("end TLS at the Ingress");
        context.checking("tls-terminates");
        let certificate = Certificate::new(&[STABLE_HOST, CANARY_HOST])?;
        namespace.apply_certificate(SECRET, &certificate).await?;
        self.apply("ingress/app-ingress-tls.yml").await?;
        self.expect_hosts();
        let external = match split_infra_errors(
            namespace.wait_external_address::<Ingress>(INGRESS, HTTPS).await,
        )? {
            Ok(external) => external,
            Err(why) => {
                context.judge("tls-terminates", Verdict::fails(why)).await?;
                return Ok(());
            }
        };
        let ours = certificate.as_presented();
        let (mut parts, mut shown) = (Vec::new(), BTreeSet::new());
        for (host, backend, version) in [
            (STABLE_HOST, STABLE, &context.stable()?.version),
            (CANARY_HOST, CANARY_BACKEND, &context.canary()?.version),
        ] {
            let sampler =
                namespace.sampler(&external).host(&host_with_port(host, external.port, HTTPS));
            // Until the Ingress has the Secret, it may present another certificate. So one client waits,
            // and another records the certificates of the sample.
            let waiting = sampler.clone().over(certificate.trusted(host)?);
            let converged = self.wait_routed(&waiting, backend).await?;
            let tls = certificate.trusted(host)?;
            let sampler = sampler.over(tls.clone());
            let what = format!("{host} over TLS");
            let sample = context.sample(&what, &sampler, FEW_REQUESTS, None).await?;
            let answers = with_note(verdicts::all_are(&sample, version), converged);
            shown.extend(tls.presented());
            parts.push((host, answers));
        }
        let only_ours = shown.len() == 1 && shown.contains(&ours);
        let whose =
            if only_ours { "the one made in this run" } else { "not the one made in this run" };
        let names: Vec<String> = shown.iter().map(ToString::to_string).collect();
        let evidence = format!("{whose}: {}", names.join(" and "));
        parts.insert(0, ("certificate", Verdict::of(only_ours, evidence).with(shown)));
        context.judge("tls-terminates", Verdict::all(parts)).await?;
        Ok(())
    }
}
