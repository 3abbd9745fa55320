//! Phase 1: the app.

use crate::claim::Claim;
use crate::context::Context;
use crate::lab::Lab;

/// This phase, as the list of labs shows it.
pub const LAB: Lab = Lab {
    name: "phase1",
    title: "The app",
    summary: "Runs both versions of the app as plain processes and asks them what the article's app answers.",
    article: "“The app”: a Go web server, built with `netgo`; here the same three paths in Rust, linked statically.",
    claims: &[
        Claim { id: "app-front-page", sentence: "`/` names the version that answers." },
        Claim { id: "app-health", sentence: "`/health` answers 200." },
        Claim {
            id: "app-version",
            sentence: "`/version` answers the version and a newline, nothing else.",
        },
        Claim { id: "app-port", sentence: "The app listens on 8080." },
        Claim {
            id: "app-static",
            sentence: "The binary needs no library of the host (the article's `netgo` point).",
        },
        Claim {
            id: "app-differs-by-version",
            sentence: "1.0 and 2.0 come from one source and differ only in the version constant.",
        },
    ],
    run: |context| Box::pin(run(context)),
};

async fn run(_context: &Context) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
