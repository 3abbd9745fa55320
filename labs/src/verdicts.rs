//! Judges samples: verdicts with their line of evidence. Pure, so that it is tested with samples of any
//! kind, right or wrong.

use crate::claim::{Outcome, Verdict};
use crate::sampler::Sample;
use crate::statistics::{Runs, Split, TestLevel, rule_of_three_upper, uniformity_p_value};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Judges that the canary got its share. A failed request fails the claim too, since its version is
/// unknown.
pub(crate) fn share(sample: &Sample, split: &Split, version: &str) -> Verdict {
    let verdict = split.judge(version, sample.hits(version), sample.total());
    match failures(sample) {
        None => verdict,
        Some(failures) => Verdict {
            outcome: Outcome::Fails,
            evidence: format!("{}; {failures}", verdict.evidence),
            ..verdict
        },
    }
}

/// Judges that every request got this version.
pub(crate) fn all_are(sample: &Sample, version: &str) -> Verdict {
    let (hits, total) = (sample.hits(version), sample.total());
    let mut evidence = format!("{hits} of {total} got {version}");
    if hits == total && total > 0 {
        evidence = format!("{evidence}; {}", bound("anything else", total));
    } else {
        evidence = format!("{evidence}; {}", exceptions(sample, version));
    }
    let holds = hits == total && total > 0;
    Verdict::of(holds, evidence).with(json!({
        "total": total, "counts": sample.by_version(), "upperBound": rule_of_three_upper(total),
    }))
}

/// Judges that every request of each sample got this version; names the samples with exceptions.
pub(crate) fn each_is(samples: &[(String, Sample)], version: &str) -> Verdict {
    let total: u64 = samples.iter().map(|(_, sample)| sample.total()).sum();
    let hits: u64 = samples.iter().map(|(_, sample)| sample.hits(version)).sum();
    let holds = hits == total && samples.iter().all(|(_, sample)| sample.total() > 0) && total > 0;
    let names: Vec<&str> = samples.iter().map(|(what, _)| what.as_str()).collect();
    let mut evidence = format!("{}: {hits} of {total} got {version}", names.join(", "));
    if holds {
        evidence = format!("{evidence}; {}", bound("anything else", total));
    }
    for (what, sample) in samples.iter().filter(|(_, s)| s.hits(version) != s.total()) {
        evidence = format!("{evidence}; {what}: {}", exceptions(sample, version));
    }
    let counts: BTreeMap<&str, _> =
        samples.iter().map(|(what, sample)| (what.as_str(), sample.by_version())).collect();
    Verdict::of(holds, evidence).with(json!({
        "total": total, "counts": counts, "upperBound": rule_of_three_upper(total),
    }))
}

/// Judges that one client got the same version from the first response to the last.
pub(crate) fn steady(sample: &Sample) -> Verdict {
    let Runs { total, switches, .. } = Runs::of(version_sequence(sample));
    let versions: Vec<String> = sample.by_version().into_keys().collect();
    let failures = failures(sample);
    let mut evidence =
        format!("{total} responses, {switches} switches, {}", versions.join(" and "));
    if let Some(failures) = &failures {
        evidence = format!("{evidence}; {failures}");
    }
    let holds = versions.len() == 1 && switches == 0 && failures.is_none();
    Verdict::of(holds, evidence).with(json!({
        "total": sample.total(), "switches": switches, "counts": sample.by_version(),
    }))
}

/// Judges that no request failed.
pub(crate) fn none_failed(sample: &Sample) -> Verdict {
    let (total, failures) = (sample.total(), failures(sample));
    let evidence = match &failures {
        None => format!(
            "0 of {total} requests failed in {:.1} s; {}",
            sample.seconds,
            bound("failing", total)
        ),
        Some(failures) => format!("of {total} requests in {:.1} s, {failures}", sample.seconds),
    };
    Verdict::of(failures.is_none() && total > 0, evidence).with(json!({
        "total": total, "failures": sample.failures().count(), "counts": sample.by_version(),
        "upperBound": rule_of_three_upper(total),
    }))
}

/// Judges that none of these pods responded.
pub(crate) fn none_from(sample: &Sample, pods: &BTreeSet<String>) -> Verdict {
    let counts = sample.by_pod();
    let hits: u64 = counts.iter().filter(|(pod, _)| pods.contains(*pod)).map(|(_, n)| n).sum();
    let total = sample.total();
    let mut evidence = format!("{hits} of {total} requests");
    if hits == 0 {
        evidence = format!("{evidence}; {}", bound("its share", total));
    }
    let failures = failures(sample);
    if let Some(failures) = &failures {
        evidence = format!("{evidence}; {failures}");
    }
    Verdict::of(hits == 0 && failures.is_none() && total > 0, evidence).with(json!({
        "total": total, "hits": hits, "byPod": counts, "upperBound": rule_of_three_upper(total),
    }))
}

