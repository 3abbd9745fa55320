//! Turns the cumulative counts of samples, as events report them, into what was added since.

use crate::event::SampleProgress;
use std::collections::BTreeMap;

/// Counts of good responses by version, and of failures.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) failures: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        for (version, count) in &other.counts {
            *self.counts.entry(version.clone()).or_default() += count;
        }
        self.failures += other.failures;
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum::<u64>() + self.failures
    }
}

/// The last counts of each sample in progress. Samples may overlap.
#[derive(Debug, Default)]
pub(crate) struct Increments(BTreeMap<String, Tally>);

impl Increments {
    /// Returns what was added since the last report of this sample. Counts that have become smaller are of
    /// another sample with the same name.
    pub(crate) fn of(
        &mut self,
        what: &str,
        counts: &BTreeMap<String, u64>,
        failures: u64,
    ) -> Tally {
        let now = Tally { counts: counts.clone(), failures };
        let mut before = self.0.insert(what.to_owned(), now.clone()).unwrap_or_default();
        let smaller = before.counts.iter().any(|(v, n)| counts.get(v).is_none_or(|now| now < n));
        if smaller || failures < before.failures {
            before = Tally::default();
        }
        let added = |(version, count): (&String, &u64)| {
            let count = count - before.counts.get(version).unwrap_or(&0);
            (count > 0).then(|| (version.clone(), count))
        };
        let counts = now.counts.iter().filter_map(added).collect();
        Tally { counts, failures: failures - before.failures }
    }

    /// As [`Increments::of`], for an event of progress.
    pub(crate) fn progress(&mut self, sample: &SampleProgress) -> Tally {
        self.of(&sample.what, &sample.counts, sample.failures)
    }

    /// Returns what was added at the end of a sample; the next one of that name begins at zero.
    pub(crate) fn end(
        &mut self,
        what: &str,
        counts: &BTreeMap<String, u64>,
        failures: u64,
    ) -> Tally {
        let added = self.of(what, counts, failures);
        self.0.remove(what);
        added
    }
}

/// Drops every second point of a series that has more than `most`, but never the last one.
pub(crate) fn thin<T>(points: &mut Vec<T>, most: usize) {
    if points.len() > most {
        let mut keep = points.len().is_multiple_of(2);
        points.retain(|_| {
            keep = !keep;
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(stable: u64, canary: u64) -> BTreeMap<String, u64> {
        let all = [("1.0".to_owned(), stable), ("2.0".to_owned(), canary)];
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn increments_add_up_over_overlapping_and_repeated_samples() {
        let mut increments = Increments::default();
        let mut sum = Tally::default();
        for (what, found, failures) in [
            ("a", counts(0, 0), 0),
            ("a", counts(30, 0), 0),
            ("load", counts(5, 5), 1),
            ("a", counts(60, 20), 0),
            // The same name again, from the start.
            ("a", counts(3, 1), 0),
            ("load", counts(8, 5), 2),
        ] {
            sum.add(&increments.of(what, &found, failures));
        }
        sum.add(&increments.end("a", &counts(10, 4), 0));
        sum.add(&increments.of("a", &counts(10, 4), 0));
        let expected = Tally { counts: counts(60 + 8 + 10 + 10, 20 + 5 + 4 + 4), failures: 2 };
        assert_eq!(sum, expected);
        assert_eq!(sum.total(), 88 + 33 + 2);
    }
}
