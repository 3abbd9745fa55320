//! A lab: one phase of the article, with the claims it judges and the code that runs it.

use crate::claim::Claim;
use crate::context::Context;
use crate::step::Step;
use futures::future::BoxFuture;

/// A runnable phase of the article.
#[derive(Clone, Copy, Debug)]
pub struct Lab {
    /// The name on the command line: `phase4`.
    pub name: &'static str,
    /// A few words for headings.
    pub title: &'static str,
    /// A summary in a sentence or two.
    pub summary: &'static str,
    /// The article's own heading, and what has changed since it was written.
    pub article: &'static str,
    /// Every claim it judges, in the order of the article.
    pub claims: &'static [Claim],
    /// Its steps, in order. It runs no others.
    pub steps: &'static [Step],
    /// Whether it works in the labs' namespace.
    pub uses_namespace: bool,
    /// Runs the phase. It judges each of its claims once through the `Context`; an error means that
    /// the infrastructure failed, or that the failure of a claim prevents the rest. A lab that builds
    /// on an earlier phase sets up what it needs and judges only its own claims. The future may be
    /// dropped at any await.
    pub run: RunLab,
}

impl Lab {
    /// Returns the step that proves a claim.
    pub fn step_of(&self, claim: &str) -> Option<&'static Step> {
        self.steps.iter().find(|step| step.proves.contains(&claim))
    }
}

/// The type of [`Lab::run`].
pub type RunLab = for<'a> fn(&'a Context) -> BoxFuture<'a, anyhow::Result<()>>;