/// Judges that requests are spread evenly over exactly these pods, by a chi-squared test.
pub(crate) fn even(sample: &Sample, pods: &BTreeSet<String>) -> Verdict {
    let counts = sample.by_pod();
    let of = |pod: &String| counts.get(pod).copied().unwrap_or(0);
    let per_pod: Vec<u64> = pods.iter().map(of).collect();
    let others: u64 = counts.iter().filter(|(pod, _)| !pods.contains(*pod)).map(|(_, n)| n).sum();
    let p = uniformity_p_value(&per_pod).unwrap_or(0.0);
    let listed: Vec<String> = pods.iter().map(|pod| format!("{pod} {}", of(pod))).collect();
    let mut evidence = format!(
        "{}; chi-squared p = {p:.3}, even unless p < {:e}",
        listed.join(", "),
        TestLevel::DEFAULT.alpha
    );
    if others > 0 {
        evidence = format!("{evidence}; {others} responses from other pods");
    }
    let used = !per_pod.is_empty() && per_pod.iter().all(|n| *n > 0);
    let holds = used && others == 0 && p >= TestLevel::DEFAULT.alpha;
    Verdict::of(holds, evidence).with(json!({ "byPod": counts, "p": p }))
}

/// Judges that one client got both versions; counts switches and the longest run.
pub(crate) fn flips(sample: &Sample, expected: [&str; 2]) -> Verdict {
    let sequence = version_sequence(sample);
    let Runs { switches, longest, .. } = Runs::of(&sequence);
    let both = expected.iter().all(|version| sequence.contains(version));
    let counts: Vec<String> =
        sample.by_version().iter().map(|(version, n)| format!("{version} {n} times")).collect();
    let evidence = format!(
        "one client, {} connections: {}; {switches} switches, longest run {longest}",
        sample.total(),
        counts.join(", "),
    );
    Verdict::of(both && switches > 0, evidence).with(json!({
        "switches": switches, "longestRun": longest, "counts": sample.by_version(),
    }))
}

/// Returns the versions of the good responses, in order.
fn version_sequence(sample: &Sample) -> Vec<&str> {
    sample.replies().filter_map(|reply| reply.version.as_deref()).collect()
}

/// Formats the failures by kind: `connection refused (2), status 503 (1)`; empty if none failed.
pub(crate) fn failure_kinds(sample: &Sample) -> String {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for (_, failure) in sample.failures() {
        *kinds.entry(failure.to_string()).or_default() += 1;
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind} ({n})")).collect();
    kinds.join(", ")
}

/// Formats all failures: `3 failed: connection refused (2), status 503 (1), the first after 0.12 s`.
fn failures(sample: &Sample) -> Option<String> {
    let total = sample.failures().count();
    let first = sample.failures().map(|(at, _)| at).reduce(f64::min)?;
    let kinds = failure_kinds(sample);
    Some(format!("{total} failed: {kinds}, the first after {first:.2} s"))
}

/// Formats the exceptions in a sample that should be of one version.
fn exceptions(sample: &Sample, version: &str) -> String {
    let others = sample.by_version().into_iter().filter(|(other, _)| other != version);
    let mut parts: Vec<String> = others.map(|(other, n)| format!("{n} got {other}")).collect();
    parts.extend(failures(sample));
    parts.join(", ")
}

fn bound(what: &str, n: u64) -> String {
    format!("{what} below {} with 95% confidence", percent(rule_of_three_upper(n)))
}

