//! The statistics behind verdicts: sample size planning and exact tests. Pure (no I/O, clock or
//! randomness), so that it is tested with any split, right or wrong.
//!
//! kube-proxy picks a pod at random for each connection, so the canary's responses among `n` requests
//! are a binomial sample if every request opens a new connection.

use crate::claim::Verdict;
use crate::event::Band;
use lab_environment::Alternative;
use serde::Serialize;
use statrs::distribution::{Binomial, ChiSquared, ContinuousCDF, DiscreteCDF};
use std::fmt;

/// The error probabilities that a test is planned for. Serialized under the names that reports have
/// always used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct TestLevel {
    /// The largest accepted probability of rejecting a correct split (type I error).
    #[serde(rename = "falseAlarm")]
    pub alpha: f64,
    /// The smallest accepted probability of rejecting the alternative.
    pub power: f64,
}

impl TestLevel {
    /// The level of every lab: a correct split is rejected once in a million runs, the alternative in
    /// 999 of 1000.
    pub(crate) const DEFAULT: Self = Self { alpha: 1e-6, power: 0.999 };
}

/// An exact two-sided binomial test, fixed before the first request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Plan {
    /// The share claimed (the null hypothesis), 0 to 1.
    pub share: f64,
    /// The share of the alternative hypothesis.
    #[serde(rename = "wrong")]
    pub alternative: f64,
    /// The sample size.
    pub n: u64,
    /// The smallest accepted number of hits.
    pub low: u64,
    /// The largest accepted number of hits.
    pub high: u64,
    /// The level requested.
    #[serde(rename = "certainty")]
    pub level: TestLevel,
}

/// The largest sample that is planned; a lab would take too long with more.
const MAX_SAMPLE: u64 = 1 << 20;

impl Plan {
    /// Returns the smallest test of `share` against `alternative` that has this level. `None` unless
    /// both lie strictly between 0 and 1 and a sample of at most a million requests is enough.
    pub(crate) fn new(share: f64, alternative: f64, level: TestLevel) -> Option<Self> {
        let of_size = |n| Self::of_size(share, alternative, n, level);
        let enough = |plan: &Self| plan.power() >= level.power;
        let first = of_size(1)?;
        let (mut below, mut size) = (0, 1);
        while !enough(&of_size(size)?) {
            (below, size) = (size, size * 2);
            if size > MAX_SAMPLE {
                return None;
            }
        }
        while size - below > 1 {
            let middle = below.midpoint(size);
            if enough(&of_size(middle)?) {
                size = middle;
            } else {
                below = middle;
            }
        }
        // Power is a sawtooth in n, because hits are whole numbers: the bisection may have missed a
        // slightly smaller size, so the last eighth is searched one by one.
        let start = size - size / 8 - (size - 1).min(64).min(size / 2);
        let mut plan = if start <= 1 { first } else { of_size(start)? };
        while !enough(&plan) {
            plan = plan.with_one_more()?;
        }
        Some(plan)
    }

    /// Returns the test with a sample of exactly `n`, whatever its power. `None` unless both shares lie
    /// strictly between 0 and 1.
    pub(crate) fn of_size(share: f64, alternative: f64, n: u64, level: TestLevel) -> Option<Self> {
        let open = |p: f64| p > 0.0 && p < 1.0;
        let null = Binomial::new(share, n).ok().filter(|_| open(share) && open(alternative))?;
        let tail = level.alpha / 2.0;
        let low = first_true(n, |k| null.cdf(k) > tail);
        let high = first_true(n, |k| null.sf(k) <= tail);
        Some(Self { share, alternative, n, low, high, level })
    }

    /// Returns the test with one more request. Each bound moves by at most one, which is much cheaper
    /// than [`Plan::of_size`].
    fn with_one_more(&self) -> Option<Self> {
        let n = self.n + 1;
        let null = Binomial::new(self.share, n).ok()?;
        let tail = self.level.alpha / 2.0;
        let low = self.low + u64::from(null.cdf(self.low) <= tail);
        let high = self.high + u64::from(null.sf(self.high) > tail);
        Some(Self { n, low, high, ..*self })
    }

    /// Returns true if `hits` of [`Plan::n`] requests are in the accepted band.
    pub(crate) fn accepts(&self, hits: u64) -> bool {
        (self.low..=self.high).contains(&hits)
    }

    /// The probability of rejecting the alternative.
    pub(crate) fn power(&self) -> f64 {
        self.rejection_probability(self.alternative).unwrap_or(0.0)
    }

    /// Judges `hits` among `total` requests, or whatever is counted. A sample of another size than planned
    /// fails: the test says nothing about it. `alternative` names the alternative hypothesis.
    pub(crate) fn judge(&self, what: &str, alternative: &str, hits: u64, total: u64) -> Verdict {
        let Self { n, low, high, level, share, .. } = *self;
        if total != n {
            return Verdict::fails(format!(
                "{total} requests instead of the {n} that were planned"
            ));
        }
        let measured = 100.0 * hits as f64 / n as f64;
        // Truncated, so that the power is never overstated.
        let power = (self.power() * 1000.0).floor() / 10.0;
        let evidence = format!(
            "{what} {hits} of {n} = {measured:.2}%; {}% accepts {low}..{high} \
             (false alarm {:e}, {alternative} is caught with {power:.1}%)",
            short(100.0 * share),
            level.alpha,
        );
        Verdict::of(self.accepts(hits), evidence)
            .with(serde_json::json!({ "hits": hits, "total": total, "plan": self }))
    }

