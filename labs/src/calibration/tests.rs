//! The rules of others have error rates that can be calculated.

use super::*;

const STREAMS: u64 = 4_000;

fn run(name: &str, stable: f64, canary: f64) -> Totals {
    let rule = rules::ALL.iter().find(|rule| rule.name == name).unwrap();
    simulate(rule, Rates { stable, canary }, STREAMS, 7)
}

/// Within five standard deviations of the exact share.
fn assert_near(count: u64, share: f64) {
    let expected = share * STREAMS as f64;
    let deviation = (expected * (1.0 - share)).sqrt();
    assert!((count as f64 - expected).abs() <= 5.0 * deviation, "{count}, not {expected}");
}

#[test]
fn argo_rollouts_promotes_four_percent_of_errors() {
    // P(more than 10 of 200 fail) = 0.18002, and at most 3 of 6 such measurements.
    assert_near(run("Argo Rollouts", 0.0, 0.04).promoted, 0.988_443);
}

#[test]
fn flagger_rolls_back_an_equal_canary() {
    assert_near(run("Flagger", 0.008, 0.008).rolled_back, 0.694_195);
}

#[test]
fn this_analysis_keeps_its_promises() {
    assert!(run("this analysis", 0.04, 0.04).rolled_back <= 16, "4 of 4000 are allowed for");
    assert!(run("this analysis", 0.008, 0.04).promoted <= 16);
    assert!(run("this analysis", 0.0, 0.04).rolled_back >= STREAMS - 16);
}

#[test]
fn coin_has_its_probability() {
    let mut traffic = Traffic::new(1, Rates { stable: 0.0, canary: 0.0 });
    assert_eq!(traffic.hits(1000, 0.0), 0);
    assert_eq!(traffic.hits(1000, 1.0), 1000);
    for probability in [0.001, 0.3, 0.99] {
        let hits = traffic.hits(1_000_000, probability) as f64;
        let deviation = (1e6 * probability * (1.0 - probability)).sqrt();
        assert!((hits - 1e6 * probability).abs() < 5.0 * deviation, "{probability}: {hits}");
    }
}

#[test]
fn table_depends_on_the_seed_alone() {
    assert_eq!(table(3, 5), table(3, 5));
    assert_ne!(table(3, 5), table(3, 6));
}
