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
mod steps;

/// The entry of this phase in the list of labs.
pub const LAB: Lab = Lab {
    name: "phase5",
    title: "Ingress",
    summary: "Puts an Ingress before stable, gives the canary a host name, a path and TLS of its own, and promotes it behind the Ingress.",
    article: "“Using Ingress resources to access Canary Deployments”: `extensions/v1beta1` with `serviceName`; today `networking.k8s.io/v1` with `defaultBackend`, `service.name` and `pathType`. No `/etc/hosts` entry is needed: the client looks the names up itself, at the Ingress' address.",
    claims: &[
        Claim::new(
            "nodeport-in-range",
            "A NodePort Service gets a port in 30000-32767, and every node responds on it.",
        ),
        Claim::new(
            "service-internal-address",
            "The Service also has an internal address, and its selector picks one version's pods alone.",
        ),
        Claim::new(
            "default-backend-takes-all",
            "An Ingress with no rules sends every request to production.",
        )
        .needs(&["backends-healthy-first"]),
        Claim::new(
            "backends-healthy-first",
            "The Ingress serves only once its backends are healthy.",
        ),
        Claim::new("vhost-canary", "`canary.foo.bar` always gets 2.0.")
            .needs(&["service-internal-address", "stable-unaffected"]),
        Claim::new("vhost-stable", "`foo.bar` always gets 1.0.")
            .needs(&["service-internal-address", "stable-unaffected"]),
        Claim::new("vhost-default", "No host, or an unknown one, gets the default backend.")
            .needs(&["service-internal-address", "vhost-stable"]),
        Claim::new("sessions-hold", "One client on one host never changes version.")
            .needs(&["vhost-canary", "vhost-stable"]),
        Claim::new("stable-unaffected", "Adding the canary's rules fails no request to stable.")
            .needs(&["service-internal-address"]),
        Claim::new(
            "ingress-promotes",
            "Promotion works the same way behind the Ingress, and drops nothing.",
        )
        .needs(&["vhost-canary", "vhost-stable"]),
        Claim::new("fanout-paths", "The same rules work on paths of one host instead (fanout).")
            .needs(&["service-internal-address", "vhost-canary", "vhost-stable"]),
        Claim::new("tls-terminates", "The Ingress can end TLS, which the load balancer could not.")
            .needs(&["service-internal-address", "vhost-canary", "vhost-stable"]),
    ],
    steps: steps::ALL,
    uses_namespace: true,
    run: |context| Box::pin(run(context)),
};

/// The steps in the order of the article; only the promotion is moved to the end, since after it both
/// versions are the same.
async fn run(context: &Context) -> anyhow::Result<()> {
    context.ensure_namespace().await?;
    context.empty_namespace(&steps::EMPTY).await?;
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
