//! Convergence: the point in time from which a sample is valid, when exactly the expected pods respond.

use super::{external::PROBE_INTERVAL, namespace_client::NamespaceClient, wait::WaitError};
use crate::sampler::{Failure, Reply, Sampler};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::time::timeout_at;

/// The timeout of a load balancer's data plane. Cloud load balancers need minutes for an address, but
/// only seconds to follow their endpoints.
const DATA_PLANE_TIMEOUT: Duration = Duration::from_secs(10);

/// The accepted probability that a pod which should receive nothing goes unnoticed because it was not
/// chosen.
const MISS_PROBABILITY: f64 = 1e-4;

impl NamespaceClient {
    /// Waits until each of these pods has responded and, for a number of requests in a row, no other pod
    /// has and none failed. EndpointSlices are ahead of the data plane (kube-proxy batches changes for a
    /// second), so a sample that starts earlier would measure the transition. With several proxies the
    /// run must also last for the propagation delay. Only the set of pods matters, never the
    /// frequencies, so waiting cannot make a wrong split look right.
    pub(crate) async fn wait_converged(
        &self,
        sampler: &Sampler,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        self.converge_within(sampler, pods, self.address().min(DATA_PLANE_TIMEOUT)).await
    }

    /// Waits for the same behind an Ingress, whose changed rules may take as long as a new address.
    pub(crate) async fn wait_ingress_converged(
        &self,
        sampler: &Sampler,
        pods: &BTreeSet<String>,
    ) -> Result<(), WaitError> {
        self.converge_within(sampler, pods, self.address()).await
    }

    async fn converge_within(
        &self,
        sampler: &Sampler,
        pods: &BTreeSet<String>,
        timeout: Duration,
    ) -> Result<(), WaitError> {
        let started = Instant::now();
        let mut convergence = Convergence::new(pods, timeout, self.propagation);
        let mut pace = tokio::time::interval(PROBE_INTERVAL);
        loop {
            let (sent, deadline) = (started.elapsed(), convergence.deadline());
            let Ok(result) = timeout_at((started + deadline).into(), sampler.request()).await
            else {
                let awaited = format!("response from each of {} pods alone", pods.len());
                let after = Duration::from_secs_f64((deadline.as_secs_f64() * 10.0).round() / 10.0);
                let last_seen = convergence.describe();
                tracing::info!(pods = pods.len(), last_seen, ?after, "not converged");
                return Err(WaitError::TimedOut { awaited, last_seen, after });
            };
            if let Err(Failure::Local(why)) = &result {
                let awaited = format!("response from each of {} pods alone", pods.len());
                let source = anyhow::anyhow!(why.clone());
                return Err(WaitError::Environment { awaited, source });
            }
            let at = started.elapsed();
            let pause = convergence.observe(at, at.saturating_sub(sent), result);
            if convergence.is_converged(at) {
                tracing::info!(pods = pods.len(), requests = convergence.good.0, after = ?at, "converged");
                return Ok(());
            }
            if pause {
                pace.tick().await;
            }
        }
    }
}

/// The responses so far. All times are relative to the start.
#[derive(Debug)]
struct Convergence<'a> {
    expected: &'a BTreeSet<String>,
    timeout: Duration,
    propagation: Duration,
    run: Run,
    /// The number of good responses in all, and their total latency.
    good: (u32, Duration),
}

/// Good responses in a row.
#[derive(Debug, Default)]
struct Run {
    pods: BTreeSet<String>,
    length: usize,
    since: Duration,
    /// The result that ended the previous run.
    interruption: String,
}

impl<'a> Convergence<'a> {
    fn new(expected: &'a BTreeSet<String>, timeout: Duration, propagation: Duration) -> Self {
        Self { expected, timeout, propagation, run: Run::default(), good: Default::default() }
    }

    /// The deadline includes the time that the required responses take one after the other, which is
    /// longer for a distant cluster.
    fn deadline(&self) -> Duration {
        let (responses, latency) = self.good;
        let mean = latency.checked_div(responses).unwrap_or_default();
        self.timeout + self.propagation + mean * self.required()
    }

    /// Records a result; returns true if the next request should be paced.
    fn observe(&mut self, at: Duration, took: Duration, result: Result<Reply, Failure>) -> bool {
        let reply = match result {
            Ok(reply) => reply,
            Err(failure) => {
                let interruption = failure.to_string();
                self.run = Run { interruption, since: at, ..Run::default() };
                return true;
            }
        };
        self.good = (self.good.0.saturating_add(1), self.good.1 + took);
        let pod = reply.pod.unwrap_or_default();
        if self.expected.contains(&pod) {
            self.run.length += 1;
            self.run.pods.insert(pod);
        } else {
            let interruption = format!("a response from `{pod}`");
            self.run = Run { interruption, since: at, ..Run::default() };
        }
        // A run that is long enough only waits for other proxies, so there is no hurry.
        self.is_long_enough()
    }

    fn is_converged(&self, at: Duration) -> bool {
        self.run.pods == *self.expected
            && self.is_long_enough()
            && at.saturating_sub(self.run.since) >= self.propagation
    }

    fn is_long_enough(&self) -> bool {
        self.run.length >= self.required() as usize
    }

