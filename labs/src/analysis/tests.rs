//! Exact expectations, properties, and simulated releases, good and bad.

use super::evidence::{Evidence, log_likelihood_ratio};
use super::*;
use proptest::prelude::{ProptestConfig, prop_assert, proptest};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use statrs::distribution::{Binomial, Discrete as _};

fn counts(requests: u64, failures: u64) -> Counts {
    Counts { requests, failures }
}

/// Sends at most `n` requests, with a look after every tenth; returns the decision and the requests sent.
fn release(
    rng: &mut StdRng,
    plan: Plan,
    share: f64,
    (canary_rate, stable_rate): (f64, f64),
    n: u64,
) -> (Decision, u64) {
    let mut analysis = Analysis::new(plan).unwrap();
    for sent in (10..=n).step_by(10) {
        let (mut canary, mut stable) = (Counts::default(), Counts::default());
        for _ in 0..10 {
            let (version, rate) = if rng.random_bool(share) {
                (&mut canary, canary_rate)
            } else {
                (&mut stable, stable_rate)
            };
            *version = version.plus(counts(1, u64::from(rng.random_bool(rate))));
        }
        analysis.record(&Requests { share, canary, stable }).unwrap();
        if !matches!(analysis.decision(), Decision::Continue { .. }) {
            return (analysis.decision(), sent);
        }
    }
    (analysis.decision(), n)
}

#[test]
fn expected_evidence_is_one_under_the_hypothesis() {
    for (hypothesis, n) in [(0.25, 1), (0.25, 20), (0.5, 33), (0.01, 100)] {
        let coin = Binomial::new(hypothesis, n).unwrap();
        let alternatives = [0.3, 0.5, 0.9, 1.0];
        let of = |successes| {
            let mut evidence = Evidence::new(alternatives.len());
            evidence.update(|index| {
                let failures = n - successes;
                log_likelihood_ratio(successes, failures, alternatives[index], hypothesis)
            });
            evidence.log().exp()
        };
        let expected: f64 = (0..=n).map(|k| coin.pmf(k) * of(k)).sum();
        assert!((expected - 1.0).abs() < 1e-9, "{hypothesis} {n}: {expected}");
    }
}

#[test]
fn equal_versions_are_rarely_rolled_back() {
    let plan = Plan { alpha: 0.05, ..Plan::DEFAULT };
    let mut rng = StdRng::seed_from_u64(1);
    for (share, rate) in [(0.25, 0.05), (0.5, 0.3), (0.05, 0.2)] {
        let rolled_back = (0..300)
            .filter(|_| release(&mut rng, plan, share, (rate, rate), 1000).0 == Decision::RollBack)
            .count();
        // 15 are allowed for, and chance may add five standard deviations of 3.8.
        assert!(rolled_back < 34, "{rolled_back} of 300 at {share}");
    }
}

#[test]
fn canaries_that_are_worse_are_rarely_promoted() {
    // Exactly at the smallest effect that matters, where it is hardest.
    let plan = Plan { beta: 0.05, ..Plan::DEFAULT };
    let mut rng = StdRng::seed_from_u64(2);
    for rates in [(0.01, 0.005), (0.1, 0.05)] {
        let promoted = (0..200)
            .filter(|_| release(&mut rng, plan, 0.5, rates, 2000).0 == Decision::Promote)
            .count();
        assert!(promoted < 26, "{promoted} of 200 with {rates:?}");
    }
}

#[test]
fn clear_cases_are_decided_early() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut requests = |rates, expected| {
        let runs = (0..100).map(|_| release(&mut rng, Plan::DEFAULT, 0.25, rates, 100_000));
        let runs: Vec<u64> = runs
            .map(|(decision, sent)| {
                assert_eq!(decision, expected, "{rates:?}");
                sent
            })
            .collect();
        runs.iter().sum::<u64>() / 100
    };
    // Without a failure, 1% is ruled out after about 760 requests to the canary, a quarter of all.
    assert!((3_000..4_000).contains(&requests((0.0, 0.0), Decision::Promote)));
    assert!(requests((0.5, 0.01), Decision::RollBack) < 100);
    assert!(requests((0.05, 0.01), Decision::RollBack) < 2_500);
    assert!(requests((0.3, 0.3), Decision::Promote) < 1_000);
}

