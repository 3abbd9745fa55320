//! The moment from which a sample means something: when exactly the expected pods answer.

use super::{Scope, external::PROBE_EVERY, wait::WaitError};
use crate::sample::{Failure, Reply, Sampler};
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
        let begun = Instant::now();
        let mut settling = Settling::new(pods, patience, self.propagation);
        let mut pace = tokio::time::interval(PROBE_EVERY);
        loop {
            let (asked, deadline) = (begun.elapsed(), settling.deadline());
            let Ok(answer) = timeout_at((begun + deadline).into(), sampler.ask()).await else {
                let awaited = format!("answer from each of {} pods alone", pods.len());
                let after = Duration::from_secs_f64((deadline.as_secs_f64() * 10.0).round() / 10.0);
                return Err(WaitError::TimedOut { awaited, seen: settling.describe(), after });
            };
            let at = begun.elapsed();
            let paced = settling.saw(at, at.saturating_sub(asked), answer);
            if settling.is_settled(at) {
                return Ok(());
            }
            if paced {
                pace.tick().await;
            }
        }
    }
}

/// Cloud load balancers need minutes for an address, but only seconds to follow their endpoints.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// How likely a pod that should get nothing may go unnoticed because it was not chosen.
const UNNOTICED: f64 = 1e-4;

/// Who has answered so far. All times are since it began.
#[derive(Debug)]
struct Settling<'a> {
    expected: &'a BTreeSet<String>,
    patience: Duration,
    propagation: Duration,
    run: Run,
    /// Good answers in all, and how long they took together.
    answers: (u32, Duration),
}

/// Good answers in a row.
#[derive(Debug, Default)]
struct Run {
    seen: BTreeSet<String>,
    length: usize,
    since: Duration,
    last: String,
}

impl<'a> Settling<'a> {
    fn new(expected: &'a BTreeSet<String>, patience: Duration, propagation: Duration) -> Self {
        Self { expected, patience, propagation, run: Run::default(), answers: Default::default() }
    }

    /// As many answers as are needed, one after the other, take longer far away than next door.
    fn deadline(&self) -> Duration {
        let (answers, took) = self.answers;
        let each = took.checked_div(answers).unwrap_or_default();
        self.patience + self.propagation + each * self.needed()
    }

    /// Notes an answer and says whether the next one has time.
    fn saw(&mut self, at: Duration, took: Duration, answer: Result<Reply, Failure>) -> bool {
        let reply = match answer {
            Ok(reply) => reply,
            Err(failure) => {
                self.run = Run { last: failure.to_string(), since: at, ..Run::default() };
                return true;
            }
        };
        self.answers = (self.answers.0.saturating_add(1), self.answers.1 + took);
        let pod = reply.pod.unwrap_or_default();
        if self.expected.contains(&pod) {
            self.run.length += 1;
            self.run.seen.insert(pod);
        } else {
            let last = format!("an answer from `{pod}`");
            self.run = Run { last, since: at, ..Run::default() };
        }
        // Enough has been seen of this proxy: the rest is for others.
        self.is_long_enough()
    }

    fn is_settled(&self, at: Duration) -> bool {
        self.run.seen == *self.expected
            && self.is_long_enough()
            && at.saturating_sub(self.run.since) >= self.propagation
    }

    fn is_long_enough(&self) -> bool {
        self.run.length >= self.needed() as usize
    }

    /// So many answers that one pod more than these would have been among them.
    fn needed(&self) -> u32 {
        let pods = self.expected.len() as f64;
        (UNNOTICED.ln() / (pods / (pods + 1.0)).ln()).ceil().max(1.0) as u32
    }

