//! Our analysis, and the rules that other tools document as their examples or defaults.

use super::traffic::{Outcome, Traffic, Verdict};
use crate::analysis::{Analysis, Decision, Plan};

/// A way to judge a release.
pub(super) struct Rule {
    pub name: &'static str,
    pub judge: fn(&mut Traffic) -> Outcome,
}

pub(super) const ALL: &[Rule] = &[
    Rule { name: "this analysis", judge: analysis },
    Rule { name: "Argo Rollouts", judge: argo_rollouts },
    Rule { name: "Flagger", judge: flagger },
    Rule { name: "Kayenta", judge: kayenta },
];

/// [`Analysis`] with its default plan, a quarter of the traffic, and a look after every hundredth request.
fn analysis(traffic: &mut Traffic) -> Outcome {
    const MOST_REQUESTS: u64 = 200_000;
    let Ok(mut analysis) = Analysis::new(Plan::DEFAULT) else {
        return traffic.end(Verdict::Undecided);
    };
    while traffic.requests < MOST_REQUESTS {
        let requests = traffic.route(100, 0.25);
        if analysis.record(&requests).is_err() {
            break;
        }
        match analysis.decision() {
            Decision::Promote => return traffic.end(Verdict::Promoted),
            Decision::RollBack => return traffic.end(Verdict::RolledBack),
            Decision::Continue { .. } => {}
        }
    }
    traffic.end(Verdict::Undecided)
}

/// The example of its documentation: six measurements at 5 minutes, each of which succeeds if 95% of the canary's
/// responses do; the fourth that does not aborts. 200 responses of the canary each, a fifth of the traffic.
fn argo_rollouts(traffic: &mut Traffic) -> Outcome {
    let mut failed = 0;
    for _ in 0..6 {
        let (canary, _) = traffic.send(200, 800);
        let success_rate = 1.0 - canary.failures as f64 / canary.requests as f64;
        failed += u32::from(success_rate < 0.95);
        if failed > 3 {
            return traffic.end(Verdict::RolledBack);
        }
    }
    traffic.end(Verdict::Promoted)
}

/// The example of its documentation: from 2% to 50% of the traffic by steps of 2%, a check a minute, which wants 99% of
/// the canary's responses to succeed; a check that fails holds the weight, the tenth rolls back. 5 requests a second.
fn flagger(traffic: &mut Traffic) -> Outcome {
    let mut failed = 0;
    let mut weight = 2;
    while weight <= 50 {
        let requests = 300 * weight / 100;
        let (canary, _) = traffic.send(requests, 300 - requests);
        // In whole numbers: 99% exactly is enough.
        if 100 * (canary.requests - canary.failures) >= 99 * canary.requests {
            weight += 2;
            continue;
        }
        failed += 1;
        if failed == 10 {
            return traffic.end(Verdict::RolledBack);
        }
    }
    traffic.end(Verdict::Promoted)
}

/// The judge of its documentation, for one metric: 60 error rates, one a minute, of the canary and of a baseline that gets
/// as much traffic, 60 requests a minute each. A Mann-Whitney confidence interval (98%) for the shift of the canary's that lies
/// above a quarter of the estimated shift is a failure.
fn kayenta(traffic: &mut Traffic) -> Outcome {
    const MINUTES: usize = 60;
    const REQUESTS: u64 = 60;
    // The quantile of the normal distribution for a two-sided 98%.
    const Z: f64 = 2.326_347_874;
    // How often each difference of failures in a minute occurs, over all pairs of a minute of either.
    let mut shifts = [0_usize; 2 * REQUESTS as usize + 1];
    let minutes: [(u64, u64); MINUTES] = std::array::from_fn(|_| {
        let (canary, baseline) = traffic.send(REQUESTS, REQUESTS);
        (canary.failures, baseline.failures)
    });
    for (canary, _) in minutes {
        for (_, baseline) in minutes {
            shifts[(REQUESTS + canary - baseline) as usize] += 1;
        }
    }
    let shift_of_rank = |rank: usize| {
        let mut seen = 0;
        let position = shifts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        position.unwrap_or_default() as f64 - REQUESTS as f64
    };
    let n = MINUTES as f64;
    let rank = (n * n / 2.0 - Z * (n * n * (2.0 * n + 1.0) / 12.0).sqrt()).floor() as usize;
    let middle = MINUTES * MINUTES / 2;
    let estimate = shift_of_rank(middle).midpoint(shift_of_rank(middle + 1));
    let high = shift_of_rank(rank) > 0.25 * estimate.abs();
    traffic.end(if high { Verdict::RolledBack } else { Verdict::Promoted })
}