#[test]
fn failures_of_both_are_no_evidence_against_the_canary() {
    let mut analysis = Analysis::new(Plan::DEFAULT).unwrap();
    // An outage of a database that both versions use.
    let requests = Requests { share: 0.25, canary: counts(250, 250), stable: counts(750, 750) };
    analysis.record(&requests).unwrap();
    assert_eq!(analysis.decision(), Decision::Promote, "as good as stable");
}

#[test]
fn first_decision_stands() {
    let mut analysis = Analysis::new(Plan::DEFAULT).unwrap();
    let bad = Requests { share: 0.5, canary: counts(50, 50), stable: counts(50, 0) };
    analysis.record(&bad).unwrap();
    assert_eq!(analysis.decision(), Decision::RollBack);
    let good = Requests { share: 0.5, canary: counts(100_000, 0), stable: counts(100_000, 1000) };
    analysis.record(&good).unwrap();
    assert_eq!(analysis.decision(), Decision::RollBack);
}

#[test]
fn undecided_analysis_says_how_many_requests_are_missing() {
    let mut analysis = Analysis::new(Plan::DEFAULT).unwrap();
    assert_eq!(analysis.decision(), Decision::Continue { more: None });
    let half = Requests { share: 0.5, canary: counts(400, 0), stable: counts(400, 0) };
    analysis.record(&half).unwrap();
    let Decision::Continue { more: Some(more) } = analysis.decision() else {
        panic!("{:?}", analysis.decision());
    };
    assert!((500..1500).contains(&more), "{more}");
    assert_eq!(analysis.counts(), (counts(400, 0), counts(400, 0)));
}

#[test]
fn latencies_of_equal_versions_are_promoted_and_slow_ones_rolled_back() {
    let mut rng = StdRng::seed_from_u64(4);
    let mut run = |factor: f64| {
        let mut analysis = Analysis::with_latencies(Plan::DEFAULT).unwrap();
        for _ in 0..200 {
            // Exponentially distributed, with a mean of 10 ms.
            let mut sample = |factor: f64| -> Vec<f64> {
                (0..100).map(|_| factor * -0.01 * rng.random::<f64>().max(1e-12).ln()).collect()
            };
            let (canary, stable) = (sample(factor), sample(1.0));
            let fine = Requests { share: 0.5, canary: counts(100, 0), stable: counts(100, 0) };
            analysis.record(&fine).unwrap();
            analysis.record_latencies(&canary, &stable);
        }
        analysis.decision()
    };
    assert_eq!(run(1.0), Decision::Promote);
    assert_eq!(run(0.5), Decision::Promote);
    assert_eq!(run(2.0), Decision::RollBack);
}

#[test]
fn slow_tail_is_found_although_the_median_is_equal() {
    let plan = Plan { quantile: 0.99, ..Plan::DEFAULT };
    let mut analysis = Analysis::with_latencies(plan).unwrap();
    for index in 0..5_000 {
        let canary = if index % 50 == 0 { 1.0 } else { 0.01 };
        analysis.record_latencies(&[canary], &[0.01]);
    }
    assert_eq!(analysis.decision(), Decision::RollBack);
}

#[test]
fn unusual_latencies_do_no_harm() {
    let mut analysis = Analysis::with_latencies(Plan::DEFAULT).unwrap();
    analysis.record_latencies(&[f64::NAN, f64::INFINITY, -1.0, 0.0], &[1e300, f64::NEG_INFINITY]);
    assert_eq!(analysis.decision(), Decision::Continue { more: None });
}

