//! What became of a claim: a verdict, and the one line of evidence it stands on. Evidence is shown
//! whether the claim holds or not, so every verdict carries some.

use serde::Serialize;
use std::collections::BTreeMap;

/// A sentence of the article that a lab puts to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// Stable name, unique over all labs: `quarter-to-canary`.
    pub id: &'static str,
    /// The claim in one sentence of our own words.
    pub sentence: &'static str,
}

/// How a claim ended. A failure of the infrastructure is none of these: it is an error of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Checked, and true.
    Holds,
    /// Checked, and false.
    Fails,
    /// Not checked; the evidence says why.
    Skipped,
}

impl Outcome {
    /// `holds`, `fails` or `skipped`, as reports print it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "fails",
            Self::Skipped => "skipped",
        }
    }
}

/// An [`Outcome`] with its evidence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// How it ended.
    pub outcome: Outcome,
    /// One line: what was measured, or why nothing was.
    pub evidence: String,
    /// The same for machines; `null` if the line says it all.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub data: serde_json::Value,
}

impl Verdict {
    /// The claim holds if `true_here`, else it fails; the evidence is the same line either way.
    pub fn of(true_here: bool, evidence: impl Into<String>) -> Self {
        let outcome = if true_here { Outcome::Holds } else { Outcome::Fails };
        Self::new(outcome, evidence)
    }

    /// The claim holds.
    pub fn holds(evidence: impl Into<String>) -> Self {
        Self::new(Outcome::Holds, evidence)
    }

    /// The claim fails.
    pub fn fails(evidence: impl Into<String>) -> Self {
        Self::new(Outcome::Fails, evidence)
    }

    /// The claim cannot be checked here, and why.
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::new(Outcome::Skipped, reason)
    }

    /// Holds if all parts hold; the evidence of all, each under its name, in order.
    pub fn all<N: Into<String>>(parts: impl IntoIterator<Item = (N, Self)>) -> Self {
        let parts = parts.into_iter().map(|(name, part)| (name.into(), part));
        let parts: Vec<(String, Self)> = parts.collect();
        let holds = parts.iter().all(|(_, part)| part.outcome == Outcome::Holds);
        let said: Vec<String> =
            parts.iter().map(|(name, part)| format!("{name}: {}", part.evidence)).collect();
        let data: BTreeMap<String, _> =
            parts.into_iter().map(|(name, part)| (name, part.data)).collect();
        Self::of(holds && !data.is_empty(), said.join("; ")).with(data)
    }

    /// Adds the evidence as data. What cannot be expressed in JSON is left out.
    #[must_use]
    pub fn with(mut self, data: impl Serialize) -> Self {
        self.data = serde_json::to_value(data).unwrap_or_default();
        self
    }

    fn new(outcome: Outcome, evidence: impl Into<String>) -> Self {
        Self { outcome, evidence: evidence.into(), data: serde_json::Value::Null }
    }
}
