//! How often rules for canaries are wrong, measured on simulated releases: `labs calibrate`.

use rules::Rule;
use std::fmt::Write as _;
use std::thread;
use traffic::{Outcome, Rates, Traffic, Verdict};

mod rules;
mod traffic;

/// Releases that are no worse, then releases that are.
const RELEASES: [Rates; 8] = [
    Rates { stable: 0.001, canary: 0.001 },
    Rates { stable: 0.008, canary: 0.008 },
    Rates { stable: 0.04, canary: 0.04 },
    Rates { stable: 0.0, canary: 0.04 },
    Rates { stable: 0.001, canary: 0.02 },
    Rates { stable: 0.008, canary: 0.016 },
    Rates { stable: 0.008, canary: 0.04 },
    Rates { stable: 0.04, canary: 0.08 },
];

/// Sums over simulated releases.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    streams: u64,
    promoted: u64,
    rolled_back: u64,
    requests: u64,
    failures: u64,
}

impl Totals {
    fn add(&mut self, outcome: Outcome) {
        self.streams += 1;
        self.promoted += u64::from(outcome.verdict == Verdict::Promoted);
        self.rolled_back += u64::from(outcome.verdict == Verdict::RolledBack);
        self.requests += outcome.requests;
        self.failures += outcome.failures;
    }

    fn plus(self, other: Self) -> Self {
        Self {
            streams: self.streams + other.streams,
            promoted: self.promoted + other.promoted,
            rolled_back: self.rolled_back + other.rolled_back,
            requests: self.requests + other.requests,
            failures: self.failures + other.failures,
        }
    }
}

/// Simulates `streams` releases for each pair of error rates and each rule, and formats a table in Markdown. The same
/// seed gives the same table.
pub(crate) fn table(streams: u64, seed: u64) -> String {
    let mut table = format!(
        "{streams} releases a row, seed {seed}.\n\n\
         | stable, canary fail | rule | promoted | rolled back | undecided | requests | failures of the canary |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for rates in RELEASES {
        for rule in rules::ALL {
            let totals = simulate(rule, rates, streams, seed);
            let share = |count: u64| 100.0 * count as f64 / totals.streams.max(1) as f64;
            let mean = |sum: u64| sum as f64 / totals.streams.max(1) as f64;
            let undecided = totals.streams - totals.promoted - totals.rolled_back;
            // Writing to a String cannot fail.
            _ = writeln!(
                table,
                "| {}%, {}% | {} | {:.2}% | {:.2}% | {:.2}% | {:.0} | {:.1} |",
                percent(rates.stable),
                percent(rates.canary),
                rule.name,
                share(totals.promoted),
                share(totals.rolled_back),
                share(undecided),
                mean(totals.requests),
                mean(totals.failures),
            );
        }
    }
    table
}

/// The share in percent, without the rounding errors of binary fractions.
fn percent(share: f64) -> f64 {
    (share * 1e5).round() / 1e3
}

/// Simulates on all cores.
fn simulate(rule: &Rule, rates: Rates, streams: u64, seed: u64) -> Totals {
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                scope.spawn(move || {
                    let mut totals = Totals::default();
                    for stream in (worker..streams).step_by(threads as usize) {
                        // Streams of neighboring seeds have nothing in common: StdRng hashes its seed.
                        let mut traffic = Traffic::new(seed.wrapping_add(stream), rates);
                        totals.add((rule.judge)(&mut traffic));
                    }
                    totals
                })
            })
            .collect();
        // A panic of a worker is one of this function.
        let join = |worker: thread::ScopedJoinHandle<'_, Totals>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).fold(Totals::default(), Totals::plus)
    })
}

#[cfg(test)]
mod tests;
