//! Compares a quantile of the latencies, without assuming a distribution.

use super::evidence::{Evidence, log_likelihood_ratio};
use super::observation::Decision;
use super::plan::Plan;

/// The distance of the alternatives from the quantile, in log-odds.
const DISTANCES: [f64; 12] = [0.03, 0.06, 0.1, 0.15, 0.22, 0.32, 0.45, 0.65, 0.9, 1.3, 2.0, 4.0];
/// The ratio of the edges of a bucket.
const BUCKET: f64 = 1.01;
/// Latencies below a microsecond are one.
const SHORTEST: f64 = 1e-6;

/// A comparison of one quantile of the latencies of canary and stable.
///
/// The number of latencies up to the true quantile `q` is that of heads of a coin with probability `q`, whatever the
/// distribution. Bounds on that number which hold at every time are bounds on the quantile (Howard and Ramdas,
/// “Sequential estimation of quantiles”, 2022); canary and stable differ where theirs do not meet. Latencies are counted in
/// buckets that are 1% wide.
#[derive(Clone, Debug)]
pub struct Latencies {
    plan: Plan,
    canary: Histogram,
    stable: Histogram,
}

impl Latencies {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { plan: *plan, canary: Histogram::default(), stable: Histogram::default() }
    }

    pub(super) fn record(&mut self, canary: &[f64], stable: &[f64]) {
        canary.iter().for_each(|seconds| self.canary.record(*seconds));
        stable.iter().for_each(|seconds| self.stable.record(*seconds));
    }

    pub(super) fn decision(&self) -> Decision {
        let Plan { alpha, beta, slower, .. } = self.plan;
        let canary = self.bounds(&self.canary, alpha / 2.0);
        let stable = self.bounds(&self.stable, alpha / 2.0);
        if let ((Some(canary), _), (_, Some(stable))) = (canary, stable)
            && canary > stable
        {
            return Decision::RollBack;
        }
        let canary = self.bounds(&self.canary, beta / 2.0);
        let stable = self.bounds(&self.stable, beta / 2.0);
        if let ((_, Some(canary)), (Some(stable), _)) = (canary, stable)
            && edge(canary + 1) <= edge(stable) * slower
        {
            return Decision::Promote;
        }
        Decision::Continue { more: None }
    }

    /// The buckets between which the true quantile lies; each bound is wrong, ever, with probability `level` at most.
    /// `None` where there are too few latencies for a bound.
    fn bounds(&self, histogram: &Histogram, level: f64) -> (Option<usize>, Option<usize>) {
        let (low, high) = ranks(histogram.total, self.plan.quantile, level);
        let low = (low > 0).then(|| histogram.bucket_of_rank(low)).flatten();
        (low, histogram.bucket_of_rank(high + 1))
    }
}

/// The smallest and the largest number of `total` latencies up to the true quantile that is not ruled out.
fn ranks(total: u64, quantile: f64, level: f64) -> (u64, u64) {
    let refuted = |below: u64, direction: f64| {
        let mut evidence = Evidence::new(DISTANCES.len());
        evidence.update(|index| {
            let alternative = shifted(quantile, direction * DISTANCES[index]);
            log_likelihood_ratio(below, total - below, alternative, quantile)
        });
        evidence.reaches(level)
    };
    // The evidence for a smaller probability falls with every latency below, that for a larger one grows.
    let low = partition_point(total + 1, |below| refuted(below, -1.0));
    let high = partition_point(total + 1, |below| !refuted(below, 1.0));
    (low, high.saturating_sub(1))
}

/// The number of leading numbers from 0 on, below `end`, for which `predicate` holds.
fn partition_point(end: u64, predicate: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low.midpoint(high);
        if predicate(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// The probability whose log-odds are greater by `distance`.
fn shifted(probability: f64, distance: f64) -> f64 {
    let odds = probability / (1.0 - probability) * distance.exp();
    odds / (1.0 + odds)
}

/// The lower edge of a bucket, in seconds.
fn edge(bucket: usize) -> f64 {
    SHORTEST * BUCKET.powf(bucket as f64)
}

/// Latencies in buckets.
#[derive(Clone, Debug, Default)]
struct Histogram {
    buckets: Vec<u64>,
    total: u64,
}

impl Histogram {
    fn record(&mut self, seconds: f64) {
        // A latency that is no number or infinite counts as the longest that is possible.
        let seconds = if seconds.is_nan() { f64::INFINITY } else { seconds };
        let bucket = (seconds.clamp(SHORTEST, 1e6) / SHORTEST).ln() / BUCKET.ln();
        let bucket = bucket as usize;
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.total += 1;
    }

    /// The bucket with the latency of this rank; the shortest has rank 1.
    fn bucket_of_rank(&self, rank: u64) -> Option<usize> {
        let mut seen = 0;
        self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })
    }
}
