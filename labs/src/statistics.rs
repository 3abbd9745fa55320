//! From a share claimed to a number of requests, and from counts to a verdict. Pure: no I/O, no clock
//! and no randomness, so that it can be tested with any split, right or wrong.

use crate::claim::Verdict;
use crate::event::Band;
use lab_environment::NearestWrong;
use serde::Serialize;
use statrs::distribution::{Binomial, ChiSquared, ContinuousCDF, DiscreteCDF};
use std::fmt;

/// How sure a verdict is to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certainty {
    /// The probability that a correct split is called wrong.
    pub false_alarm: f64,
    /// The probability that the nearest wrong split is caught.
    pub power: f64,
}

impl Certainty {
    /// What the labs use: one false alarm in a million, the wrong split caught 999 times of 1000.
    pub const USUAL: Self = Self { false_alarm: 1e-6, power: 0.999 };
}

/// How a share is judged, decided before the first request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The share claimed, 0 to 1.
    pub share: f64,
    /// The nearest wrong share, which must be caught.
    pub wrong: f64,
    /// Requests to send.
    pub n: u64,
    /// Fewest hits that are accepted.
    pub low: u64,
    /// Most hits that are accepted.
    pub high: u64,
    /// The certainty that was asked for.
    pub certainty: Certainty,
}

/// The largest sample that is planned; more would be no lab.
const MOST: u64 = 1 << 20;

impl Plan {
    /// The smallest sample whose exact two-sided binomial test tells `share` from `wrong` with that
    /// certainty. `None` unless both lie between 0 and 1, and a sample of at most a million can tell
    /// them apart.
    pub fn new(share: f64, wrong: f64, certainty: Certainty) -> Option<Self> {
        let enough = |plan: &Self| plan.catches() >= certainty.power;
        let first = Self::of_size(share, wrong, 1, certainty)?;
        let (mut below, mut size) = (0, 1);
        while !enough(&Self::of_size(share, wrong, size, certainty)?) {
            (below, size) = (size, size * 2);
            if size > MOST {
                return None;
            }
        }
        while size - below > 1 {
            let middle = below.midpoint(size);
            if enough(&Self::of_size(share, wrong, middle, certainty)?) {
                size = middle;
            } else {
                below = middle;
            }
        }
        // Power does not rise steadily with n but in the shape of a saw, since hits are whole numbers:
        // some sizes a little smaller may do as well.
        let start = size - size / 8 - (size - 1).min(64).min(size / 2);
        let mut plan =
            if start <= 1 { first } else { Self::of_size(share, wrong, start, certainty)? };
        while !enough(&plan) {
            plan = plan.one_more()?;
        }
        Some(plan)
    }

    /// The test with a sample of exactly `n`, whatever its power. `None` unless both shares lie
    /// between 0 and 1.
    pub fn of_size(share: f64, wrong: f64, n: u64, certainty: Certainty) -> Option<Self> {
        let open = |p: f64| p > 0.0 && p < 1.0;
        let right = Binomial::new(share, n).ok().filter(|_| open(share) && open(wrong))?;
        let tail = certainty.false_alarm / 2.0;
        let low = first(n, |k| right.cdf(k) > tail);
        let high = first(n, |k| right.sf(k) <= tail);
        Some(Self { share, wrong, n, low, high, certainty })
    }

    /// The test with one request more, from which both bounds move by at most one.
    fn one_more(&self) -> Option<Self> {
        let n = self.n + 1;
        let right = Binomial::new(self.share, n).ok()?;
        let tail = self.certainty.false_alarm / 2.0;
        let low = self.low + u64::from(right.cdf(self.low) <= tail);
        let high = self.high + u64::from(right.sf(self.high) > tail);
        Some(Self { n, low, high, ..*self })
    }

    /// Whether `hits` of [`Plan::n`] requests agree with the share claimed.
    pub fn accepts(&self, hits: u64) -> bool {
        (self.low..=self.high).contains(&hits)
    }

    /// The probability that the nearest wrong split is caught.
    pub fn catches(&self) -> f64 {
        let Ok(wrong) = Binomial::new(self.wrong, self.n) else { return 0.0 };
        let below = self.low.checked_sub(1).map_or(0.0, |k| wrong.cdf(k));
        below + wrong.sf(self.high)
    }

    /// The probability that a correct split is called wrong: at most what was asked for.
    pub fn false_alarm(&self) -> f64 {
        let Ok(right) = Binomial::new(self.share, self.n) else { return 1.0 };
        let below = self.low.checked_sub(1).map_or(0.0, |k| right.cdf(k));
        below + right.sf(self.high)
    }
}

