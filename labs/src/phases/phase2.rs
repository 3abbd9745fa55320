//! Phase 2: the image.

use crate::claim::Claim;
use crate::context::Context;
use crate::lab::Lab;

/// This phase, as the list of labs shows it.
pub const LAB: Lab = Lab {
    name: "phase2",
    title: "The image",
    summary: "Opens the images, compares two builds of each, and runs them as containers.",
    article: "“The image”: alpine plus a binary, pushed to gcr.io; today built from scratch, and loaded or pushed to Artifact Registry.",
    claims: &[
        Claim {
            id: "image-entrypoint",
            sentence: "The image holds the binary at `/app` and starts it; 8080 is exposed.",
        },
        Claim {
            id: "image-version-argument",
            sentence: "A build argument alone picks the version that is packed.",
        },
        Claim { id: "image-reproducible", sentence: "Building twice gives the same digest." },
        Claim {
            id: "image-runs",
            sentence: "Each image, run as a container, answers with its version.",
        },
        Claim {
            id: "image-small",
            sentence: "It holds nothing but the app (the article's is alpine plus a Go binary).",
        },
        Claim {
            id: "image-reachable",
            sentence: "Every node can start it without extra credentials: loaded (embedded, kind, minikube, k3s) or pushed (a registry, Artifact Registry on GKE).",
        },
    ],
    run: |context| Box::pin(run(context)),
};

async fn run(_context: &Context) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
