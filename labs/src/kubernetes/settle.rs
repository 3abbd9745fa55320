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
    /// a second), and a sample that starts before would measure that moment. It looks at who answers,
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
        let deadline = tokio::time::Instant::from(Instant::now() + patience);
        let mut run = Run::default();
        let mut pace = tokio::time::interval(PROBE_EVERY);
        loop {
            match timeout_at(deadline, sampler.ask()).await {
                Ok(Ok(reply)) => run.answered(reply.pod, pods),
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
            if run.is_settled(pods) {
                return Ok(());
            }
        }
    }
}

/// Cloud load balancers need minutes for an address, but only seconds to follow their endpoints.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// Good answers in a row.
#[derive(Debug, Default)]
struct Run {
    seen: BTreeSet<String>,
    length: usize,
    last: String,
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
        self.seen == *expected && self.length >= 3 * expected.len()
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
        for (answers, settled) in [
            (&["a", "b", "a", "b", "a", "b"][..], true),
            (&["a", "b"], false),
            (&["a", "a", "a", "a", "a", "a", "a"], false),
            (&["a", "b", "a", "b", "a", "gone"], false),
            (&["gone", "a", "b", "a", "b", "a", "a"], true),
        ] {
            let mut run = Run::default();
            answers.iter().for_each(|pod| run.answered(Some(pod.to_string()), &expected));
            assert_eq!(run.is_settled(&expected), settled, "{answers:?}");
        }
    }
}
