//! Which indexes of an indexed job are done, in the short form that its status has: `1,3-5,7`.

use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;

/// Annotation and label of every pod of an indexed job.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The index that a pod works on.
pub(crate) fn of(pod: &Pod) -> Option<i32> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// Reads the short form, as far as it is one, and below `end`.
pub(crate) fn read(text: &str, end: i32) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..=last.min(end - 1));
        }
    }
    indexes
}

/// Writes the short form: three and more in a row become first and last.
pub(crate) fn write(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let shown = runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms() {
        for (indexes, short) in [
            (vec![], ""),
            (vec![0], "0"),
            (vec![1, 3, 4, 5, 7], "1,3-5,7"),
            (vec![0, 1], "0,1"),
            (vec![0, 1, 2, 3], "0-3"),
        ] {
            let indexes: BTreeSet<i32> = indexes.into_iter().collect();
            assert_eq!(write(&indexes), short);
            assert_eq!(read(short, 8), indexes);
        }
        assert_eq!(read("1-1000000000,x,2-", 4), BTreeSet::from([1, 2, 3]));
    }
}
