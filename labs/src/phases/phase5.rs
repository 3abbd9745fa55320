//! Phase 5: Ingress. Which version answers is no longer a matter of chance and replicas but of the
//! name, or the path, that a client asks for.

use crate::claim::{Claim, Verdict};
use crate::context::Context;
use crate::kubernetes::{Scope, external::External, pods, wait::evidence};
use crate::lab::Lab;
use crate::sample::Sampler;
use crate::traffic;

mod publish;
mod routes;
mod secure;

/// This phase, as the list of labs shows it.
pub const LAB: Lab = Lab {
    name: "phase5",
    title: "Ingress",
    summary: "Puts an Ingress before stable, gives the canary a host name, a path and TLS of its own, and promotes it behind the Ingress.",
    article: "“Using Ingress resources to access Canary Deployments”: `extensions/v1beta1` with `serviceName`; today `networking.k8s.io/v1` with `defaultBackend`, `service.name` and `pathType`. No `/etc/hosts` entry is needed: the client looks the names up itself, at the Ingress' address.",
    claims: &[
        Claim {
            id: "nodeport-in-range",
            sentence: "A NodePort Service gets a port in 30000-32767, and that port answers on every node.",
        },
        Claim {
            id: "service-internal-address",
            sentence: "The Service also has an internal address, and its selector picks one version's pods alone.",
        },
        Claim {
            id: "default-backend-takes-all",
            sentence: "An Ingress with no rules sends every request to production.",
        },
        Claim {
            id: "backends-healthy-first",
            sentence: "The Ingress answers only once its backends are healthy.",
        },
        Claim { id: "vhost-canary", sentence: "`canary.foo.bar` always gets 2.0." },
        Claim { id: "vhost-stable", sentence: "`foo.bar` always gets 1.0." },
        Claim {
            id: "vhost-default",
            sentence: "No host, or an unknown one, gets the default backend.",
        },
        Claim { id: "sessions-hold", sentence: "One client on one host never changes version." },
        Claim {
            id: "stable-unaffected",
            sentence: "Adding the canary's rules fails no request to stable.",
        },
        Claim {
            id: "ingress-promotes",
            sentence: "Promotion works the same way behind the Ingress, and drops nothing.",
        },
        Claim {
            id: "fanout-paths",
            sentence: "The same rules work on paths of one host instead (fanout).",
        },
        Claim {
            id: "tls-terminates",
            sentence: "The Ingress can end TLS, which the load balancer could not.",
        },
    ],
    run: |context| Box::pin(run(context)),
};

/// Objects and names of the article.
const PRODUCTION: &str = "kubeapp-production";
const CANARY: &str = "kubeapp-canary";
const CONTAINER: &str = "kubeapp";
const INGRESS: &str = "app-ingress";
const STABLE_HOST: &str = "foo.bar";
const CANARY_HOST: &str = "canary.foo.bar";
const HTTP: u16 = 80;
const HTTPS: u16 = 443;
/// A version's pods, and the Service that selects them.
const STABLE: Backend =
    Backend { service: "kubeapp-production-service", pods: "app=kubeapp,env=production" };
const TRIED: Backend =
    Backend { service: "kubeapp-canary-service", pods: "app=kubeapp,env=canary" };
/// So many requests bound what was missed to 0.6%.
const REQUESTS: u64 = 500;
/// Where several ways are tried, for each.
const FEW_REQUESTS: u64 = 100;
/// Requests a second at most to each host while something changes, which leaves the pods time to
/// change.
const RATE: u32 = 2000;
/// Requests at least that such a change meets: they bound what is lost to 0.3%.
const UNDER_LOAD: usize = 1000;

/// A Service, and the labels of the pods it should have.
#[derive(Clone, Copy)]
struct Backend {
    service: &'static str,
    pods: &'static str,
}

/// What has a step of its own, in the order of the article; only the promotion waits until the end,
/// since after it both versions are the same.
async fn run(context: &Context) -> anyhow::Result<()> {
    context.new_namespace().await?;
    let scope = Scope::new(context);
    let external = publish::run(context, &scope).await?;
    let play = Play { context, scope, external };
    play.add_canary().await?;
    play.hosts().await?;
    play.sessions().await?;
    play.fan_out().await?;
    play.end_tls().await?;
    play.promote().await
}

/// What the steps have in hand once the Ingress answers.
struct Play<'a> {
    context: &'a Context,
    scope: Scope,
    external: External,
}

impl Play<'_> {
    /// A sampler that asks for the version by that name. The name is not looked up: it goes to the
    /// Ingress' address.
    fn host(&self, host: &str) -> Sampler {
        self.scope.sampler(&self.external).host(&named(host, self.external.port, HTTP))
    }

    async fn apply(&self, file: &str) -> anyhow::Result<()> {
        self.scope.apply_file(self.context.environment(), file).await
    }

    /// Waits until exactly the pods of a version are endpoints of its Service, and answer there alone.
    async fn leads_to(
        &self,
        sampler: &Sampler,
        backend: Backend,
    ) -> anyhow::Result<Result<(), String>> {
        let pods = pods::names(&self.scope.pods(backend.pods).await?);
        match evidence(self.scope.endpoints_are(backend.service, &pods).await)? {
            Ok(()) => evidence(self.scope.takes_effect(sampler, &pods).await),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Sends `n` requests that should all get that version.
    async fn all_are(
        &self,
        what: &str,
        sampler: &Sampler,
        n: u64,
        version: &str,
    ) -> anyhow::Result<Verdict> {
        let sample = self.context.sample(what, sampler, n, None).await?;
        Ok(traffic::all_are(&sample, version))
    }
}

/// What a client calls a host that it reaches at that port.
fn named(host: &str, port: u16, usual: u16) -> String {
    if port == usual { host.to_owned() } else { format!("{host}:{port}") }
}