    fn describe(&self) -> String {
        let Run { seen, length, last, .. } = &self.run;
        if *length == 0 {
            return last.clone();
        }
        let silent: Vec<_> = self.expected.difference(seen).map(String::as_str).collect();
        let rest = if !silent.is_empty() {
            format!("none from {}", silent.join(", "))
        } else if !self.is_long_enough() {
            format!("too few yet: it takes {}", self.needed())
        } else {
            format!("not yet for {} s", self.propagation.as_secs_f64())
        };
        format!("{length} answers in a row, {rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    /// When it has settled, or what it says at the deadline, if at each time that pod answers (`!`: none
    /// does), and takes so long for it.
    fn settles(
        expected: &BTreeSet<String>,
        propagation: u64,
        took: Duration,
        answer: impl Fn(usize, Duration) -> String,
    ) -> Result<Duration, String> {
        let (patience, propagation) = (Duration::from_secs(10), Duration::from_secs(propagation));
        let mut settling = Settling::new(expected, patience, propagation);
        let mut at = Duration::ZERO;
        for n in 0.. {
            at += took;
            if at > settling.deadline() {
                break;
            }
            let reply = match answer(n, at) {
                pod if pod == "!" => Err(Failure::Timeout),
                pod => Ok(Reply { version: None, pod: Some(pod) }),
            };
            let paced = settling.saw(at, took, reply);
            if settling.is_settled(at) {
                return Ok(at);
            }
            at += if paced { PROBE_EVERY } else { Duration::ZERO };
        }
        Err(settling.describe())
    }

    /// One after the other.
    fn turn(expected: &BTreeSet<String>, n: usize) -> String {
        expected.iter().nth(n % expected.len()).unwrap().clone()
    }

    const QUICK: Duration = Duration::from_millis(1);

    #[test]
    fn it_settles_when_all_and_only_the_expected_answer() {
        let two = set(&["a", "b"]);
        assert_eq!(settles(&two, 0, QUICK, |n, _| turn(&two, n)), Ok(QUICK * 23));
        let late = settles(&two, 0, QUICK, |n, _| match n {
            9 => "gone".to_owned(),
            n => turn(&two, n),
        });
        assert_eq!(late, Ok(QUICK * 33));
        let said = settles(&two, 0, QUICK, |_, _| "a".to_owned()).unwrap_err();
        assert!(said.ends_with(" answers in a row, none from b"), "{said}");
        let said = settles(&two, 0, QUICK, |_, _| "gone".to_owned()).unwrap_err();
        assert_eq!(said, "an answer from `gone`");
        let said = settles(&two, 0, QUICK, |_, _| "!".to_owned()).unwrap_err();
        assert_eq!(said, "no answer in time");
        let said = settles(&two, 0, Duration::from_millis(100), |n, _| match n % 20 {
            19 => "gone".to_owned(),
            n => turn(&two, n),
        });
        let said = said.unwrap_err();
        assert!(said.ends_with(" answers in a row, too few yet: it takes 23"), "{said}");
    }

    /// Enough answers of one proxy say nothing of the others.
    #[test]
    fn it_goes_on_until_every_proxy_has_had_its_time() {
        let two = set(&["a", "b"]);
        let second = Duration::from_secs(1);
        let soon = settles(&two, 5, QUICK, |n, _| turn(&two, n)).unwrap();
        assert!((second * 5..second * 6).contains(&soon), "{soon:?}");
        for wrong in ["gone", "!"] {
            // A proxy that has not learned of it yet, after four seconds.
            let found = settles(&two, 5, QUICK, |n, at| match at {
                at if (second * 4..second * 4 + PROBE_EVERY * 2).contains(&at) => wrong.to_owned(),
                _ => turn(&two, n),
            });
            let settled = found.unwrap();
            assert!((second * 9..second * 10).contains(&settled), "{wrong}: {settled:?}");
        }
        let said = settles(&two, 5, QUICK, |n, at| match at.as_millis() % 4000 {
            3900.. => "!".to_owned(),
            _ => turn(&two, n),
        });
        let said = said.unwrap_err();
        assert!(said.ends_with(" answers in a row, not yet for 5 s"), "{said}");
    }

    /// 9:1 takes 97 answers.
    #[test]
    fn answers_that_take_their_time_are_waited_for() {
        let ten: BTreeSet<String> = (0..10).map(|n| n.to_string()).collect();
        let each = Duration::from_millis(200);
        for propagation in [0, 5] {
            let settled = settles(&ten, propagation, each, |n, _| turn(&ten, n));
            assert_eq!(settled, Ok(each * 97), "{propagation}");
        }
    }

    #[test]
    fn it_is_long_enough_to_meet_one_pod_too_many() {
        for (pods, answers) in [(1, 14), (3, 33), (4, 42), (10, 97)] {
            let expected: BTreeSet<String> = (0..pods).map(|n| n.to_string()).collect();
            let settling = Settling::new(&expected, Duration::ZERO, Duration::ZERO);
            assert_eq!(settling.needed(), answers, "{pods}");
        }
    }
}
