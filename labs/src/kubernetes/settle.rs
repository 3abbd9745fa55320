//! The moment from which a sample means something: when exactly the expected pods answer.

use super::{Scope, external::PROBE_EVERY, wait::WaitError};
use crate::sample::Sampler;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::time::timeout_at;

impl Scope {
    /// Waits until each of these pods has answered, and for a while nobody else and without failure:
    /// what EndpointSlices show reaches the data plane a moment later (kube-proxy gathers changes for
    /// a second), and a sample that starts before would measure that moment. Where several proxies
    /// learn of it apart, it has to go on so until all have had the time. It looks at who answers,
    /// never at how often, so it cannot make a wrong split look right.
    pub async fn settled(
        &self,
        sampler: &Sampler,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        self.settled_within(sampler, pods, self.address.min(SETTLES_WITHIN)).await
    }

    /// The same behind an Ingress, which may need as long for a change of its rules as for an address.
    pub async fn takes_effect(
        &self,
        sampler: &Sampler,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        self.settled_within(sampler, pods, self.address).await
    }

    async fn settled_within(
        &self,
        sampler: &Sampler,
        pods: &BTreeSet<String>,
        patience: Duration,
    ) -> Result<(), WaitError> {
        let deadline = tokio::time::Instant::from(Instant::now() + patience + self.propagation);
        let mut run = Run::default();
        let mut pace = tokio::time::interval(PROBE_EVERY);
        loop {
            match timeout_at(deadline, sampler.ask()).await {
                Ok(Ok(reply)) => {
                    run.answered(reply.pod, pods);
                    // Enough has been seen of this proxy: the rest is for others.
                    if run.is_long_enough(pods) {
                        pace.tick().await;
                    }
                }
                Ok(Err(failure)) => {
                    run = Run { last: failure.to_string(), ..Run::default() };
                    pace.tick().await;
                }
                Err(_) => {
                    let awaited = format!("answer from each of {} pods alone", pods.len());
                    let seen = run.describe(pods);
                    return Err(WaitError::TimedOut { awaited, seen, after: patience });
                }
            }
            if run.is_settled(pods) && run.since.elapsed() >= self.propagation {
                return Ok(());
            }
        }
    }
}

/// Cloud load balancers need minutes for an address, but only seconds to follow their endpoints.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// How likely a pod that should get nothing may go unnoticed because it was not chosen.
const UNNOTICED: f64 = 1e-4;

/// Good answers in a row.
#[derive(Debug)]
struct Run {
    seen: BTreeSet<String>,
    length: usize,
    since: Instant,
    last: String,
}

impl Default for Run {
    fn default() -> Self {
        let (seen, length, last) = Default::default();
        Self { seen, length, since: Instant::now(), last }
    }
}

impl Run {
    fn answered(&mut self, pod: Option<String>, expected: &BTreeSet<String>) {
        let pod = pod.unwrap_or_default();
        if expected.contains(&pod) {
            self.length += 1;
            self.seen.insert(pod);
        } else {
            *self = Run { last: format!("an answer from `{pod}`"), ..Run::default() };
        }
    }

    fn is_settled(&self, expected: &BTreeSet<String>) -> bool {
        self.seen == *expected && self.is_long_enough(expected)
    }

    /// Whether one pod more than these would have been among the answers.
    fn is_long_enough(&self, expected: &BTreeSet<String>) -> bool {
        let pods = expected.len() as f64;
        self.length as f64 * (pods / (pods + 1.0)).ln() <= UNNOTICED.ln()
    }

    fn describe(&self, expected: &BTreeSet<String>) -> String {
        if self.length == 0 {
            return self.last.clone();
        }
        let silent: Vec<_> = expected.difference(&self.seen).map(String::as_str).collect();
        format!("{} answers in a row, none from {}", self.length, silent.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_run_settles_when_all_and_only_the_expected_answer() {
        let expected = set(&["a", "b"]);
        let enough = ["a", "b"].repeat(12);
        for (before, answers, settled) in [
            (&[][..], &enough[..], true),
            (&[], &enough[..22], false),
            (&[], &["a"; 24], false),
            (&["a", "b", "gone"], &enough, true),
            (&enough, &["gone"], false),
        ] {
            let mut run = Run::default();
            let all = before.iter().chain(answers);
            all.for_each(|pod| run.answered(Some(pod.to_string()), &expected));
            assert_eq!(run.is_settled(&expected), settled, "{before:?} {answers:?}");
        }
    }

    #[test]
    fn a_run_is_long_enough_to_meet_one_pod_too_many() {
        for (pods, answers) in [(1, 14), (3, 33), (4, 42), (10, 97)] {
            let expected: BTreeSet<String> = (0..pods).map(|n| n.to_string()).collect();
            let run = |length| Run { length, ..Run::default() };
            assert!(run(answers).is_long_enough(&expected), "{pods}");
            assert!(!run(answers - 1).is_long_enough(&expected), "{pods}");
        }
    }
}
