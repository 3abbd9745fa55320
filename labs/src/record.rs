//! The verdicts and samples of one lab, and the order in which verdicts are published.
//!
//! A failing verdict is pending at first: it may be fallout of a cluster that was lost in the middle
//! of the lab rather than evidence. The runner resolves it once it has probed the cluster. Until then
//! neither it nor any later verdict is published, so that reports see verdicts in order.

use crate::claim::{Claim, Outcome, Verdict};
use crate::sampler::Sample;
use anyhow::bail;

/// A verdict as recorded.
#[derive(Clone, Debug)]
enum Recorded {
    /// Stands as it is.
    Final(Verdict),
    /// A failure that awaits the runner's check of the cluster.
    Pending(Verdict),
}

impl Recorded {
    fn verdict(&self) -> &Verdict {
        match self {
            Self::Final(verdict) | Self::Pending(verdict) => verdict,
        }
    }
}

/// Everything that a lab has judged and measured so far.
#[derive(Debug, Default)]
pub struct LabRecord {
    judged: Vec<(&'static Claim, Recorded)>,
    samples: Vec<(String, Sample)>,
    /// The number of verdicts already published.
    published: usize,
}

impl LabRecord {
    /// Records the verdict on a claim; a failure is pending.
    ///
    /// # Errors
    /// If the claim has been judged before.
    pub(crate) fn judge(&mut self, claim: &'static Claim, verdict: Verdict) -> anyhow::Result<()> {
        if self.verdict(claim.id).is_some() {
            bail!("claim `{}` was judged twice", claim.id);
        }
        let recorded = match verdict.outcome {
            Outcome::Fails => Recorded::Pending(verdict),
            Outcome::Holds | Outcome::Skipped => Recorded::Final(verdict),
        };
        self.judged.push((claim, recorded));
        Ok(())
    }

    /// Returns the failed claim that makes this one fail, if one of those it needs does.
    pub(crate) fn follows(&self, claim: &Claim) -> Option<&'static str> {
        claim.needs.iter().find_map(|need| {
            let verdict = self.verdict(need)?;
            let failed = (verdict.outcome == Outcome::Fails).then_some(*need);
            failed.or(verdict.follows_from)
        })
    }

    /// Returns the first claim that fails.
    pub(crate) fn first_failure(&self) -> Option<(&'static Claim, &Verdict)> {
        self.verdicts().find(|(_, verdict)| verdict.outcome == Outcome::Fails)
    }

    /// Returns the verdict on a claim.
    pub(crate) fn verdict(&self, id: &str) -> Option<&Verdict> {
        self.verdicts().find_map(|(claim, verdict)| (claim.id == id).then_some(verdict))
    }

    /// Returns true while a failure awaits the check of the cluster.
    pub(crate) fn has_pending(&self) -> bool {
        self.judged.iter().any(|(_, recorded)| matches!(recorded, Recorded::Pending(_)))
    }

    /// Makes pending failures final: as they are, or replaced by a verdict that applies to a lost
    /// cluster.
    pub(crate) fn resolve(&mut self, replacement: Option<&Verdict>) {
        for (_, recorded) in &mut self.judged {
            if let Recorded::Pending(failure) = recorded {
                *recorded = Recorded::Final(replacement.unwrap_or(failure).clone());
            }
        }
    }

    /// Takes the verdicts that may be published now: all up to the first pending one.
    pub(crate) fn take_publishable(&mut self) -> Vec<(&'static Claim, Verdict)> {
        let ready = self.judged.iter().skip(self.published).map_while(|(claim, recorded)| {
            let Recorded::Final(verdict) = recorded else { return None };
            Some((*claim, verdict.clone()))
        });
        let ready: Vec<_> = ready.collect();
        self.published += ready.len();
        ready
    }

    /// Records a sample under the name of what was sampled.
    pub(crate) fn keep_sample(&mut self, what: &str, sample: Sample) {
        self.samples.push((what.to_owned(), sample));
    }

    /// The verdicts in the order they were given, pending ones included.
    pub fn verdicts(&self) -> impl Iterator<Item = (&'static Claim, &Verdict)> {
        self.judged.iter().map(|(claim, recorded)| (*claim, recorded.verdict()))
    }

    /// The samples in the order they were taken, each with the name of what was sampled.
    pub fn samples(&self) -> &[(String, Sample)] {
        &self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Claim = Claim::new("first", "");
    const SECOND: Claim = Claim::new("second", "").needs(&["first"]);
    const THIRD: Claim = Claim::new("third", "").needs(&["second"]);

    fn published(record: &mut LabRecord) -> Vec<(&'static str, Outcome)> {
        let ready = record.take_publishable().into_iter();
        ready.map(|(claim, verdict)| (claim.id, verdict.outcome)).collect()
    }

    #[test]
    fn verdict_after_a_pending_failure_is_published_after_it() {
        let mut record = LabRecord::default();
        record.judge(&FIRST, Verdict::fails("")).unwrap();
        record.judge(&SECOND, Verdict::holds("")).unwrap();
        assert!(record.has_pending());
        assert_eq!(published(&mut record), []);
        record.resolve(None);
        assert!(!record.has_pending());
        assert_eq!(published(&mut record), [("first", Outcome::Fails), ("second", Outcome::Holds)]);
        assert_eq!(published(&mut record), []);
    }

    #[test]
    fn resolve_with_replacement_changes_only_pending_failures() {
        let mut record = LabRecord::default();
        record.judge(&FIRST, Verdict::fails("")).unwrap();
        record.resolve(None);
        record.judge(&SECOND, Verdict::fails("")).unwrap();
        record.resolve(Some(&Verdict::skipped("lost")));
        let outcomes: Vec<_> = record.verdicts().map(|(_, verdict)| verdict.outcome).collect();
        assert_eq!(outcomes, [Outcome::Fails, Outcome::Skipped]);
    }

    #[test]
    fn claim_follows_from_the_first_failure_of_its_needs() {
        let mut record = LabRecord::default();
        record.judge(&FIRST, Verdict::fails("")).unwrap();
        assert_eq!(record.follows(&FIRST), None);
        assert_eq!(record.follows(&SECOND), Some("first"));
        assert_eq!(record.follows(&THIRD), None, "its need was not judged");
        record.judge(&SECOND, Verdict::follows("first")).unwrap();
        assert_eq!(record.follows(&THIRD), Some("first"), "the root, not the step between");
        let mut record = LabRecord::default();
        record.judge(&FIRST, Verdict::skipped("not here")).unwrap();
        assert_eq!(record.follows(&SECOND), None, "a skipped claim is no failure");
    }

    #[test]
    fn second_verdict_on_a_claim_is_rejected() {
        let mut record = LabRecord::default();
        record.judge(&FIRST, Verdict::holds("")).unwrap();
        let error = record.judge(&FIRST, Verdict::holds("")).unwrap_err();
        assert_eq!(error.to_string(), "claim `first` was judged twice");
    }
}
