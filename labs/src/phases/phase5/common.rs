//! Names and numbers of phase 5, and what its steps share.

use crate::claim::Verdict;
use crate::context::Context;
use crate::expectation::ExpectedService;
use crate::kubernetes::{
    external::ExternalAddress, namespace_client::NamespaceClient, pods, wait::split_infra_errors,
};
use crate::sampler::Sampler;
use crate::verdicts;

/// Names of the article.
pub(super) const PRODUCTION: &str = "kubeapp-production";
pub(super) const CANARY: &str = "kubeapp-canary";
pub(super) const CONTAINER: &str = "kubeapp";
pub(super) const INGRESS: &str = "app-ingress";
pub(super) const STABLE_HOST: &str = "foo.bar";
pub(super) const CANARY_HOST: &str = "canary.foo.bar";
pub(super) const HTTP: u16 = 80;
pub(super) const HTTPS: u16 = 443;
/// The Service of each version, and the labels of its pods.
pub(super) const STABLE: Backend =
    Backend { service: "kubeapp-production-service", pods: "app=kubeapp,env=production" };
pub(super) const CANARY_BACKEND: Backend =
    Backend { service: "kubeapp-canary-service", pods: "app=kubeapp,env=canary" };
/// Bounds an unobserved share to 0.6%.
pub(super) const REQUESTS: u64 = 500;
/// The sample size where several routes are tried.
pub(super) const FEW_REQUESTS: u64 = 100;
/// The rate limit of background traffic per host, in requests per second: it leaves the pods CPU time to
/// change.
pub(super) const RATE: u32 = 2000;
/// The minimum number of background requests: bounds the share of lost requests to 0.3%.
pub(super) const UNDER_LOAD: usize = 1000;

/// A Service, and the labels of the pods it should select.
#[derive(Clone, Copy)]
pub(super) struct Backend {
    pub(super) service: &'static str,
    pub(super) pods: &'static str,
}

impl Backend {
    /// The article's Service.
    pub(super) fn expected(self) -> ExpectedService {
        ExpectedService { selects: self.pods, port: HTTP, type_: "NodePort" }
    }
}

/// The state of the steps once the Ingress responds.
pub(super) struct Phase5<'a> {
    pub(super) context: &'a Context,
    pub(super) namespace: NamespaceClient,
    pub(super) external: ExternalAddress,
}

impl Phase5<'_> {
    /// Returns a sampler of `/version` on that host. The name is not resolved: requests go to the
    /// Ingress' address.
    pub(super) fn host(&self, host: &str) -> Sampler {
        self.namespace.sampler(&self.external).host(&host_with_port(host, self.external.port, HTTP))
    }

    pub(super) async fn apply(&self, file: &str) -> anyhow::Result<()> {
        self.namespace.apply_file(self.context.environment(), file).await
    }

    /// Waits until exactly the pods of a version are endpoints of its Service and respond to the sampler.
    pub(super) async fn wait_routed(
        &self,
        sampler: &Sampler,
        backend: Backend,
    ) -> anyhow::Result<Result<(), String>> {
        let Self { context, namespace, .. } = self;
        let pods = pods::names(&namespace.pods(backend.pods).await?);
        let leads = namespace.check_service(backend.service, Some(HTTP), &pods).await;
        if let Err(why) = split_infra_errors(leads)? {
            return Ok(Err(why));
        }
        let routes = context.expectations().routes;
        let routes: Vec<_> =
            routes.into_iter().filter(|route| sampler.requests(route.host, route.path)).collect();
        if let Some(why) = namespace.misroute(INGRESS, &routes).await? {
            return Ok(Err(why));
        }
        match split_infra_errors(namespace.wait_endpoints(backend.service, &pods).await)? {
            Ok(()) => split_infra_errors(namespace.wait_ingress_converged(sampler, &pods).await),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Sends `n` requests and judges that all got that version.
    pub(super) async fn all_are(
        &self,
        what: &str,
        sampler: &Sampler,
        n: u64,
        version: &str,
    ) -> anyhow::Result<Verdict> {
        let sample = self.context.sample(what, sampler, n, None).await?;
        Ok(verdicts::all_are(&sample, version))
    }
}

/// Formats the host of a request: with the port unless it is the default.
pub(super) fn host_with_port(host: &str, port: u16, default: u16) -> String {
    if port == default { host.to_owned() } else { format!("{host}:{port}") }
}
