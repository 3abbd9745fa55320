//! Phase 5: Ingress. The version no longer depends on chance and replicas but on the host name, or the
//! path, that a client requests.

use crate::claim::Claim;
use crate::context::Context;
use crate::lab::Lab;
use common::Phase5;

mod common;
mod publish;
mod routes;
mod secure;

/// The entry of this phase in the list of labs.
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

/// The steps in the order of the article; only the promotion is moved to the end, since after it both
/// versions are the same.
async fn run(context: &Context) -> anyhow::Result<()> {
    context.reset_namespace().await?;
    let namespace = context.namespace_client();
    let external = publish::run(context, &namespace).await?;
    let phase = Phase5 { context, namespace, external };
    phase.add_canary().await?;
    phase.hosts().await?;
    phase.sessions().await?;
    phase.fan_out().await?;
    phase.end_tls().await?;
    phase.promote().await
}
