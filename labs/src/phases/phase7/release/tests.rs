//! Simulated releases: how often they are promoted and rolled back, and how many users meet a fault.

use super::*;

/// A small generator of random numbers (SplitMix64): the same streams in every run.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What a version does.
#[derive(Clone, Copy)]
struct Behavior {
    errors: f64,
    slow: f64,
    /// The mean latency of the others, in seconds.
    latency: f64,
}

fn simulate(canary: Behavior, stable: Behavior, routed: impl Fn(u8) -> f64, seed: u64) -> Release {
    let mut random = Random(seed);
    let mut release = Release::new().unwrap();
    for stage in &STAGES {
        release.begin(stage);
        while !release.is_over(stage) {
            let seen: Vec<Seen> = (0..BATCH)
                .map(|_| {
                    let to_canary = random.unit() < routed(stage.weight);
                    let (server, of) =
                        if to_canary { (Server::Canary, canary) } else { (Server::Stable, stable) };
                    let slow = if random.unit() < of.slow { 0.25 } else { 0.0 };
                    let latency = of.latency * (0.5 + random.unit()) + slow;
                    Seen { server, good: random.unit() >= of.errors, latency }
                })
                .collect();
            release.record(&seen).unwrap();
        }
        if release.outcome.is_some() {
            break;
        }
    }
    release
}

const GOOD: Behavior = Behavior { errors: 0.0, slow: 0.0, latency: 0.002 };
const RELEASES: u64 = 60;

fn releases(canary: Behavior, stable: Behavior) -> impl Iterator<Item = Release> {
    let weight = |weight: u8| f64::from(weight) / 100.0;
    (1..=RELEASES).map(move |seed| simulate(canary, stable, weight, seed))
}

#[test]
fn good_release_is_promoted() {
    for errors in [0.0, 0.05] {
        let as_good = Behavior { errors, ..GOOD };
        for release in releases(as_good, as_good) {
            assert_eq!(release.outcome, Some(Outcome::Promoted), "{}", release.text());
            assert_eq!(promoted_share(&release).outcome, crate::claim::Outcome::Holds);
        }
    }
}

#[test]
fn difference_that_nobody_notices_is_no_reason_to_roll_back() {
    for release in releases(Behavior { latency: 0.06, ..GOOD }, GOOD) {
        assert_eq!(release.outcome, Some(Outcome::Promoted), "{}", release.text());
    }
}

#[test]
fn bad_release_is_rolled_back_before_too_many_users_meet_it() {
    let errors = |errors| Behavior { errors, ..GOOD };
    for (what, canary, stable, accepted) in [
        ("errors", errors(0.1), errors(0.05), 450),
        ("slow", Behavior { slow: 0.2, ..GOOD }, GOOD, 300),
        // A wrong response on one of two paths.
        ("wrong", errors(0.5), GOOD, 75),
    ] {
        let mut most = 0;
        for release in releases(canary, stable) {
            let why = Outcome::RolledBack("the canary is worse".to_owned());
            assert_eq!(release.outcome, Some(why), "{what}: {}", release.text());
            most = most.max(release.met);
        }
        println!("{what}: {most}");
        assert!(most <= accepted, "{what}: {most} users met it");
    }
}

/// A release that fails for every user where stable does not is found at once, however small its share.
#[test]
fn outage_is_found_in_the_first_stages() {
    for release in releases(Behavior { errors: 1.0, ..GOOD }, GOOD) {
        assert!(release.met <= 20 && release.sent() <= 800, "{}", release.text());
    }
}

#[test]
fn swapped_weights_are_not_the_shares_of_the_stages() {
    let swapped = |weight: u8| f64::from(100 - weight) / 100.0;
    let release = simulate(GOOD, GOOD, swapped, 1);
    assert_eq!(promoted_share(&release).outcome, crate::claim::Outcome::Fails);
}

#[test]
fn undecided_release_is_rolled_back() {
    // Between what is tolerated and what matters.
    let (canary, stable) = (Behavior { errors: 0.28, ..GOOD }, Behavior { errors: 0.2, ..GOOD });
    let release = simulate(canary, stable, |weight| f64::from(weight) / 100.0, 1);
    assert!(release.sent() <= LIMIT + BATCH as u64);
    assert!(matches!(release.outcome, Some(Outcome::RolledBack(_))), "{}", release.text());
}