#[test]
fn numbers_out_of_range_are_refused() {
    for plan in [
        Plan { alpha: 0.0, ..Plan::DEFAULT },
        Plan { beta: 1.0, ..Plan::DEFAULT },
        Plan { ratio: 1.0, ..Plan::DEFAULT },
        Plan { tolerated: f64::NAN, ..Plan::DEFAULT },
        Plan { quantile: 1.5, ..Plan::DEFAULT },
        Plan { slower: f64::INFINITY, ..Plan::DEFAULT },
    ] {
        assert!(Analysis::new(plan).is_err(), "{plan:?}");
    }
    let mut analysis = Analysis::new(Plan::DEFAULT).unwrap();
    let mut error = |share, canary| {
        let requests = Requests { share, canary, stable: Counts::default() };
        analysis.record(&requests).unwrap_err().to_string()
    };
    assert_eq!(error(1.0, counts(1, 0)), "the canary's share is 1, not between 0 and 1");
    assert_eq!(
        error(0.5, counts(1, 2)),
        "the number of failures of canary is 2, not at most its 1 requests"
    );
    assert_eq!(analysis.counts().0, Counts::default(), "nothing was recorded");
    assert!(ShareTest::new(0.25, 0.25, 0.1, 0.1).is_err());
    assert!(ShareTest::new(0.25, 0.2, 0.0, 0.1).is_err());
}

#[test]
fn plan_reads_as_a_sentence() {
    assert_eq!(
        Plan::DEFAULT.to_string(),
        "false rollback 1e-3, false promotion 1e-3; what matters: 2 times stable's errors and more than 1%, \
         or 1.5 times its p95"
    );
}

#[test]
fn share_test_takes_936_responses_on_average() {
    let mut rng = StdRng::seed_from_u64(936);
    let mut run = |share: f64| {
        let mut test = ShareTest::new(0.25, 0.2, 1e-6, 1e-3).unwrap();
        let mut responses = 0;
        while test.decision() == ShareDecision::Continue {
            test.record(u64::from(rng.random_bool(share)), 1);
            responses += 1;
        }
        (test.decision(), responses)
    };
    let right: Vec<_> = (0..400).map(|_| run(0.25)).collect();
    assert!(right.iter().all(|(decision, _)| *decision == ShareDecision::Holds));
    let mean = right.iter().map(|(_, responses)| responses).sum::<u64>() / 400;
    assert!((850..1050).contains(&mean), "{mean}");
    assert!((0..100).all(|_| run(0.2).0 == ShareDecision::Fails));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn grouping_does_not_matter(
        groups in proptest::collection::vec((0..30_u64, 0..30_u64, 0..5_u64, 0..5_u64), 1..20),
        share in 0.05..0.95_f64,
    ) {
        let mut one_by_one = Analysis::new(Plan::DEFAULT).unwrap();
        let mut all = (Counts::default(), Counts::default());
        for (canary, stable, canary_failures, stable_failures) in groups {
            let canary = counts(canary + canary_failures, canary_failures);
            let stable = counts(stable + stable_failures, stable_failures);
            one_by_one.record(&Requests { share, canary, stable }).unwrap();
            all.0 = counts(all.0.requests + canary.requests, all.0.failures + canary.failures);
            all.1 = counts(all.1.requests + stable.requests, all.1.failures + stable.failures);
        }
        let mut at_once = Analysis::new(Plan::DEFAULT).unwrap();
        at_once.record(&Requests { share, canary: all.0, stable: all.1 }).unwrap();
        prop_assert!(one_by_one.counts() == at_once.counts());
        let near = |a: &ErrorRates, b: &ErrorRates| (a.evidence_of_worse() - b.evidence_of_worse()).abs() < 1e-6;
        prop_assert!(near(&one_by_one.errors, &at_once.errors));
    }

    #[test]
    fn more_failures_of_the_canary_are_more_evidence(
        failures in 1..50_u64, stable in 0..50_u64, share in 0.05..0.95_f64,
    ) {
        let of = |canary: u64| {
            let mut analysis = Analysis::new(Plan::DEFAULT).unwrap();
            let (canary, stable) = (counts(100, canary), counts(100, stable));
            analysis.record(&Requests { share, canary, stable }).unwrap();
            analysis.errors.evidence_of_worse()
        };
        prop_assert!(of(failures) >= of(failures - 1));
    }
}
