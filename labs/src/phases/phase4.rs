//! Phase 4: the canary.

use crate::claim::Claim;
use crate::context::Context;
use crate::lab::Lab;

/// This phase, as the list of labs shows it.
pub const LAB: Lab = Lab {
    name: "phase4",
    title: "The canary",
    summary: "Adds one pod of 2.0 behind the same load balancer, measures the split, ditches the canary and promotes it.",
    article: "“Canary deployment”: the same three manifests; `kubectl set image` still promotes.",
    claims: &[
        Claim {
            id: "canary-differs-by-env",
            sentence: "The canary shares `app: kubeapp` and differs in `env` and image.",
        },
        Claim {
            id: "canary-joins-untouched",
            sentence: "The canary's pod joins the load balancer and the Service is not edited.",
        },
        Claim {
            id: "quarter-to-canary",
            sentence: "3 stable to 1 canary sends 25% of requests to 2.0.",
        },
        Claim {
            id: "ratio-follows-replicas",
            sentence: "Replica counts set the share: 9:1 gives 10%, 1:1 gives 50%.",
        },
        Claim {
            id: "sessions-flip",
            sentence: "One client, connection after connection, meets both versions (why phase 5 exists).",
        },
        Claim {
            id: "bad-canary-contained",
            sentence: "A canary that never becomes ready receives nothing, and stable serves on.",
        },
        Claim {
            id: "canary-can-be-ditched",
            sentence: "Delete the canary: everything is 1.0 again, and no request fails meanwhile.",
        },
        Claim {
            id: "promotion-by-image",
            sentence: "`set image` moves production to 2.0 by starting new pods and ending old ones.",
        },
        Claim { id: "promotion-drops-nothing", sentence: "No request fails while it rolls." },
        Claim {
            id: "canary-retires",
            sentence: "With production on 2.0 the canary Deployment can go; everything is 2.0.",
        },
    ],
    run: |context| Box::pin(run(context)),
};

async fn run(_context: &Context) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
