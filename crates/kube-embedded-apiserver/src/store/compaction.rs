//! Compaction by time: lists at a revision fail once it is five to ten minutes old, as with the
//! compactor of kube-apiserver. The history itself is limited by size.

use std::time::{Duration, Instant};

/// The default of `--etcd-compaction-interval`.
const INTERVAL: Duration = Duration::from_secs(5 * 60);

/// The revisions that no list can be read at any more.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    /// The time and the revision of the last check: what the next one compacts.
    checkpoint: Option<(Instant, u64)>,
    compacted: u64,
}

impl Compaction {
    /// Returns the oldest revision that can be read. To be called on every write, with the revision
    /// before it, so that no revision is taken for older than it is.
    pub(super) fn oldest(&mut self, now: Instant, revision: u64) -> u64 {
        let (at, seen) = *self.checkpoint.get_or_insert((now, revision));
        let age = now.saturating_duration_since(at);
        if age >= INTERVAL {
            // Nothing was written since then, if there was no check in two intervals.
            self.compacted = if age >= 2 * INTERVAL { revision } else { seen };
            self.checkpoint = Some((now, revision));
        }
        self.compacted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revision_can_be_read_for_five_to_ten_minutes() {
        let start = Instant::now();
        let mut compaction = Compaction::default();
        let mut at =
            |seconds, revision| compaction.oldest(start + Duration::from_secs(seconds), revision);
        let oldest = [at(0, 7), at(299, 9), at(300, 10), at(599, 12), at(600, 12), at(1200, 12)];
        assert_eq!(oldest, [0, 0, 7, 7, 10, 12]);
    }
}