fn percent(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Outcome;
    use crate::sampler::{Failure, Observation, Reply};
    use crate::statistics::Ratio;

    /// Builds a sample of responses `version@pod`, or `!` for a failure, each repeated.
    fn sample(responses: &[(&str, usize)]) -> Sample {
        let one = |text: &str| match text.split_once('@') {
            Some((version, pod)) => {
                Ok(Reply { version: Some(version.into()), pod: Some(pod.into()) })
            }
            None => Err(Failure::Timeout),
        };
        let results = responses.iter().flat_map(|(text, n)| vec![one(text); *n]);
        let observations = results.map(|result| Observation { at: 0.5, latency: 0.001, result });
        Sample { observations: observations.collect(), seconds: 1.0 }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn share_is_judged_by_its_band() {
        let split = Split::against(Ratio::new(3, 1), Ratio::new(1, 1)).unwrap();
        assert_eq!(split.plan.n, 230);
        for (stable, canary, failed, outcome) in [
            (173, 57, 0, Outcome::Holds),
            (115, 115, 0, Outcome::Fails),
            (230, 0, 0, Outcome::Fails),
            (172, 57, 1, Outcome::Fails),
            (17, 6, 0, Outcome::Fails),
        ] {
            let sample = sample(&[("1.0@a", stable), ("2.0@b", canary), ("!", failed)]);
            let verdict = share(&sample, &split, "2.0");
            assert_eq!(verdict.outcome, outcome, "{}", verdict.evidence);
        }
    }

    #[test]
    fn always_and_never_state_an_upper_bound() {
        let verdict = all_are(&sample(&[("1.0@a", 300)]), "1.0");
        assert_eq!(verdict.outcome, Outcome::Holds);
        let evidence = "300 of 300 got 1.0; anything else below 0.99% with 95% confidence";
        assert_eq!(verdict.evidence, evidence);
        for (answers, evidence) in [
            (&[("1.0@a", 9), ("2.0@b", 1)][..], "9 of 10 got 1.0; 1 got 2.0"),
            (
                &[("1.0@a", 9), ("!", 1)],
                "9 of 10 got 1.0; 1 failed: no response in time (1), the first after 0.50 s",
            ),
            (&[], "0 of 0 got 1.0; "),
        ] {
            let verdict = all_are(&sample(answers), "1.0");
            assert_eq!((verdict.outcome, verdict.evidence.as_str()), (Outcome::Fails, evidence));
        }
        for (answers, outcome) in [
            (&[("1.0@a", 300)][..], Outcome::Holds),
            (&[("1.0@a", 300), ("1.0@b", 1)], Outcome::Fails),
            (&[("1.0@a", 300), ("!", 1)], Outcome::Fails),
            (&[], Outcome::Fails),
        ] {
            assert_eq!(none_from(&sample(answers), &set(&["b"])).outcome, outcome, "{answers:?}");
        }
        for (answers, outcome) in [
            (&[("1.0@a", 300), ("2.0@b", 3)][..], Outcome::Holds),
            (&[("1.0@a", 300), ("!", 1)], Outcome::Fails),
            (&[], Outcome::Fails),
        ] {
            assert_eq!(none_failed(&sample(answers)).outcome, outcome, "{answers:?}");
        }
    }

    #[test]
    fn each_is_names_the_samples_with_exceptions() {
        let named = |parts: &[(&str, &[(&str, usize)])]| -> Vec<(String, Sample)> {
            parts.iter().map(|(what, answers)| (what.to_string(), sample(answers))).collect()
        };
        let verdict = each_is(&named(&[("a", &[("1.0@x", 100)]), ("b", &[("1.0@x", 200)])]), "1.0");
        assert_eq!(verdict.outcome, Outcome::Holds);
        let evidence = "a, b: 300 of 300 got 1.0; anything else below 0.99% with 95% confidence";
        assert_eq!(verdict.evidence, evidence);
        let wrong = named(&[("a", &[("1.0@x", 9)]), ("b", &[("2.0@x", 2), ("!", 1)])]);
        let verdict = each_is(&wrong, "1.0");
        assert_eq!(verdict.outcome, Outcome::Fails);
        let evidence = "a, b: 9 of 12 got 1.0; b: 2 got 2.0, 1 failed: no response in time (1), \
                    the first after 0.50 s";
        assert_eq!(verdict.evidence, evidence);
        assert_eq!(each_is(&[], "1.0").outcome, Outcome::Fails);
        assert_eq!(each_is(&named(&[("a", &[])]), "1.0").outcome, Outcome::Fails);
    }

    #[test]
    fn steady_requires_a_single_version() {
        for (answers, outcome) in [
            (&[("1.0@a", 50), ("1.0@b", 50)][..], Outcome::Holds),
            (&[("1.0@a", 99), ("2.0@b", 1)], Outcome::Fails),
            (&[("1.0@a", 99), ("!", 1)], Outcome::Fails),
            (&[], Outcome::Fails),
        ] {
            let verdict = steady(&sample(answers));
            assert_eq!(verdict.outcome, outcome, "{}", verdict.evidence);
        }
    }

    #[test]
    fn even_requires_every_pod_and_no_other() {
        let pods = set(&["a", "b", "c"]);
        for (answers, outcome) in [
            (&[("1.0@a", 330), ("1.0@b", 350), ("1.0@c", 320)][..], Outcome::Holds),
            (&[("1.0@a", 500), ("1.0@b", 500)], Outcome::Fails),
            (&[("1.0@a", 1000)], Outcome::Fails),
            (&[("1.0@a", 500), ("1.0@b", 250), ("1.0@c", 250)], Outcome::Fails),
            (&[("1.0@a", 330), ("1.0@b", 350), ("1.0@c", 319), ("1.0@d", 1)], Outcome::Fails),
            (&[], Outcome::Fails),
        ] {
            let verdict = even(&sample(answers), &pods);
            assert_eq!(verdict.outcome, outcome, "{}", verdict.evidence);
        }
    }

    #[test]
    fn flips_counts_switches_in_order() {
        let verdict = flips(&sample(&[("1.0@a", 3), ("2.0@b", 1), ("1.0@a", 1)]), ["1.0", "2.0"]);
        assert_eq!(verdict.outcome, Outcome::Holds);
        let evidence =
            "one client, 5 connections: 1.0 4 times, 2.0 1 times; 2 switches, longest run 3";
        assert_eq!(verdict.evidence, evidence);
        for answers in [&[("1.0@a", 100)][..], &[("2.0@a", 100)], &[("!", 100)], &[]] {
            assert_eq!(flips(&sample(answers), ["1.0", "2.0"]).outcome, Outcome::Fails);
        }
    }
}