    fn rejection_probability(&self, share: f64) -> Option<f64> {
        let hits = Binomial::new(share, self.n).ok()?;
        let below = self.low.checked_sub(1).map_or(0.0, |k| hits.cdf(k));
        Some(below + hits.sf(self.high))
    }
}

/// Returns the first of `0..=n` for which `predicate` holds, by bisection: it must not turn false
/// again. `n` if it holds for none.
fn first_true(n: u64, predicate: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, n);
    while low < high {
        let middle = low.midpoint(high);
        if predicate(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Replicas of the stable version to replicas of the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ratio {
    /// Stable replicas.
    pub stable: u32,
    /// Canary replicas.
    pub canary: u32,
}

impl Ratio {
    /// Returns the ratio `stable:canary`.
    pub(crate) const fn new(stable: u32, canary: u32) -> Self {
        Self { stable, canary }
    }

    /// The canary's share, 0 to 1.
    pub(crate) fn canary_share(self) -> f64 {
        f64::from(self.canary) / (f64::from(self.stable) + f64::from(self.canary))
    }

    /// Returns the ratio of the alternative hypothesis: of the ratios with one replica more or fewer of
    /// either version, the one with the nearest share; or an even split, and 3:1 if this one is even.
    pub(crate) fn alternative(self, alternative: Alternative) -> Self {
        let Self { stable, canary } = self;
        let even = if stable == canary { Self::new(3, 1) } else { Self::new(1, 1) };
        if alternative == Alternative::Even {
            return even;
        }
        let distance = |other: Self| (other.canary_share() - self.canary_share()).abs();
        let neighbors = [
            Self::new(stable + 1, canary),
            Self::new(stable.saturating_sub(1), canary),
            Self::new(stable, canary + 1),
            Self::new(stable, canary.saturating_sub(1)),
        ];
        let mixed = neighbors.into_iter().filter(|ratio| ratio.stable > 0 && ratio.canary > 0);
        mixed.min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap_or(even)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.stable, self.canary)
    }
}

/// A planned test of the canary's share at a ratio of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Split {
    /// The ratio claimed.
    pub ratio: Ratio,
    /// The ratio of the alternative hypothesis.
    #[serde(rename = "wrong")]
    pub alternative: Ratio,
    /// The test, with hits of the canary.
    pub plan: Plan,
}

impl Split {
    /// Plans the sample that tells `ratio` from `alternative`.
    pub(crate) fn against(ratio: Ratio, alternative: Ratio) -> Option<Self> {
        let (share, other) = (ratio.canary_share(), alternative.canary_share());
        let plan = Plan::new(share, other, TestLevel::DEFAULT)?;
        Some(Self { ratio, alternative, plan })
    }

    /// The accepted band, for the bar that reports draw while sampling.
    pub(crate) fn band(&self, version: &str) -> Band {
        let Plan { share, low, high, .. } = self.plan;
        Band { version: version.to_owned(), share, low, high }
    }

    /// Judges `hits` of the canary among `total` requests. A sample of another size than planned fails:
    /// the test says nothing about it.
    pub(crate) fn judge(&self, version: &str, hits: u64, total: u64) -> Verdict {
        let alternative = format!("a {} split", self.alternative);
        let verdict = self.plan.judge(&format!("{version} took"), &alternative, hits, total);
        match total == self.plan.n {
            true => {
                verdict.with(serde_json::json!({ "hits": hits, "total": total, "split": self }))
            }
            false => verdict,
        }
    }
}

/// Formats with at most two decimals, without trailing zeros.
fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Returns the exact upper bound, with 95% confidence, of a probability of which `n` requests showed no
/// instance: the “rule of three”, about `3 / n`. 1 if there were no requests.
pub(crate) fn rule_of_three_upper(n: u64) -> f64 {
    if n == 0 { 1.0 } else { 1.0 - 0.05_f64.powf(1.0 / n as f64) }
}

/// Returns the p-value of Pearson's chi-squared test that these counts come from a uniform
/// distribution. `None` with fewer than two counts or fewer than five expected for each, where the
/// approximation is not valid.
pub(crate) fn uniformity_p_value(counts: &[u64]) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    let expected = total as f64 / counts.len() as f64;
    if counts.len() < 2 || expected < 5.0 {
        return None;
    }
    let square = |count: &u64| (*count as f64 - expected).powi(2) / expected;
    let statistic: f64 = counts.iter().map(square).sum();
    Some(ChiSquared::new((counts.len() - 1) as f64).ok()?.sf(statistic))
}

/// Runs of equal values in a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// The length of the sequence.
    pub total: u64,
    /// The number of values that differ from their predecessor.
    pub switches: u64,
    /// The length of the longest run.
    pub longest: u64,
}

impl Runs {
    /// Counts the runs of a sequence.
    pub(crate) fn of<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Self {
        let mut runs = Self::default();
        let (mut last, mut length) = (None, 0);
        for value in values {
            runs.total += 1;
            if last.as_ref().is_some_and(|last| *last != value) {
                runs.switches += 1;
                length = 0;
            }
            length += 1;
            runs.longest = runs.longest.max(length);
            last = Some(value);
        }
        runs
    }
}

#[cfg(test)]
mod pictures;
#[cfg(test)]
mod tests;
