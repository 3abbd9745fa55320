//! Claims and verdicts. Every verdict carries one line of evidence, which reports show whether the claim
//! holds or not.

use serde::Serialize;
use std::collections::BTreeMap;

/// A statement of the article that a lab tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// Stable name, unique over all labs: `quarter-to-canary`.
    pub id: &'static str,
    /// The claim in one sentence.
    pub sentence: &'static str,
    /// The ids of the claims without which this one cannot hold: a failure that follows from one of
    /// theirs is not reported as another.
    pub needs: &'static [&'static str],
}

impl Claim {
    /// A claim that needs no other.
    pub(crate) const fn new(id: &'static str, sentence: &'static str) -> Self {
        Self { id, sentence, needs: &[] }
    }

    /// The same claim, which cannot hold unless those of these ids do.
    #[must_use]
    pub(crate) const fn needs(self, needs: &'static [&'static str]) -> Self {
        Self { needs, ..self }
    }
}

/// The outcome of a claim. A failure of the infrastructure is none of these but an error of the lab.
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
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The outcome.
    pub outcome: Outcome,
    /// One line: the measurement, or the reason why there is none.
    pub evidence: String,
    /// The failed claim that this one was skipped for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follows_from: Option<&'static str>,
    /// The evidence as structured data; `null` if there is only the line.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub data: serde_json::Value,
}

impl Verdict {
    /// The claim holds if `holds`, else it fails; the evidence is the same line either way.
    pub fn of(holds: bool, evidence: impl Into<String>) -> Self {
        let outcome = if holds { Outcome::Holds } else { Outcome::Fails };
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

    /// The claim cannot be checked, for this reason.
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::new(Outcome::Skipped, reason)
    }

    /// The claim is not checked, because it cannot hold after the failure of another.
    pub(crate) fn follows(from: &'static str) -> Self {
        Self { follows_from: Some(from), ..Self::skipped(format!("follows from {from}")) }
    }

    /// Combines named parts: holds if there are any and all hold; the evidence lists all, in order.
    pub fn all<N: Into<String>>(parts: impl IntoIterator<Item = (N, Self)>) -> Self {
        let parts = parts.into_iter().map(|(name, part)| (name.into(), part));
        let parts: Vec<(String, Self)> = parts.collect();
        let holds = parts.iter().all(|(_, part)| part.outcome == Outcome::Holds);
        let evidence: Vec<String> =
            parts.iter().map(|(name, part)| format!("{name}: {}", part.evidence)).collect();
        let data: BTreeMap<String, _> =
            parts.into_iter().map(|(name, part)| (name, part.data)).collect();
        Self::of(holds && !data.is_empty(), evidence.join("; ")).with(data)
    }

    /// Adds structured data; left out if it cannot be represented in JSON.
    #[must_use]
    pub fn with(mut self, data: impl Serialize) -> Self {
        self.data = serde_json::to_value(data).unwrap_or_default();
        self
    }

    fn new(outcome: Outcome, evidence: impl Into<String>) -> Self {
        let (evidence, follows_from) = (evidence.into(), None);
        Self { outcome, evidence, follows_from, data: serde_json::Value::Null }
    }
}