    /// The length of a run in which one extra pod would have responded, except for
    /// [`MISS_PROBABILITY`].
    fn required(&self) -> u32 {
        let pods = self.expected.len() as f64;
        (MISS_PROBABILITY.ln() / (pods / (pods + 1.0)).ln()).ceil().max(1.0) as u32
    }

    fn describe(&self) -> String {
        let Run { pods, length, interruption, .. } = &self.run;
        if *length == 0 {
            return interruption.clone();
        }
        let silent: Vec<_> = self.expected.difference(pods).map(String::as_str).collect();
        let missing = if !silent.is_empty() {
            format!("none from {}", silent.join(", "))
        } else if !self.is_long_enough() {
            format!("too few yet: it takes {}", self.required())
        } else {
            format!("not yet for {} s", self.propagation.as_secs_f64())
        };
        format!("{length} responses in a row, {missing}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    /// Returns the time of convergence, or the description at the deadline, if `pod` names the pod that
    /// responds to each request (`!`: it fails) after `took`.
    fn converges(
        expected: &BTreeSet<String>,
        propagation: u64,
        took: Duration,
        pod: impl Fn(usize, Duration) -> String,
    ) -> Result<Duration, String> {
        let (timeout, propagation) = (Duration::from_secs(10), Duration::from_secs(propagation));
        let mut convergence = Convergence::new(expected, timeout, propagation);
        let mut at = Duration::ZERO;
        for n in 0.. {
            at += took;
            if at > convergence.deadline() {
                break;
            }
            let reply = match pod(n, at) {
                pod if pod == "!" => Err(Failure::Timeout),
                pod => Ok(Reply { version: None, pod: Some(pod) }),
            };
            let pause = convergence.observe(at, took, reply);
            if convergence.is_converged(at) {
                return Ok(at);
            }
            at += if pause { PROBE_INTERVAL } else { Duration::ZERO };
        }
        Err(convergence.describe())
    }

    /// Responds from each pod in turn.
    fn turn(expected: &BTreeSet<String>, n: usize) -> String {
        expected.iter().nth(n % expected.len()).unwrap().clone()
    }

    const QUICK: Duration = Duration::from_millis(1);

    #[test]
    fn converges_when_exactly_the_expected_pods_respond() {
        let two = set(&["a", "b"]);
        assert_eq!(converges(&two, 0, QUICK, |n, _| turn(&two, n)), Ok(QUICK * 23));
        let late = converges(&two, 0, QUICK, |n, _| match n {
            9 => "gone".to_owned(),
            n => turn(&two, n),
        });
        assert_eq!(late, Ok(QUICK * 33));
        let state = converges(&two, 0, QUICK, |_, _| "a".to_owned()).unwrap_err();
        assert!(state.ends_with(" responses in a row, none from b"), "{state}");
        let state = converges(&two, 0, QUICK, |_, _| "gone".to_owned()).unwrap_err();
        assert_eq!(state, "a response from `gone`");
        let state = converges(&two, 0, QUICK, |_, _| "!".to_owned()).unwrap_err();
        assert_eq!(state, "no response in time");
        let state = converges(&two, 0, Duration::from_millis(100), |n, _| match n % 20 {
            19 => "gone".to_owned(),
            n => turn(&two, n),
        });
        let state = state.unwrap_err();
        assert!(state.ends_with(" responses in a row, too few yet: it takes 23"), "{state}");
    }

    /// Enough responses through one proxy say nothing about the others.
    #[test]
    fn waits_for_the_propagation_delay() {
        let two = set(&["a", "b"]);
        let second = Duration::from_secs(1);
        let soon = converges(&two, 5, QUICK, |n, _| turn(&two, n)).unwrap();
        assert!((second * 5..second * 6).contains(&soon), "{soon:?}");
        for wrong in ["gone", "!"] {
            // After four seconds, a proxy that has not learned of the change yet.
            let found = converges(&two, 5, QUICK, |n, at| match at {
                at if (second * 4..second * 4 + PROBE_INTERVAL * 2).contains(&at) => {
                    wrong.to_owned()
                }
                _ => turn(&two, n),
            });
            let at = found.unwrap();
            assert!((second * 9..second * 10).contains(&at), "{wrong}: {at:?}");
        }
        let state = converges(&two, 5, QUICK, |n, at| match at.as_millis() % 4000 {
            3900.. => "!".to_owned(),
            _ => turn(&two, n),
        });
        let state = state.unwrap_err();
        assert!(state.ends_with(" responses in a row, not yet for 5 s"), "{state}");
    }

    /// 9:1 requires 97 responses.
    #[test]
    fn deadline_grows_with_latency() {
        let ten: BTreeSet<String> = (0..10).map(|n| n.to_string()).collect();
        let each = Duration::from_millis(200);
        for propagation in [0, 5] {
            let at = converges(&ten, propagation, each, |n, _| turn(&ten, n));
            assert_eq!(at, Ok(each * 97), "{propagation}");
        }
    }

    #[test]
    fn required_run_would_reveal_one_extra_pod() {
        for (pods, responses) in [(1, 14), (3, 33), (4, 42), (10, 97)] {
            let expected: BTreeSet<String> = (0..pods).map(|n| n.to_string()).collect();
            let convergence = Convergence::new(&expected, Duration::ZERO, Duration::ZERO);
            assert_eq!(convergence.required(), responses, "{pods}");
        }
    }
}
