//! Known values, properties that must hold for every plan, and simulated splits, right and wrong.

use super::*;
use crate::claim::Outcome;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

fn against(wrong: Ratio) -> Plan {
    let (share, wrong) = (0.75, 1.0 - wrong.canary_share());
    Plan::new(share, wrong, Certainty::USUAL).unwrap()
}

#[test]
fn three_of_four_has_the_known_plans() {
    for (wrong, n, low, high) in [
        (Ratio::new(1, 1), 230, 139, 202),
        (Ratio::new(2, 1), 1879, 1316, 1499),
        (Ratio::new(4, 1), 4460, 3202, 3484),
    ] {
        let plan = against(wrong);
        assert_eq!((plan.n, plan.low, plan.high), (n, low, high), "against {wrong}");
    }
}

#[test]
fn the_canary_is_judged_as_the_mirror_of_stable() {
    let split = Split::plan(Ratio::new(3, 1), NearestWrong::NearestReplica).unwrap();
    assert_eq!(split.wrong, Ratio::new(4, 1));
    assert_eq!((split.plan.n, split.plan.low, split.plan.high), (4460, 976, 1258));
    let split = Split::plan(Ratio::new(3, 1), NearestWrong::Even).unwrap();
    assert_eq!((split.plan.n, split.plan.low, split.plan.high), (230, 28, 91));
}

#[test]
fn a_plan_keeps_what_it_promises_and_no_smaller_one_would() {
    let certainty = Certainty { false_alarm: 1e-3, power: 0.95 };
    for share in [0.05, 0.1, 0.25, 0.5, 0.75, 0.9] {
        for wrong in [0.02, 0.15, 0.33, 0.5, 0.6, 0.95] {
            if share == wrong {
                continue;
            }
            let plan = Plan::new(share, wrong, certainty).unwrap();
            assert!(plan.false_alarm() <= certainty.false_alarm, "{plan:?}");
            assert!(plan.catches() >= certainty.power, "{plan:?}");
            assert!(!plan.accepts(plan.low.wrapping_sub(1)) && !plan.accepts(plan.high + 1));
            let again = Plan::of_size(share, wrong, plan.n, certainty).unwrap();
            assert_eq!(plan, again, "step by step and at once");
            for n in 1..plan.n {
                let smaller = Plan::of_size(share, wrong, n, certainty).unwrap();
                assert!(smaller.catches() < certainty.power, "{plan:?} although {n} would do");
            }
        }
    }
}

#[test]
fn bounds_are_as_tight_as_the_false_alarm_allows() {
    let plan = against(Ratio::new(4, 1));
    let right = Binomial::new(plan.share, plan.n).unwrap();
    let tail = plan.certainty.false_alarm / 2.0;
    assert!(right.cdf(plan.low - 1) <= tail && right.cdf(plan.low) > tail);
    assert!(right.sf(plan.high) <= tail && right.sf(plan.high - 1) > tail);
}

#[test]
fn there_is_no_plan_for_nonsense() {
    for (share, wrong) in
        [(0.5, 0.5), (0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.5, 1.0), (f64::NAN, 0.5), (-1.0, 0.5)]
    {
        assert_eq!(Plan::new(share, wrong, Certainty::USUAL), None, "{share} {wrong}");
    }
    assert_eq!(Plan::new(0.5, 0.500_01, Certainty::USUAL), None, "takes too many requests");
}

#[test]
fn the_nearest_wrong_ratio_is_one_replica_off() {
    for (ratio, nearest) in
        [((3, 1), (4, 1)), ((9, 1), (10, 1)), ((1, 1), (1, 2)), ((1, 3), (1, 4))]
    {
        let nearest = Ratio::new(nearest.0, nearest.1);
        let wrong = Ratio::new(ratio.0, ratio.1).nearest_wrong(NearestWrong::NearestReplica);
        assert_eq!(wrong, nearest, "{ratio:?}");
    }
    assert_eq!(Ratio::new(1, 1).nearest_wrong(NearestWrong::Even), Ratio::new(3, 1));
}

/// Requests to pods chosen at random, as kube-proxy does: hits of the canary.
fn simulate(rng: &mut StdRng, ratio: Ratio, n: u64) -> u64 {
    let pods = ratio.stable + ratio.canary;
    (0..n).filter(|_| rng.random_range(0..pods) < ratio.canary).count() as u64
}

