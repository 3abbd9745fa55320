//! Phase 3: stable behind a load balancer.

use crate::claim::Claim;
use crate::context::Context;
use crate::lab::Lab;

/// This phase, as the list of labs shows it.
pub const LAB: Lab = Lab {
    name: "phase3",
    title: "Stable behind a load balancer",
    summary: "Deploys 1.0 with three replicas in `production`, publishes it with a load balancer and tries what the article says of both.",
    article: "“Deploying to production”: `extensions/v1beta1` without a selector; today `apps/v1`, whose selector must include `env`.",
    claims: &[
        Claim {
            id: "namespace-holds",
            sentence: "What the phase creates lives in `production`, and `default` does not list it.",
        },
        Claim {
            id: "deployment-owns-replicaset",
            sentence: "The Deployment makes one ReplicaSet, which makes exactly 3 pods.",
        },
        Claim {
            id: "template-is-a-cutter",
            sentence: "Pods carry the template's labels; changing the template later does not change pods already cut.",
        },
        Claim {
            id: "readiness-gates",
            sentence: "A pod gets traffic only once `/health` answers 200.",
        },
        Claim {
            id: "rollout-completes",
            sentence: "`rollout status` ends with every replica updated and available.",
        },
        Claim { id: "pods-spread", sentence: "The scheduler spreads the pods over the nodes." },
        Claim {
            id: "events-tell",
            sentence: "Events tell the story: scaled, scheduled, pulled, created, started.",
        },
        Claim { id: "self-heals", sentence: "Delete a pod and another takes its place." },
        Claim {
            id: "scales",
            sentence: "`replicas: 5` gives five, and back to three gives three.",
        },
        Claim {
            id: "lb-gets-address",
            sentence: "A `LoadBalancer` Service gets an external address, asynchronously, and port 80 leads to 8080.",
        },
        Claim {
            id: "lb-finds-pods",
            sentence: "The selector `app: kubeapp` alone finds the pods.",
        },
        Claim {
            id: "service-outlives-pods",
            sentence: "Replace every pod: the Service keeps its address and still answers.",
        },
        Claim { id: "stable-serves-all", sentence: "Every request gets 1.0." },
        Claim { id: "load-spreads", sentence: "The load balancer uses every pod, evenly." },
    ],
    run: |context| Box::pin(run(context)),
};

async fn run(_context: &Context) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
