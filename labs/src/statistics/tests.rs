//! Known values, properties of every plan, and simulated splits, right and wrong.

use super::*;
use crate::claim::Outcome;
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, prop_assert, prop_assert_eq, proptest};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

fn against(wrong: Ratio) -> Plan {
    let (share, wrong) = (0.75, 1.0 - wrong.canary_share());
    Plan::new(share, wrong, TestLevel::DEFAULT).unwrap()
}

fn plan_split(ratio: Ratio, alternative: Alternative) -> Option<Split> {
    Split::against(ratio, ratio.alternative(alternative))
}

/// The probability of rejecting a correct split: the test's actual type I error.
fn size(plan: &Plan) -> f64 {
    plan.rejection_probability(plan.share).unwrap()
}

#[test]
fn three_of_four_has_known_plans() {
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
fn band_of_the_canary_mirrors_that_of_stable() {
    let split = plan_split(Ratio::new(3, 1), Alternative::NearestReplica).unwrap();
    assert_eq!(split.alternative, Ratio::new(4, 1));
    assert_eq!((split.plan.n, split.plan.low, split.plan.high), (4460, 976, 1258));
    let split = plan_split(Ratio::new(3, 1), Alternative::Even).unwrap();
    assert_eq!((split.plan.n, split.plan.low, split.plan.high), (230, 28, 91));
}

#[test]
fn plan_is_the_smallest_with_its_level() {
    let level = TestLevel { alpha: 1e-3, power: 0.95 };
    for share in [0.05, 0.1, 0.25, 0.5, 0.75, 0.9] {
        for wrong in [0.02, 0.15, 0.33, 0.5, 0.6, 0.95] {
            if share == wrong {
                continue;
            }
            let plan = Plan::new(share, wrong, level).unwrap();
            assert!(size(&plan) <= level.alpha, "{plan:?}");
            assert!(plan.power() >= level.power, "{plan:?}");
            assert!(!plan.accepts(plan.low.wrapping_sub(1)) && !plan.accepts(plan.high + 1));
            let direct = Plan::of_size(share, wrong, plan.n, level).unwrap();
            assert_eq!(plan, direct, "step by step and directly");
            for n in 1..plan.n {
                let smaller = Plan::of_size(share, wrong, n, level).unwrap();
                assert!(smaller.power() < level.power, "{plan:?} although {n} is enough");
            }
        }
    }
}

#[test]
fn bounds_are_as_tight_as_alpha_permits() {
    let plan = against(Ratio::new(4, 1));
    let right = Binomial::new(plan.share, plan.n).unwrap();
    let tail = plan.level.alpha / 2.0;
    assert!(right.cdf(plan.low - 1) <= tail && right.cdf(plan.low) > tail);
    assert!(right.sf(plan.high) <= tail && right.sf(plan.high - 1) > tail);
}

#[test]
fn invalid_shares_have_no_plan() {
    for (share, wrong) in
        [(0.5, 0.5), (0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.5, 1.0), (f64::NAN, 0.5), (-1.0, 0.5)]
    {
        assert_eq!(Plan::new(share, wrong, TestLevel::DEFAULT), None, "{share} {wrong}");
    }
    assert_eq!(Plan::new(0.5, 0.500_01, TestLevel::DEFAULT), None, "takes too many requests");
}

#[test]
fn alternative_ratio_is_one_replica_off() {
    for (ratio, nearest) in
        [((3, 1), (4, 1)), ((9, 1), (10, 1)), ((1, 1), (1, 2)), ((1, 3), (1, 4))]
    {
        let nearest = Ratio::new(nearest.0, nearest.1);
        let wrong = Ratio::new(ratio.0, ratio.1).alternative(Alternative::NearestReplica);
        assert_eq!(wrong, nearest, "{ratio:?}");
    }
    assert_eq!(Ratio::new(1, 1).alternative(Alternative::Even), Ratio::new(3, 1));
}

/// Simulates requests to random pods, as kube-proxy distributes them; returns the hits of the canary.
fn simulate(rng: &mut StdRng, ratio: Ratio, n: u64) -> u64 {
    let pods = ratio.stable + ratio.canary;
    (0..n).filter(|_| rng.random_range(0..pods) < ratio.canary).count() as u64
}

#[test]
fn simulated_splits_are_accepted_or_rejected() {
    let mut rng = StdRng::seed_from_u64(4460);
    let split = plan_split(Ratio::new(3, 1), Alternative::NearestReplica).unwrap();
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
fn pinned_client_is_rejected() {
    let split = plan_split(Ratio::new(3, 1), Alternative::Even).unwrap();
    let n = split.plan.n;
    assert_eq!(split.judge("2.0", 0, n).outcome, Outcome::Fails);
    assert_eq!(split.judge("2.0", n, n).outcome, Outcome::Fails);
    assert_eq!(split.judge("2.0", n / 4, n - 1).outcome, Outcome::Fails, "a request is missing");
}

#[test]
fn evidence_states_band_alpha_and_power() {
    let split = plan_split(Ratio::new(3, 1), Alternative::NearestReplica).unwrap();
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
fn upper_bound_is_about_three_of_n() {
    assert_eq!(rule_of_three_upper(0), 1.0);
    for n in [1, 10, 100, 4460, 1_000_000] {
        let bound = rule_of_three_upper(n);
        // With this share, exactly one sample of twenty shows no instance.
        assert!(((1.0 - bound).powf(n as f64) - 0.05).abs() < 1e-6, "{n}");
        assert!(bound <= 3.0 / n as f64);
    }
}

#[test]
fn uniformity_p_value_has_known_values() {
    let close = |counts: &[u64], p: f64| {
        let found = uniformity_p_value(counts).unwrap();
        assert!((found - p).abs() < 1e-4, "{counts:?}: {found}, not {p}");
    };
    close(&[100, 100, 100], 1.0);
    // Statistics of 20.07 and 2 with one degree of freedom, and of 8 with two.
    close(&[5224, 4776], 7.46e-6);
    close(&[110, 90], 0.157_299);
    close(&[120, 100, 80], 0.018_316);
    for counts in [&[][..], &[7], &[4, 4], &[0, 0]] {
        assert_eq!(uniformity_p_value(counts), None, "{counts:?}");
    }
}

#[test]
fn uniform_counts_pass_and_lost_pods_do_not() {
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..300 {
        let mut counts = [0_u64; 3];
        (0..1500).for_each(|_| counts[rng.random_range(0..3)] += 1);
        assert!(uniformity_p_value(&counts).unwrap() > 1e-6, "{counts:?}");
    }
    assert!(uniformity_p_value(&[750, 750, 0]).unwrap() < 1e-6);
    assert!(uniformity_p_value(&[700, 500, 300]).unwrap() < 1e-6);
}

#[test]
fn runs_count_switches_and_longest() {
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plan_has_the_requested_alpha_and_power(
        (share, alternative) in distinct_shares(), level in level(),
    ) {
        let plan = Plan::new(share, alternative, level).unwrap();
        prop_assert!(size(&plan) <= level.alpha, "{plan:?}");
        prop_assert!(plan.power() >= level.power, "{plan:?}");
        prop_assert!(plan.low <= plan.high && plan.high <= plan.n);
        prop_assert_eq!(plan, Plan::of_size(share, alternative, plan.n, level).unwrap());
        if plan.n > 1 {
            let smaller = Plan::of_size(share, alternative, plan.n - 1, level).unwrap();
            prop_assert!(smaller.power() < level.power, "one request fewer is not enough");
        }
    }

    #[test]
    fn band_of_one_half_is_symmetric(n in 1..5000_u64, level in level()) {
        let plan = Plan::of_size(0.5, 0.25, n, level).unwrap();
        prop_assert_eq!(plan.low + plan.high, n);
    }

    #[test]
    fn band_of_complementary_share_is_mirrored(
        share in 0.05..0.95_f64, n in 1..5000_u64, level in level(),
    ) {
        let plan = Plan::of_size(share, 0.5, n, level).unwrap();
        let mirrored = Plan::of_size(1.0 - share, 0.5, n, level).unwrap();
        // `1 - share` is rounded, which may move a bound whose tail equals alpha / 2 almost exactly.
        prop_assert!(plan.low.abs_diff(n - mirrored.high) <= 1);
        prop_assert!(plan.high.abs_diff(n - mirrored.low) <= 1);
    }

    #[test]
    fn band_widens_with_smaller_alpha(share in 0.05..0.95_f64, n in 1..5000_u64) {
        let band = |alpha| Plan::of_size(share, 0.5, n, TestLevel { alpha, power: 0.9 }).unwrap();
        let (wide, narrow) = (band(1e-6), band(1e-2));
        prop_assert!(wide.low <= narrow.low && narrow.high <= wide.high);
    }

    #[test]
    fn sample_grows_with_power_and_closeness((share, alternative) in distinct_shares()) {
        let n = |alternative, power| {
            Plan::new(share, alternative, TestLevel { alpha: 1e-3, power }).unwrap().n
        };
        prop_assert!(n(alternative, 0.8) <= n(alternative, 0.99));
        let closer = share + (alternative - share) / 2.0;
        prop_assert!(n(alternative, 0.9) <= n(closer, 0.9));
    }

    #[test]
    fn upper_bound_decreases_with_n(n in 1..1_000_000_u64) {
        prop_assert!(rule_of_three_upper(n + 1) < rule_of_three_upper(n));
    }

    #[test]
    fn uniformity_does_not_depend_on_order(mut counts in vec(5..5000_u64, 2..12)) {
        let p = uniformity_p_value(&counts).unwrap();
        prop_assert!((0.0..=1.0).contains(&p));
        counts.reverse();
        prop_assert!((uniformity_p_value(&counts).unwrap() - p).abs() < 1e-9);
    }

    #[test]
    fn runs_add_up(values in vec(0..3_u8, 0..200)) {
        let Runs { total, switches, longest } = Runs::of(&values);
        prop_assert_eq!(total, values.len() as u64);
        prop_assert!(switches < total.max(1) && longest <= total);
        // With fewer runs, the longest cannot be shorter than their mean length.
        prop_assert!(longest * (switches + 1) >= total);
    }
}

/// Two shares that a sample of moderate size can tell apart.
fn distinct_shares() -> impl Strategy<Value = (f64, f64)> {
    (0.05..0.95_f64, 0.05..0.95_f64).prop_filter("too close", |(a, b)| (a - b).abs() > 0.1)
}

fn level() -> impl Strategy<Value = TestLevel> {
    (1e-7..0.05_f64, 0.5..0.999_f64).prop_map(|(alpha, power)| TestLevel { alpha, power })
}