/// The first of `0..=n` of which that is true, if it stays true from there on; else `n`.
fn first(n: u64, is: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, n);
    while low < high {
        let middle = low.midpoint(high);
        if is(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Replicas of the stable version to replicas of the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ratio {
    /// Stable replicas.
    pub stable: u32,
    /// Canary replicas.
    pub canary: u32,
}

impl Ratio {
    /// `stable` to `canary`.
    pub const fn new(stable: u32, canary: u32) -> Self {
        Self { stable, canary }
    }

    /// The canary's share, 0 to 1.
    pub fn canary_share(self) -> f64 {
        f64::from(self.canary) / (f64::from(self.stable) + f64::from(self.canary))
    }

    /// The wrong ratio to be told from this one: one replica too many or too few of either version,
    /// whichever comes closest; or an even split, and 3:1 where this one is even.
    pub fn nearest_wrong(self, nearest: NearestWrong) -> Self {
        let Self { stable, canary } = self;
        let even = if stable == canary { Self::new(3, 1) } else { Self::new(1, 1) };
        if nearest == NearestWrong::Even {
            return even;
        }
        let off = |other: Self| (other.canary_share() - self.canary_share()).abs();
        let neighbours = [
            Self::new(stable + 1, canary),
            Self::new(stable.saturating_sub(1), canary),
            Self::new(stable, canary + 1),
            Self::new(stable, canary.saturating_sub(1)),
        ];
        let with_both = neighbours.into_iter().filter(|near| near.stable > 0 && near.canary > 0);
        with_both.min_by(|a, b| off(*a).total_cmp(&off(*b))).unwrap_or(even)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.stable, self.canary)
    }
}

/// A plan for the canary's share at a ratio of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    /// The ratio claimed.
    pub ratio: Ratio,
    /// The nearest wrong ratio, which must be caught.
    pub wrong: Ratio,
    /// The sample and what it accepts, in hits of the canary.
    pub plan: Plan,
}

impl Split {
    /// A sample that tells `ratio` from the wrong ratio that the environment asks for.
    pub fn plan(ratio: Ratio, nearest: NearestWrong) -> Option<Self> {
        Self::against(ratio, ratio.nearest_wrong(nearest))
    }

    /// A sample that tells `ratio` from `wrong`.
    pub fn against(ratio: Ratio, wrong: Ratio) -> Option<Self> {
        let (share, other) = (ratio.canary_share(), wrong.canary_share());
        let plan = Plan::new(share, other, Certainty::USUAL)?;
        Some(Self { ratio, wrong, plan })
    }

    /// For the bar that is drawn while sampling.
    pub fn band(&self, version: &str) -> Band {
        let Plan { share, low, high, .. } = self.plan;
        Band { version: version.to_owned(), share, low, high }
    }

    /// The verdict on `hits` of the canary among `total` requests, all that were sent. A sample of
    /// another size than planned is no evidence for anything, so it fails.
    pub fn judge(&self, version: &str, hits: u64, total: u64) -> Verdict {
        let Plan { n, low, high, certainty, share, .. } = self.plan;
        if total != n {
            return Verdict::fails(format!(
                "{total} requests instead of the {n} that were planned"
            ));
        }
        let measured = 100.0 * hits as f64 / n as f64;
        // Cut, not rounded: never claim more than there is.
        let caught = (self.plan.catches() * 1000.0).floor() / 10.0;
        let evidence = format!(
            "{version} took {hits} of {n} = {measured:.2}%; {}% accepts {low}..{high} \
             (false alarm {:e}, a {} split is caught with {caught:.1}%)",
            short(100.0 * share),
            certainty.false_alarm,
            self.wrong,
        );
        Verdict::of(self.plan.accepts(hits), evidence)
            .with(serde_json::json!({ "hits": hits, "total": total, "split": self }))
    }
}

/// Two decimals at most, and none that say nothing.
fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The exact upper bound, with 95% confidence, on a share of which `n` requests have shown nothing:
/// about `3 / n`. 1 if there were no requests.
pub fn upper_bound_of_none(n: u64) -> f64 {
    if n == 0 { 1.0 } else { 1.0 - 0.05_f64.powf(1.0 / n as f64) }
}

/// The verdict on “always” or “never”: it holds if there was at least one request and none was
/// against it. `what` names those that would be: `answers that were not 1.0`.
pub fn none_of(what: &str, against: u64, total: u64) -> Verdict {
    let evidence = if against == 0 {
        let bound = 100.0 * upper_bound_of_none(total);
        format!("{what}: 0 of {total}, so less than {bound:.2}% with 95% confidence")
    } else {
        format!("{what}: {against} of {total}")
    };
    Verdict::of(against == 0 && total > 0, evidence)
        .with(serde_json::json!({ "against": against, "total": total }))
}

/// The probability that requests spread evenly at random come out at least as unevenly as these
/// counts: Pearson's chi-squared test. `None` with fewer than two counts, or fewer than five requests
/// expected for each, where the test means nothing.
pub fn evenness(counts: &[u64]) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    let expected = total as f64 / counts.len() as f64;
    if counts.len() < 2 || expected < 5.0 {
        return None;
    }
    let square = |count: &u64| (*count as f64 - expected).powi(2) / expected;
    let statistic: f64 = counts.iter().map(square).sum();
    Some(ChiSquared::new((counts.len() - 1) as f64).ok()?.sf(statistic))
}

/// What one client met, answer after answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Runs {
    /// Answers in all.
    pub total: u64,
    /// How often an answer differed from the one before.
    pub switches: u64,
    /// The longest run of equal answers.
    pub longest: u64,
}

impl Runs {
    /// Counts over answers in the order they came.
    pub fn of<T: PartialEq>(answers: impl IntoIterator<Item = T>) -> Self {
        let mut runs = Self::default();
        let (mut last, mut length) = (None, 0);
        for answer in answers {
            runs.total += 1;
            if last.as_ref().is_some_and(|last| *last != answer) {
                runs.switches += 1;
                length = 0;
            }
            length += 1;
            runs.longest = runs.longest.max(length);
            last = Some(answer);
        }
        runs
    }
}

#[cfg(test)]
mod tests;
