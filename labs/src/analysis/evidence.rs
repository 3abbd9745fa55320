//! Evidence against a hypothesis, that may be looked at at any time.

/// A mixture of likelihood ratios: the bet against a hypothesis is spread evenly over some alternatives. Its expected
/// value is at most one while the hypothesis is true, so it ever reaches `1 / alpha` with probability `alpha` at most.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    /// The logarithm of the likelihood ratio of each alternative to the hypothesis.
    log_ratios: Vec<f64>,
}

impl Evidence {
    /// No evidence yet, with this number of alternatives.
    pub(super) fn new(alternatives: usize) -> Self {
        Self { log_ratios: vec![0.0; alternatives] }
    }

    /// Multiplies the ratio of each alternative; `log_factor` gets its index.
    pub(super) fn update(&mut self, log_factor: impl Fn(usize) -> f64) {
        for (index, ratio) in self.log_ratios.iter_mut().enumerate() {
            *ratio += log_factor(index);
        }
    }

    /// The logarithm of the evidence.
    pub(super) fn log(&self) -> f64 {
        log_mean_exp(&self.log_ratios)
    }

    /// Returns true if the evidence is at least `1 / level`. Cheaper than [`Evidence::log`] where it is far from it.
    pub(super) fn reaches(&self, level: f64) -> bool {
        let threshold = -level.ln();
        let largest = self.log_ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest >= threshold && self.log() >= threshold
    }
}

/// The logarithm of the mean of `exp(x)`, without overflow.
fn log_mean_exp(values: &[f64]) -> f64 {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    let sum: f64 = values.iter().map(|value| (value - largest).exp()).sum();
    largest + (sum / values.len() as f64).ln()
}

/// The logarithm of the likelihood ratio of two probabilities, after `successes` and `failures` of a coin.
pub(super) fn log_likelihood_ratio(
    successes: u64,
    failures: u64,
    alternative: f64,
    hypothesis: f64,
) -> f64 {
    // Without the guard, no event with probability 0 would be 0 * -inf, which is no number.
    let term = |count: u64, ratio: f64| if count == 0 { 0.0 } else { count as f64 * ratio.ln() };
    term(successes, alternative / hypothesis)
        + term(failures, (1.0 - alternative) / (1.0 - hypothesis))
}

/// About how many more requests it takes until evidence that grew to `log` in `requests` reaches `1 / level`.
pub(super) fn requests_until(level: f64, log: f64, requests: u64) -> Option<u64> {
    let missing = -level.ln() - log;
    (log > 0.0 && missing > 0.0).then(|| (requests as f64 * missing / log).ceil() as u64)
}