#[test]
fn simulated_right_splits_are_accepted_and_wrong_ones_caught() {
    let mut rng = StdRng::seed_from_u64(4460);
    let split = Split::plan(Ratio::new(3, 1), NearestWrong::NearestReplica).unwrap();
    let n = split.plan.n;
    let mut accepted = |ratio| {
        let hits = |_| simulate(&mut rng, ratio, n);
        (0..300).map(hits).filter(|hits| split.plan.accepts(*hits)).count()
    };
    assert_eq!(accepted(Ratio::new(3, 1)), 300);
    assert!(accepted(Ratio::new(4, 1)) <= 3);
    assert_eq!(accepted(Ratio::new(2, 1)), 0);
    assert_eq!(accepted(Ratio::new(1, 1)), 0);
}

#[test]
fn a_client_pinned_to_one_pod_is_caught() {
    let split = Split::plan(Ratio::new(3, 1), NearestWrong::Even).unwrap();
    let n = split.plan.n;
    assert_eq!(split.judge("2.0", 0, n).outcome, Outcome::Fails);
    assert_eq!(split.judge("2.0", n, n).outcome, Outcome::Fails);
    assert_eq!(split.judge("2.0", n / 4, n - 1).outcome, Outcome::Fails, "a request is missing");
}

#[test]
fn the_verdict_says_what_was_decided_and_on_what() {
    let split = Split::plan(Ratio::new(3, 1), NearestWrong::NearestReplica).unwrap();
    let verdict = split.judge("2.0", 1113, 4460);
    assert_eq!(verdict.outcome, Outcome::Holds);
    assert_eq!(
        verdict.evidence,
        "2.0 took 1113 of 4460 = 24.96%; 25% accepts 976..1258 \
         (false alarm 1e-6, a 4:1 split is caught with 99.9%)"
    );
    assert_eq!(split.judge("2.0", 975, 4460).outcome, Outcome::Fails);
    assert_eq!(split.judge("2.0", 1259, 4460).outcome, Outcome::Fails);
}

#[test]
fn nothing_seen_is_bounded_by_about_three_of_n() {
    assert_eq!(upper_bound_of_none(0), 1.0);
    for n in [1, 10, 100, 4460, 1_000_000] {
        let bound = upper_bound_of_none(n);
        // With this share, nothing is seen in exactly one sample of twenty.
        assert!(((1.0 - bound).powf(n as f64) - 0.05).abs() < 1e-6, "{n}");
        assert!(bound <= 3.0 / n as f64);
    }
}

#[test]
fn always_needs_a_request_and_no_exception() {
    assert_eq!(none_of("failures", 0, 0).outcome, Outcome::Fails);
    assert_eq!(none_of("failures", 1, 1000).outcome, Outcome::Fails);
    let verdict = none_of("failures", 0, 1000);
    assert_eq!(verdict.outcome, Outcome::Holds);
    assert_eq!(verdict.evidence, "failures: 0 of 1000, so less than 0.30% with 95% confidence");
}

#[test]
fn evenness_has_the_known_values() {
    let close = |counts: &[u64], p: f64| {
        let found = evenness(counts).unwrap();
        assert!((found - p).abs() < 1e-4, "{counts:?}: {found}, not {p}");
    };
    close(&[100, 100, 100], 1.0);
    // Statistics of 20.07 and 2 with one degree of freedom, and of 8 with two.
    close(&[5224, 4776], 7.46e-6);
    close(&[110, 90], 0.157_299);
    close(&[120, 100, 80], 0.018_316);
    for counts in [&[][..], &[7], &[4, 4], &[0, 0]] {
        assert_eq!(evenness(counts), None, "{counts:?}");
    }
}

#[test]
fn even_spreads_are_rarely_suspect_and_lost_pods_always() {
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..300 {
        let mut counts = [0_u64; 3];
        (0..1500).for_each(|_| counts[rng.random_range(0..3)] += 1);
        assert!(evenness(&counts).unwrap() > 1e-6, "{counts:?}");
    }
    assert!(evenness(&[750, 750, 0]).unwrap() < 1e-6);
    assert!(evenness(&[700, 500, 300]).unwrap() < 1e-6);
}

#[test]
fn runs_count_switches_and_the_longest() {
    let runs = |text: &str| {
        let Runs { total, switches, longest } = Runs::of(text.chars());
        (total, switches, longest)
    };
    assert_eq!(runs(""), (0, 0, 0));
    assert_eq!(runs("a"), (1, 0, 1));
    assert_eq!(runs("aaaa"), (4, 0, 4));
    assert_eq!(runs("abbba"), (5, 2, 3));
    assert_eq!(runs("abab"), (4, 3, 1));
}
