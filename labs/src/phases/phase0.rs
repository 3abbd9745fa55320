//! Phase 0: the environment.

use crate::claim::Claim;
use crate::context::Context;
use crate::lab::Lab;

/// This phase, as the list of labs shows it.
pub const LAB: Lab = Lab {
    name: "phase0",
    title: "The environment",
    summary: "Looks at the cluster that the provider handed over: its API, its nodes.",
    article: "“Before you begin”: a cluster on Google Container Engine, today Google Kubernetes Engine; here any cluster.",
    claims: &[
        Claim {
            id: "cluster-answers",
            sentence: "One command yields a cluster whose API endpoints answer.",
        },
        Claim {
            id: "cluster-has-workers",
            sentence: "There is a control plane and more than one node that takes pods, all Ready.",
        },
    ],
    run: |context| Box::pin(run(context)),
};

async fn run(_context: &Context) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
