//! The completed indexes of an indexed job, in the short form of its status: `1,3-5,7`.

use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

/// The annotation and label of every pod of an indexed job.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Returns the index of a pod.
pub(crate) fn of(pod: &Pod) -> Option<i32> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// The failures of an index that the pods before this one had, in annotations of every pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    pub(crate) counted: i32,
    /// Those that the pod failure policy ignores.
    pub(crate) ignored: i32,
}

const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

impl Failures {
    /// Returns the failures before this pod. Values that no controller writes count as none.
    pub(crate) fn before(pod: &Pod) -> Self {
        let annotations = pod.metadata.annotations.as_ref();
        let number = |name: &str| {
            let number = annotations.and_then(|all| all.get(name)?.parse().ok());
            number.filter(|number| *number >= 0).unwrap_or(0)
        };
        Self { counted: number(FAILURES), ignored: number(IGNORED_FAILURES) }
    }

    pub(crate) fn total(self) -> i32 {
        self.counted.saturating_add(self.ignored)
    }

    /// Writes the annotations of the next pod.
    pub(crate) fn annotate(self, annotations: &mut BTreeMap<String, String>) {
        annotations.insert(FAILURES.into(), self.counted.to_string());
        if self.ignored > 0 {
            annotations.insert(IGNORED_FAILURES.into(), self.ignored.to_string());
        }
    }
}

/// Indexes as runs (first and last) that neither overlap nor touch: a status may list billions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Indexes(BTreeMap<i32, i32>);

impl Indexes {
    /// Parses the short form. Malformed parts and indexes from `end` on are ignored.
    pub(crate) fn parse(text: &str, end: i32) -> Self {
        let mut indexes = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                indexes.insert_run(first.max(0), last.min(end.saturating_sub(1)));
            }
        }
        indexes
    }

    pub(crate) fn insert(&mut self, index: i32) {
        self.insert_run(index, index);
    }

    /// Inserts a run and merges it with the runs that it overlaps or touches.
    fn insert_run(&mut self, mut first: i32, mut last: i32) {
        if first > last {
            return;
        }
        while let Some((&from, &to)) = self.0.range(..=last.saturating_add(1)).next_back()
            && to >= first.saturating_sub(1)
        {
            self.0.remove(&from);
            (first, last) = (first.min(from), last.max(to));
        }
        self.0.insert(first, last);
    }

    /// Inserts all of another set.
    pub(crate) fn extend(&mut self, others: &Self) {
        others.0.iter().for_each(|(first, last)| self.insert_run(*first, *last));
    }

    pub(crate) fn contains(&self, index: i32) -> bool {
        self.0.range(..=index).next_back().is_some_and(|(_, last)| *last >= index)
    }

    /// Returns the number of indexes that both sets have.
    pub(crate) fn common(&self, others: &Self) -> usize {
        let overlaps = self.0.iter().flat_map(|(first, last)| {
            let others = others.0.iter().skip_while(move |(_, to)| *to < first);
            let others = others.take_while(move |(from, _)| *from <= last);
            others.map(move |(from, to)| i64::from(*last.min(to)) - i64::from(*first.max(from)) + 1)
        });
        usize::try_from(overlaps.sum::<i64>()).unwrap_or(usize::MAX)
    }

    pub(crate) fn len(&self) -> usize {
        let runs = self.0.iter().map(|(first, last)| i64::from(*last) - i64::from(*first) + 1);
        usize::try_from(runs.sum::<i64>()).unwrap_or(usize::MAX)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the indexes below `end` that are not included, in ascending order.
    pub(crate) fn open(&self, end: i32) -> impl Iterator<Item = i32> {
        let starts = std::iter::once(0).chain(self.0.values().map(|last| last.saturating_add(1)));
        let ends = self.0.keys().copied().chain(std::iter::once(end));
        starts.zip(ends).flat_map(move |(start, until)| start..until.min(end))
    }
}

/// Formats the short form: three and more in a row become first and last.
impl Display for Indexes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_form_round_trips() {
        for (indexes, short, open) in [
            (vec![], "", vec![0, 1, 2, 3, 4, 5, 6, 7]),
            (vec![0], "0", vec![1, 2, 3, 4, 5, 6, 7]),
            (vec![7, 3, 1, 5, 4], "1,3-5,7", vec![0, 2, 6]),
            (vec![1, 0, 1], "0,1", vec![2, 3, 4, 5, 6, 7]),
            (vec![0, 2, 3, 1], "0-3", vec![4, 5, 6, 7]),
        ] {
            let mut made = Indexes::default();
            indexes.into_iter().for_each(|index| made.insert(index));
            assert_eq!(made.to_string(), short);
            assert_eq!(Indexes::parse(short, 8), made);
            assert_eq!(made.len() + open.len(), 8);
            assert_eq!(made.open(8).collect::<Vec<_>>(), open);
        }
        assert_eq!(Indexes::parse("1-1000000000,x,2-", 4).to_string(), "1-3");
        assert_eq!(Indexes::parse("4-6,0-1,1-5,9-8,-3", 20).to_string(), "0-6");
    }

    #[test]
    fn common_indexes_are_counted() {
        for (one, other, expected) in [
            ("", "", 0),
            ("0-3", "", 0),
            ("0-3", "0-3", 4),
            ("0-3,7", "2-8", 3),
            ("0,2,4,6-9", "1,3,5-7,9", 3),
            ("0-9", "1-2,4,8-9", 5),
        ] {
            let (one, other) = (Indexes::parse(one, 10), Indexes::parse(other, 10));
            assert_eq!((one.common(&other), other.common(&one)), (expected, expected));
        }
        let some = Indexes::parse("1-3,5", 10);
        let contained: Vec<i32> = (0..7).filter(|index| some.contains(*index)).collect();
        assert_eq!(contained, [1, 2, 3, 5]);
    }

    #[test]
    fn failures_of_an_index_are_annotated() {
        for (annotations, expected) in [
            (&[][..], (0, 0)),
            (&[(FAILURES, "3")], (3, 0)),
            (&[(FAILURES, "3"), (IGNORED_FAILURES, "2")], (3, 2)),
            (&[(FAILURES, "-1"), (IGNORED_FAILURES, "9999999999")], (0, 0)),
            (&[(FAILURES, "many")], (0, 0)),
        ] {
            let mut pod = Pod::default();
            let pairs = annotations.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            pod.metadata.annotations = Some(pairs.collect());
            let failures = Failures::before(&pod);
            assert_eq!((failures.counted, failures.ignored), expected);
            let mut again = Pod::default();
            failures.annotate(again.metadata.annotations.get_or_insert_default());
            assert_eq!(Failures::before(&again), failures);
        }
    }

    #[test]
    fn billions_of_indexes_take_one_run() {
        let all = Indexes::parse("0-2147483646", i32::MAX);
        assert_eq!((all.len(), all.0.len()), (2_147_483_647, 1));
        assert_eq!(all.open(i32::MAX).next(), None);
    }
}
