//! The one list of labs. The command line, its help, `labs list`, `labs explain`, the reports and
//! the suggestion for a mistyped name are all made from it: a lab is added by one file in `phases/`
//! and one line here.

use crate::claim::Claim;
use crate::context::Context;
use crate::phases;
use futures::future::BoxFuture;

/// A runnable phase of the article.
#[derive(Clone, Copy, Debug)]
pub struct Lab {
    /// What one types: `phase4`.
    pub name: &'static str,
    /// A few words for headings.
    pub title: &'static str,
    /// What happens in it, in a sentence or two.
    pub summary: &'static str,
    /// The article's own heading, and what has changed since it was written.
    pub article: &'static str,
    /// Every claim it judges, in the order of the article.
    pub claims: &'static [Claim],
    /// Plays the phase. It judges each of its claims once through the [`Context`]; an error means
    /// that the infrastructure failed, or that a claim's failure left nothing to go on with. A lab
    /// that builds on an earlier phase sets up what it needs and judges only its own claims.
    /// Its future may be dropped at any await.
    pub run: RunLab,
}

/// See [`Lab::run`].
pub type RunLab = for<'a> fn(&'a Context) -> BoxFuture<'a, anyhow::Result<()>>;

impl Lab {
    /// The claim of this lab with that id.
    pub fn claim(&self, id: &str) -> Option<&'static Claim> {
        self.claims.iter().find(|claim| claim.id == id)
    }
}

/// All labs, in the order of the article.
pub static LABS: &[Lab] = &[
    phases::phase0::LAB,
    phases::phase1::LAB,
    phases::phase2::LAB,
    phases::phase3::LAB,
    phases::phase4::LAB,
];
